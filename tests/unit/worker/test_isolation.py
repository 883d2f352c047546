"""Suspects alone, by threads that claim from a queue of the test's own: nothing is held beside, and nobody is stuck."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import Request
from windrow.worker.batches.isolation import ClaimTurn, PoisonIsolation

#: Two dead batches behind it.
SUSPECT_ATTEMPT = SUSPECT_AFTER + 1

GIVE_UP_S = 20.0


def request(id: str, attempt: int = 1) -> Request:
    return Request(id, "token", attempt, 0.0, None, "t:normal", b"{}", 1, 2)


SUSPECT = request("suspect", SUSPECT_ATTEMPT)
PLAIN = request("plain")


def test_lanes_claim_beside_each_other_while_no_suspect_waits() -> None:
    quarantine = PoisonIsolation()
    assert quarantine.take_turn("one", 0) is ClaimTurn.TOGETHER
    assert quarantine.take_turn("two", 0) is ClaimTurn.TOGETHER
    quarantine.claimed("one", [PLAIN], suspects_wait=False)
    assert quarantine.take_turn("one", 0) is ClaimTurn.TOGETHER


def test_once_suspects_wait_nobody_claims_until_what_is_held_has_ended() -> None:
    quarantine = PoisonIsolation()
    quarantine.take_turn("one", 0)
    quarantine.claimed("one", [PLAIN, PLAIN], suspects_wait=True)
    assert quarantine.take_turn("one", 0) is None
    quarantine.ended(1)
    assert quarantine.take_turn("one", 0) is None
    quarantine.ended(1)
    assert quarantine.take_turn("two", 0) is None
    assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE


def test_a_claim_that_another_lane_has_under_way_is_waited_for_too() -> None:
    quarantine = PoisonIsolation()
    quarantine.take_turn("one", 0)
    quarantine.take_turn("two", 0)
    quarantine.claimed("one", [], suspects_wait=True)
    assert quarantine.take_turn("one", 0) is None
    quarantine.claimed("two", [PLAIN], suspects_wait=False)
    assert quarantine.take_turn("one", 0) is None
    quarantine.ended(1)
    assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE


def in_quarantine() -> PoisonIsolation:
    quarantine = PoisonIsolation()
    quarantine.take_turn("one", 0)
    quarantine.claimed("one", [], suspects_wait=True)
    assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE
    return quarantine


def test_suspects_follow_each_other_one_by_one() -> None:
    quarantine = in_quarantine()
    for _ in range(3):
        quarantine.claimed("one", [SUSPECT], suspects_wait=False)
        assert quarantine.take_turn("one", 0) is None
        assert quarantine.take_turn("two", 0) is None
        quarantine.ended(1)
        assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE


def test_where_another_worker_took_the_suspect_the_quarantine_ends() -> None:
    for got in ([], [PLAIN]):
        quarantine = in_quarantine()
        quarantine.claimed("one", got, suspects_wait=False)
        assert quarantine.take_turn("two", 0) is ClaimTurn.TOGETHER
        assert quarantine.take_turn("one", 0) is ClaimTurn.TOGETHER


def test_ordinary_requests_before_another_suspect_end_first() -> None:
    quarantine = in_quarantine()
    quarantine.claimed("one", [PLAIN], suspects_wait=True)
    assert quarantine.take_turn("one", 0) is None
    quarantine.ended(1)
    assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE


def test_of_two_lanes_with_suspects_one_goes_after_the_other() -> None:
    quarantine = PoisonIsolation()
    for model in ("one", "two"):
        quarantine.take_turn(model, 0)
    for model in ("one", "two"):
        quarantine.claimed(model, [], suspects_wait=True)
    assert quarantine.take_turn("two", 0) is None
    assert quarantine.take_turn("one", 0) is ClaimTurn.ALONE
    quarantine.claimed("one", [], suspects_wait=False)
    assert quarantine.take_turn("two", 0) is ClaimTurn.TOGETHER
    quarantine.claimed("two", [], suspects_wait=True)
    assert quarantine.take_turn("two", 0) is ClaimTurn.ALONE


class Line:
    """A model's queue as `RedisQueue.claim` shows it; ``True`` is a suspect. Another worker may take its first."""

    def __init__(self, model: str, suspects: list[bool]) -> None:
        self._lock = threading.Lock()
        self._waiting = deque(
            request(f"{model}-{at}", SUSPECT_ATTEMPT if one else 1) for at, one in enumerate(suspects)
        )

    def claim(self, count: int, turn: ClaimTurn) -> tuple[list[Request], bool]:
        got: list[Request] = []
        with self._lock:
            while self._waiting and len(got) < count:
                if self._waiting[0].attempt >= SUSPECT_ATTEMPT:
                    if got or turn is ClaimTurn.TOGETHER:
                        return got, True
                    return [self._waiting.popleft()], False
                got.append(self._waiting.popleft())
        return got, False

    def steal(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)


class Process:
    """Lanes with a claim thread each, and a device that ends what they claimed; notes what was beside a suspect."""

    def __init__(self, lines: list[Line], count: int) -> None:
        self._lines = lines
        self._count = count
        self._quarantine = PoisonIsolation()
        self._lock = threading.Lock()
        self._held: list[Request] = []
        self._device: queue.Queue[list[Request] | None] = queue.Queue()
        self._end_s = time.monotonic() + GIVE_UP_S
        self.wrong: list[list[Request]] = []

    def run(self) -> None:
        """Until every line is empty and everything held has ended, or `GIVE_UP_S` passed."""
        device = threading.Thread(target=self._end_all)
        claimers = [
            threading.Thread(target=self._claim, args=(f"{at}", line), daemon=True)
            for at, line in enumerate(self._lines)
        ]
        for thread in (device, *claimers):
            thread.start()
        for thread in claimers:
            thread.join()
        self._device.put(None)
        device.join()

    def _claim(self, model: str, line: Line) -> None:
        while any(map(len, self._lines)) and time.monotonic() < self._end_s:
            turn = self._quarantine.take_turn(model, 0.1)
            if turn is not None:
                with self._lock:
                    got, suspects_wait = line.claim(self._count, turn)
                    self._held += got
                    if len(self._held) > 1 and any(one.attempt >= SUSPECT_ATTEMPT for one in self._held):
                        self.wrong.append(list(self._held))
                self._quarantine.claimed(model, got, suspects_wait)
                self._device.put(got)

    def _end_all(self) -> None:
        while (ending := self._device.get()) is not None:
            with self._lock:
                self._held = [one for one in self._held if one not in ending]
            self._quarantine.ended(len(ending))


@settings(max_examples=30)
@given(
    lines=st.lists(st.lists(st.booleans(), max_size=12), min_size=1, max_size=3),
    count=st.integers(1, 4),
    thefts=st.lists(st.integers(0, 2), max_size=6),
)
def test_nothing_is_held_beside_a_suspect_and_everything_ends(
    lines: list[list[bool]], count: int, thefts: list[int]
) -> None:
    waiting = [Line(f"{at}", suspects) for at, suspects in enumerate(lines)]
    thief = threading.Thread(target=lambda: [waiting[at % len(waiting)].steal() for at in thefts])
    process = Process(waiting, count)
    thief.start()
    process.run()
    thief.join()
    assert process.wrong == []
    assert [len(line) for line in waiting] == [0] * len(waiting)
