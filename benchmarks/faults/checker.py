"""Records every accepted request and its expected answer, and compares them with the results at the end."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.faults.engine import known_answer
from benchmarks.faults.report import Report
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name
from windrow.scheduler.queue import Prediction, RedisQueue, Submission, result_key
from windrow.scheduler.queue.lookup import find_predictions

MODEL = "stub"
PLENTY = 1 << 40
LOOKUP_CHUNK = 500
LISTEN_S, RECONNECT_S, DRAIN_S = 0.1, 0.02, 10.0
Wait = Callable[[str, Callable[[], object], float], None]


@dataclass(frozen=True, slots=True)
class Expected:
    """The final state that a request must have."""

    status: str
    #: Expected output of a request that succeeds.
    output: Any = None
    #: Accepted error codes of a request that fails; empty for any.
    codes: tuple[str, ...] = ()

    def fits(self, found: Prediction) -> bool:
        """Whether ``found`` is in this state."""
        code = None if found.error is None else found.error["code"]
        return found.status == self.status and found.output == self.output and (not self.codes or code in self.codes)


class Checker:
    """Counts how often each result is announced during a ``with`` block.

    A lost connection to Redis is reopened; announcements during the gap are not counted.
    """

    def __init__(self, url: str, model: str = MODEL) -> None:
        self.redis = connect(url)
        self.queue = RedisQueue(self.redis, model)
        self.expected: dict[str, Expected] = {}
        self.announced: Counter[str] = Counter()
        #: How often the subscription was lost.
        self.gaps = 0
        self._url = url
        self._stops = threading.Event()
        self._listens = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="checker", daemon=True)

    def __enter__(self) -> Checker:
        self._thread.start()
        if not self._listens.wait(DRAIN_S):
            raise TimeoutError("the checker could not subscribe")
        return self

    def __exit__(self, *_: object) -> None:
        self._stops.set()
        self._thread.join()
        self.redis.close()

    def submit(
        self,
        texts: Sequence[str],
        *,
        tenant: str = "faults",
        priority: str = "normal",
        deadline_s: float | None = None,
        max_depth: int = 1 << 30,
    ) -> list[str]:
        """Submit ``texts`` in one call, record them once Redis has acknowledged it, and return their ids."""
        requests = [(secrets.token_hex(8), text) for text in texts]
        submissions = [Submission(id, payload_of(self.queue.model, text), 1, deadline_s) for id, text in requests]
        self.queue.submit(
            submissions, flow=flow_name(tenant, priority), weight=PRIORITY_WEIGHTS[priority], max_depth=max_depth,
            max_bytes=PLENTY,
        )  # fmt: skip
        for id, text in requests:
            self.accept(id, text)
        return [id for id, _ in requests]

    def accept(self, id: str, text: str) -> None:
        """Record that ``text`` was accepted under ``id`` and must succeed."""
        self.expected[id] = Expected("succeeded", known_answer(text))

    def expect(self, ids: Iterable[str], status: str, *codes: str) -> None:
        """Record another final state for ``ids``."""
        for id in ids:
            self.expected[id] = Expected(status, None, codes)

    def found(self, ids: Sequence[str] | None = None) -> dict[str, Prediction | None]:
        """Look up the predictions of ``ids``, or of every accepted request."""
        ids = list(self.expected) if ids is None else ids
        known: dict[str, Prediction | None] = {}
        for start in range(0, len(ids), LOOKUP_CHUNK):
            chunk = ids[start : start + LOOKUP_CHUNK]
            known |= zip(chunk, find_predictions(self.redis, self.queue.model, chunk), strict=True)
        return known

    def all_finished(self, ids: Sequence[str] | None = None) -> Callable[[], bool]:
        """Return a condition that is true once all have finished; a finished request is not looked up again."""
        left = list(self.expected) if ids is None else list(ids)

        def have_finished() -> bool:
            while left:
                chunk = left[-LOOKUP_CHUNK:]
                try:
                    known = self.found(chunk)
                except RedisError:
                    return False
                open_ids = [id for id, prediction in known.items() if prediction is None or not prediction.is_ended]
                left[-LOOKUP_CHUNK:] = open_ids
                if open_ids:
                    return False
            return True

        return have_finished

    def settle(self, report: Report, wait: Wait, limit_s: float) -> None:
        """Wait at most ``limit_s`` for every request, and report missing, duplicate and wrong results."""
        began_s = time.monotonic()
        try:
            wait("all accepted requests have finished", self.all_finished(), limit_s)
        except TimeoutError:
            report.broken.append(f"some requests had not finished after {limit_s:g} s")
        took_s = time.monotonic() - began_s
        self._drain()
        known = self.found()
        report.figure("accepted", len(known), "requests", digits=0)
        report.count("lost", [id for id, prediction in known.items() if not prediction or not prediction.is_ended])
        report.count("with two results", [id for id in known if self.announced[id] > 1])
        if not self.gaps:
            report.count("never announced", [id for id in known if not self.announced[id]])
        wrong = {
            id: prediction
            for id, prediction in known.items()
            if prediction is not None and prediction.is_ended and not self.expected[id].fits(prediction)
        }
        report.count("with a wrong answer", list(wrong))
        for id, prediction in list(wrong.items())[:2]:
            report.broken.append(f"{id} ended as {(prediction.status, prediction.error, prediction.output)}")
        report.figure("until the last had ended", took_s, "s")

    def _drain(self) -> None:
        """Wait until every earlier announcement has been counted."""
        mark = secrets.token_hex(8)
        end_s = time.monotonic() + DRAIN_S
        while not self.announced[mark] and time.monotonic() < end_s:
            self.redis.publish(result_key(mark), b"")
            time.sleep(RECONNECT_S)

    def _listen(self) -> None:
        prefix = len(result_key(""))
        while not self._stops.is_set():
            try:
                with Redis.from_url(self._url) as redis, redis.pubsub() as messages:
                    messages.psubscribe(result_key("*"))
                    while not self._stops.is_set():
                        message: Any = messages.get_message(timeout=LISTEN_S)
                        if message is None:
                            continue
                        if message["type"] == "psubscribe":
                            self._listens.set()
                        elif message["type"] == "pmessage":
                            self.announced[message["channel"].decode()[prefix:]] += 1
            except (RedisError, OSError):
                self.gaps += 1
                self._stops.wait(RECONNECT_S)


def payload_of(model: str, text: str) -> bytes:
    """Encode a request as the API does."""
    return orjson.dumps({"model": model, "input": text, "parameters": {}})


def texts_of(count: int, word: str = "text") -> list[str]:
    """Return ``count`` different texts."""
    return [f"{word} {number} {secrets.token_hex(3)}" for number in range(count)]
