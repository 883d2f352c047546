"""Celery supervises: one resident loop per pool process, started again whenever its process is gone."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import bootsteps

from worker.process import STOP, run_resident

log = logging.getLogger(__name__)
PREDICT_QUEUE = "windrow"
#: A loop that lived shorter than this failed at its start: the next one waits as long, so as not to spin.
SHORT_LIFE_S = 5.0


class Residents(bootsteps.StartStopStep):
    """Fills the pool with resident loops, on workers that consume the predict queue."""

    requires = {"celery.worker.consumer.tasks:Tasks"}  # noqa: RUF012
    #: Consumer steps start again after each reconnect; the loops live on.
    launched = False

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        self.enabled = PREDICT_QUEUE in consumer.app.amqp.queues.consume_from
        super().__init__(consumer, **kwargs)

    def start(self, consumer: Any) -> None:
        """Nothing yet: the pool takes no work before the event loop runs."""

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Called by Celery once the event loop is there."""
        if self.enabled and not Residents.launched:
            Residents.launched = True
            hub.call_soon(self._launch_all, consumer, hub)

    def _launch_all(self, consumer: Any, hub: Any) -> None:
        for slot in range(consumer.controller.concurrency):
            self._launch(consumer, hub, slot)

    def _launch(self, consumer: Any, hub: Any, slot: int) -> None:
        began_s = time.monotonic()

        def ended(*outcome: Any) -> None:
            if STOP.value:
                return
            if time.monotonic() - began_s < SHORT_LIFE_S:
                log.error("slot %d ended at its start; trying again in %.0f s", slot, SHORT_LIFE_S)
                hub.call_later(SHORT_LIFE_S, self._launch, consumer, hub, slot)
            else:
                log.error("slot %d ended; starting it again", slot)
                self._launch(consumer, hub, slot)

        consumer.pool.apply_async(
            run_resident,
            args=(slot, consumer.controller.concurrency, consumer.hostname),
            callback=ended,
            error_callback=ended,
            correlation_id=f"resident-{slot}-{began_s}",
        )


class StopResidents(bootsteps.StartStopStep):
    """Tells every loop to end what it holds and claim no more, whatever made the worker stop."""

    requires = {"celery.worker.components:Pool"}  # noqa: RUF012

    def start(self, worker: Any) -> None:
        """Nothing: the consumer's step starts them."""

    def close(self, worker: Any) -> None:
        """First part of every shutdown, before the pool waits for its processes."""
        STOP.value = 1

    def terminate(self, worker: Any) -> None:
        """The same for a shutdown that does not wait."""
        STOP.value = 1
