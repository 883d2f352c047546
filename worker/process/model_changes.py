"""Applies requested changes to the models of one pool process: new batch limits, and reloads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from redis.exceptions import RedisError

from windrow.errors import ModelUnusable
from windrow.scheduler.core.planning import BatchLimits
from windrow.worker.batches.batch_buffer import BatchBuffer
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.engines.base import Engine, EngineInfo, StepEngine
from windrow.worker.process.garbage_collector import freeze_loaded_objects
from windrow.worker.process.model_requests import ModelRequests, read_model_requests, version
from windrow.worker.process.served_model import ServedModel
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)
LOOK_S = 0.01
#: Loads the model of that name.
Load = Callable[[str], Engine | StepEngine]
#: The limits of passes of the model of that name, once it is loaded.
Limits = Callable[[str, EngineInfo], BatchLimits]


class ModelChanges:
    """To be asked again and again to `look`; ``before`` is what had been asked when the models began to be loaded."""

    def __init__(
        self,
        lanes: Mapping[str, BatchModel | StepModel],
        rows: BatchBuffer,
        load: Load,
        limits: Limits,
        before: ModelRequests,
        stopping: Callable[[], object],
    ) -> None:
        self._lanes = lanes
        self._rows = rows
        self._load = load
        self._limits = limits
        self._stopping = stopping
        self._reloads = dict(before.reloads)
        self._version: int | None = None
        #: One model at a time.
        self._loading = threading.Lock()

    def look(self) -> None:
        """Carry out what is new; models are loaded by a thread of their own."""
        seen = version()
        if seen == self._version:
            return
        self._version = seen
        orders = read_model_requests()
        for model, batching in orders.batching.items():
            lane = self._lanes.get(model)
            if isinstance(lane, BatchModel) and lane.batching != batching:
                lane.set_batching(batching)
                self._rows.set_limits(model, lane.window)
        for model, count in orders.reloads.items():
            if count != self._reloads.get(model, 0) and model in self._lanes:
                start_thread(self._reload, self._lanes[model])
        self._reloads = dict(orders.reloads)

    def _reload(self, lane: BatchModel | StepModel) -> None:
        with self._loading:
            _note(lane, "it is being loaded anew")
            try:
                self._replace(lane)
            except ModelUnusable as error:
                self._keep(lane, error.detail)
            except Exception as error:  # whatever it raises, the old one goes on
                self._keep(lane, f"{type(error).__name__}: {error}")
            else:
                log.info("model %s was loaded anew: %s", lane.model, lane.engine.info)
                _note(lane, f"it was loaded anew at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")

    def _keep(self, lane: ServedModel, reason: str) -> None:
        log.error("model %s goes on as it was, and was not loaded anew: %s", lane.model, reason)
        _note(lane, f"it could not be loaded anew, and goes on as it was: {reason}")

    def _replace(self, lane: BatchModel | StepModel) -> None:
        """Load it beside the old one, which ends what it holds before the new one takes its place."""
        model, info = lane.model, lane.engine.info
        is_on_cuda = info.device == "cuda"
        if is_on_cuda and isinstance(lane, StepModel):
            raise ModelUnusable("its cache takes the device's memory; restart the worker")
        # See `windrow.worker.engines.loading.load_engine_afresh`.
        may_go_on = not is_on_cuda and info.dtype in ("float32", "int8")
        with self._paused([] if may_go_on else list(self._lanes.values())):
            engine = self._load(model)
        with self._paused([lane]):
            if self._stopping():
                raise ModelUnusable("the worker stops")
            if isinstance(lane, StepModel):
                assert isinstance(engine, StepEngine)
                lane.replace_engine(engine)
            else:
                assert not isinstance(engine, StepEngine)
                lane.replace_engine(engine, self._limits(model, engine.info))
                self._rows.set_limits(model, lane.window)
        freeze_loaded_objects()
        if is_on_cuda:
            import torch

            torch.cuda.empty_cache()

    @contextmanager
    def _paused(self, lanes: Sequence[ServedModel]) -> Iterator[None]:
        """While entered, ``lanes`` hold nothing; their requests wait in Redis, for this worker or another."""
        for lane in lanes:
            lane.leases.pause()
        try:
            while not (all(lane.leases.is_idle for lane in lanes) or self._stopping()):
                time.sleep(LOOK_S)
            yield
        finally:
            for lane in lanes:
                lane.leases.resume()


def _note(lane: ServedModel, note: str) -> None:
    lane.status.reload_note = note
    try:
        lane.heartbeat()
    except RedisError as error:  # the next one tells it
        log.warning("model %s: %s", lane.model, error)
