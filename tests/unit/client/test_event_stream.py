"""The client's side of event streams: bytes in any pieces, connections that break, and refusals."""

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

WHOLE = (
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
    """So many bytes of an answer, and then the connection breaks."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.ReadError("broken")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content
        raise httpx.ReadError("broken")


class Server:
    """Sends what comes behind ``Last-Event-ID``, and breaks off after so many bytes, one number a connection."""

    def __init__(self, *lengths: int) -> None:
        self.requests: list[httpx.Request] = []
        self._lengths = list(lengths)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        after = request.headers.get("Last-Event-ID")
        content = WHOLE if after is None else WHOLE.partition(f"id: {after}\n".encode())[2].partition(b"\n\n")[2]
        headers = {"Location": "/v1/predictions/p1", "Content-Type": "text/event-stream"}
        if self._lengths:
            return httpx.Response(200, headers=headers, stream=Body(content[: self._lengths.pop(0)]))
        return httpx.Response(200, headers=headers, content=content)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=20))
def test_events_are_the_same_however_their_bytes_are_cut(cuts: list[int]) -> None:
    parser, events = EventParser(), []
    edges = [0, *sorted(cuts), len(WHOLE)]
    for start, end in pairwise(edges):
        events += parser.feed(WHOLE[start:end])
    assert events == EventParser().feed(WHOLE)
    assert [event.type for event in events] == ["start", "output", "output", "completed"]
    assert "".join(event.text for event in events) == "Make hay ☀"


def test_lines_may_end_as_the_standard_allows_and_data_may_have_several() -> None:
    (event,) = EventParser().feed(b'event:output\r\ndata: {"text":\r\ndata: "a"}\r\n\r\n')
    assert (event.type, event.text, event.id) == ("output", "a", None)


def test_what_ends_lines_elsewhere_ends_none_in_an_event_stream() -> None:
    text = "a\u2028b\u2029c\x85d\x0be"
    (event,) = EventParser().feed(f'event: output\ndata: {{"text":"{text}"}}\n\n'.replace("\x0b", "\\u000b").encode())
    assert event.text == text


def test_what_is_not_json_is_no_stream_of_ours() -> None:
    with pytest.raises(RequestRefused):
        EventParser().feed(b"data: [DONE]\n\n")


def test_a_stream_ends_with_the_prediction(stream: Callable[..., list[StreamEvent]]) -> None:
    server = Server()
    prediction = stream(server)[-1].prediction
    assert prediction is not None
    assert prediction.result() == {"text": "Make hay"}
    (request,) = server.requests
    assert (request.method, request.headers["Accept"]) == ("POST", "text/event-stream")


@pytest.mark.parametrize("cut", [40, 100, 150, 200])
def test_a_connection_that_breaks_is_opened_again_behind_the_last_event(
    stream: Callable[..., list[StreamEvent]], cut: int
) -> None:
    server = Server(cut, 30)
    assert stream(server) == EventParser().feed(WHOLE)
    assert [request.method for request in server.requests] == ["POST", "GET", "GET"]
    assert {request.url.path for request in server.requests[1:]} == {"/v1/predictions/p1/events"}


def test_a_submit_that_was_not_answered_is_sent_again_under_its_key(
    stream: Callable[..., list[StreamEvent]],
) -> None:
    seen: list[httpx.Request] = []
    server = Server()

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if len(seen) == 1:
            raise httpx.ReadError("broken")
        return server(request)

    assert stream(handler) == EventParser().feed(WHOLE)
    assert [request.method for request in seen] == ["POST", "POST"]
    assert seen[0].headers["Idempotency-Key"] == seen[1].headers["Idempotency-Key"]


def test_a_refusal_is_raised_as_by_any_other_call(stream: Callable[..., list[StreamEvent]]) -> None:
    problem = {"title": "t", "status": 422, "detail": "no", "code": "invalid_input"}
    with pytest.raises(RequestRefused, match="no") as refused:
        stream(lambda request: httpx.Response(422, json=problem))
    assert refused.value.code == "invalid_input"


def test_a_stream_that_only_breaks_is_given_up_unless_it_gets_on() -> None:
    stream = Stream({}, None)
    down = NoReply("refused", was_sent=False)
    for _ in range(CONNECTION_ATTEMPTS - 1):
        stream.broke(down)
    stream.opened("/v1/predictions/p1")
    stream.feed(WHOLE[:100])
    stream.broke(None)
    for _ in range(CONNECTION_ATTEMPTS - 2):
        stream.broke(None)
    with pytest.raises(ServerUnreachable):
        stream.broke(None)
