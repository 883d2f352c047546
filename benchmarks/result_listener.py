"""Hearing of results as API processes do, by the announcement of each batch."""

from __future__ import annotations

import threading
import time
from typing import Any

from redis import Redis

from windrow.scheduler.queue import finished_channel
from windrow.scheduler.queue.keys import read_announcement


class ResultListener:
    """Notes when each result of ``model`` is announced."""

    def __init__(self, redis: Redis, model: str) -> None:
        self._channel = finished_channel(model)
        self._messages = redis.pubsub()
        self._heard_s: dict[str, float] = {}
        self._changed = threading.Condition()
        self._stops = False

    def __enter__(self) -> ResultListener:
        self._messages.subscribe(self._channel)
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stops = True

    def wait_for(self, id: str) -> float:
        """When the result of ``id`` was announced, `time.perf_counter`; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: id in self._heard_s, timeout=60):
                raise TimeoutError(f"{id} did not end")
            return self._heard_s.pop(id)

    def _listen(self) -> None:
        while not self._stops:
            message: Any = self._messages.get_message(timeout=0.5)
            if message is not None and message["type"] == "message":
                now_s = time.perf_counter()
                with self._changed:
                    self._heard_s.update(dict.fromkeys(read_announcement(message["data"])[0], now_s))
                    self._changed.notify_all()
