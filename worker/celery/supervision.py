"""Supervision by Celery: one batch loop per pool process, restarted whenever its process ends."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any, cast

from celery import bootsteps

from windrow.worker.celery.stall_watch import start_watch
from windrow.worker.celery.worker_settings import worker_settings
from windrow.worker.pool.pool_process import run_pool_process
from windrow.worker.process.progress import MAX_SLOTS, clear_slot, read_slot
from windrow.worker.process.stopping import GRACEFULLY, STOP, Handler, StopSignals, ask_to_stop

log = logging.getLogger(__name__)
PREDICT_QUEUE = "windrow"
#: A process that ends sooner than this, without having served anything, failed to start. The next start waits as long.
SHORT_LIFE_S = 5.0


class PoolProcesses(bootsteps.StartStopStep):
    """Starts a batch loop in every pool process of a worker that consumes the predict queue."""

    requires = {"celery.worker.consumer.tasks:Tasks"}  # noqa: RUF012

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.enabled = serves_predictions(consumer.app)
        #: Slots whose loop was submitted to the pool, and those of them that a pool process has started.
        self._launched: set[int] = set()
        self._accepted: set[int] = set()
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Do nothing: the pool accepts work only once the event loop runs."""

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Start the loops. Celery calls this when the event loop exists, and again after each reconnect.

        Loops that run survive a reconnect. Submitted loops that no process had started, and timers, do not.
        """
        if self.enabled:
            self._launched &= self._accepted
            hub.call_soon(self._launch_all, consumer, hub)

    def _launch_all(self, consumer: Any, hub: Any) -> None:
        for slot in range(consumer.controller.concurrency):
            self._launch(consumer, hub, slot)

    def _launch(self, consumer: Any, hub: Any, slot: int) -> None:
        if slot in self._launched or STOP.value:
            return
        began_s = time.monotonic()
        self._launched.add(slot)
        clear_slot(slot)

        def accepted(*_: Any) -> None:
            self._accepted.add(slot)

        def ended(*_: Any) -> None:
            self._launched.discard(slot)
            self._accepted.discard(slot)
            if STOP.value:
                return
            if not read_slot(slot).beats and time.monotonic() - began_s < SHORT_LIFE_S:
                log.error("slot %d ended at its start; trying again in %.0f s", slot, SHORT_LIFE_S)
                hub.call_later(SHORT_LIFE_S, self._launch, consumer, hub, slot)
            else:
                log.error("slot %d ended; starting it again", slot)
                self._launch(consumer, hub, slot)

        consumer.pool.apply_async(
            run_pool_process,
            args=(slot, consumer.controller.concurrency, consumer.hostname),
            callback=ended,
            error_callback=ended,
            accept_callback=accepted,
            correlation_id=f"batch-loop-{slot}-{began_s}",
        )


class StopPoolProcesses(bootsteps.StartStopStep):
    """Watches the pool processes for stalls, and makes them stop when the worker stops for any reason."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012

    def start(self, worker: Any) -> None:
        """Start the watch. The main thread calls this when the pool and Celery's signal handlers exist."""

        if not serves_predictions(worker.app):
            return
        if worker.concurrency > MAX_SLOTS:
            raise ValueError(f"--concurrency {worker.concurrency}: a worker takes at most {MAX_SLOTS} pool processes")

        def pool_pids() -> list[int]:
            pool = worker.pool._pool  # None after it has stopped
            return [process.pid for process in pool._pool] if pool else []

        start_watch(worker.concurrency, worker_settings().stall_s, pool_pids)
        StopSignals(cast(Handler, signal.getsignal(signal.SIGTERM))).install()

    def close(self, worker: Any) -> None:
        """Ask the loops to stop; the first part of every shutdown, before the pool waits for its processes."""
        ask_to_stop(GRACEFULLY)

    def terminate(self, worker: Any) -> None:
        """Ask the loops to stop in a shutdown that does not wait."""
        ask_to_stop(GRACEFULLY)


def serves_predictions(app: Any) -> bool:
    """Whether the worker consumes the predict queue; a housekeeping worker does not."""
    return PREDICT_QUEUE in app.amqp.queues.consume_from
