"""Records when results are announced, through the channel that API processes subscribe to."""

from __future__ import annotations

import threading
import time
from typing import Any

from redis import Redis

from windrow.scheduler.queue import finished_channel
from windrow.scheduler.queue.keys import read_announcement


class ResultListener:
    """Records when each result of ``model`` is announced, during a ``with`` block."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._channel = finished_channel(model)
        self._messages = redis.pubsub()
        self._announced_s: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stops = False

    def __enter__(self) -> ResultListener:
        self._messages.subscribe(self._channel)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops = True

    def wait_for(self, id: str) -> float:
        """Wait for the result of ``id``, and return the `time.perf_counter` of its announcement."""
        with self._changed:
            if not self._changed.wait_for(lambda: id in self._announced_s, timeout=60):
                raise TimeoutError(f"request {id} did not finish within 60 s")
            return self._announced_s.pop(id)

    def _listen(self) -> None:
        while not self._stops:
            message: Any = self._messages.get_message(timeout=0.5)
            if message is not None and message["type"] == "message":
                now_s = time.perf_counter()
                with self._changed:
                    self._announced_s.update(dict.fromkeys(read_announcement(message["data"])[0], now_s))
                    self._changed.notify_all()
