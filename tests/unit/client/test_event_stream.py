"""The client side of event streams: chunks of any size, lost connections and refusals."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow import AsyncClient, Client, StreamEvent
from windrow.client.event_stream import EventParser, Stream
from windrow.client.protocol import CONNECTION_ATTEMPTS, NoReply
from windrow.errors import RequestRefused, ServerUnreachable

CONTENT = (
    b"retry: 1000\n\n"
    b'id: 5-0\nevent: start\ndata: {"id":"p1","attempt":1}\n\n'
    b": \n\n"
    b'id: 5-1\nevent: output\ndata: {"index":0,"text":"Make","tokens":1}\n\n'
    b'id: 5-2\nevent: output\ndata: {"index":0,"text":" hay \xe2\x98\x80","tokens":2}\n\n'
    b'id: 5-3\nevent: completed\ndata: {"id":"p1","model":"m","status":"succeeded","output":{"text":"Make hay"}}\n\n'
)
Handler = Callable[[httpx.Request], httpx.Response]


def stream_blocking(handler: Handler, **options: Any) -> list[StreamEvent]:
    with Client("http://testserver", transport=httpx.MockTransport(handler), timeout_s=5) as client:
        return list(client.stream("m", "hay", **options))


def stream_async(handler: Handler, **options: Any) -> list[StreamEvent]:
    async def run() -> list[StreamEvent]:
        async with AsyncClient("http://testserver", transport=httpx.MockTransport(handler), timeout_s=5) as client:
            return [event async for event in client.stream("m", "hay", **options)]

    return asyncio.run(run())


@pytest.fixture(params=[stream_blocking, stream_async], ids=["Client", "AsyncClient"])
def stream(request: pytest.FixtureRequest) -> Callable[..., list[StreamEvent]]:
    method: Callable[..., list[StreamEvent]] = request.param
    return method


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The content of a response, after which the connection is lost."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("broken")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
        raise httpx.ReadError("broken")


class Server:
    """Sends the events after ``Last-Event-ID``; each number is the length in bytes after which a connection is lost."""

    def __init__(self, *lengths: int) -> None:
        self.requests: list[httpx.Request] = []
        self._lengths = list(lengths)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        after = request.headers.get("Last-Event-ID")
        content = CONTENT if after is None else CONTENT.partition(f"id: {after}\n".encode())[2].partition(b"\n\n")[2]
        headers = {"Location": "/v1/predictions/p1", "Content-Type": "text/event-stream"}
        if self._lengths:
            return httpx.Response(200, headers=headers, stream=Body(content[: self._lengths.pop(0)]))
        return httpx.Response(200, headers=headers, content=content)


@given(st.lists(st.integers(0, len(CONTENT)), max_size=20))
def test_events_do_not_depend_on_how_the_bytes_are_split_into_chunks(cuts: list[int]) -> None:
    parser, events = EventParser(), []
    edges = [0, *sorted(cuts), len(CONTENT)]
    for start, end in pairwise(edges):
        events += parser.feed(CONTENT[start:end])
    assert events == EventParser().feed(CONTENT)
    assert [event.type for event in events] == ["start", "output", "output", "completed"]
    assert "".join(event.text for event in events) == "Make hay ☀"


def test_lines_may_end_in_cr_lf_and_an_event_may_have_several_data_lines() -> None:
    (event,) = EventParser().feed(b'event:output\r\ndata: {"text":\r\ndata: "a"}\r\n\r\n')
    assert (event.type, event.text, event.id) == ("output", "a", None)


def test_unicode_line_separators_do_not_end_a_line() -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    (event,) = EventParser().feed(f'event: output\ndata: {{"text":"{text}"}}\n\n'.replace("\x0b", "\\u000b").encode())
    assert event.text == text


def test_data_that_is_not_json_is_refused() -> None:
    with pytest.raises(RequestRefused):
        EventParser().feed(b"data: [DONE]\n\n")


def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windrow.client.event_stream.MAX_EVENT_BYTES", 100)
    for chunk in (b"x" * 60, b"data: " + b"1" * 50 + b"\n"):
        parser = EventParser()
        parser.feed(chunk)
        with pytest.raises(RequestRefused, match="above 100 bytes"):
            parser.feed(chunk)


def test_the_last_event_carries_the_prediction(stream: Callable[..., list[StreamEvent]]) -> None:
    server = Server()
    prediction = stream(server)[-1].prediction
    assert prediction is not None
    assert prediction.result() == {"text": "Make hay"}
    (request,) = server.requests
    assert (request.method, request.headers["Accept"]) == ("POST", "text/event-stream")


@pytest.mark.parametrize("cut", [40, 100, 150, 200])
def test_a_lost_connection_is_opened_again_after_the_last_event(
    stream: Callable[..., list[StreamEvent]], cut: int
) -> None:
    server = Server(cut, 30)
    assert stream(server) == EventParser().feed(CONTENT)
    assert [request.method for request in server.requests] == ["POST", "GET", "GET"]
    assert {request.url.path for request in server.requests[1:]} == {"/v1/predictions/p1/events"}


def test_a_submit_without_an_answer_is_sent_again_with_its_idempotency_key(
    stream: Callable[..., list[StreamEvent]],
) -> None:
    seen: list[httpx.Request] = []
    server = Server()

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            raise httpx.ReadError("broken")
        return server(request)

    assert stream(handler) == EventParser().feed(CONTENT)
    assert [request.method for request in seen] == ["POST", "POST"]
    assert seen[0].headers["Idempotency-Key"] == seen[1].headers["Idempotency-Key"]


def test_a_refusal_raises_the_error_of_any_other_call(stream: Callable[..., list[StreamEvent]]) -> None:
    problem = {"title": "t", "status": 422, "detail": "no", "code": "invalid_input"}
    with pytest.raises(RequestRefused, match="no") as refused:
        stream(lambda request: httpx.Response(422, json=problem))
    assert refused.value.code == "invalid_input"


def test_a_stream_is_given_up_after_several_attempts_without_an_event() -> None:
    stream = Stream({}, None)
    down = NoReply("refused", was_sent=False)
    for _ in range(CONNECTION_ATTEMPTS - 1):
        stream.disconnected(down)
    stream.connected("/v1/predictions/p1")
    stream.feed(CONTENT[:100])
    stream.disconnected(None)
    for _ in range(CONNECTION_ATTEMPTS - 2):
        stream.disconnected(None)
    with pytest.raises(ServerUnreachable):
        stream.disconnected(None)
