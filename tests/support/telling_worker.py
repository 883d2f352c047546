"""A `FakeWorker` that tells of its answers word by word, where somebody follows them."""

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


class TellingWorker(FakeWorker):
    """Ends each request when ``may_end`` is set, which it is at first."""

    def __init__(self, url: str, model: str, answer: Callable[[dict[str, Any]], Outcome]) -> None:
        super().__init__(url, model, answer)
        self._streams = EventStreams(self._redis, model)
        self.may_end = threading.Event()
        self.may_end.set()

    def _work_once(self) -> int:
        claim = self.queue.claim(64, lease_s=30)
        endings = []
        for item in claim.requests:
            outcome = self._answer(item.call())
            if item.is_followed:
                self._tell(item, outcome.output if isinstance(outcome, Done) else {"text": "a word "})
            endings.append(item.set_outcome(outcome, claim.now_s, {"tokens": 3}))
        if endings:
            self.may_end.wait(30)
        self.queue.finish(endings, busy_s=0.001 * len(endings), may_stream=True)
        return len(endings)

    def _tell(self, item: Request, output: dict[str, Any]) -> None:
        (place,) = self._streams.append([Entry(item.id, item.token, "", START, b'{"attempt":1}')])
        for choice in output.get("choices") or [output]:
            for word in re.findall(r"\S+\s*", choice["text"]):
                assert place is not None
                place = next_place(place)
                data = {"index": choice.get("index", 0), "text": word, "tokens": 1}
                self._streams.append([Entry(item.id, item.token, place, OUTPUT, orjson.dumps(data))])
