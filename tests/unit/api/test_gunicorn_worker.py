"""The gunicorn worker sends a document in one piece, and everything else as gunicorn writes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from windrow.api.gunicorn_worker import closing


class RecordingSocket:
    """Records what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)


class Response:
    """The parts of gunicorn's response that the wrapper uses."""

    def __init__(self) -> None:
        self.sock: Any = RecordingSocket()
        self.is_closing = False
        self.req = SimpleNamespace(force_close=lambda: None)

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
        """Accept the head, which gunicorn writes with the first part of the body."""

    def force_close(self) -> None:
        self.is_closing = True


def respond(*headers: tuple[str, str], method: str = "GET") -> tuple[Response, RecordingSocket]:
    """Run an application that answers with ``headers``, and write a head and two parts of a body like gunicorn."""

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", list(headers))
        return []

    response = Response()
    sock = response.sock
    closing(app)({"REQUEST_METHOD": method}, response.start_response)
    for data in (b"head", b"body", b"more"):
        response.sock.sendall(data)
    return response, sock


@pytest.mark.parametrize("media_type", ["application/json", "application/problem+json"])
def test_the_head_and_the_body_of_a_document_are_sent_together(media_type: str) -> None:
    assert respond(("Content-Type", media_type))[1].sent == [b"headbody", b"more"]


@pytest.mark.parametrize("media_type", ["text/event-stream", "text/event-stream; charset=utf-8", "text/html"])
def test_any_other_response_is_sent_as_it_is_written(media_type: str) -> None:
    assert respond(("Content-Type", media_type))[1].sent == [b"head", b"body", b"more"]


def test_the_head_of_a_response_without_a_body_is_sent_at_once() -> None:
    assert respond(("Content-Type", "application/json"), method="HEAD")[1].sent[0] == b"head"


def test_a_response_with_connection_close_closes_the_connection() -> None:
    assert respond(("Content-Type", "application/json"), ("Connection", "close"))[0].is_closing
    assert not respond(("Content-Type", "application/json"))[0].is_closing
