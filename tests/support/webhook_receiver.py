"""A webhook receiver with TLS on the loopback interface; the path of the URL selects its behaviour."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
#: The certificate authority that clients of the receiver must trust; see the README in its folder.
CA_FILE = TLS / "ca.pem"
#: A host name of the certificate that no resolver knows; the others are localhost and 127.0.0.1.
NAME = "receiver.test"


@dataclass(frozen=True)
class Message:
    """A received POST request."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Decode the body."""
        return orjson.loads(self.body)


class WebhookReceiver:
    """Answers ``/STATUS`` with this status, ``/hang`` when ``release`` is set, and ``/drip`` byte by byte endlessly.

    ``/flood`` answers 200 with an endless body. The answers in ``next`` come first, whatever the path.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.release = threading.Event()
        #: Status and headers of the next answers.
        self.next: list[tuple[int, dict[str, str]]] = []
        self._stops = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def url(self, path: str = "/200", host: str = NAME) -> str:
        """Return a URL of the receiver with a host name of its certificate."""
        return f"https://{host}:{self._server.server_port}{path}"

    def __enter__(self) -> WebhookReceiver:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def drip(self, send: Callable[[bytes], object], piece: bytes, pause_s: float) -> None:
        """Send ``piece`` repeatedly until the client disconnects or the test ends."""
        while not self._stops.wait(pause_s):
            send(piece)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(TLS / "server.pem")
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that disconnect or do not trust the certificate, as some tests intend."""


def _handler(receiver: WebhookReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.messages.append(Message(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if receiver.next:
                return self._answer(*receiver.next.pop(0))
            behaviour = self.path.strip("/").partition("?")[0]
            if behaviour == "hang":
                receiver.release.wait()
                self._answer(200, {})
            elif behaviour == "drip":
                receiver.drip(self.connection.sendall, b"H", 0.01)
            elif behaviour == "flood":
                self._answer(200, {"Content-Length": str(1 << 40)})
                receiver.drip(self.connection.sendall, b"x" * 65536, 0.0)
            else:
                self._answer(int(behaviour), {})

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
