"""`CancelListener`: notifies a worker of canceled requests at once, instead of at the next renewal."""

from __future__ import annotations

from typing import Any, cast

from redis import Redis
from redis.client import PubSub

from windrow.scheduler.queue.keys import canceled_channel


class CancelListener:
    """Subscribes at the first `poll`, and again after an error. For one thread."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._redis = redis
        self._channel = canceled_channel(model)
        self._inbox: PubSub | None = None

    def poll(self, timeout_s: float) -> str | None:
        """Return the id of the next canceled request; None if there is none in time. Redis errors pass through."""
        try:
            if self._inbox is None:
                self._inbox = self._redis.pubsub()
                self._inbox.subscribe(self._channel)
            message = cast(dict[str, Any] | None, self._inbox.get_message(timeout=timeout_s))
        except BaseException:
            self.close()
            raise
        return message["data"].decode() if message is not None and message["type"] == "message" else None

    def close(self) -> None:
        """Return the connection to the pool."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.close()
