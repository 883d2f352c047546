"""Which models of a stack that starts are served, and which could not be loaded."""

from __future__ import annotations

from collections.abc import Sequence

from redis import Redis

from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_failures
from windrow.scheduler.queue import RedisQueue
from windrow.scheduler.queue.load_failures import read_failures, redis_now_s


class LoadWatch:
    """Asks the stack's Redis, which may remember the workers of an earlier run. Redis errors pass through."""

    def __init__(self, redis: Redis, models: Sequence[str]) -> None:
        self._redis = redis
        self._queues = [RedisQueue(redis, model) for model in models]
        self._began_s = redis_now_s(redis)

    def troubles(self) -> dict[str, str]:
        """Models that are not served, and why: a worker could not load them since this began, and no other has."""
        return {
            queue.model: describe_failures(queue.model, failures)
            for queue in self._queues
            if (failures := self._failures(queue.model)) and not self._is_served(queue)
        }

    def is_settled(self) -> bool:
        """Whether each model is served, or could not be loaded."""
        return all(self._is_served(queue) or self._failures(queue.model) for queue in self._queues)

    def _is_served(self, queue: RedisQueue) -> bool:
        return bool(queue.workers(within_s=min(HEARD_WITHIN_S, redis_now_s(self._redis) - self._began_s)))

    def _failures(self, model: str) -> dict[str, str]:
        told = read_failures(self._redis, model)
        return {worker: one.reason for worker, one in told.items() if one.told_s >= self._began_s}
