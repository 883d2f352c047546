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
from windrow.worker.leases.served_model import ServedModel
from windrow.worker.process.garbage_collector import freeze_loaded_objects
from windrow.worker.process.model_requests import ModelRequests, read_model_requests, version
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)
POLL_S = 0.01
#: Loads the model with that name.
Load = Callable[[str], Engine | StepEngine]
#: Batch limits of the model with that name, given its loaded engine.
Limits = Callable[[str, EngineInfo], BatchLimits]


class ModelChanges:
    """Applies new `ModelRequests` whenever `look` is called.

    ``before`` are the requests that existed when the models began to load, which need no reload.
    """

    def __init__(
        self,
        models: Mapping[str, BatchModel | StepModel],
        buffer: BatchBuffer,
        load: Load,
        limits: Limits,
        before: ModelRequests,
        stopping: Callable[[], object],
    ) -> None:
        self._models = models
        self._buffer = buffer
        self._load = load
        self._limits = limits
        self._stopping = stopping
        self._reloads = dict(before.reloads)
        self._version: int | None = None
        #: One model at a time.
        self._loading = threading.Lock()

    def look(self) -> None:
        """Apply new requests. Reloads run in a thread of their own."""
        current = version()
        if current == self._version:
            return
        self._version = current
        requests = read_model_requests()
        for name, batching in requests.batching.items():
            served = self._models.get(name)
            if isinstance(served, BatchModel) and served.batching != batching:
                served.set_batching(batching)
                self._buffer.set_limits(name, served.window)
        for name, count in requests.reloads.items():
            if count != self._reloads.get(name, 0) and name in self._models:
                start_thread(self._reload, self._models[name])
        self._reloads = dict(requests.reloads)

    def _reload(self, served: BatchModel | StepModel) -> None:
        with self._loading:
            _note(served, "loading")
            try:
                self._replace(served)
            except ModelUnusable as error:
                self._keep(served, error.detail)
            except Exception as error:  # whatever it raises, the loaded model stays in service
                self._keep(served, f"{type(error).__name__}: {error}")
            else:
                log.info("model %s reloaded: %s", served.model, served.engine.info)
                _note(served, f"reloaded at {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())}")

    def _keep(self, served: ServedModel, reason: str) -> None:
        log.error("model %s was not reloaded and stays in service as it was: %s", served.model, reason)
        _note(served, f"not reloaded, the model stays in service as it was: {reason}")

    def _replace(self, served: BatchModel | StepModel) -> None:
        """Load the new engine beside the old one, which finishes its requests before the new one replaces it."""
        name, info = served.model, served.engine.info
        is_on_cuda = info.device == "cuda"
        if is_on_cuda and isinstance(served, StepModel):
            raise ModelUnusable(
                "its KV cache fills the device memory, so it cannot load beside itself; restart the worker"
            )
        # See `windrow.worker.engines.loading.load_engine_afresh`.
        may_serve_meanwhile = not is_on_cuda and info.dtype in ("float32", "int8")
        with self._paused([] if may_serve_meanwhile else list(self._models.values())):
            engine = self._load(name)
        with self._paused([served]):
            if self._stopping():
                raise ModelUnusable("the worker is stopping")
            if isinstance(served, StepModel):
                assert isinstance(engine, StepEngine)
                served.replace_engine(engine)
            else:
                assert not isinstance(engine, StepEngine)
                served.replace_engine(engine, self._limits(name, engine.info))
                self._buffer.set_limits(name, served.window)
        freeze_loaded_objects()
        if is_on_cuda:
            import torch

            torch.cuda.empty_cache()

    @contextmanager
    def _paused(self, models: Sequence[ServedModel]) -> Iterator[None]:
        """While entered, ``models`` hold no requests; new ones stay queued in Redis for this or another worker."""
        for model in models:
            model.leases.pause()
        try:
            while not (all(model.leases.is_idle for model in models) or self._stopping()):
                time.sleep(POLL_S)
            yield
        finally:
            for model in models:
                model.leases.resume()


def _note(served: ServedModel, note: str) -> None:
    served.status.reload_note = note
    try:
        served.heartbeat()
    except RedisError as error:  # the next heartbeat reports it
        log.warning("model %s: %s", served.model, error)
