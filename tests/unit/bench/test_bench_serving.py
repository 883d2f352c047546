import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.bench.dataset import Item
from windrow.bench.serve.load import Answer, Server, at_times, by_users
from windrow.bench.serve.report import failure_notes, panels, share_kept_up, summarise, tables
from windrow.bench.serve.stream import Reader
from windrow.bench.serve.sweep import SHARES, find_rates, summarise_sweep, sweep_panels, sweep_rows
from windrow.client.event_stream import StreamEvent
from windrow.errors import ClientError, RequestRefused

METRICS = {
    "queue_ms": 1.0, "batch_wait_ms": 2.0, "compute_ms": 7.0,
    "batch_size": 2, "batch_tokens": 40, "padding_ratio": 0.0,
}  # fmt: skip


def answer(due_s: float, latency_s: float, error: str | None = None, late_s: float = 0.0) -> Answer:
    return Answer(due_s, due_s + late_s, due_s + latency_s, error, METRICS if error is None else {})


def steady(rate_per_s: float, latency_s: float = 0.1, growth: float = 0.0, seconds: float = 10.0) -> list[Answer]:
    """A load whose latency grows by ``growth`` seconds per second."""
    times = [number / rate_per_s for number in range(round(rate_per_s * seconds))]
    return [answer(at_s, latency_s + growth * at_s) for at_s in times]


def asked(reply: httpx.Response | Exception) -> Mapping[str, Any]:
    """Return the answer of `Server.ask` for the HTTP response ``reply``."""

    def handle(request: httpx.Request) -> httpx.Response:
        assert orjson.loads(request.content)["input"] == "hay"
        assert request.headers["Prefer"] == "wait=60"
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def run() -> Mapping[str, Any]:
        async with Server("http://server", "minilm", httpx.MockTransport(handle)) as server:
            return await server.ask(Item("hay"))

    return asyncio.run(run())


def prediction(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "1", "model": "minilm", "status": status, **more}


def test_an_answer_has_the_metrics_of_its_prediction() -> None:
    assert asked(httpx.Response(200, json=prediction("succeeded", output={}, metrics=METRICS))) == METRICS


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (httpx.Response(429, json={"code": "queue_full", "detail": "full", "status": 429}), "queue_full"),
        (
            httpx.Response(200, json=prediction("failed", error={"code": "model_failed", "detail": "no"})),
            "model_failed",
        ),
        (httpx.Response(202, json=prediction("queued")), "pending"),
        (httpx.Response(200, text="<html>"), "bad_answer"),
        (httpx.ConnectError("refused"), "server_unreachable"),
    ],
)
def test_a_refused_request_is_not_retried_and_keeps_its_code(reply: httpx.Response | Exception, code: str) -> None:
    with pytest.raises(ClientError) as raised:
        asked(reply)
    assert raised.value.code == code


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
GENERATED = prediction(
    "succeeded", output={"text": "while", "usage": USAGE}, metrics={"queue_ms": 1.0, "compute_ms": 9.0}
)


def output(tokens: int, index: int = 0) -> StreamEvent:
    return StreamEvent("output", {"index": index, "text": "w", "tokens": tokens})


def test_a_reader_times_the_first_and_the_later_tokens() -> None:
    reader = Reader(sent_s=10.0)
    for at_s, event in [
        (10.1, StreamEvent("start", {"id": "1", "attempt": 1})),
        (10.5, output(1)),
        (10.6, output(9, index=1)),  # another choice
        (10.7, output(2)),
        (11.1, output(4)),
        (11.2, StreamEvent("completed", GENERATED)),
    ]:
        reader.take(event, at_s)
    metrics = reader.metrics()
    assert metrics["ttft_ms"] == pytest.approx(500)
    assert metrics["itl_ms"] == pytest.approx(600 / 6)  # 10.5 to 11.1, 2 + 4 tokens
    assert metrics["completion_tokens"] == 7


def test_a_reader_starts_again_after_a_restart() -> None:
    reader = Reader(sent_s=0.0)
    for at_s, event in [
        (1.0, output(1)),
        (2.0, StreamEvent("restart", {"id": "1", "attempt": 2})),
        (3.0, output(1)),
        (4.0, output(2)),
        (4.0, StreamEvent("completed", GENERATED)),
    ]:
        reader.take(event, at_s)
    assert (reader.metrics()["ttft_ms"], reader.metrics()["itl_ms"]) == (3000, 500)


def test_an_incomplete_or_failed_stream_is_a_failure() -> None:
    reader = Reader(sent_s=0.0)
    with pytest.raises(ClientError, match="ended before"):
        reader.metrics()
    failed = prediction("failed", error={"code": "model_failed", "detail": "no"})
    reader.take(StreamEvent("error", failed), 1.0)
    with pytest.raises(ClientError, match="no"):
        reader.metrics()


def followed(reply: httpx.Response) -> Mapping[str, Any]:
    async def run() -> Mapping[str, Any]:
        transport = httpx.MockTransport(lambda request: reply)
        async with Server("http://server", "llama", transport) as server:
            return await server.follow(Item("hay"))

    return asyncio.run(run())


def test_a_stream_is_read_to_its_end_and_a_refused_one_has_its_code() -> None:
    body = b"event: completed\ndata: " + orjson.dumps(GENERATED) + b"\n\n"
    assert followed(httpx.Response(200, content=body))["completion_tokens"] == 7
    with pytest.raises(ClientError) as raised:
        followed(httpx.Response(429, json={"code": "queue_full", "detail": "full", "status": 429}))
    assert raised.value.code == "queue_full"


class FakeServer:
    """Answers each request after one turn of the event loop, and records the largest number in flight."""

    def __init__(self) -> None:
        self.holds = self.most = 0

    async def ask(self, item: Item) -> Mapping[str, Any]:
        self.holds += 1
        self.most = max(self.most, self.holds)
        await asyncio.sleep(0)
        self.holds -= 1
        if item.input == "bad":
            raise RequestRefused("not this one", code="invalid_input")
        return METRICS


def test_a_closed_loop_sends_each_request_once_and_has_at_most_one_per_user_in_flight() -> None:
    server = FakeServer()
    answers = asyncio.run(by_users(server.ask, [Item("hay")] * 20, users=3))
    assert (len(answers), server.most) == (20, 3)


def test_an_open_loop_does_not_wait_for_answers_and_measures_from_due_times() -> None:
    server = FakeServer()
    items = [Item("hay"), Item("bad"), Item("hay")]
    answers = asyncio.run(at_times(server.ask, items, [0.0, 0.0, 0.0]))
    assert [answered.error for answered in answers] == [None, "invalid_input: not this one", None]
    assert all(answered.due_s == 0.0 <= answered.sent_s <= answered.ended_s for answered in answers)
    assert answers[0].latency_s == answers[0].ended_s


def test_a_report_counts_failures_by_code_and_goodput_over_all_requests() -> None:
    answers = [answer(0, 0.1), answer(1, 0.3), answer(2, 2.0), answer(3, 0.1, "queue_full: full")]
    report = summarise(answers, slo_s=0.5)
    assert (report["succeeded"], report["failed"], report["failures"]) == (3, 1, {"queue_full": 1})
    assert report["seconds"] == pytest.approx(4.0)  # from 0 to the answer at 2 + 2 s
    assert report["requests_per_s"] == pytest.approx(3 / 4)
    assert report["tokens_per_s"] == pytest.approx(3 * 20 / 4)
    assert (report["goodput_per_s"], report["within_slo"]) == (pytest.approx(2 / 4), pytest.approx(2 / 4))
    assert report["latency_ms"]["mean"] == pytest.approx(800)
    assert failure_notes(report) == ["1 failed with queue_full", "the first: queue_full: full"]


def test_goodput_of_generation_depends_on_ttft_and_itl() -> None:
    def generated(late_s: float, ttft_ms: float, itl_ms: float) -> Answer:
        metrics = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "completion_tokens": 10}
        return Answer(0.0, late_s, 5.0, None, metrics)

    answers = [generated(0.0, 400, 20), generated(0.2, 400, 20), generated(0.0, 400, 60)]
    report = summarise(answers, slo_s=0.5, slo_itl_s=0.05)
    assert report["within_slo"] == pytest.approx(1 / 3)  # the second was sent 0.2 s late, the third is slow
    assert report["ttft_ms"]["max"] == pytest.approx(600)
    assert report["tokens_per_s"] == pytest.approx(30 / 5)
    assert [row[0] for row in tables(report)[1]] == ["ms", "latency", "TTFT", "ITL", "sent late"]


def test_a_report_states_that_the_load_was_sent_late() -> None:
    report = summarise([answer(0, 0.5, late_s=0.2), answer(1, 0.5, late_s=0.4)])
    assert report["sent_late_ms"]["mean"] == pytest.approx(300)


def test_a_load_without_successes_has_a_report() -> None:
    answers = [answer(at_s, 0.1, "no_worker: none") for at_s in range(4)]
    counts, times = tables(summarise(answers))
    assert counts[1][:3] == ["4", "4", "0"]
    assert [row[0] for row in times[1:]] == ["sent late"]
    assert panels(answers)[1].lines["answered"] == ([], [])


def test_the_plot_counts_due_and_answered_requests() -> None:
    so_far = panels([answer(0, 5.0), answer(1, 1.0), answer(2, 1.0, "queue_full: full")])[1].lines
    assert so_far == {"due": ([0, 1, 2], [1, 2, 3]), "answered": ([2.0, 5.0], [1, 2])}


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0))
def test_the_growth_of_the_latency_is_the_unserved_share_of_the_load(growth: float, latency_s: float) -> None:
    # With 20 requests per second and a capacity of 20 * (1 - growth), the latency grows by growth s per second.
    assert share_kept_up(steady(20, latency_s, growth)) == pytest.approx(1 - growth)


def test_a_server_keeps_up_at_any_constant_latency_unless_it_refuses() -> None:
    assert share_kept_up(steady(20, latency_s=5.0)) == pytest.approx(1.0)
    refusing = [answer(request.due_s, 0.1, "queue_full: full" if number % 4 == 0 else None)
                for number, request in enumerate(steady(20))]  # fmt: skip
    assert share_kept_up(refusing) == pytest.approx(0.75)


def test_too_few_requests_do_not_show_whether_a_server_keeps_up() -> None:
    assert share_kept_up(steady(1)) == 0.0


def test_the_knee_is_the_last_rate_at_which_the_server_keeps_up() -> None:
    answers = {10.0: steady(10), 40.0: steady(40, growth=0.5), 20.0: steady(20), 80.0: steady(80)}
    report = summarise_sweep(answers, slo_s=None)
    assert report["knee_per_s"] == 20
    assert [row[0] for row in sweep_rows(report)[1:]] == ["10", "20", "40", "80"]
    throughput = sweep_panels(report, answers)[0]
    assert throughput.points["knee"][0] == [20]


def test_an_slo_moves_the_knee_and_may_leave_none() -> None:
    answers = {10.0: steady(10, 0.1), 20.0: steady(20, 0.4)}
    assert summarise_sweep(answers, slo_s=None)["knee_per_s"] == 20
    assert summarise_sweep(answers, slo_s=0.2)["knee_per_s"] == 10
    assert summarise_sweep(answers, slo_s=0.05)["knee_per_s"] is None


def test_the_rates_of_a_sweep_exceed_the_capacity() -> None:
    rates = asyncio.run(find_rates(FakeServer().ask, [Item("hay")], users=2, seconds=0.01))
    assert len(rates) == len(SHARES)
    assert rates[-1] == pytest.approx(1.25 * rates[SHARES.index(1.0)], rel=0.01)


def test_a_sweep_ends_with_the_first_error_if_no_request_succeeds() -> None:
    with pytest.raises(ValueError, match="no request succeeded; the first failed with invalid_input"):
        asyncio.run(find_rates(FakeServer().ask, [Item("bad")], users=2, seconds=0.01))
