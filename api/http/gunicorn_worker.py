"""gunicorn's gevent worker, with what a JSON API needs: no HTML, closing when told to, and stopping without delay."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.http import errors as http  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from windrow.api.http.bind import check_bind, hosts_of
from windrow.api.http.error_format import problem_json
from windrow.errors import InvalidSetting
from windrow.scheduler.core.exception_text import describe_exception

#: How long a connection that is given up is still read, so that the client gets to read the answer. In seconds.
LINGER_S = 2.0
LINGER_BYTES = 16 << 20
EVENT_STREAM = "text/event-stream"

#: gunicorn's parse errors -> HTTP; the nearest class counts.
STATUSES: dict[type[BaseException], tuple[int, str, str]] = {
    http.ParseException: (400, "Bad Request", "malformed_request"),
    http.ForbiddenProxyRequest: (403, "Forbidden", "forbidden"),
    http.LimitRequestLine: (414, "URI Too Long", "uri_too_long"),
    http.ExpectationFailed: (417, "Expectation Failed", "expectation_failed"),
    http.LimitRequestHeaders: (431, "Request Header Fields Too Large", "headers_too_large"),
    http.UnsupportedTransferCoding: (501, "Not Implemented", "unsupported_transfer_coding"),
    http.ConfigurationProblem: (500, "Internal Server Error", "internal"),
    # Headers that the application tried to send are not the client's fault.
    http.InvalidResponseHeader: (500, "Internal Server Error", "internal"),
    http.InvalidResponseHeaderName: (500, "Internal Server Error", "internal"),
    BaseException: (500, "Internal Server Error", "internal"),
}

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class JsonGeventWorker(GeventWorker):
    """The worker class of ``windrow.api.gunicorn_conf``."""

    def load_wsgi(self) -> None:
        """Load the application and let it close connections; the server ends where a setting is refused."""
        try:
            super().load_wsgi()
            app: Any = self.wsgi
            self.service = app.extensions["windrow"]
            # Again: after HUP the settings are new, and the master did not look at them.
            check_bind(self.service.settings, hosts_of(self.cfg.address))
        except InvalidSetting as error:
            self.log.critical("windrow: %s", error.detail)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        self.wsgi: Application = closing(app)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop: clients that wait are told that their request is queued."""
        super().handle_exit(sig, frame)
        gevent.spawn(self.service.waiters.close)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve one request; where its body was left unread, keep reading a little before the connection is closed."""
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            set_cork(sock, False)
            if getattr(req, "must_close", False):
                linger(sock)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that gunicorn could not read, or that failed outside the application."""
        status, reason, code = next(STATUSES[kind] for kind in type(exc).__mro__ if kind in STATUSES)
        if status == 500:
            self.log.error("a request failed outside the application: %s", describe_exception(exc))
            detail = "the server failed on this request; its log has the details"
        else:
            # Its text would quote the request: a header with a key, or a body that was taken for a head.
            self.log.info("a request from %s cannot be read: %s", addr[0] if addr else "", type(exc).__name__)
            detail = f"this is not a request that can be read ({type(exc).__name__})"
        body = problem_json(status, reason, detail, code)
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.settimeout(LINGER_S)
            client.sendall(head.encode() + body)
        except OSError:
            self.log.debug("the client left before it could be told")
        else:
            linger(client)


def closing(app: Application) -> Application:
    """Send an answer in one piece, and make gunicorn honour its ``Connection: close``, which it drops otherwise."""

    def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            response = start_response.__self__  # type: ignore[attr-defined]
            # What comes piece by piece goes piece by piece.
            set_cork(response.sock, not is_event_stream(headers))
            if ("Connection", "close") in headers:
                response.force_close()
                response.req.force_close()
            return start_response(status, headers, exc_info)

        return app(environ, start)

    return wrapped


def is_event_stream(headers: list[tuple[str, str]]) -> bool:
    """Whether an answer's media type says so; parameters such as a charset change nothing."""
    types = [value.partition(";")[0].strip().lower() for name, value in headers if name.lower() == "content-type"]
    return EVENT_STREAM in types


def set_cork(sock: Any, is_on: bool) -> None:
    """While on, what is written waits: gunicorn writes head and body apart, and the client would wake up twice."""
    if hasattr(socket, "TCP_CORK") and sock.family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):  # the client has left
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, int(is_on))


def linger(sock: Any) -> None:
    """Say that no more comes, and read what the client still sends: closing at once would reset its connection."""
    end_s = time.monotonic() + LINGER_S
    left = LINGER_BYTES
    try:
        sock.shutdown(socket.SHUT_WR)
        while left > 0 and (timeout_s := end_s - time.monotonic()) > 0:
            sock.settimeout(timeout_s)
            data = sock.recv(65_536)
            if not data:
                return
            left -= len(data)
    except OSError:
        return
