"""The step loop of one model that generates: requests join and leave the engine between steps.

Six threads: one claims and prepares requests, one prepares those that take long, one launches steps, one collects them,
one publishes events and results, and one listens for cancelations. The device waits for none of the others: a step is
launched before the previous one is collected, and steps continue while Redis is away.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from windrow.scheduler.queue import Request
from windrow.worker.engines.base import StepEngine
from windrow.worker.leases.isolation import ClaimTurn, PoisonIsolation
from windrow.worker.leases.prepare import prepare_requests
from windrow.worker.leases.redis_retry import retry_redis
from windrow.worker.process.progress import Progress
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.slow_prepare import SlowPrepare
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)
#: Steps that may be launched before the step that is being collected is complete.
STEPS_AHEAD = 1
#: How long a stopping worker continues requests that have tokens, in seconds. Another worker restarts the rest.
DRAIN_S = 20.0
#: How often a waiting thread checks whether it has to stop, in seconds.
POLL_S = 0.2
#: Minimum time between two round trips for events that are not urgent, in seconds.
PUBLISH_EVERY_S = 0.005


class StepLoop:
    """Runs from `start` until ``stopping()`` is true and its requests have finished or were released; see `join`."""

    def __init__(
        self,
        model: StepModel,
        isolation: PoisonIsolation,
        progress: Progress,
        stopping: Callable[[], int],
        drained: Callable[[], object],
        is_out_of_time: Callable[[], bool],
        drain_s: float = DRAIN_S,
    ) -> None:
        self._model = model
        self._isolation = isolation
        self._progress = progress
        self._stopping = stopping
        self._drained = drained
        self._is_out_of_time = is_out_of_time
        self._drain_s = drain_s
        self._slow = SlowPrepare(self._prepare)
        self._launched: queue.Queue[tuple[StepEngine, Any] | None] = queue.Queue(STEPS_AHEAD)
        #: Set when no request runs and none will.
        self._is_over = threading.Event()
        self._is_collected = threading.Event()
        self._threads: list[threading.Thread] = []
        model.on_left = isolation.ended

    def start(self) -> None:
        """Start the threads."""
        self._slow_thread = start_thread(self._slow.run, self._progress.stage())
        stages = (self._claim, self._step, self._collect, self._publish, self._listen)
        self._threads = [self._slow_thread, *(start_thread(stage) for stage in stages)]

    def join(self) -> None:
        """Return when every request has finished or was released."""
        for thread in self._threads:
            thread.join()

    def _claim(self) -> None:
        """Claim and prepare as many requests as the engine has room for; when the worker stops, drain."""
        model, stage = self._model, self._progress.stage()
        while not self._stopping():
            if self._drained() or model.leases.is_paused:
                self._is_over.wait(POLL_S)
                continue
            room, priorities = self._wait_for_room()
            turn = self._isolation.take_turn(model.model, POLL_S) if room else None
            if turn is None:
                continue
            alone = turn is ClaimTurn.ALONE
            may_block = not (alone or priorities)
            claim = retry_redis(
                model.leases.claim, room, may_block, alone, priorities, give_up=lambda: bool(self._stopping())
            )
            requests = claim.requests if claim else []
            self._isolation.claimed(model.model, requests, claim is not None and claim.suspects_wait)
            with stage:
                self._prepare(self._slow.take(requests))
        self._drain()

    def _wait_for_room(self) -> tuple[int, tuple[str, ...]]:
        """Like `RunningRequests.wait_for_room`, without the places of requests that are being prepared."""
        room, priorities = self._model.requests.wait_for_room(POLL_S)
        if not room:
            return 0, priorities
        return max(0, room - self._slow.wait_for_fewer(room, POLL_S)), priorities

    def _prepare(self, requests: Sequence[Request]) -> None:
        """Prepare requests and pass them to the engine."""
        self._model.requests.add(*prepare_requests(self._model.engine, requests, self._model.leases))

    def _drain(self) -> None:
        """Release requests without a token to other workers; let the others continue for up to ``drain_s``."""
        requests = self._model.requests
        self._release(self._slow.stop(), "not prepared")
        self._slow_thread.join(self._drain_s)
        self._release(requests.take_out(started=False), "without a token")
        requests.wait_until_empty(self._drain_s)
        self._release(requests.take_out(started=True), "unfinished")
        self._is_over.set()

    def _release(self, held: Mapping[str, str], state: str) -> None:
        if held:
            log.info("model %s: releasing %d requests %s", self._model.model, len(held), state)
            retry_redis(self._model.leases.release, held, give_up=self._is_out_of_time)
            self._model.on_left(len(held))

    def _step(self) -> None:
        """Launch step after step."""
        stage = self._progress.stage()
        while not self._is_over.is_set():
            engine = self._model.engine  # a reload may have replaced it
            with stage:
                handle = engine.step()
            if handle is None:
                engine.wait(POLL_S)
            else:
                self._launched.put((engine, handle))
        self._launched.put(None)

    def _collect(self) -> None:
        """Wait for launched steps and take up their tokens."""
        stage = self._progress.stage()
        while (launched := self._launched.get()) is not None:
            engine, handle = launched
            with stage:
                deltas = engine.collect(handle)
            self._model.requests.collect(deltas)
        self._is_collected.set()
        self._model.publisher.urgent.set()

    def _publish(self) -> None:
        """Write events when they are due, and results as requests finish."""
        urgent = self._model.publisher.urgent
        while True:
            is_last = self._is_collected.is_set()
            urgent.clear()
            wait_s = retry_redis(self._model.publish, give_up=self._is_out_of_time)
            if wait_s is None and is_last:
                return
            urgent.wait(POLL_S if wait_s is None else max(PUBLISH_EVERY_S, wait_s))

    def _listen(self) -> None:
        """Remove canceled requests from the engine at once."""
        while not self._is_over.is_set():
            retry_redis(self._model.remove_canceled, POLL_S, give_up=self._is_over.is_set)
        self._model.close()
