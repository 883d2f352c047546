"""A receiver of webhooks on the loopback interface, over TLS, that does what the path asks for."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

TLS = Path(__file__).parents[1] / "fixtures" / "tls"
#: The authority that clients of the receiver have to trust; see the README beside it.
CA_FILE = TLS / "ca.pem"
#: Stands in the certificate, beside localhost and 127.0.0.1; no resolver knows it.
NAME = "receiver.test"


@dataclass(frozen=True)
class Message:
    """One POST that came."""

    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return orjson.loads(self.body)


class WebhookReceiver:
    """Answers ``/STATUS`` with that status; ``/hang`` when ``release`` is set, ``/drip`` byte by byte without an end.

    ``/flood`` answers 200 and never ends its body. What is queued in ``next`` comes before what the path says.
    """

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.release = threading.Event()
        #: Answers given first, whatever the path: status and headers.
        self.next: list[tuple[int, dict[str, str]]] = []
        self._stops = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def url(self, path: str = "/200", host: str = NAME) -> str:
        """Where it listens, by a name of its certificate."""
        return f"https://{host}:{self._server.server_port}{path}"

    def __enter__(self) -> WebhookReceiver:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stops.set()
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def drip(self, send: Callable[[bytes], object], piece: bytes, pause_s: float) -> None:
        """Send ``piece`` again and again until the client has gone or the test is over."""
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
        """A client that hangs up or does not trust us is what some tests are about."""


def _handler(receiver: WebhookReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.messages.append(Message(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if receiver.next:
                return self._answer(*receiver.next.pop(0))
            what = self.path.strip("/").partition("?")[0]
            if what == "hang":
                receiver.release.wait()
                self._answer(200, {})
            elif what == "drip":
                receiver.drip(self.connection.sendall, b"H", 0.01)
            elif what == "flood":
                self._answer(200, {"Content-Length": str(1 << 40)})
                receiver.drip(self.connection.sendall, b"x" * 65536, 0.0)
            else:
                self._answer(int(what), {})

        def _answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
