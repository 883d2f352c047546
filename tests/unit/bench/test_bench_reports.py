import io

import orjson
import pytest
from rich.console import Console

from benchmarks.http.load import Connection, wire_request
from benchmarks.http.lone import summarise as summarise_lone
from benchmarks.http.run import BOUND, CELERY, WINDROW, Round, summarise
from benchmarks.http.timeline import Batch, device_use, read_batches
from benchmarks.processes import label_of
from benchmarks.queue.noop_worker import NoopEngine
from benchmarks.queue.run import payload_of
from benchmarks.show import show_figures, show_http
from benchmarks.stats import Rates
from windrow.scheduler.core.planning import BatchLimits, plan_batches


def a_round(tokens_per_s: float, **more: object) -> Round:
    return Round(Rates(tokens_per_s / 50, tokens_per_s), **more)  # type: ignore[arg-type]


def test_ratios_compare_tokens_within_rounds() -> None:
    report = summarise(
        {
            BOUND: [a_round(1000), a_round(500), a_round(1000)],
            WINDROW: [a_round(900), a_round(450), a_round(950)],  # 0.9, 0.9, 0.95 of the bound
            CELERY: [a_round(300), a_round(150), a_round(950)],  # 3, 3, 1 times plain Celery
        }
    )
    assert report["ratio_to_bound"] == pytest.approx(0.9)
    assert report["ratio_to_celery"] == pytest.approx(3.0)


def test_latencies_of_all_rounds_are_pooled_and_failures_summed() -> None:
    rounds = [a_round(1, latencies_s=[0.1, 0.2], failed=1), a_round(1, latencies_s=[0.3], failed=2)]
    contender = summarise({BOUND: rounds, WINDROW: rounds, CELERY: rounds})["contenders"][WINDROW]
    assert contender["p50_ms"] == pytest.approx(200)
    assert contender["failed"] == 3


def test_a_round_divides_cpu_time_by_its_requests() -> None:
    made = Round.of(
        {"ended": [(1.0, 5), (2.0, 5)], "begin_s": 0.5, "end_s": 3.0, "requests": 4, "cpu_s": {"api": 0.02}}
    )
    assert made.cpu_ms == {"api": pytest.approx(5.0)}  # 20 ms / 4


def test_a_batch_is_read_once_for_all_of_its_requests() -> None:
    def prediction(batch_id: str, started_at: str) -> dict[str, object]:
        metrics = {"batch_id": batch_id, "compute_ms": 250.0, "batch_size": 2, "batch_tokens": 40}
        return {"started_at": started_at, "metrics": metrics}

    later, sooner = "2026-01-01T00:00:01.000000Z", "2026-01-01T00:00:00.500000Z"
    batches = read_batches([prediction("b", later), prediction("a", sooner), prediction("a", sooner)])
    assert [batch.size for batch in batches] == [2, 2]
    assert batches[0].ended_s - batches[0].started_s == pytest.approx(0.25)
    assert batches[1].started_s - batches[0].started_s == pytest.approx(0.5)


def test_overlapping_batches_count_once_as_busy_time() -> None:
    # 0-4, 3-5 and 6-10: 9 of 10 seconds busy, gaps 0 and 1 s.
    use = device_use([Batch(0, 4, 10, 100), Batch(3, 5, 20, 100), Batch(6, 10, 30, 160)])
    assert use is not None
    assert use.busy_ratio == pytest.approx(0.9)
    assert use.gap_p50_ms == pytest.approx(500)
    assert use.mean_size == 20
    assert use.tokens_per_busy_s == pytest.approx(40)


def test_one_batch_gives_no_device_use() -> None:
    assert device_use([Batch(0, 1, 1, 1)]) is None


STAGES = [{"queue_ms": 1.0, "batch_wait_ms": 0.5, "compute_ms": 8.0}] * 2


def test_the_lone_report_compares_medians_and_single_texts() -> None:
    figures = {row["name"]: row["value"] for row in summarise_lone([0.010, 0.030], [0.008, 0.024], STAGES)["figures"]}
    assert figures["difference of the p50"] == pytest.approx(20 - 16)
    assert figures["median difference text by text"] == pytest.approx((2 + 6) / 2)
    assert figures["in the queue until claimed, p50"] == 1.0


@pytest.mark.parametrize(
    ("command", "label"),
    [
        ("python -m celery -A windrow.worker worker -Q windrow -n worker@%h", "worker"),
        ("python -m celery -A windrow.worker worker -B -Q windrow.housekeeping", "housekeeping"),
        ("python -m benchmarks.celery_peer.load in out", "client"),
        ("python -m gunicorn -c python:windrow.api.gunicorn_conf", "api"),
        ("/usr/bin/redis-server --port 1", "redis"),
        ("python -m benchmarks.http.offline in out", None),
    ],
)
def test_programs_are_labelled_by_their_command_line(command: str, label: str | None) -> None:
    assert label_of(command) == label


def test_a_payload_has_the_requested_size_and_is_valid() -> None:
    assert len(payload_of(200)) == 200
    assert set(orjson.loads(payload_of(200))) == {"model", "input", "parameters"}


def test_the_noop_engine_answers_every_request() -> None:
    engine = NoopEngine()
    prepared = engine.prepare([None] * 5, [{}] * 5)
    limits = BatchLimits(max_batch_size=64, max_batch_tokens=1000)
    (batch,) = plan_batches("packed", [1] * len(prepared), limits)
    assert len(engine.collect(engine.forward(prepared, batch))) == 5  # type: ignore[arg-type]
    assert engine.done == 5


class FakeTransport:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)


def test_a_client_sends_its_next_request_after_the_complete_answer() -> None:
    answers: list[tuple[float, float, int, bytes]] = []
    transport = FakeTransport()
    client = Connection([b"first", b"second"], iter(range(10)), answers)
    client.connection_made(transport)  # type: ignore[arg-type]
    client.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc")
    assert transport.sent == [b"first"]
    client.data_received(b"def")
    assert transport.sent == [b"first", b"second"]
    assert [(number, raw[-6:]) for _, _, number, raw in answers] == [(0, b"abcdef")]


def test_an_encoded_request_has_the_content_length_of_its_body() -> None:
    head, _, body = wire_request("naïve text", 8000).partition(b"\r\n\r\n")
    assert b"Content-Length: %d" % len(body) in head
    assert orjson.loads(body)["input"] == "naïve text"


def test_the_tables_show_the_ratios_and_their_targets() -> None:
    rounds = {BOUND: [a_round(100)], WINDROW: [a_round(90, cpu_ms={"api": 1.25})], CELERY: [a_round(30)]}
    console = Console(file=io.StringIO(), width=160)
    show_http(console, summarise(rounds))
    show_figures(console, "Data plane", [{"name": "items", "value": 41234.5, "unit": "items/s", "digits": 0}])
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0.900 (target 0.9)" in text
    assert "3.00 (target 2.0)" in text
    assert "api 1.25" in text
    assert "41,234" in text
