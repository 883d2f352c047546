"""The worker of `benchmarks.generate.queue`: one engine, driven directly or behind the queue, as the parent asks."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import orjson
from redis import Redis

from benchmarks.encoder.worker import Number
from benchmarks.generate.run import drive
from windrow.bench.generate_model import SHAPES, make_llama, make_load
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
#: Lists: what is asked of the worker, and its answers; set when it is to serve no longer.
TODO_KEY, DONE_KEY, STOP_KEY = "bench:todo", "bench:done", "bench:stop"
#: Asks: drive a load of that seed, serve the queue, end.
DIRECT, SERVE, END = "direct", "serve", "end"
#: A worker that hears nothing for so long ends, in seconds.
DEAF_S = 120.0
#: Shorter than connections wait for an answer, in seconds.
LISTEN_S = 2


class Noting(GenerateEngine):
    """Notes when each of its steps was collected, `time.monotonic`, and how many sequences decoded in it."""

    steps: list[tuple[float, int]]

    def collect(self, handle: StepHandle) -> list[Delta]:
        """As any."""
        deltas = super().collect(handle)
        self.steps.append((time.monotonic(), len(handle.decoded)))
        return deltas


def serve(spec: dict[str, Any]) -> None:
    """Make and load the model, then do what is asked until the end is."""
    take_share(0, 1)
    redis = connect(spec["url"])
    folder = make_llama(Path(spec["folder"]), spec["shape"])
    engine = Noting(MODEL, ModelSettings.model_validate({"source": str(folder), **spec["model"]}))
    engine.steps = []
    vocabulary = SHAPES[spec["shape"]]["vocab_size"]
    drive(engine, make_load(2, vocabulary, spec["scale"]))  # what is done at the first call only
    freeze_loaded_objects()
    _answer(redis, engine.info.device)
    while (todo := read_events(redis, TODO_KEY, DEAF_S))["do"] != END:
        if todo["do"] == DIRECT:
            _answer(redis, drive(engine, make_load(spec["requests"], vocabulary, spec["scale"], todo["seed"])))
            continue
        engine.steps.clear()
        redis.delete(STOP_KEY)
        lane = StepModel(redis, RedisQueue(redis, MODEL), engine, 15.0, "bench")
        _answer(redis, None)
        BatchLoop({MODEL: lane}, Number(redis, STOP_KEY)).run()
        _answer(redis, engine.steps)


def read_events(redis: Redis, key: str, within_s: float) -> Any:
    """The next that comes on list ``key``. Raises `TimeoutError`."""
    end_s = time.monotonic() + within_s
    while time.monotonic() < end_s:
        heard: Any = redis.blpop([key], timeout=LISTEN_S)
        if heard is not None:
            return orjson.loads(heard[1])
    raise TimeoutError(f"nobody wrote to {key} within {within_s:g} s")


def _answer(redis: Redis, answer: Any) -> None:
    redis.rpush(DONE_KEY, orjson.dumps(answer))


if __name__ == "__main__":
    part(serve)
