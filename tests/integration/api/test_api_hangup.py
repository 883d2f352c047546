"""A client that hangs up while it waits: its prediction is canceled where it asked for that, and goes on where not."""

import json
import signal
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.support.api_server import GOOD, Wire, head, start_api
from tests.support.fake_worker import FakeWorker
from tests.support.redis_server import RedisServer
from tests.support.worker_process import until
from windrow.scheduler.queue import RedisQueue

pytestmark = pytest.mark.integration

#: The API looks twice a second.
SEVERAL_LOOKS_S = 1.6
CANCEL = b"Prefer: wait=60, cancel-on-disconnect"


class Site:
    """A running API, and the queue behind it, which nobody empties."""

    def __init__(self, queue: RedisQueue, port: int) -> None:
        self.queue = queue
        self.port = port

    def submit(self, *headers: bytes, wire: Wire | None = None) -> Wire:
        """Send a request and return when it is queued."""
        before = self.queue.depth().waiting
        wire = wire or Wire(self.port)
        wire.send(head(*headers, b"Content-Length: %d" % len(GOOD)), GOOD)
        until("the request is queued", lambda: self.queue.depth().waiting > before)
        return wire

    def canceled(self) -> int:
        return self.queue.depth().counts.get("canceled", 0)


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[FakeWorker, int]]:
    with RedisServer() as redis:
        worker = FakeWorker(redis.url, "minilm")
        process, port = start_api(redis.url, WINDROW_WORKER_GRACE_S="3600")
        worker.beat()
        yield worker, port
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0
    assert "Traceback" not in log, log


@pytest.fixture
def site(running: tuple[FakeWorker, int]) -> Iterator[Site]:
    worker, port = running
    yield Site(worker.queue, port)
    for request in worker.queue.claim(1000, lease_s=30).requests:
        worker.queue.cancel(request.id)


def reset(wire: Wire) -> None:
    """Hang up as a process does that dies: RST instead of FIN."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@pytest.mark.parametrize("hang_up", [Wire.close, reset], ids=["closed", "reset"])
def test_who_hangs_up_while_waiting_cancels_where_it_asked_for_that(site: Site, hang_up: object) -> None:
    before = site.canceled()
    wire = site.submit(CANCEL)
    hang_up(wire)  # type: ignore[operator]
    until("it is canceled", lambda: site.canceled() == before + 1, limit_s=20)
    assert site.queue.depth().waiting == 0


def test_who_did_not_ask_cancels_nothing(site: Site) -> None:
    before = site.canceled()
    site.submit(b"Prefer: wait=60").close()
    # One that did ask, and hung up later, is canceled in the meantime.
    site.submit(CANCEL).close()
    until("the other one is canceled", lambda: site.canceled() == before + 1, limit_s=20)
    time.sleep(SEVERAL_LOOKS_S)
    assert site.canceled() == before + 1
    assert site.queue.depth().waiting == 1


def test_who_stays_is_answered(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(CANCEL)
    time.sleep(SEVERAL_LOOKS_S)
    assert site.canceled() == before
    (request,) = site.queue.claim(1, lease_s=30).requests
    site.queue.cancel(request.id)
    answer = wire.read()
    assert answer.status == 200
    assert answer.headers["preference-applied"] == "wait=60, cancel-on-disconnect"


def test_a_wait_that_runs_out_cancels_nothing_and_the_connection_goes_on(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(b"Prefer: wait=1, cancel-on-disconnect")
    first = wire.read()
    assert (first.status, json.loads(first.body)["status"]) == (202, "queued")
    site.submit(b"Prefer: wait=1, cancel-on-disconnect", wire=wire)
    assert wire.read().status == 202
    wire.close()
    time.sleep(SEVERAL_LOOKS_S)
    assert site.canceled() == before


def test_without_a_wait_nobody_is_watched(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(b"Prefer: cancel-on-disconnect")
    answer = wire.read()
    assert (answer.status, "preference-applied" in answer.headers) == (202, False)
    wire.close()
    time.sleep(SEVERAL_LOOKS_S)
    assert site.canceled() == before


def test_who_reads_a_prediction_and_hangs_up_cancels_it_too(site: Site) -> None:
    before = site.canceled()
    wire = site.submit()
    id = json.loads(wire.read().body)["id"]
    target = b"GET /v1/predictions/%s?wait=60" % id.encode()
    wire.send(head(target=target))
    time.sleep(SEVERAL_LOOKS_S)
    wire.close()
    reader = Wire(site.port)
    reader.send(head(b"Prefer: cancel-on-disconnect", target=target))
    time.sleep(SEVERAL_LOOKS_S)
    assert site.canceled() == before
    reader.close()
    until("it is canceled", lambda: site.canceled() == before + 1, limit_s=20)


def test_a_server_that_stops_cancels_nothing() -> None:
    with RedisServer() as redis:
        worker = FakeWorker(redis.url, "minilm")
        worker.beat()
        process, port = start_api(redis.url)
        wire = Site(worker.queue, port).submit(CANCEL)
        process.send_signal(signal.SIGTERM)
        answer = wire.read()
        wire.close()  # or the server would wait for another request on it
        process.communicate(timeout=60)
        assert (answer.status, json.loads(answer.body)["status"]) == (202, "queued")
        assert worker.queue.depth().waiting == 1
