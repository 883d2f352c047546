"""The loop of one model that generates: its requests join and leave between steps, and are told of as they go.

Five threads beside the keeper: one claims and prepares as the engine has room, one prepares what may take long, one
launches steps, one takes up what they gave, and one writes events and ends to Redis. The device waits for none of the
others: the steps go on while Redis is away, and a step is launched before the one before it was read.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

from windrow.worker.batches.isolation import ClaimTurn, PoisonIsolation
from windrow.worker.batches.prepare import prepare_requests
from windrow.worker.engines.base import StepEngine
from windrow.worker.leases.redis_retry import retry_redis
from windrow.worker.process.progress import Progress
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.slow_prepare import SlowPrepare
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)
#: Steps launched behind the one that is being read.
STEPS_AHEAD = 1
#: How long a stopping worker lets answers go on that have begun, in seconds; another worker begins the others anew.
RUN_ON_S = 20.0
#: How often a stage that waits looks around, in seconds.
LOOK_S = 0.2
#: Between two round trips for events that are not urgent, in seconds.
TELL_EVERY_S = 0.005


class StepLoop:
    """Runs from `start` until ``stopping()`` and everything held has ended or was given back; see `join`."""

    def __init__(
        self,
        lane: StepModel,
        quarantine: PoisonIsolation,
        vitals: Progress,
        stopping: Callable[[], int],
        drained: Callable[[], object],
        is_out_of_time: Callable[[], bool],
        run_on_s: float = RUN_ON_S,
    ) -> None:
        self._lane = lane
        self._quarantine = quarantine
        self._vitals = vitals
        self._stopping = stopping
        self._drained = drained
        self._is_out_of_time = is_out_of_time
        self._run_on_s = run_on_s
        self._slow = SlowPrepare(lane)
        self._launched: queue.Queue[tuple[StepEngine, Any] | None] = queue.Queue(STEPS_AHEAD)
        #: Nothing runs any more, and nothing will.
        self._is_over = threading.Event()
        self._is_collected = threading.Event()
        self._threads: list[threading.Thread] = []
        lane.on_left = quarantine.ended

    def start(self) -> None:
        """Begin."""
        self._preparing = start_thread(self._prepare_slow)
        stages = (self._claim, self._step, self._collect, self._tell, self._hear)
        self._threads = [self._preparing, *(start_thread(stage) for stage in stages)]

    def join(self) -> None:
        """Return once everything has ended or was given back."""
        for thread in self._threads:
            thread.join()

    def _claim(self) -> None:
        """Claim and prepare what the engine has room for; once it stops, wind down."""
        lane, stage = self._lane, self._vitals.stage()
        while not self._stopping():
            if self._drained() or lane.leases.is_paused:
                self._is_over.wait(LOOK_S)
                continue
            room, priorities = self._slow.wait_for_room(LOOK_S)
            turn = self._quarantine.take_turn(lane.model, LOOK_S) if room else None
            if turn is None:
                continue
            alone = turn is ClaimTurn.ALONE
            is_blocking = not (alone or priorities)
            claim = retry_redis(
                lane.leases.claim, room, is_blocking, alone, priorities, give_up=lambda: bool(self._stopping())
            )
            requests = claim.requests if claim else []
            self._quarantine.claimed(lane.model, requests, claim is not None and claim.suspects_wait)
            with stage:
                lane.add(*prepare_requests(lane.engine, self._slow.take(requests), lane.leases))
        self._wind_down()

    def _prepare_slow(self) -> None:
        """Prepare what the others are not to wait for."""
        self._slow.run(self._vitals.stage())

    def _wind_down(self) -> None:
        """What has no token yet is for the next worker; what has may go on for a while."""
        lane = self._lane
        self._give_back(self._slow.stop(), "unprepared")
        self._preparing.join(self._run_on_s)
        self._give_back(lane.take_out(begun=False), "unstarted")
        with lane.left:
            lane.left.wait_for(lambda: not lane.running, self._run_on_s)
        self._give_back(lane.take_out(begun=True), "half done")
        self._is_over.set()

    def _give_back(self, held: Mapping[str, str], state: str) -> None:
        if held:
            log.info("model %s: %d requests go back %s", self._lane.model, len(held), state)
            retry_redis(self._lane.leases.release, held, give_up=self._is_out_of_time)
            self._lane.on_left(len(held))

    def _step(self) -> None:
        """The device: launch step after step."""
        stage = self._vitals.stage()
        while not self._is_over.is_set():
            engine = self._lane.engine  # it may be another one by now
            with stage:
                handle = engine.step()
            if handle is None:
                engine.wait(LOOK_S)
            else:
                self._launched.put((engine, handle))
        self._launched.put(None)

    def _collect(self) -> None:
        """Take up what the steps gave."""
        stage = self._vitals.stage()
        while (launched := self._launched.get()) is not None:
            engine, handle = launched
            with stage:
                deltas = engine.collect(handle)
            self._lane.take(deltas)
        self._is_collected.set()
        self._lane.urgent.set()

    def _tell(self) -> None:
        """Write events as they are due, and ends as they come."""
        lane = self._lane
        while True:
            is_last = self._is_collected.is_set()
            lane.urgent.clear()
            wait_s = retry_redis(lane.tell, give_up=self._is_out_of_time)
            if wait_s is None and is_last:
                return
            lane.urgent.wait(LOOK_S if wait_s is None else max(TELL_EVERY_S, wait_s))

    def _hear(self) -> None:
        """Requests that are canceled leave the engine at once."""
        while not self._is_over.is_set():
            retry_redis(self._lane.hear_canceled, LOOK_S, give_up=self._is_over.is_set)
        self._lane.cancels.close()
