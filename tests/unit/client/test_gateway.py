"""The gateway in this process: which requests share a batch, and which calls fail."""

import asyncio
from typing import Any

import pytest

from tests.support.gateway import LONG_WINDOW_MS, Device, play, send
from windrow import InferenceConfig, InferenceGateway
from windrow.errors import PredictionFailed, RequestRefused


@pytest.mark.parametrize(
    "config",
    [
        InferenceConfig(enable_batching=False),
        InferenceConfig(max_batch_size=8, max_batch_wait_ms=0),
        InferenceConfig(max_batch_size=8, max_batch_wait_ms="auto"),
        InferenceConfig(max_batch_size=7, max_batch_wait_ms=1),
        InferenceConfig.high_rate(),
        InferenceConfig.low_rate(),
        InferenceConfig.low_latency(),
    ],
)
def test_every_task_gets_the_output_for_its_own_input(config: InferenceConfig) -> None:
    device = Device(lambda inputs: [10 * one for one in inputs])

    async def story(gateway: InferenceGateway) -> None:
        assert await asyncio.gather(*(gateway.infer(number) for number in range(100))) == list(range(0, 1000, 10))

    play(story, device, config)
    assert sorted(one for row in device.batches for one in row) == list(range(100))
    assert max(map(len, device.batches)) <= config.window.max_batch_size


def test_requests_within_the_window_share_a_batch() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        await asyncio.gather(*(gateway.infer(number) for number in range(4)))

    play(story, device, InferenceConfig(max_batch_size=4, max_batch_wait_ms=LONG_WINDOW_MS))
    assert device.batches == [[0, 1, 2, 3]]


def test_requests_that_arrive_during_a_batch_share_the_next_one() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        device.hold()
        first = await send(gateway, *range(8))
        await device.wait_until_started()
        rest = await send(gateway, *range(8, 24))
        assert (await gateway.health())["batching"]["queue_depth"] == 16
        device.release()
        await asyncio.gather(*first, *rest)

    play(story, device, InferenceConfig(max_batch_size=8, max_batch_wait_ms=LONG_WINDOW_MS))
    assert device.batches == [list(range(8)), list(range(8, 16)), list(range(16, 24))]


def test_without_batching_requests_run_alone_in_order_of_arrival() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        await asyncio.gather(*(gateway.infer(number) for number in range(20)))

    play(story, device, InferenceConfig(enable_batching=False))
    assert device.batches == [[number] for number in range(20)]


def test_one_bad_input_fails_alone() -> None:
    def refuse(inputs: list[Any]) -> list[Any]:
        if "bad" in inputs:
            raise ValueError("a bad input")
        return inputs

    inputs = ["a", "b", "bad", "c", "d", "e", "f", "g"]

    async def story(gateway: InferenceGateway) -> None:
        outputs = await asyncio.gather(*(gateway.infer(one) for one in inputs), return_exceptions=True)
        failed = outputs.pop(2)
        assert isinstance(failed, PredictionFailed)
        assert (failed.code, failed.detail) == ("model_failed", "the model raised ValueError on this input")
        assert outputs == ["a", "b", "c", "d", "e", "f", "g"]

    play(story, refuse, InferenceConfig(max_batch_size=8, max_batch_wait_ms=LONG_WINDOW_MS))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([1], "1 outputs for 3 inputs"),
        ("one", "returned str"),
        ({"a": 1}, "returned dict"),
        (None, "returned NoneType"),
    ],
)
def test_all_requests_of_a_batch_fail_if_the_outputs_do_not_match_the_inputs(outputs: Any, expected: str) -> None:
    async def story(gateway: InferenceGateway) -> None:
        failed = await asyncio.gather(*(gateway.infer(input) for input in "abc"), return_exceptions=True)
        assert [isinstance(error, PredictionFailed) and expected in error.detail for error in failed] == [True] * 3

    play(story, lambda inputs: outputs, InferenceConfig(max_batch_size=3, max_batch_wait_ms=LONG_WINDOW_MS))


def test_a_full_queue_refuses_a_request_and_accepts_it_later() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        device.hold()
        first = await send(gateway, "first")
        await device.wait_until_started()
        waiting = await send(gateway, "a", "b")
        with pytest.raises(RequestRefused, match="max_queue_size") as refused:
            await gateway.infer("c")
        assert refused.value.code == "queue_full"
        device.release()
        await asyncio.gather(*first, *waiting)
        assert await gateway.infer("c") == "c"

    play(story, device, InferenceConfig(max_queue_size=2, max_batch_wait_ms=0))


def test_a_canceled_task_removes_its_request_from_the_queue() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        device.hold()
        first = await send(gateway, "first")
        await device.wait_until_started()
        gone, stays = await send(gateway, "gone", "stays")
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert (await gateway.health())["batching"]["queue_depth"] == 1
        device.release()
        assert await asyncio.gather(*first, stays) == ["first", "stays"]

    play(story, device, InferenceConfig(max_batch_wait_ms=0))
    assert device.batches == [["first"], ["stays"]]


def test_canceling_a_task_during_its_batch_does_not_affect_other_requests() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        device.hold()
        gone, stays = await send(gateway, "gone", "stays")
        await device.wait_until_started()
        gone.cancel()
        device.release()
        assert await stays == "stays"

    play(story, device, InferenceConfig(max_batch_size=2, max_batch_wait_ms=LONG_WINDOW_MS))
    assert device.batches == [["gone", "stays"]]


def test_health_counts_batches_and_requests() -> None:
    async def story(gateway: InferenceGateway) -> None:
        assert (await gateway.health())["batching"] == {
            "total_batches": 0, "total_requests": 0, "avg_batch_size": 0.0, "avg_batch_duration_ms": 0.0,
            "queue_depth": 0, "wait_ms": LONG_WINDOW_MS,
        }  # fmt: skip
        await asyncio.gather(*(gateway.infer(one) for one in range(6)))
        health = await gateway.health()
        assert (health["status"], health["mode"]) == ("ok", "in-process")
        batching = health["batching"]
        assert (batching["total_batches"], batching["total_requests"], batching["avg_batch_size"]) == (2, 6, 3.0)
        assert batching["avg_batch_duration_ms"] > 0

    play(story, Device(), InferenceConfig(max_batch_size=3, max_batch_wait_ms=LONG_WINDOW_MS))


def test_close_finishes_the_running_batch_and_cancels_queued_and_later_calls() -> None:
    device = Device()

    async def story(gateway: InferenceGateway) -> None:
        device.hold()
        (runs,) = await send(gateway, "runs")
        await device.wait_until_started()
        (waits,) = await send(gateway, "waits")
        closing = asyncio.create_task(gateway.close())
        with pytest.raises(PredictionFailed, match="closed") as closed:
            await waits
        assert closed.value.code == "canceled"
        device.release()
        await closing
        assert await runs == "runs"
        assert (await gateway.health())["status"] == "closed"
        with pytest.raises(PredictionFailed, match="closed"):
            await gateway.infer("late")

    play(story, device, InferenceConfig(max_batch_wait_ms=0))
    assert device.batches == [["runs"]]
