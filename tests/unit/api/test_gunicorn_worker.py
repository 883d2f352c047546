"""The gunicorn worker sends a document in one piece, and the events of a stream one by one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from windrow.api.http.gunicorn_worker import closing, set_cork

pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_CORK"), reason="only Linux has TCP_CORK")


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection:
        yield connection


class Response:
    """The parts of gunicorn's response that the wrapper uses."""

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
def test_event_streams_are_not_corked_whatever_parameters_their_media_type_has(
    connection: socket.socket, media_type: str, is_corked: bool
) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", media_type)])
        return []

    set_cork(connection, not is_corked)
    closing(app)({}, Response(connection).start_response)
    assert bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CORK)) == is_corked
