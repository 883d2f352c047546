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
    """A load whose latency grows by ``growth`` seconds a second."""
    times = [number / rate_per_s for number in range(round(rate_per_s * seconds))]
    return [answer(at_s, latency_s + growth * at_s) for at_s in times]


def asked(reply: httpx.Response | Exception) -> Mapping[str, Any]:
    """What `Server.ask` makes of ``reply``."""

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


def test_an_answer_brings_the_metrics_of_its_prediction() -> None:
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
def test_what_is_refused_is_not_sent_again_and_carries_its_code(reply: httpx.Response | Exception, code: str) -> None:
    with pytest.raises(ClientError) as raised:
        asked(reply)
    assert raised.value.code == code


USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
GENERATED = prediction(
    "succeeded", output={"text": "while", "usage": USAGE}, metrics={"queue_ms": 1.0, "compute_ms": 9.0}
)


def output(tokens: int, index: int = 0) -> StreamEvent:
    return StreamEvent("output", {"index": index, "text": "w", "tokens": tokens})


def test_a_reader_times_the_first_token_and_those_behind_it() -> None:
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


def test_a_reader_counts_from_the_new_first_token_where_another_worker_began_anew() -> None:
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


def test_a_stream_that_ends_too_soon_or_in_an_error_is_a_failure() -> None:
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


def test_a_streamed_answer_is_read_to_its_end_and_a_refused_one_carries_its_code() -> None:
    body = b"event: completed\ndata: " + orjson.dumps(GENERATED) + b"\n\n"
    assert followed(httpx.Response(200, content=body))["completion_tokens"] == 7
    with pytest.raises(ClientError) as raised:
        followed(httpx.Response(429, json={"code": "queue_full", "detail": "full", "status": 429}))
    assert raised.value.code == "queue_full"


class FakeServer:
    """Answers every request once the event loop has had a turn; notes how many it held at once."""

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


def test_users_never_have_more_requests_than_there_are_users_and_send_every_one_once() -> None:
    server = FakeServer()
    answers = asyncio.run(by_users(server.ask, [Item("hay")] * 20, users=3))
    assert (len(answers), server.most) == (20, 3)


def test_requests_at_their_times_do_not_wait_for_answers_and_count_from_when_they_were_due() -> None:
    server = FakeServer()
    items = [Item("hay"), Item("bad"), Item("hay")]
    answers = asyncio.run(at_times(server.ask, items, [0.0, 0.0, 0.0]))
    assert [one.error for one in answers] == [None, "invalid_input: not this one", None]
    assert all(one.due_s == 0.0 <= one.sent_s <= one.ended_s for one in answers)
    assert answers[0].latency_s == answers[0].ended_s


def test_a_report_counts_failures_by_code_and_goodput_against_all() -> None:
    answers = [answer(0, 0.1), answer(1, 0.3), answer(2, 2.0), answer(3, 0.1, "queue_full: full")]
    report = summarise(answers, slo_s=0.5)
    assert (report["succeeded"], report["failed"], report["failures"]) == (3, 1, {"queue_full": 1})
    assert report["seconds"] == pytest.approx(4.0)  # from 0 to the answer of 2 + 2
    assert report["requests_per_s"] == pytest.approx(3 / 4)
    assert report["tokens_per_s"] == pytest.approx(3 * 20 / 4)
    assert (report["goodput_per_s"], report["within_slo"]) == (pytest.approx(2 / 4), pytest.approx(2 / 4))
    assert report["latency_ms"]["mean"] == pytest.approx(800)
    assert failure_notes(report) == ["1 failed with queue_full", "the first: queue_full: full"]


def test_generated_text_is_good_by_its_first_token_and_by_how_far_apart_the_others_are() -> None:
    def generated(late_s: float, ttft_ms: float, itl_ms: float) -> Answer:
        metrics = {"ttft_ms": ttft_ms, "itl_ms": itl_ms, "completion_tokens": 10}
        return Answer(0.0, late_s, 5.0, None, metrics)

    answers = [generated(0.0, 400, 20), generated(0.2, 400, 20), generated(0.0, 400, 60)]
    report = summarise(answers, slo_s=0.5, slo_itl_s=0.05)
    assert report["within_slo"] == pytest.approx(1 / 3)  # the second was sent 0.2 s late, the third is slow
    assert report["ttft_ms"]["max"] == pytest.approx(600)
    assert report["tokens_per_s"] == pytest.approx(30 / 5)
    assert [row[0] for row in tables(report)[1]] == ["ms", "latency", "TTFT", "ITL", "sent late"]


def test_a_load_that_was_late_itself_says_so() -> None:
    report = summarise([answer(0, 0.5, late_s=0.2), answer(1, 0.5, late_s=0.4)])
    assert report["sent_late_ms"]["mean"] == pytest.approx(300)


def test_a_load_of_which_all_failed_still_has_a_report() -> None:
    answers = [answer(at_s, 0.1, "no_worker: none") for at_s in range(4)]
    counts, times = tables(summarise(answers))
    assert counts[1][:3] == ["4", "4", "0"]
    assert [row[0] for row in times[1:]] == ["sent late"]
    assert panels(answers)[1].lines["answered"] == ([], [])


def test_the_plot_of_a_load_counts_what_was_due_and_what_was_answered() -> None:
    so_far = panels([answer(0, 5.0), answer(1, 1.0), answer(2, 1.0, "queue_full: full")])[1].lines
    assert so_far == {"due": ([0, 1, 2], [1, 2, 3]), "answered": ([2.0, 5.0], [1, 2])}


@given(st.floats(0.05, 0.9), st.floats(0.0, 1.0))
def test_latency_that_grows_by_a_share_of_each_second_is_that_share_not_done(growth: float, latency_s: float) -> None:
    # A queue that gets 20 a second and serves 20 * (1 - growth) makes each second's requests wait growth s longer.
    assert share_kept_up(steady(20, latency_s, growth)) == pytest.approx(1 - growth)


def test_a_server_keeps_up_whatever_its_latency_and_not_where_it_refuses() -> None:
    assert share_kept_up(steady(20, latency_s=5.0)) == pytest.approx(1.0)
    refusing = [answer(one.due_s, 0.1, "queue_full: full" if number % 4 == 0 else None)
                for number, one in enumerate(steady(20))]  # fmt: skip
    assert share_kept_up(refusing) == pytest.approx(0.75)


def test_a_few_requests_say_nothing_of_whether_a_server_keeps_up() -> None:
    assert share_kept_up(steady(1)) == 0.0


def test_the_knee_is_the_last_rate_before_the_first_that_is_not_kept_up() -> None:
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


def test_the_rates_of_a_sweep_go_past_the_capacity() -> None:
    rates = asyncio.run(find_rates(FakeServer().ask, [Item("hay")], users=2, seconds=0.01))
    assert len(rates) == len(SHARES)
    assert rates[-1] == pytest.approx(1.25 * rates[SHARES.index(1.0)], rel=0.01)


def test_a_capacity_of_nothing_ends_the_sweep_with_what_went_wrong() -> None:
    with pytest.raises(ValueError, match="no request succeeded; the first failed with invalid_input"):
        asyncio.run(find_rates(FakeServer().ask, [Item("bad")], users=2, seconds=0.01))
