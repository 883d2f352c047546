"""`LoadWatch`: which models of a starting stack are served, and which could not be loaded."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_failures
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import read_failures, redis_now_s


class LoadWatch:
    """Reads the state of the models from Redis, ignoring workers of an earlier run. Raises the errors of redis-py."""

    def __init__(self, redis: Redis, models: Sequence[str]) -> None:
        self._redis = redis
        self._queues = [RedisQueue(redis, model) for model in models]
        self._started_s = redis_now_s(redis)

    def failures(self) -> dict[str, str]:
        """Return the models that no worker serves and that a worker has failed to load, with the reasons."""
        return {
            queue.model: describe_failures(queue.model, reasons)
            for queue in self._queues
            if (reasons := self._reasons(queue.model)) and not self._is_served(queue)
        }

    def is_settled(self) -> bool:
        """Whether each model is served or could not be loaded."""
        return all(self._is_served(queue) or self._reasons(queue.model) for queue in self._queues)

    def _is_served(self, queue: RedisQueue) -> bool:
        return bool(queue.workers(within_s=min(HEARD_WITHIN_S, redis_now_s(self._redis) - self._started_s)))

    def _reasons(self, model: str) -> dict[str, str]:
        failures = read_failures(self._redis, model).items()
        return {worker: failure.reason for worker, failure in failures if failure.told_s >= self._started_s}
