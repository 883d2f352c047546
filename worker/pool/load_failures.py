"""Reports of models that a pool process could not load."""

from __future__ import annotations

import logging
import time

from redis import Redis
from redis.exceptions import RedisError

from windrow.scheduler.queue.load_failures import report_load_failure
from windrow.worker.leases.renewal import RENEW_EVERY_S, RENEWALS_PER_HEARTBEAT
from windrow.worker.process.threads import start_thread

log = logging.getLogger(__name__)


class LoadFailures:
    """Reports each failure at once, and again with every heartbeat interval until the process ends."""

    def __init__(self, redis: Redis, worker: str) -> None:
        self._redis = redis
        self._worker = worker
        self._reasons: dict[str, str] = {}

    def add(self, model: str, reason: str) -> None:
        """Report that this process does not serve ``model``."""
        is_first = not self._reasons
        self._reasons[model] = reason
        self._report(model, reason)
        if is_first:
            start_thread(self._report_periodically)

    def _report_periodically(self) -> None:
        while True:
            time.sleep(RENEWALS_PER_HEARTBEAT * RENEW_EVERY_S)
            for model, reason in list(self._reasons.items()):
                self._report(model, reason)

    def _report(self, model: str, reason: str) -> None:
        try:
            report_load_failure(self._redis, model, self._worker, reason)
        except RedisError as error:
            log.warning("model %s: could not report that it is not served: %s", model, error)
