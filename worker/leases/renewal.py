"""A thread that renews leases, sends heartbeats and stores observations while the device is busy."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from windrow.worker.leases.served_model import ServedModel
from windrow.worker.process.progress import Progress
from windrow.worker.process.threads import start_thread

log = logging.getLogger(__name__)
RENEW_EVERY_S = 1.0
#: A heartbeat is sent with every fifth renewal.
RENEWALS_PER_HEARTBEAT = 5


class LeaseRenewal:
    """Renews the leases of all models every second while the ``with`` block runs.

    The thread needs Python's global interpreter lock (GIL), which torch releases while the device works. If C code of
    an engine keeps the GIL for longer than ``lease_s``, the leases expire, another worker runs the requests, and the
    late results are refused; raise ``lease_s`` for such a model.
    """

    def __init__(self, models: Sequence[ServedModel], progress: Progress) -> None:
        self._models = models
        self._progress = progress
        self._stop = threading.Event()

    def __enter__(self) -> LeaseRenewal:
        self._thread = start_thread(self._run)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join(RENEW_EVERY_S)
        for model in self._models:
            if not self._attempt(model, model.store_observations):
                return

    def _run(self) -> None:
        renewals = 0
        while True:
            for model in self._models:
                # The parent process soon kills a stalled loop, so a stalled loop sends a heartbeat at every renewal.
                if renewals % RENEWALS_PER_HEARTBEAT == 0 or self._progress.is_stalled:
                    self._attempt(model, model.heartbeat, self._progress.busy_s)
                # Reap only after a successful renewal: after an outage, this worker's own leases look expired.
                if self._attempt(model, model.leases.renew):
                    self._attempt(model, model.leases.queue.reap)
                self._attempt(model, model.store_observations)
            renewals += 1
            if self._stop.wait(RENEW_EVERY_S):
                return

    def _attempt(self, model: ServedModel, action: Callable[..., object], *arguments: object) -> bool:
        """Call ``action``; log a Redis error and return False."""
        try:
            action(*arguments)
        except RedisError as error:
            log.warning("model %s: %s failed: %s", model.model, action.__name__, error)
            return False
        return True
