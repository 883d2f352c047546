"""The worker's core without Redis: a thread that makes rows ready, and one that runs them."""

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
from windrow.gateway.inbox import PendingRequests, Ticket
from windrow.gateway.tally import GatewayStats
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.outcomes import Done, Failed, Outcome
from windrow.scheduler.core.planning import BatchLimits
from windrow.scheduler.core.window import WindowLimits
from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer
from windrow.worker.batches.forward import BatchBudget, RunningBatch, collect_batch, prepare_inputs, run_window
from windrow.worker.engines.base import Engine

log = logging.getLogger(__name__)
#: How long the first thread waits for room before it looks whether it has to stop, in seconds.
LOOK_EVERY_S = 1.0


class InProcess:
    """Runs one engine for calls from any event loop of this process."""

    def __init__(
        self,
        engine: Engine,
        window: WindowLimits,
        passes: BatchLimits,
        max_queue_size: int,
        convert: Callable[[Any], Any] = lambda output: output,
    ) -> None:
        """``convert`` makes what `infer` returns of what the engine gives."""
        self._engine = engine
        self._convert = convert
        self._model = engine.info.model
        self._budget = BatchBudget(passes)
        self._rows = BatchBuffer({self._model: window})
        self._inbox = PendingRequests(max_queue_size)
        self._tally = GatewayStats()
        self._numbers = itertools.count(1)
        #: Why nothing runs any more; None while it does.
        self._ended: WindrowError | None = None
        self._threads = [
            threading.Thread(target=self._stage, args=(work,), name=f"windrow-{work.__name__.strip('_')}", daemon=True)
            for work in (self._prepare, self._forward)
        ]
        for thread in self._threads:
            thread.start()

    async def infer(self, input: Any, parameters: Mapping[str, Any]) -> Any:
        """Queue one input and wait for its output. Raises `ClientError`."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(str(next(self._numbers)), input, parameters, time.monotonic(), loop.create_future(), loop)
        try:
            self._inbox.put(ticket)
        except WindrowError as error:
            raise to_client_error(error) from None
        try:
            return await ticket.future
        finally:
            self._inbox.withdraw(ticket)  # where the caller was canceled

    def health(self) -> dict[str, Any]:
        """How it is; see `InferenceGateway.health`."""
        info = self._engine.info
        return {
            "status": "ok" if self._ended is None else "closed" if isinstance(self._ended, Canceled) else "failed",
            "mode": "in-process",
            "model": info.model,
            "device": info.device,
            "strategy": info.strategy,
            "batching": self._tally.describe(len(self._inbox)) | {"wait_ms": self._rows.max_wait_s(self._model) * 1e3},
        }

    async def close(self) -> None:
        """End the row that runs; what was not started fails with ``canceled``."""
        self._end(Canceled("the gateway was closed before this began"))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _stage(self, work: Callable[[], None]) -> None:
        """Run one thread. What nobody expected ends the gateway, and everybody who waits is told."""
        try:
            work()
        except BaseException as error:
            self._end(_stopped(error))
            log.critical("the gateway stopped: %s", describe_exception(error))

    def _prepare(self) -> None:
        while self._ended is None:
            planned = self._rows.reserve(self._model, timeout_s=LOOK_EVERY_S)
            if planned is None:
                continue
            tickets = self._inbox.take(planned.size)
            began_s = time.monotonic()
            self._rows.add(self._model, self._ready(tickets, began_s), planned.size, time.monotonic() - began_s)

    def _ready(self, tickets: list[Ticket], claimed_s: float) -> list[Request]:
        """Check and tokenise; what is refused ends here."""
        if not tickets:
            return []
        prepared = prepare_inputs(self._engine, [one.input for one in tickets], [one.parameters for one in tickets])
        waiting, refused = [], []
        for ticket, ready in zip(tickets, prepared, strict=True):
            if isinstance(ready, Failed):
                refused.append((ticket.id, ready))
            else:
                request = Request(ticket.id, "", 1, ticket.arrived_s, None, "", b"", 0, 0)
                request.prepared, request.arrived_s, request.claimed_s = ready, ticket.arrived_s, claimed_s
                waiting.append(request)
        self._answer((asked, ready) for id, ready in refused if (asked := self._inbox.start(id)))
        return waiting

    def _forward(self) -> None:
        while (row := self._rows.take()) is not None:
            started = {one.id: ticket for one in row.requests if (ticket := self._inbox.start(one.id))}
            try:
                waiting = [one for one in row.requests if one.id in started]
                for done in run_window(self._engine, waiting, self._budget):
                    outcomes = self._collect(done)
                    self._tally.add(len(done.members), time.monotonic() - done.started_s)
                    ended = [started.pop(one.id) for one in done.members]
                    self._answer(zip(ended, outcomes, strict=True))
            except BaseException as error:
                # Before anybody is told: whoever hears of it and asks for `health` hears the same.
                self._ended = self._ended or _stopped(error)
                lost = Failed(ModelFailed(f"the device failed: {type(error).__name__}"))
                self._answer((ticket, lost) for ticket in started.values())
                raise

    def _collect(self, done: RunningBatch) -> list[Outcome]:
        try:
            outcomes = collect_batch(done, self._budget)
            return [Done(self._convert(one.output)) if isinstance(one, Done) else one for one in outcomes]
        except Exception as error:
            log.warning("collecting a pass raised %s", describe_exception(error))
            wrong = f"collecting the outputs of a pass of {len(done.members)} raised {type(error).__name__}"
            return [Failed(ModelFailed(wrong))] * len(done.members)

    def _end(self, why: WindrowError) -> None:
        self._ended = self._ended or why
        self._rows.close()
        self._answer((ticket, Failed(why)) for ticket in self._inbox.close(self._ended))

    def _answer(self, outcomes: Iterable[tuple[Ticket, Outcome]]) -> None:
        """Tell whoever waits, with one call for each event loop."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Ticket, Outcome]]] = defaultdict(list)
        for ticket, outcome in outcomes:
            by_loop[ticket.loop].append((ticket, outcome))
        for loop, answers in by_loop.items():
            with suppress(RuntimeError):  # it is closed: nobody waits there any more
                loop.call_soon_threadsafe(_resolve, answers)


def _resolve(answers: list[tuple[Ticket, Outcome]]) -> None:
    for ticket, outcome in answers:
        if ticket.future.done():  # canceled
            continue
        if isinstance(outcome, Done):
            ticket.future.set_result(outcome.output)
        else:
            ticket.future.set_exception(to_client_error(outcome.error))


def _stopped(error: BaseException) -> ModelFailed:
    return ModelFailed(f"the gateway stopped: {type(error).__name__}; close it and make another")


def to_client_error(error: WindrowError) -> ClientError:
    """The error that a client of a server would raise."""
    kind = RequestRefused if isinstance(error, InvalidInput) or error.retryable else PredictionFailed
    return kind(error.detail, code=error.code, retry_after_s=error.retry_after_s)
