"""The gateway with an engine: invalid inputs, lost devices and failed batches."""

import asyncio
import logging
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.support.gateway import play
from windrow import InferenceGateway
from windrow.errors import ClientError, InvalidInput, PredictionFailed, RequestRefused
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import EngineInfo, Prepared


class Pick:
    """An engine that accepts texts and a parameter; certain texts raise an exception or lose the device."""

    def __init__(self) -> None:
        self.info = EngineInfo("pick", "embed", "packed", None, "cpu", "float32", 16)
        self.busy_s = 0.0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        if "raises" in inputs:
            raise LookupError("raises")
        return [
            Prepared(len(text), text + options.get("end", ""))
            if isinstance(text, str)
            else Failed(InvalidInput("input: takes a string"))
            for text, options in zip(inputs, parameters, strict=True)
        ]

    def forward(self, prepared: Sequence[Prepared], batch: Batch) -> Any:
        texts = [input.data for input in prepared]
        if "device lost" in texts:
            raise AcceleratorError
        return texts

    def collect(self, handle: Any) -> list[Outcome]:
        if "collect raises" in handle:
            raise LookupError
        return [Done({"text": text}) for text in handle]


class AcceleratorError(RuntimeError):
    """An exception with the name of torch's own, after which nothing runs on the device."""


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
    errors: list[ClientError] = []

    async def story(gateway: InferenceGateway) -> None:
        for text in ("device lost", "after"):
            with pytest.raises(PredictionFailed) as closed:
                await gateway.infer(text)
            errors.append(closed.value)
        assert (await gateway.health())["status"] == "failed"

    play(story, Pick())
    assert [error.code for error in errors] == ["model_failed"] * 2


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
