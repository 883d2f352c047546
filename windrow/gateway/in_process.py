"""`InProcess`: the batch loop of a worker without Redis; one thread prepares requests, another runs batches."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from windrow.errors import (
    Canceled,
    ClientError,
    InvalidInput,
    ModelFailed,
    PredictionFailed,
    RequestRefused,
    WindrowError,
)
from windrow.gateway.pending_requests import InferCall, PendingRequests
from windrow.gateway.stats import GatewayStats
from windrow.scheduler.core.batch_scheduler import BatchScheduler
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer
from windrow.worker.batches.forward import BatchBudget, RunningBatch, collect_batch, run_window
from windrow.worker.engines.base import Engine
from windrow.worker.leases.prepare import prepare_inputs

log = logging.getLogger(__name__)
#: How long the preparing thread waits for room before it checks whether to stop, in seconds.
CHECK_EVERY_S = 1.0


class InProcess:
    """Runs one engine for calls from any event loop of this process."""

    def __init__(
        self,
        engine: Engine,
        window: WindowLimits,
        limits: BatchLimits,
        max_queue_size: int,
        convert: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        """``convert`` turns an output of the engine into the result of `infer`."""
        self._engine = engine
        self._convert = convert
        self._model = engine.info.model
        self._budget = BatchBudget(limits)
        self._scheduler = BatchScheduler(window)
        self._buffer = BatchBuffer({self._model: self._scheduler})
        self._pending = PendingRequests(max_queue_size)
        self._stats = GatewayStats()
        self._numbers = itertools.count(1)
        #: Why the gateway has stopped; None while it runs.
        self._stopped: WindrowError | None = None
        self._threads = [
            threading.Thread(
                target=self._run_thread, args=(work,), name=f"windrow-{work.__name__.strip('_')}", daemon=True
            )
            for work in (self._prepare, self._forward)
        ]
        for thread in self._threads:
            thread.start()

    async def infer(self, input: Any, parameters: Mapping[str, Any]) -> Any:
        """Queue one input and wait for its output. Raises `ClientError`."""
        loop = asyncio.get_running_loop()
        call = InferCall(str(next(self._numbers)), input, parameters, time.monotonic(), loop.create_future(), loop)
        try:
            self._pending.put(call)
        except WindrowError as error:
            raise to_client_error(error) from None
        try:
            return await call.future
        finally:
            self._pending.withdraw(call)  # if the caller was canceled

    def health(self) -> dict[str, Any]:
        """Return the health; see `InferenceGateway.health`."""
        info = self._engine.info
        return {
            "status": "ok" if self._stopped is None else "closed" if isinstance(self._stopped, Canceled) else "failed",
            "mode": "in-process",
            "model": info.model,
            "device": info.device,
            "strategy": info.strategy,
            "batching": self._stats.describe(len(self._pending)) | {"wait_ms": self._scheduler.max_wait_s * 1e3},
        }

    async def close(self) -> None:
        """Finish the current batches; calls that have not started fail with ``canceled``."""
        self._stop(Canceled("the gateway was closed before this request started"))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _run_thread(self, work: Callable[[], None]) -> None:
        """Run one thread; an unexpected error stops the gateway and fails every waiting call."""
        try:
            work()
        except BaseException as error:
            self._stop(_stopped_by(error))
            log.critical("the gateway stopped: %s", describe_exception(error))

    def _prepare(self) -> None:
        while self._stopped is None:
            planned = self._buffer.reserve(self._model, timeout_s=CHECK_EVERY_S)
            if planned is None:
                continue
            calls = self._pending.take(planned.size)
            began_s = time.monotonic()
            requests = self._to_requests(calls, began_s)
            self._buffer.add(self._model, requests, planned.size, time.monotonic() - began_s)

    def _to_requests(self, calls: list[InferCall], claimed_s: float) -> list[Request]:
        """Validate and prepare inputs; a refused input finishes here."""
        if not calls:
            return []
        prepared = prepare_inputs(self._engine, [call.input for call in calls], [call.parameters for call in calls])
        waiting, refused = [], []
        for call, ready in zip(calls, prepared, strict=True):
            if isinstance(ready, Failed):
                refused.append((call.id, ready))
            else:
                request = Request(call.id, "", 1, call.arrived_s, None, "", b"", 0, 0)
                request.prepared, request.arrived_s, request.claimed_s = ready, call.arrived_s, claimed_s
                waiting.append(request)
        self._resolve((taken, ready) for id, ready in refused if (taken := self._pending.start(id)))
        return waiting

    def _forward(self) -> None:
        while (window := self._buffer.take()) is not None:
            started = {request.id: call for request in window.requests if (call := self._pending.start(request.id))}
            try:
                waiting = [request for request in window.requests if request.id in started]
                for batch in run_window(self._engine, waiting, self._budget):
                    outcomes = self._collect(batch)
                    self._stats.add(len(batch.requests), time.monotonic() - batch.started_s)
                    finished = [started.pop(request.id) for request in batch.requests]
                    self._resolve(zip(finished, outcomes, strict=True))
            except BaseException as error:
                # Set before the calls fail, so that a caller that then asks for `health` sees the failure.
                self._stopped = self._stopped or _stopped_by(error)
                lost = Failed(ModelFailed(f"the device failed: {type(error).__name__}"))
                self._resolve((call, lost) for call in started.values())
                raise

    def _collect(self, batch: RunningBatch) -> list[Outcome]:
        try:
            outcomes = collect_batch(batch, self._budget)
            return [Done(self._convert(done.output)) if isinstance(done, Done) else done for done in outcomes]
        except Exception as error:
            log.warning("collecting a batch raised %s", describe_exception(error))
            wrong = f"collecting the outputs of a batch of {len(batch.requests)} raised {type(error).__name__}"
            return [Failed(ModelFailed(wrong))] * len(batch.requests)

    def _stop(self, error: WindrowError) -> None:
        self._stopped = self._stopped or error
        self._buffer.close()
        self._resolve((call, Failed(error)) for call in self._pending.close(self._stopped))

    def _resolve(self, outcomes: Iterable[tuple[InferCall, Outcome]]) -> None:
        """Resolve the futures of finished calls, with one callback per event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[InferCall, Outcome]]] = defaultdict(list)
        for call, outcome in outcomes:
            by_loop[call.loop].append((call, outcome))
        for loop, finished in by_loop.items():
            with suppress(RuntimeError):  # the loop is closed, and so are its callers
                loop.call_soon_threadsafe(_set_results, finished)


def _set_results(finished: list[tuple[InferCall, Outcome]]) -> None:
    for call, outcome in finished:
        if call.future.done():  # canceled
            continue
        if isinstance(outcome, Done):
            call.future.set_result(outcome.output)
        else:
            call.future.set_exception(to_client_error(outcome.error))


def _stopped_by(error: BaseException) -> ModelFailed:
    return ModelFailed(f"the gateway stopped: {type(error).__name__}; close it and create another")


def to_client_error(error: WindrowError) -> ClientError:
    """Return the error that a client of a server would raise."""
    kind = RequestRefused if isinstance(error, InvalidInput) or error.retryable else PredictionFailed
    return kind(error.detail, code=error.code, retry_after_s=error.retry_after_s)
