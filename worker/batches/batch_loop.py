"""The batch loop of one pool process: claim, prepare, plan, forward, finish.

Models that generate have a loop of their own each, `windrow.worker.steps.step_loop`. For the other models, three stages
run side by side and hand requests over through bounded buffers, so that the device never waits: threads claim and
prepare the next requests, the device runs the present ones, and threads store the results of the previous ones.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from windrow.scheduler.core.batch_scheduler import ClaimUpTo
from windrow.scheduler.queue import Request
from windrow.worker.batches.batch_buffer import BatchBuffer
from windrow.worker.batches.batch_model import BatchModel
from windrow.worker.batches.forward import RunningBatch, run_window
from windrow.worker.batches.shutdown import Shutdown
from windrow.worker.leases.isolation import ClaimTurn, PoisonIsolation
from windrow.worker.leases.prepare import prepare_requests, split_expired
from windrow.worker.leases.redis_retry import retry_redis
from windrow.worker.leases.renewal import LeaseRenewal
from windrow.worker.process.progress import Progress, Stage
from windrow.worker.process.stopping import IMMEDIATELY
from windrow.worker.process.threads import start_thread
from windrow.worker.steps.step_loop import StepLoop
from windrow.worker.steps.step_model import StepModel

#: Started batches that may wait to be collected: enough to keep the device busy, and few enough that the next window
#: collects requests in the meantime.
BATCHES_STARTED_AHEAD = 1
#: Threads per model that claim and prepare: while one waits for Redis, the other prepares.
CLAIM_THREADS = 2
#: Threads that finish batches: while one waits for Redis, the other collects the next batch.
FINISH_THREADS = 2
#: How often the loop checks whether it has to stop and reports progress, in seconds.
ATTEND_EVERY_S = 0.1


class BatchLoop:
    """Runs until ``stopping()`` returns a level of `windrow.worker.process.stopping`.

    A graceful stop finishes the running window, continues generation for a limited time, and releases all other
    requests. An immediate stop releases all requests and exits the process. While ``drained()`` is true, the loop
    claims no requests.
    """

    def __init__(
        self,
        models: Mapping[str, BatchModel | StepModel],
        stopping: Callable[[], int],
        progress: Progress | None = None,
        drained: Callable[[], object] = lambda: False,
    ) -> None:
        self.models = {name: model for name, model in models.items() if isinstance(model, BatchModel)}
        self.buffer = BatchBuffer({name: model.scheduler for name, model in self.models.items()})
        #: Called every `ATTEND_EVERY_S`.
        self.on_look: Callable[[], None] = lambda: None
        self._all_models = list(models.values())
        self._stopping = stopping
        self._drained = drained
        self._progress = progress or Progress()
        self._shutdown = Shutdown(self._all_models, stopping)
        self._isolation = PoisonIsolation()
        self._step_loops = [
            StepLoop(model, self._isolation, self._progress, stopping, drained, self._shutdown.is_out_of_time)
            for model in self._all_models
            if isinstance(model, StepModel)
        ]
        self._started: queue.Queue[tuple[BatchModel, RunningBatch, str] | None] = queue.Queue(BATCHES_STARTED_AHEAD)
        #: Batches are collected one after the other, in the order in which they started.
        self._collecting = threading.Lock()
        self._collected_s = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        """Run all stages; return after a stop, when every request has finished or was released."""
        self._progress.tick()  # from now on, the parent process notices a stall
        claimers = [start_thread(self._claim, model) for model in self.models.values() for _ in range(CLAIM_THREADS)]
        finishers = [start_thread(self._finish) for _ in range(FINISH_THREADS)]
        attendant = start_thread(self._attend)
        with LeaseRenewal(self._all_models, self._progress):
            for step_loop in self._step_loops:
                step_loop.start()
            self._forward()
            for thread in claimers:
                thread.join()
            for name, requests in self.buffer.empty().items():
                self._shutdown.release(self.models[name], requests)
            for thread in finishers:
                thread.join()
            for step_loop in self._step_loops:
                step_loop.join()
            self._ended.set()
            attendant.join()

    def _claim(self, model: BatchModel) -> None:
        """Claim requests while the batch buffer has room for them."""
        stage, is_full = self._progress.stage(), False
        while not self._stopping():
            if self._drained() or model.leases.is_paused:
                self._ended.wait(ATTEND_EVERY_S)
            elif (plan := self.buffer.reserve(model.model, timeout_s=1.0)) is not None:
                count = self._claim_once(model, plan, stage, is_blocking=not is_full)
                is_full = count == plan.size

    def _claim_once(self, model: BatchModel, plan: ClaimUpTo, stage: Stage, is_blocking: bool) -> int:
        """Claim and prepare up to ``plan.size`` requests; return how many were claimed.

        With ``is_blocking``, the claim waits for a request if the queue is empty. After a claim that returned as many
        requests as it asked for it does not, because more requests probably wait.
        """
        turn = self._isolation.take_turn(model.model, timeout_s=1.0)
        if turn is None:
            self.buffer.add(model.model, [], plan.size)
            return 0
        is_alone = turn is ClaimTurn.ALONE
        is_blocking = is_blocking and not is_alone
        began_s = time.monotonic()
        claim_some = partial(model.leases.claim, enough=plan.fills_batch)
        claim = retry_redis(claim_some, plan.size, is_blocking, is_alone, give_up=self._shutdown.has_begun)
        requests = claim.requests if claim else []
        self._isolation.claimed(model.model, requests, claim is not None and claim.suspects_wait)
        if is_blocking:  # a blocking claim may have waited for a request, which is no preparation
            began_s = time.monotonic()
        with stage:
            prepared, failed = prepare_requests(model.engine, requests, model.leases)
        self.buffer.add(model.model, prepared, plan.size, time.monotonic() - began_s)
        self._store(model, failed)
        return len(requests)

    def _forward(self) -> None:
        """Run each closed window: drop expired requests, plan batches and start them."""
        stage = self._progress.stage()
        while (window := self.buffer.take()) is not None:
            model = self.models[window.model]
            requests, expired = split_expired(window.requests, model.leases)
            for running in stage.timed(run_window(model.engine, requests, model.budget)):
                self._started.put((model, running, window.closed_by))
            self._store(model, expired)
            # Canceled requests, and requests whose lease was lost.
            self._isolation.ended(len(window.requests) - len(requests) - len(expired))
        self._started.put(None)

    def _finish(self) -> None:
        """Collect each batch, in order, and store its results while the next one is collected."""
        stage = self._progress.stage()
        while True:
            with self._collecting:
                item = self._started.get()
                if item is None:
                    self._started.put(None)  # for the other threads
                    return
                model, running, closed_by = item
                with stage:
                    finished = model.collect(running, closed_by)
                now_s = time.monotonic()
                busy_s = now_s - max(running.started_s, self._collected_s)
                self._collected_s = now_s
            self._store(model, finished, busy_s)

    def _store(self, model: BatchModel, finished: Sequence[Request], busy_s: float = 0.0) -> None:
        if finished:
            retry_redis(model.leases.finish, finished, busy_s, give_up=self._shutdown.is_out_of_time)
            self._isolation.ended(len(finished))

    def _attend(self) -> None:
        """Report progress, and close the batch buffer or exit the process when the loop has to stop."""
        while not self._ended.wait(ATTEND_EVERY_S):
            self.on_look()
            self._progress.tick(held=sum(len(model.leases.held) for model in self._all_models))
            level = self._stopping()
            if level:
                self.buffer.close()
            if level >= IMMEDIATELY:
                self._shutdown.leave()
