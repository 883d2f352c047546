"""What gunicorn's worker does to a connection: answers in one piece go in one packet, streams piece by piece."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from windrow.api.http.gunicorn_worker import closing, set_cork

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="TCP_CORK is Linux's")


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        yield connection


class Response:
    """As much of gunicorn's as is looked at."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.req = SimpleNamespace()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        """Send the head."""


@pytest.mark.parametrize(
    ("media_type", "is_corked"),
    [
        ("application/json", True),
        ("text/event-stream", False),
        ("text/event-stream; charset=utf-8", False),
        ("Text/Event-Stream;charset=utf-8", False),
        ("text/event-streams", True),
    ],
)
def test_streams_go_piece_by_piece_whatever_parameters_their_type_has(
    connection: socket.socket, media_type: str, is_corked: bool
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", media_type)])
        return []

    set_cork(connection, not is_corked)
    closing(app)({}, Response(connection).start_response)
    assert bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)) == is_corked
