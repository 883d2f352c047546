"""The gateway in this process: which requests share a batch, and which calls fail."""

import asyncio
import logging
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from windrow import InferenceConfig, InferenceGateway
from windrow.errors import ClientError, InvalidInput, InvalidSetting, PredictionFailed, RequestRefused, UnknownModel
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared

#: A window that never ends in a test; a batch closes by its size.
LONG_WINDOW_MS = 60_000.0


class Device:
    """A function that records its batches. While it is held, a batch that has started does not finish."""

    def __init__(self, run: Callable[[list[Any]], Any] = list) -> None:
        self.batches: list[list[Any]] = []
        self._run = run
        self._free = threading.Event()
        self._free.set()
        self._started = threading.Event()

    def __call__(self, inputs: list[Any]) -> Any:
        self.batches.append(inputs)
        self._started.set()
        assert self._free.wait(30)
        return self._run(inputs)

    def hold(self) -> None:
        self._free.clear()
        self._started.clear()

    def release(self) -> None:
        self._free.set()

    async def wait_until_started(self) -> None:
        assert await asyncio.to_thread(self._started.wait, 30)


def play(
    story: Callable[[InferenceGateway], Awaitable[None]], backend: Any, config: InferenceConfig | None = None
) -> None:
    async def run() -> None:
        async with InferenceGateway(config, backend) as gateway:
            await story(gateway)

    asyncio.run(run())


async def send(gateway: InferenceGateway, *inputs: Any) -> list[asyncio.Task[Any]]:
    """Start one task per input, and let each wait for its result."""
    tasks = [asyncio.create_task(gateway.infer(one)) for one in inputs]
    await asyncio.sleep(0)
    return tasks


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


def test_a_call_before_initialize_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="initialize"):
        asyncio.run(InferenceGateway(backend=Device()).infer("early"))


def test_initializing_twice_starts_one_runner() -> None:
    async def run() -> None:
        gateway = InferenceGateway(InferenceConfig(), Device())
        await asyncio.gather(gateway.initialize(), gateway.initialize())
        await gateway.infer("a")
        await gateway.initialize()
        assert (await gateway.health())["batching"]["total_requests"] == 1
        await gateway.close()

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


class Pick:
    """An engine that refuses what is no text, takes a parameter, and loses its device when it is told to."""

    def __init__(self) -> None:
        self.info = EngineInfo("pick", "embed", "packed", None, "cpu", "float32", 16)
        self.busy_s = 0.0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        if "raises" in inputs:
            raise LookupError("raises")
        return [
            Prepared(len(text), text + wishes.get("end", ""))
            if isinstance(text, str)
            else Failed(InvalidInput("input: takes a string"))
            for text, wishes in zip(inputs, parameters, strict=True)
        ]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        texts = [one.data for one in prepared]
        if "device lost" in texts:
            raise AcceleratorError
        return texts

    def collect(self, handle: Any) -> list[Outcome]:
        if "collect raises" in handle:
            raise LookupError
        return [Done({"text": text}) for text in handle]


class AcceleratorError(RuntimeError):
    """Named as torch names its own: nothing runs on the device any more."""


def test_an_engine_refuses_invalid_inputs_individually() -> None:
    async def story(gateway: InferenceGateway) -> None:
        good, refused, raised, other = await asyncio.gather(
            gateway.infer("a", parameters={"end": "!"}), gateway.infer(7), gateway.infer("raises"), gateway.infer("b"),
            return_exceptions=True,
        )  # fmt: skip
        assert (good, other) == ({"text": "a!"}, {"text": "b"})
        assert isinstance(refused, RequestRefused)
        assert refused.code == "invalid_input"
        assert isinstance(raised, PredictionFailed)
        assert "LookupError" in raised.detail

    play(story, Pick())


def test_outputs_that_cannot_be_collected_fail_their_own_batch_only() -> None:
    async def story(gateway: InferenceGateway) -> None:
        with pytest.raises(PredictionFailed, match="LookupError"):
            await gateway.infer("collect raises")
        assert await gateway.infer("a") == {"text": "a"}

    play(story, Pick())


def test_a_lost_device_fails_every_call_and_shows_in_health() -> None:
    device_lost: list[ClientError] = []

    async def story(gateway: InferenceGateway) -> None:
        for text in ("device lost", "after"):
            with pytest.raises(PredictionFailed) as closed:
                await gateway.infer(text)
            device_lost.append(closed.value)
        assert (await gateway.health())["status"] == "failed"

    play(story, Pick())
    assert [one.code for one in device_lost] == ["model_failed"] * 2


class Pause(logging.Handler):
    """Blocks a thread that logs until ``resume`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.resume = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        assert self.resume.wait(30)


def test_health_is_failed_as_soon_as_a_call_fails_because_the_batch_loop_stopped() -> None:
    def leave(inputs: list[Any]) -> list[Any]:
        raise SystemExit

    async def story(gateway: InferenceGateway) -> None:
        try:
            with pytest.raises(PredictionFailed, match="SystemExit"):
                await gateway.infer("a")
            assert (await gateway.health())["status"] == "failed"
        finally:
            pause.resume.set()

    pause, log = Pause(), logging.getLogger("windrow.gateway.in_process")
    log.addHandler(pause)
    try:
        play(story, leave)
    finally:
        log.removeHandler(pause)


def test_a_closed_gateway_is_not_opened_again() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        async with gateway:
            await gateway.infer("a")
        await gateway.close()
        with pytest.raises(RuntimeError, match="closed; create another"):
            await gateway.initialize()
        with pytest.raises(RuntimeError, match="create another"):
            async with gateway:
                pass

    asyncio.run(run())


def test_a_gateway_closed_before_initialize_stays_closed() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        await gateway.close()
        with pytest.raises(RuntimeError, match="create another"):
            await gateway.initialize()
        with pytest.raises(RuntimeError, match="closed before it was initialized"):
            await gateway.infer("a")

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


def test_close_waits_for_a_concurrent_initialize() -> None:
    async def run() -> None:
        gateway = InferenceGateway(backend=Device())
        await asyncio.gather(gateway.initialize(), gateway.close())
        assert (await gateway.health())["status"] == "closed"

    before = threading.active_count()
    asyncio.run(run())
    assert threading.active_count() == before


def test_parameters_for_a_function_are_refused() -> None:
    async def story(gateway: InferenceGateway) -> None:
        with pytest.raises(RequestRefused, match="parameters"):
            await gateway.infer("a", parameters={"truncate": True})

    play(story, Device())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"max_batch_size": 2.5}, "max_batch_size"),
        ({"max_batch_size": True}, "max_batch_size"),
        ({"max_batch_tokens": -1}, "max_batch_tokens"),
        ({"max_queue_size": 0}, "max_queue_size"),
        ({"max_batch_wait_ms": -1}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": float("nan")}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": "soon"}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": True}, "max_batch_wait_ms"),
        ({"max_batch_wait_ms": None}, "max_batch_wait_ms"),
    ],
)
def test_a_malformed_field_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"^{name}: takes"):
        InferenceConfig(**fields)


async def coroutine(inputs: list[Any]) -> list[Any]:
    return inputs


@pytest.mark.parametrize(("backend", "error"), [(7, TypeError), (coroutine, TypeError), ("no url", ValueError)])
def test_an_invalid_backend_is_refused_by_initialize(backend: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(InferenceGateway(backend=backend).initialize())


@pytest.mark.parametrize("given", [len, "http://127.0.0.1:8000", {"max_batch_size": 8}])
def test_an_invalid_config_is_refused_by_the_constructor(given: Any) -> None:
    with pytest.raises(TypeError, match=r"takes an InferenceConfig \(got (len|str|dict)\)"):
        InferenceGateway(given)


def test_an_unknown_model_is_refused_with_the_configured_ones() -> None:
    with pytest.raises(UnknownModel, match="minilm"):
        asyncio.run(InferenceGateway(model="maxilm").initialize())


def test_the_client_is_imported_without_the_gateway_and_the_gateway_without_torch() -> None:
    program = """
import sys, windrow
before = sorted({"torch", "redis", "worker", "scheduler", "windrow.gateway"} & set(sys.modules))
windrow.InferenceGateway
print(before, sorted({"torch", "transformers", "celery"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[] []"
