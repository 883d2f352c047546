"""How a batch loop stops: its deadlines, and the requests that it releases for the next worker."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence

from redis.exceptions import RedisError

from windrow.scheduler.core.claim_ahead import CLAIM_BLOCK_S
from windrow.scheduler.queue import Request
from windrow.worker.leases.redis_retry import retry_redis
from windrow.worker.leases.served_model import ServedModel
from windrow.worker.process.threads import start_thread

log = logging.getLogger(__name__)
#: How long a stopping worker tries to store results while Redis is away, in seconds.
DRAIN_S = 10.0
#: The same for a worker that stops immediately and releases every request, in seconds.
LEAVE_S = 3.0


class Shutdown:
    """Stops one batch loop; ``stopping()`` returns a level of `windrow.worker.process.stopping`."""

    def __init__(self, models: Collection[ServedModel], stopping: Callable[[], int]) -> None:
        self._models = models
        self._stopping = stopping
        self._began_s: float | None = None

    def has_begun(self) -> bool:
        """Whether the loop has to stop."""
        return bool(self._stopping())

    def is_out_of_time(self) -> bool:
        """Whether to give up storing results, `DRAIN_S` after the stop began; the requests then run again elsewhere."""
        if self._began_s is None and self._stopping():
            self._began_s = time.monotonic()
        return self._began_s is not None and time.monotonic() > self._began_s + DRAIN_S

    def release(self, model: ServedModel, requests: Sequence[Request]) -> None:
        """Return requests that have not started to the queue, without counting an attempt."""
        held = {request.id: request.token for request in requests}
        log.info("model %s: releasing %d requests that have not started", model.model, len(held))
        retry_redis(model.leases.release, held, give_up=self.is_out_of_time)

    def leave(self) -> None:
        """Release all requests and exit within `LEAVE_S`. Results of batches that still run are discarded."""
        start_thread(self._release_all).join(LEAVE_S)
        os._exit(0)

    def _release_all(self) -> None:
        # Twice, because a claim in progress may return requests after the first time.
        for pause_s in (CLAIM_BLOCK_S, 0.0):
            for model in self._models:
                held = dict(model.leases.held)
                log.warning("model %s: releasing %d requests, started or not", model.model, len(held))
                try:
                    model.leases.release(held)
                except RedisError as error:
                    log.warning("model %s: their leases have to expire, because Redis failed: %s", model.model, error)
            time.sleep(pause_s)
