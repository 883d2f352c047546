"""A `FakeWorker` that writes the words of its answers to the event streams of followed requests."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import orjson

from tests.support.fake_worker import FakeWorker
from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.scheduler.queue import Request
from windrow.scheduler.queue.events import OUTPUT, START, Entry, EventStreams, next_place


class StreamingWorker(FakeWorker):
    """Finishes requests while ``may_finish`` is set, as it is initially."""

    def __init__(self, url: str, model: str, answer: Callable[[dict[str, Any]], Outcome]) -> None:
        super().__init__(url, model, answer)
        self._streams = EventStreams(self._redis, model)
        self.may_finish = threading.Event()
        self.may_finish.set()

    def _work_once(self) -> int:
        claim = self.queue.claim(64, lease_s=30)
        finished = []
        for item in claim.requests:
            outcome = self._answer(item.call())
            if item.is_followed:
                self._stream(item, outcome.output if isinstance(outcome, Done) else {"text": "a word "})
            finished.append(item.set_outcome(outcome, claim.now_s, {"tokens": 3}))
        if finished:
            self.may_finish.wait(30)
        self.queue.finish(finished, busy_s=0.001 * len(finished), may_stream=True)
        return len(finished)

    def _stream(self, item: Request, output: dict[str, Any]) -> None:
        (place,) = self._streams.append([Entry(item.id, item.token, "", START, b'{"attempt":1}')])
        for choice in output.get("choices") or [output]:
            for word in re.findall(r"\S+\s*", choice["text"]):
                assert place is not None
                place = next_place(place)
                data = {"index": choice.get("index", 0), "text": word, "tokens": 1}
                self._streams.append([Entry(item.id, item.token, place, OUTPUT, orjson.dumps(data))])
