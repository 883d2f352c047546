"""Request smuggling: a request whose end a proxy could see elsewhere is refused, and no data after it is served.

Each case is a request with an ambiguous end, followed by a second request that a proxy would have taken for part of the
first. The second one must never be served.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.api_server import GOOD, Connect, Wire, head, start_api
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from windrow.scheduler.queue import RedisQueue

pytestmark = pytest.mark.integration

HIDDEN_BODY = json.dumps({"model": "minilm", "input": "smuggled"}).encode()
HIDDEN = head(b"Content-Length: %d" % len(HIDDEN_BODY)) + HIDDEN_BODY
CHUNKED = b"Transfer-Encoding: chunked"
ONE_CHUNK = b"%x\r\n%s\r\n" % (len(GOOD), GOOD)
LAST = b"0\r\n\r\n"
LENGTH = b"Content-Length: %d" % len(GOOD)


def chunked(body: bytes) -> bytes:
    return head(CHUNKED) + body


#: Name -> the request and its correct statuses: 400, or 501 for an unsupported coding (RFC 9112, 6.1).
REFUSED: dict[str, tuple[bytes, set[int]]] = {
    "CL.TE": (head(b"Content-Length: 6", CHUNKED) + LAST + b"G", {400}),
    "TE.CL": (head(CHUNKED, b"Content-Length: 4") + ONE_CHUNK + LAST, {400}),
    "CL.TE with an empty TE": (head(LENGTH, b"Transfer-Encoding:") + GOOD, {400, 501}),
    "two lengths": (head(b"Content-Length: 1", LENGTH) + GOOD, {400}),
    "two lengths that are the same": (head(LENGTH, LENGTH) + GOOD, {400}),
    "two lengths in one header": (head(b"Content-Length: %d, %d" % (len(GOOD), len(GOOD))) + GOOD, {400}),
    "a length with a plus": (head(b"Content-Length: +%d" % len(GOOD)) + GOOD, {400}),
    "a length with a minus": (head(b"Content-Length: -0") + GOOD, {400}),
    "a length in hex": (head(b"Content-Length: 0x10") + GOOD, {400}),
    "a length with an underscore": (head(b"Content-Length: 1_0") + GOOD, {400}),
    "a length in other digits": (head("Content-Length: \u0663".encode()) + GOOD, {400}),
    "a length and a half": (head(b"Content-Length: 10.5") + GOOD, {400}),
    "a length of nothing": (head(b"Content-Length:") + GOOD, {400}),
    "a length of two words": (head(b"Content-Length: 5 5") + GOOD, {400}),
    "obs-fold": (head(b"Transfer-Encoding:\r\n chunked") + ONE_CHUNK + LAST, {400}),
    "obs-fold with a tab": (head(b"X: y\r\n\tTransfer-Encoding: chunked", LENGTH) + GOOD, {400}),
    "a space before the colon": (head(b"Transfer-Encoding : chunked") + ONE_CHUNK + LAST, {400}),
    "a space before the name": (head(b" Transfer-Encoding: chunked") + ONE_CHUNK + LAST, {400}),
    "a bare CR in a header": (head(b"X: y\rTransfer-Encoding: chunked", LENGTH) + GOOD, {400}),
    "a bare LF in the head": (head(b"X: y\nTransfer-Encoding: chunked", LENGTH) + GOOD, {400}),
    "a NUL in a header": (head(b"X: y\x00", LENGTH) + GOOD, {400}),
    "xchunked": (head(b"Transfer-Encoding: xchunked") + ONE_CHUNK + LAST, {400, 501}),
    "chunked, identity": (head(b"Transfer-Encoding: chunked, identity") + ONE_CHUNK + LAST, {400, 501}),
    "chunked twice": (head(CHUNKED, CHUNKED) + ONE_CHUNK + LAST, {400, 501}),
    "chunked and something": (head(CHUNKED, b"Transfer-Encoding: x") + ONE_CHUNK + LAST, {400, 501}),
    "chunked in quotes": (head(b'Transfer-Encoding: "chunked"') + ONE_CHUNK + LAST, {400, 501}),
    "chunked with a parameter": (head(b"Transfer-Encoding: chunked;q=1") + ONE_CHUNK + LAST, {400, 501}),
    "chunked with a vertical tab": (head(b"Transfer-Encoding: \x0bchunked") + ONE_CHUNK + LAST, {400, 501}),
    "chunked in HTTP/1.0": (chunked(ONE_CHUNK + LAST).replace(b"HTTP/1.1", b"HTTP/1.0"), {400}),
    "a bare LF behind a chunk's size": (chunked(ONE_CHUNK.replace(b"\r\n", b"\n", 1) + LAST), {400}),
    "a bare LF behind the last chunk's size": (chunked(ONE_CHUNK + b"0\n\r\n"), {400}),
    "a bare LF in a chunk's extension": (chunked(b"%x;a\nb\r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a bare CR in a chunk's extension": (chunked(b"%x;a\rb\r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk longer than its size": (chunked(b"%x\r\n%sxx\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk shorter than its size": (chunked(b"%x\r\n%s\r\n" % (len(GOOD) + 1, GOOD) + LAST), {400}),
    "a chunk's size with 0x": (chunked(b"0x%x\r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk's size with a plus": (chunked(b"+%x\r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk's size behind a space": (chunked(b" %x\r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk's size before a space": (chunked(b"%x \r\n%s\r\n" % (len(GOOD), GOOD) + LAST), {400}),
    "a chunk without size": (chunked(b"\r\n%s\r\n" % GOOD + LAST), {400}),
    "a chunk below nothing": (chunked(b"-1\r\n%s\r\n" % GOOD + LAST), {400}),
    "a trailer that is no header": (chunked(ONE_CHUNK + b"0\r\nnonsense\r\n\r\n"), {400}),
    "no version": (b"GET /healthz\r\n\r\n", {400}),
    "junk before the request": (b"\x00\x01" + head(LENGTH) + GOOD, {400}),
}  # fmt: skip


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[RedisQueue, int]]:
    """The queue and the port of an API without a worker that claims."""
    with RedisServer() as redis:
        worker = FakeWorker(redis.url, "minilm")
        process, port = start_api(redis.url, WINDROW_WORKER_GRACE_S="3600")
        worker.beat()
        yield worker.queue, port
        process.terminate()
        log = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert "Traceback" not in log, log


@pytest.fixture
def smuggle(site: tuple[RedisQueue, int]) -> Iterator[Connect]:
    """Opens connections, and finally checks that no smuggled request is in the queue."""
    queue, port = site
    yield lambda: Wire(port)
    inputs = [request.call()["input"] for request in queue.claim(1000, lease_s=30).requests]
    assert "smuggled" not in inputs


def read_all(wire: Wire) -> bytes:
    """Read until the server closes the connection; fails with a timeout if it does not."""
    received = b""
    while data := wire.socket.recv(65_536):
        received += data
    wire.close()
    return received


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.\d (\d{3}) ", received)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_with_an_ambiguous_end_is_refused_and_no_data_after_it_is_served(smuggle: Connect, name: str) -> None:
    sent, right = REFUSED[name]
    wire = smuggle()
    wire.send(sent, HIDDEN)
    received = read_all(wire)
    (status,) = statuses(received)
    assert status in right
    assert b"connection: close" in received.lower()
    assert b"application/problem+json" in received


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_with_an_ambiguous_end_in_small_pieces_is_refused(smuggle: Connect, name: str) -> None:
    sent, right = REFUSED[name]
    wire = smuggle()
    # After a good request on the same connection, and split inside the tokens that a parser has to remember.
    wire.send(head(LENGTH), GOOD)
    assert wire.read().status == 202
    with suppress(OSError):  # refused before all data was sent
        for start in range(0, len(sent), 23):
            wire.send(sent[start : start + 23])
        wire.send(HIDDEN)
    (status,) = statuses(read_all(wire))
    assert status in right


@pytest.mark.parametrize("junk", [b"XYZ\r\n\r\n", b"0\r\n\r\n", b"\r\n0\r\n\r\n", b"\x00\x00", b"}\r\n"], ids=repr)
def test_junk_after_the_last_chunk_is_a_malformed_request_of_its_own(smuggle: Connect, junk: bytes) -> None:
    wire = smuggle()
    wire.send(chunked(ONE_CHUNK + LAST), junk, b"\r\n", HIDDEN)
    received = read_all(wire)
    assert statuses(received) == [202, 400]


@pytest.mark.parametrize(
    "target",
    [
        b"GET /healthz",
        b"GET /v1/predictions/x",
        b"POST /v1/nothing",
        b"DELETE /v1/models",
        b"POST /v1/predictions/x/cancel",
    ],
)
def test_the_unread_body_of_a_request_is_not_served_as_a_request(smuggle: Connect, target: bytes) -> None:
    wire = smuggle()
    wire.send(head(b"Content-Length: %d" % len(HIDDEN), target=target), HIDDEN)
    first = wire.read()
    assert first.status in (200, 404, 405)
    # The connection may continue after the body.
    wire.send(head(b"Connection: close", target=b"GET /healthz"))
    assert statuses(read_all(wire)) in ([200], [])


def test_a_trailer_does_not_change_the_request(smuggle: Connect) -> None:
    wire = smuggle()
    wire.send(chunked(ONE_CHUNK + b"0\r\nContent-Length: 500\r\nAuthorization: Bearer x\r\n\r\n"))
    assert wire.read().status in (202, 400)
    wire.close()


def test_pipelined_requests_are_answered_once_each(smuggle: Connect) -> None:
    wire = smuggle()
    good = head(LENGTH) + GOOD
    wire.send(good, chunked(ONE_CHUNK + LAST), head(LENGTH, b"Connection: close"), GOOD, HIDDEN)
    assert statuses(read_all(wire)) == [202, 202, 202]


def test_the_hidden_request_alone_is_served(site: tuple[RedisQueue, int]) -> None:
    queue, port = site
    wire = Wire(port)
    wire.send(HIDDEN)
    assert wire.read().status == 202
    wire.close()
    assert [request.call()["input"] for request in queue.claim(1000, lease_s=30).requests] == ["smuggled"]
