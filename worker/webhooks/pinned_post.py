"""`post`: one POST over TLS to given addresses, without another DNS query, proxies or redirects."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address

from windrow.scheduler.core.addresses import Address
from windrow.scheduler.core.webhooks import Endpoint

#: Maximum bytes read of a response body, so that an ordinary response ends as its sender expects.
MAX_READ_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Reply:
    """The response of the receiver."""

    status: int
    #: Seconds in ``Retry-After``; None if it is missing or a date.
    retry_after_s: float | None


def resolve(host: str, port: int) -> list[Address]:
    """Return all addresses of ``host``, preferred ones first; raises `OSError` if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(sockaddr[0]) for *_, sockaddr in found))


def post(
    endpoint: Endpoint, addresses: Sequence[Address], headers: Mapping[str, str], body: bytes, *, timeout_s: float
) -> Reply:
    """Send ``body`` to the first of ``addresses`` that accepts a connection, with TLS and Host for the endpoint's name.

    The whole exchange takes at most ``timeout_s`` seconds. Raises `OSError` or `http.client.HTTPException`.
    """
    connection = _PinnedConnection(endpoint, addresses, timeout_s)
    # A socket timeout never ends a response that arrives one byte at a time.
    watchdog = threading.Timer(timeout_s, connection.cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        connection.request("POST", endpoint.target, body, dict(headers))
        with connection.getresponse() as response:
            retry_after = response.headers.get("Retry-After", "").strip()[:9]
            reply = Reply(
                response.status, float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None
            )
            with suppress(OSError, http.client.HTTPException):  # the status is known
                response.read(MAX_READ_BYTES)
            return reply
    except (OSError, http.client.HTTPException):
        if connection.is_cut:
            raise TimeoutError(f"no answer within {timeout_s:g} s") from None
        raise
    finally:
        watchdog.cancel()
        connection.close()


class _PinnedConnection(http.client.HTTPSConnection):
    """Connects to the given addresses only."""

    def __init__(self, endpoint: Endpoint, addresses: Sequence[Address], timeout_s: float) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=timeout_s, context=tls_context())
        self._addresses = addresses
        self._ends_s = time.monotonic() + timeout_s
        #: Kept here too, because `http.client` drops its reference before the body is read.
        self._open_socket: ssl.SSLSocket | None = None
        self.is_cut = False

    def connect(self) -> None:
        """Connect; `http.client` calls this before it sends."""
        plain = self._open()
        plain.settimeout(self._left_s())
        # Set before the handshake, so that `cut` can interrupt it.
        self._open_socket = tls_context().wrap_socket(plain, server_hostname=self.host, do_handshake_on_connect=False)
        self.sock = self._open_socket
        self._open_socket.do_handshake()

    def cut(self) -> None:
        """Close the connection from another thread."""
        self.is_cut = True
        if self._open_socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._open_socket, socket.SHUT_RDWR)

    def _open(self) -> socket.socket:
        failure: OSError = OSError("the host has no address")
        for address in self._addresses:
            try:
                return socket.create_connection((str(address), self.port), self._left_s())
            except OSError as error:
                failure = error
        raise failure

    def _left_s(self) -> float:
        left_s = self._ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("timed out")
        return left_s


@cache
def tls_context() -> ssl.SSLContext:
    """Return a context with the certificate authorities of the system, or of ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
