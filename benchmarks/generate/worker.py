"""The worker of `benchmarks.generate.queue`: one engine, driven directly or behind the queue."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from benchmarks.encoder.worker import CachedNumber
from benchmarks.generate.llama import SHAPES, make_llama
from benchmarks.generate.run import drive
from windrow.bench.generation_load import make_load
from windrow.bench.programs import part
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.queue import RedisQueue
from windrow.worker.batches.batch_loop import BatchLoop
from windrow.worker.engines.base import Delta
from windrow.worker.engines.generation.collecting import StepHandle
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.pool.pool_process import take_share
from windrow.worker.process.garbage_collector import freeze_loaded_objects
from windrow.worker.steps.step_model import StepModel

MODEL = "llama"
#: Redis keys: list of commands, list of answers, and a flag that ends serving.
TODO_KEY, DONE_KEY, STOP_KEY = "bench:todo", "bench:done", "bench:stop"
#: Commands: drive a load directly, serve the queue, end.
DIRECT, SERVE, END = "direct", "serve", "end"
#: The worker ends if no command arrives within this time, in seconds.
IDLE_S = 120.0
#: Seconds of each blocking read, shorter than the socket timeout.
BLOCK_S = 2


class RecordingEngine(GenerateEngine):
    """Records when each step was collected (`time.monotonic`), and its number of decoding sequences."""

    steps: list[tuple[float, int]]

    def collect(self, handle: StepHandle) -> list[Delta]:
        """Record the step, and return its tokens."""
        deltas = super().collect(handle)
        self.steps.append((time.monotonic(), len(handle.decoded)))
        return deltas


def serve(spec: dict[str, Any]) -> None:
    """Create and load the model, then run commands until `END`."""
    take_share(0, 1)
    redis = connect(spec["url"])
    folder = make_llama(Path(spec["folder"]), spec["shape"])
    engine = RecordingEngine(MODEL, ModelSettings.model_validate({"source": str(folder), **spec["model"]}))
    engine.steps = []
    vocabulary = SHAPES[spec["shape"]]["vocab_size"]
    drive(engine, make_load(2, vocabulary, spec["scale"]))  # first-call work
    freeze_loaded_objects()
    _answer(redis, engine.info.device)
    while (command := read_entry(redis, TODO_KEY, IDLE_S))["do"] != END:
        if command["do"] == DIRECT:
            _answer(redis, drive(engine, make_load(spec["requests"], vocabulary, spec["scale"], command["seed"])))
            continue
        engine.steps.clear()
        redis.delete(STOP_KEY)
        served = StepModel(redis, RedisQueue(redis, MODEL), engine, 15.0, "bench")
        _answer(redis, None)
        BatchLoop({MODEL: served}, CachedNumber(redis, STOP_KEY)).run()
        _answer(redis, engine.steps)


def read_entry(redis: Redis, key: str, within_s: float) -> Any:
    """Return the next entry of the list ``key``. Raises `TimeoutError` after ``within_s``."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        entry: Any = redis.blpop([key], timeout=BLOCK_S)
        if entry is not None:
            return orjson.loads(entry[1])
    raise TimeoutError(f"the list {key} received no entry within {within_s:g} s")


def _answer(redis: Redis, answer: Any) -> None:
    redis.rpush(DONE_KEY, orjson.dumps(answer))


if __name__ == "__main__":
    part(serve)
