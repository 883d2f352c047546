"""Runs suspected poison requests alone: decides which claim threads of a process may claim."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum

from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import Request


class ClaimTurn(Enum):
    """What a claim thread may claim now."""

    #: Ordinary requests, at the same time as other claim threads.
    TOGETHER = "together"
    #: A suspected poison request too, because this process holds no request and no other thread claims.
    ALONE = "alone"


class PoisonIsolation:
    """Shared by the claim threads of all models of a process, because a poison request kills the whole process.

    A *suspect* is a request that had `SUSPECT_AFTER` attempts without a result. When a claim reports that suspects
    wait, isolation begins: no thread claims until every request of this process has finished. Then the model of the
    suspect claims alone, one suspect at a time, and each finishes before the next claim. A claim that returns no
    suspect ends the isolation, because another worker has taken it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Number of requests that this process has claimed and not finished.
        self._held = 0
        #: Number of claims in progress.
        self._claims = 0
        #: The model whose suspects wait; None outside isolation.
        self._model: str | None = None
        #: Whether the claim in progress is one of `ClaimTurn.ALONE`.
        self._is_alone = False

    def take_turn(self, model: str, timeout_s: float) -> ClaimTurn | None:
        """Block until ``model`` may claim, at most ``timeout_s``; None if it may not. `claimed` ends the turn."""
        with self._changed:
            # Every claim passes here, so the usual case does not wait.
            if not self._may_claim(model) and not self._changed.wait_for(lambda: self._may_claim(model), timeout_s):
                return None
            self._claims += 1
            self._is_alone = self._model is not None
            return ClaimTurn.ALONE if self._is_alone else ClaimTurn.TOGETHER

    def claimed(self, model: str, requests: Sequence[Request], suspects_wait: bool) -> None:
        """End a turn whose claim returned ``requests``; none if the claim failed."""
        with self._changed:
            self._claims -= 1
            self._held += len(requests)
            if self._is_alone and not any(request.attempt > SUSPECT_AFTER for request in requests):
                self._model = None
                self._changed.notify_all()
            self._is_alone = False
            if suspects_wait and self._model is None:
                self._model = model
            if self._claims == 0 and self._model is not None:
                self._changed.notify_all()

    def ended(self, count: int) -> None:
        """Record that this process no longer holds ``count`` requests: finished, canceled, expired or lost."""
        with self._changed:
            self._held -= count
            if self._held == 0 and self._model is not None:
                self._changed.notify_all()

    def _may_claim(self, model: str) -> bool:
        return self._model is None or (self._model == model and self._held == 0 and self._claims == 0)
