"""gunicorn's gevent worker for a JSON API: JSON errors, closing connections on request, and stopping without delay."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.http import errors as http  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from windrow.api.bind import check_bind, hosts_of
from windrow.api.http.error_format import PROBLEM, problem_json
from windrow.errors import InvalidSetting
from windrow.scheduler.core.exception_text import describe_exception

#: How long and how much is still read from a connection that will close, so that the client can read the response.
LINGER_S = 2.0
LINGER_BYTES = 16 << 20

#: gunicorn's parse errors as HTTP statuses; an error takes the entry of its nearest base class.
STATUSES: dict[type[BaseException], tuple[int, str, str]] = {
    http.ParseException: (400, "Bad Request", "malformed_request"),
    http.ForbiddenProxyRequest: (403, "Forbidden", "forbidden"),
    http.LimitRequestLine: (414, "URI Too Long", "uri_too_long"),
    http.ExpectationFailed: (417, "Expectation Failed", "expectation_failed"),
    http.LimitRequestHeaders: (431, "Request Header Fields Too Large", "headers_too_large"),
    http.UnsupportedTransferCoding: (501, "Not Implemented", "unsupported_transfer_coding"),
    http.ConfigurationProblem: (500, "Internal Server Error", "internal"),
    # Invalid headers of a response are the application's fault.
    http.InvalidResponseHeader: (500, "Internal Server Error", "internal"),
    http.InvalidResponseHeaderName: (500, "Internal Server Error", "internal"),
    BaseException: (500, "Internal Server Error", "internal"),
}

StartResponse = Callable[..., Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


class JsonGeventWorker(GeventWorker):
    """The worker class of ``windrow.api.gunicorn_conf``."""

    def load_wsgi(self) -> None:
        """Load the application; an invalid setting ends the server."""
        try:
            super().load_wsgi()
            app: Any = self.wsgi
            self.service = app.extensions["windrow"]
            # After HUP the settings are new, and only the workers read them.
            check_bind(self.service.settings, hosts_of(self.cfg.address))
        except InvalidSetting as error:
            self.log.critical("windrow: %s", error.detail)
            sys.exit(Arbiter.APP_LOAD_ERROR)
        self.wsgi: Application = closing(app)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop; waiting clients are answered at once with the queued prediction."""
        super().handle_exit(sig, frame)
        gevent.spawn(self.service.waiters.close)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serve one request; drain an unread body before the connection closes."""
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            if getattr(req, "must_close", False):
                linger(sock)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that gunicorn could not parse, or that failed outside the application."""
        status, reason, code = next(STATUSES[kind] for kind in type(exc).__mro__ if kind in STATUSES)
        if status == 500:
            self.log.error("a request failed outside the application: %s", describe_exception(exc))
            detail = "the server failed on this request; its log has the details"
        else:
            # The error's text is not logged: it may quote a header with an API key, or a body.
            self.log.info("a request from %s cannot be parsed: %s", addr[0] if addr else "", type(exc).__name__)
            detail = f"the request cannot be parsed ({type(exc).__name__})"
        body = problem_json(status, reason, detail, code)
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\n"
            f"Content-Type: application/problem+json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.settimeout(LINGER_S)
            client.sendall(head.encode() + body)
        except OSError:
            self.log.debug("the client disconnected before the error could be sent")
        else:
            linger(client)


def closing(app: Application) -> Application:
    """Wrap ``app``: send each document in one piece, and apply ``Connection: close``, which gunicorn ignores."""

    def wrapped(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            response = start_response.__self__  # type: ignore[attr-defined]
            if is_document(headers) and environ["REQUEST_METHOD"] != "HEAD":
                response.sock = JoinedSend(response.sock)
            if ("Connection", "close") in headers:
                response.force_close()
                response.req.force_close()
            return start_response(status, headers, exc_info)

        return app(environ, start)

    return wrapped


def is_document(headers: list[tuple[str, str]]) -> bool:
    """Return whether the response is a JSON document, which the application returns in one piece."""
    return ("Content-Type", "application/json") in headers or ("Content-Type", PROBLEM.content_type) in headers


class JoinedSend:
    """The socket of a response whose head and body, which gunicorn writes separately, are sent together.

    Otherwise each would be a packet, and wake the client.
    """

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._head: bytes | None = None

    def sendall(self, data: bytes) -> None:
        """Keep the first data, which is the head, and send it with the next."""
        if self._head is None:
            self._head = data
        else:
            self._sock.sendall(self._head + data)
            self._head = b""


def linger(sock: Any) -> None:
    """Shut down the sending side and drain what the client still sends: closing at once would reset the connection."""
    end_s = time.monotonic() + LINGER_S
    left_bytes = LINGER_BYTES
    try:
        sock.shutdown(socket.SHUT_WR)
        while left_bytes > 0 and (timeout_s := end_s - time.monotonic()) > 0:
            sock.settimeout(timeout_s)
            data = sock.recv(65_536)
            if not data:
                return
            left_bytes -= len(data)
    except OSError:
        return
