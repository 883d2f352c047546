"""Celery supervises: one resident loop per pool process, started again whenever its process is gone."""

from __future__ import annotations

import logging
import signal
import time
from typing import Any, cast

from celery import bootsteps

from windrow.worker.celery.stall_watch import start_watch
from windrow.worker.process.pool_process import run_pool_process
from windrow.worker.process.progress import MAX_SLOTS, clear_slot, read_slot
from windrow.worker.process.stopping import GRACEFULLY, STOP, Handler, StopSignals, ask_to_stop

log = logging.getLogger(__name__)
PREDICT_QUEUE = "windrow"
#: A process that ended sooner, before it served anything, failed at its start: the next one waits as long.
SHORT_LIFE_S = 5.0


class PoolProcesses(bootsteps.StartStopStep):
    """Fills the pool with resident loops, on workers that consume the predict queue."""

    requires = {"celery.worker.consumer.tasks:Tasks"}  # noqa: RUF012

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.enabled = serves_predictions(consumer.app)
        #: Slots whose loop was handed to the pool, and those of them that a pool process took.
        self._launched: set[int] = set()
        self._accepted: set[int] = set()
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Nothing yet: the pool takes no work before the event loop runs."""

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called by Celery once the event loop is there, and again after each reconnect: the loops live on.

        What no process had taken when the connection was lost was thrown away then, and so were the timers.
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
            correlation_id=f"resident-{slot}-{began_s}",
        )


class StopPoolProcesses(bootsteps.StartStopStep):
    """Watches the loops, and tells them to stop whatever made the worker stop."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012

    def start(self, worker: Any) -> None:
        """Called once the pool is there, by the main thread, after Celery took its signals."""
        from windrow.worker.celery.app import settings

        if not serves_predictions(worker.app):
            return
        if worker.concurrency > MAX_SLOTS:
            raise ValueError(f"--concurrency {worker.concurrency}: a worker takes at most {MAX_SLOTS} pool processes")

        def pool_pids() -> list[int]:
            pool = worker.pool._pool  # None once it has stopped
            return [process.pid for process in pool._pool] if pool else []

        start_watch(worker.concurrency, settings.stall_s, pool_pids)
        StopSignals(cast(Handler, signal.getsignal(signal.SIGTERM))).install()

    def close(self, worker: Any) -> None:
        """First part of every shutdown, before the pool waits for its processes."""
        ask_to_stop(GRACEFULLY)

    def terminate(self, worker: Any) -> None:
        """The same for a shutdown that does not wait."""
        ask_to_stop(GRACEFULLY)


def serves_predictions(app: Any) -> bool:
    """Whether the worker consumes the predict queue: the residents' own, not one for housekeeping."""
    return PREDICT_QUEUE in app.amqp.queues.consume_from
