"""Suspected poison requests run alone: a process claims no other request meanwhile, and every request finishes."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import Request
from windrow.worker.leases.isolation import ClaimTurn, PoisonIsolation

#: The attempt number of a request that was in two batches whose process died.
SUSPECT_ATTEMPT = SUSPECT_AFTER + 1

GIVE_UP_S = 20.0


def request(id: str, attempt: int = 1) -> Request:
    return Request(id, "token", attempt, 0.0, None, "t:normal", b"{}", 1, 2)


SUSPECT = request("suspect", SUSPECT_ATTEMPT)
PLAIN = request("plain")


def test_models_claim_concurrently_while_no_suspect_waits() -> None:
    isolation = PoisonIsolation()
    assert isolation.take_turn("one", 0) is ClaimTurn.TOGETHER
    assert isolation.take_turn("two", 0) is ClaimTurn.TOGETHER
    isolation.claimed("one", [PLAIN], suspects_wait=False)
    assert isolation.take_turn("one", 0) is ClaimTurn.TOGETHER


def test_while_a_suspect_waits_no_model_claims_until_all_claimed_requests_have_finished() -> None:
    isolation = PoisonIsolation()
    isolation.take_turn("one", 0)
    isolation.claimed("one", [PLAIN, PLAIN], suspects_wait=True)
    assert isolation.take_turn("one", 0) is None
    isolation.ended(1)
    assert isolation.take_turn("one", 0) is None
    isolation.ended(1)
    assert isolation.take_turn("two", 0) is None
    assert isolation.take_turn("one", 0) is ClaimTurn.ALONE


def test_isolation_waits_until_another_models_claim_has_finished() -> None:
    isolation = PoisonIsolation()
    isolation.take_turn("one", 0)
    isolation.take_turn("two", 0)
    isolation.claimed("one", [], suspects_wait=True)
    assert isolation.take_turn("one", 0) is None
    isolation.claimed("two", [PLAIN], suspects_wait=False)
    assert isolation.take_turn("one", 0) is None
    isolation.ended(1)
    assert isolation.take_turn("one", 0) is ClaimTurn.ALONE


def in_isolation() -> PoisonIsolation:
    isolation = PoisonIsolation()
    isolation.take_turn("one", 0)
    isolation.claimed("one", [], suspects_wait=True)
    assert isolation.take_turn("one", 0) is ClaimTurn.ALONE
    return isolation


def test_suspects_run_one_after_the_other() -> None:
    isolation = in_isolation()
    for _ in range(3):
        isolation.claimed("one", [SUSPECT], suspects_wait=False)
        assert isolation.take_turn("one", 0) is None
        assert isolation.take_turn("two", 0) is None
        isolation.ended(1)
        assert isolation.take_turn("one", 0) is ClaimTurn.ALONE


def test_isolation_ends_if_another_worker_claims_the_suspect() -> None:
    for claimed in ([], [PLAIN]):
        isolation = in_isolation()
        isolation.claimed("one", claimed, suspects_wait=False)
        assert isolation.take_turn("two", 0) is ClaimTurn.TOGETHER
        assert isolation.take_turn("one", 0) is ClaimTurn.TOGETHER


def test_ordinary_requests_before_another_suspect_finish_first() -> None:
    isolation = in_isolation()
    isolation.claimed("one", [PLAIN], suspects_wait=True)
    assert isolation.take_turn("one", 0) is None
    isolation.ended(1)
    assert isolation.take_turn("one", 0) is ClaimTurn.ALONE


def test_two_models_with_suspects_are_isolated_one_after_the_other() -> None:
    isolation = PoisonIsolation()
    for model in ("one", "two"):
        isolation.take_turn(model, 0)
    for model in ("one", "two"):
        isolation.claimed(model, [], suspects_wait=True)
    assert isolation.take_turn("two", 0) is None
    assert isolation.take_turn("one", 0) is ClaimTurn.ALONE
    isolation.claimed("one", [], suspects_wait=False)
    assert isolation.take_turn("two", 0) is ClaimTurn.TOGETHER
    isolation.claimed("two", [], suspects_wait=True)
    assert isolation.take_turn("two", 0) is ClaimTurn.ALONE


class FakeQueue:
    """A queue with the interface of `RedisQueue.claim`; ``True`` marks a suspect. `steal` acts as another worker."""

    def __init__(self, model: str, suspects: list[bool]) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(
            request(f"{model}-{index}", SUSPECT_ATTEMPT if is_suspect else 1)
            for index, is_suspect in enumerate(suspects)
        )

    def claim(self, count: int, turn: ClaimTurn) -> tuple[list[Request], bool]:
        claimed: list[Request] = []
        with self._lock:
            while self._waiting and len(claimed) < count:
                if self._waiting[0].attempt >= SUSPECT_ATTEMPT:
                    if claimed or turn is ClaimTurn.TOGETHER:
                        return claimed, True
                    return [self._waiting.popleft()], False
                claimed.append(self._waiting.popleft())
        return claimed, False

    def steal(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)


class Process:
    """One claim thread per queue and a device thread; records requests that were claimed together with a suspect."""

    def __init__(self, queues: list[FakeQueue], count: int) -> None:
        self._queues = queues
        self._count = count
        self._isolation = PoisonIsolation()
        self._lock = threading.Lock()
        self._claimed: list[Request] = []
        self._device: queue.Queue[list[Request] | None] = queue.Queue()
        self._end_s = time.monotonic() + GIVE_UP_S
        self.violations: list[list[Request]] = []

    def run(self) -> None:
        """Run until every queue is empty and every request has finished, or until `GIVE_UP_S` has passed."""
        device = threading.Thread(target=self._finish_all)
        claimers = [
            threading.Thread(target=self._claim, args=(f"{index}", queued), daemon=True)
            for index, queued in enumerate(self._queues)
        ]
        for thread in (device, *claimers):
            thread.start()
        for thread in claimers:
            thread.join()
        self._device.put(None)
        device.join()

    def _claim(self, model: str, queued: FakeQueue) -> None:
        while any(map(len, self._queues)) and time.monotonic() < self._end_s:
            turn = self._isolation.take_turn(model, 0.1)
            if turn is not None:
                with self._lock:
                    claimed, suspects_wait = queued.claim(self._count, turn)
                    self._claimed += claimed
                    if len(self._claimed) > 1 and any(request.attempt >= SUSPECT_ATTEMPT for request in self._claimed):
                        self.violations.append(list(self._claimed))
                self._isolation.claimed(model, claimed, suspects_wait)
                self._device.put(claimed)

    def _finish_all(self) -> None:
        while (finished := self._device.get()) is not None:
            with self._lock:
                self._claimed = [request for request in self._claimed if request not in finished]
            self._isolation.ended(len(finished))


@settings(max_examples=30)
@given(
    queues=st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=3),
    count=st.integers(1, 4),
    thefts=st.lists(st.integers(0, 2), max_size=6),
)
def test_no_request_is_claimed_together_with_a_suspect_and_every_request_finishes(
    queues: list[list[bool]], count: int, thefts: list[int]
) -> None:
    waiting = [FakeQueue(f"{index}", suspects) for index, suspects in enumerate(queues)]
    thief = threading.Thread(target=lambda: [waiting[index % len(waiting)].steal() for index in thefts])
    process = Process(waiting, count)
    thief.start()
    process.run()
    thief.join()
    assert process.violations == []
    assert [len(queued) for queued in waiting] == [0] * len(waiting)
