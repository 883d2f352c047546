"""The resident loop: one per pool process and device, from the first claim to the last finish.

Models that generate have a loop of their own each, `windrow.worker.steps.step_loop`. For the others, three stages run
side by side
and hand over through bounded buffers, so that the device waits for nobody: claiming and tokenising fill the next row,
the device runs the present one, and results of the one before are written.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from redis.exceptions import RedisError

from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.batches.forward import RunningBatch, run_window
from windrow.worker.batches.isolation import ClaimTurn, PoisonIsolation
from windrow.worker.batches.prepare import prepare_requests, split_expired
from windrow.worker.leases.leases import CLAIM_BLOCK_S
from windrow.worker.leases.redis_retry import retry_redis
from windrow.worker.leases.renewal import LeaseRenewal
from windrow.worker.process.progress import Progress
from windrow.worker.process.served_model import ServedModel
from windrow.worker.process.stopping import IMMEDIATELY
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_loop import StepLoop
from windrow.worker.steps.step_model import StepModel

log = logging.getLogger(__name__)
#: Passes that wait behind the one that is being finished: enough to keep a device busy, and few enough for the next
#: row to grow meanwhile.
STARTED_AHEAD = 1
#: Threads that claim and prepare, per lane: while one waits for Redis, the other makes a row ready.
CLAIMERS = 2
#: Threads that store results: while one waits for Redis, the next pass is collected.
FINISHERS = 2
#: How long a stopping worker goes on trying to store results while Redis is away, in seconds.
DRAIN_S = 10.0
#: The same for a worker that has to leave at once and gives back what it holds.
LEAVE_S = 3.0
#: How often the loop looks whether it has to stop, and shows that it lives.
ATTEND_EVERY_S = 0.1


class BatchLoop:
    """Runs until ``stopping()`` gives a level of `windrow.worker.process.stopping`.

    Gracefully: it ends the row that runs, and answers that have begun as far as that is soon, and gives back the rest.
    At once: it gives back that too, and leaves.
    While ``drained()`` it claims nothing.
    """

    def __init__(
        self,
        lanes: Mapping[str, BatchModel | StepModel],
        stopping: Callable[[], int],
        vitals: Progress | None = None,
        drained: Callable[[], object] = lambda: False,
    ) -> None:
        self.lanes = {model: lane for model, lane in lanes.items() if isinstance(lane, BatchModel)}
        self._holders: list[ServedModel] = list(lanes.values())
        self._stopping = stopping
        self._drained = drained
        self._vitals = vitals or Progress()
        #: Called whenever the loop looks around.
        self.on_look: Callable[[], None] = lambda: None
        self.rows = BatchBuffer({model: lane.window for model, lane in self.lanes.items()})
        self._quarantine = PoisonIsolation()
        self._generations = [
            StepLoop(lane, self._quarantine, self._vitals, stopping, drained, self._is_out_of_time)
            for lane in lanes.values()
            if isinstance(lane, StepModel)
        ]
        self._started: queue.Queue[tuple[BatchModel, RunningBatch, str] | None] = queue.Queue(STARTED_AHEAD)
        self._collecting = threading.Lock()
        #: When the last pass was collected, `time.monotonic`.
        self._collected_s = 0.0
        self._ended = threading.Event()
        self._stopped_s: float | None = None

    def run(self) -> None:
        """Claim, prepare, plan, forward, finish; return once stopped and nothing is held."""
        self._vitals.tick()  # from here on, standing still is noticed
        claimers = [start_thread(self._claim, lane) for lane in self.lanes.values() for _ in range(CLAIMERS)]
        finishers = [start_thread(self._finish) for _ in range(FINISHERS)]
        attendant = start_thread(self._attend)
        with LeaseRenewal(self._holders, self._vitals):
            for generation in self._generations:
                generation.start()
            self._forward()
            for thread in claimers:
                thread.join()
            self._give_back_rows()
            for thread in finishers:
                thread.join()
            for generation in self._generations:
                generation.join()
            self._ended.set()
            attendant.join()

    def _claim(self, lane: BatchModel) -> None:
        """Stage one: claim, prepare. After a claim that filled the row, more is likely to wait: no need to block."""
        stage, full = self._vitals.stage(), False
        while not self._stopping():
            if self._drained() or lane.leases.is_paused:
                self._ended.wait(ATTEND_EVERY_S)
                continue
            planned = self.rows.reserve(lane.model, timeout_s=1.0)
            if planned is None:
                continue
            room = planned.size
            turn = self._quarantine.take_turn(lane.model, timeout_s=1.0)
            if turn is None:
                self.rows.add(lane.model, [], room)
                continue
            alone = turn is ClaimTurn.ALONE
            blocking, asked_s = not full and not alone, time.monotonic()
            claim_enough = partial(lane.leases.claim, enough=planned.fills_batch)
            claim = retry_redis(claim_enough, room, blocking, alone, give_up=self._is_stopping)
            requests = claim.requests if claim else []
            self._quarantine.claimed(lane.model, requests, claim is not None and claim.suspects_wait)
            full = len(requests) == room
            # What a claim waited for was work, if it might wait.
            from_s = time.monotonic() if blocking else asked_s
            with stage:
                waiting, ended = prepare_requests(lane.engine, requests, lane.leases)
            self.rows.add(lane.model, waiting, room, time.monotonic() - from_s)
            self._store(lane, ended)
            self._quarantine.ended(len(ended))

    def _forward(self) -> None:
        """Stage two, the device: plan, forward."""
        stage = self._vitals.stage()
        while (row := self.rows.take()) is not None:
            lane = self.lanes[row.model]
            waiting, late = split_expired(row.requests, lane.leases)
            for started in stage.timed(run_window(lane.engine, waiting, lane.budget)):
                self._started.put((lane, started, row.closed_by))
            self._store(lane, late)
            self._quarantine.ended(len(row.requests) - len(waiting))
        self._started.put(None)

    def _finish(self) -> None:
        """Stage three: finish. Passes are collected one after the other; one is stored while the next is collected."""
        stage = self._vitals.stage()
        while True:
            with self._collecting:
                item = self._started.get()
                if item is None:
                    self._started.put(None)  # for the next one
                    return
                lane, started, closed_by = item
                with stage:
                    endings = lane.endings(started, closed_by)
                ended_s = time.monotonic()
                busy_s = ended_s - max(started.started_s, self._collected_s)
                self._collected_s = ended_s
            self._store(lane, endings, busy_s)
            self._quarantine.ended(len(endings))

    def _store(self, lane: BatchModel, endings: list[Request], busy_s: float = 0.0) -> None:
        if endings:
            retry_redis(lane.leases.finish, endings, busy_s, give_up=self._is_out_of_time)

    def _attend(self) -> None:
        """Beside the stages: show signs of life, and see to it that the loop stops when it has to."""
        while not self._ended.wait(ATTEND_EVERY_S):
            self.on_look()
            self._vitals.tick(held=sum(len(holder.leases.held) for holder in self._holders))
            for model, lane in self.lanes.items():
                lane.wait_s = self.rows.max_wait_s(model)
            level = self._stopping()
            if level:
                self.rows.close()
            if level >= IMMEDIATELY:
                self._leave()

    def _give_back_rows(self) -> None:
        """What was claimed and will not be started is for the next worker, and costs no attempt."""
        for model, waiting in self.rows.empty().items():
            held = {one.id: one.token for one in waiting}
            log.info("model %s: %d requests go back unstarted", model, len(held))
            retry_redis(self.lanes[model].leases.release, held, give_up=self._is_out_of_time)

    def _leave(self) -> None:
        """End this process within `LEAVE_S`. What still runs is refused when it ends: its token is no longer good."""
        start_thread(self._give_back_all).join(LEAVE_S)
        os._exit(0)

    def _give_back_all(self) -> None:
        # Twice: a claim that was under way may yet bring something.
        for pause_s in (CLAIM_BLOCK_S, 0.0):
            for holder in self._holders:
                held = dict(holder.leases.held)
                log.warning("model %s: %d requests go back, started or not", holder.model, len(held))
                try:
                    holder.leases.release(held)
                except RedisError as error:
                    log.warning("model %s: they are left to their leases: %s", holder.model, error)
            time.sleep(pause_s)

    def _is_stopping(self) -> bool:
        return bool(self._stopping())

    def _is_out_of_time(self) -> bool:
        """What cannot be stored is left to its leases. Asked by any stage: each may be the one that is held up."""
        if self._stopped_s is None and self._stopping():
            self._stopped_s = time.monotonic()
        return self._stopped_s is not None and time.monotonic() > self._stopped_s + DRAIN_S
