"""A server with OpenAI's interface whose answers a test scripts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

#: Writes an answer: given the handler and the body of the call.
Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: _Server

    def do_GET(self) -> None:
        self.say(self.server.script.health, {"object": "list", "data": self.server.script.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script = self.server.script
        with script.lock:
            script.calls.append((self.path, body, dict(self.headers)))
            answer = script.next.pop(0) if script.next else script.answer
        answer(self, body)

    def say(self, status: int, value: dict[str, Any] | str, **headers: str) -> None:
        """Send a complete answer."""
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self._head(status, {"Content-Length": str(len(data)), "Content-Type": "application/json"} | headers)
        self.wfile.write(data)

    def begin(self, **headers: str) -> None:
        """Send the headers of a stream."""
        self._head(200, {"Content-Type": "text/event-stream"} | headers)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()

    def chunk(self, text: str | None, finish_reason: str | None = None, **more: Any) -> None:
        """Send one chunk of the stream."""
        said = {"content": text} if "chat" in self.path else text
        choice = {"index": 0, "delta" if "chat" in self.path else "text": said, "finish_reason": finish_reason}
        self.data({"choices": [choice]} | more)

    def data(self, value: dict[str, Any] | str) -> None:
        """Send one event of the stream."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.wfile.write(f"data: {text}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


def say_back(handler: Handler, body: dict[str, Any]) -> None:
    """Stream the prompt, word by word."""
    prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
    handler.begin()
    words = prompt.split(" ")
    for at, word in enumerate(words):
        handler.chunk(word if at == 0 else f" {word}")
    handler.chunk(None, "stop")
    usage = {"prompt_tokens": len(words), "completion_tokens": len(words), "total_tokens": 2 * len(words)}
    handler.data({"choices": [], "usage": usage})
    handler.data("[DONE]")


class ScriptedServer:
    """Runs in threads of the test process during a ``with`` block; `stop` and `start` simulate an outage."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        #: The answers to the next calls; later calls get ``answer``.
        self.next: list[Answer] = []
        self.answer: Answer = say_back
        self.health = 200
        #: The models that ``GET /models`` lists.
        self.models: list[dict[str, Any]] = []
        self._server: _Server | None = None
        self.port = 0

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.script = self
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> ScriptedServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    script: ScriptedServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect, as some tests intend."""


def hold(handler: Handler, body: dict[str, Any]) -> None:
    """Send one word, then spaces until the client disconnects."""
    handler.begin()
    handler.chunk("begun")
    while True:
        handler.chunk(" ")
        time.sleep(0.02)
