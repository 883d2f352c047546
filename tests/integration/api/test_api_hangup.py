"""A client that hangs up while it waits cancels its prediction only if it asked for that."""

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

#: The API checks its clients twice a second.
SEVERAL_CHECKS_S = 1.6
CANCEL = b"Prefer: wait=60, cancel-on-disconnect"


class Site:
    """A running API and its queue, which no worker empties."""

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
    """Hang up like a process that dies: RST instead of FIN."""
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.close()


@pytest.mark.parametrize("hang_up", [Wire.close, reset], ids=["closed", "reset"])
def test_a_client_that_asked_for_it_cancels_its_prediction_by_hanging_up(site: Site, hang_up: object) -> None:
    before = site.canceled()
    wire = site.submit(CANCEL)
    hang_up(wire)  # type: ignore[operator]
    until("it is canceled", lambda: site.canceled() == before + 1, limit_s=20)
    assert site.queue.depth().waiting == 0


def test_a_client_that_did_not_ask_for_it_cancels_nothing_by_hanging_up(site: Site) -> None:
    before = site.canceled()
    site.submit(b"Prefer: wait=60").close()
    # A client that did ask and hangs up later is noticed, so the first one has been checked too.
    site.submit(CANCEL).close()
    until("the other one is canceled", lambda: site.canceled() == before + 1, limit_s=20)
    time.sleep(SEVERAL_CHECKS_S)
    assert site.canceled() == before + 1
    assert site.queue.depth().waiting == 1


def test_a_client_that_stays_is_answered(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(CANCEL)
    time.sleep(SEVERAL_CHECKS_S)
    assert site.canceled() == before
    (request,) = site.queue.claim(1, lease_s=30).requests
    site.queue.cancel(request.id)
    answer = wire.read()
    assert answer.status == 200
    assert answer.headers["preference-applied"] == "wait=60, cancel-on-disconnect"


def test_a_wait_that_times_out_cancels_nothing_and_keeps_the_connection(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(b"Prefer: wait=1, cancel-on-disconnect")
    first = wire.read()
    assert (first.status, json.loads(first.body)["status"]) == (202, "queued")
    site.submit(b"Prefer: wait=1, cancel-on-disconnect", wire=wire)
    assert wire.read().status == 202
    wire.close()
    time.sleep(SEVERAL_CHECKS_S)
    assert site.canceled() == before


def test_without_a_wait_the_connection_is_not_checked(site: Site) -> None:
    before = site.canceled()
    wire = site.submit(b"Prefer: cancel-on-disconnect")
    answer = wire.read()
    assert (answer.status, "preference-applied" in answer.headers) == (202, False)
    wire.close()
    time.sleep(SEVERAL_CHECKS_S)
    assert site.canceled() == before


def test_a_client_that_waits_with_get_can_cancel_by_hanging_up_too(site: Site) -> None:
    before = site.canceled()
    wire = site.submit()
    id = json.loads(wire.read().body)["id"]
    target = b"GET /v1/predictions/%s?wait=60" % id.encode()
    wire.send(head(target=target))
    time.sleep(SEVERAL_CHECKS_S)
    wire.close()
    reader = Wire(site.port)
    reader.send(head(b"Prefer: cancel-on-disconnect", target=target))
    time.sleep(SEVERAL_CHECKS_S)
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
        wire.close()  # otherwise the server waits for another request on this connection
        process.communicate(timeout=60)
        assert (answer.status, json.loads(answer.body)["status"]) == (202, "queued")
        assert worker.queue.depth().waiting == 1
