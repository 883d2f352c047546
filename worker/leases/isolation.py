"""Runs suspected poison requests alone: decides which claim threads of a process may claim."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum

from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import Request


class ClaimTurn(Enum):
    """How a claim thread may claim now."""

    #: Beside the other claim threads, whatever this process holds.
    TOGETHER = "together"
    #: This process holds nothing and no other thread claims, so the claim may return a suspect.
    ALONE = "alone"


class PoisonIsolation:
    """Shared by the claim threads of all models of a process, because a poison request kills the whole process.

    When a claim reports that suspects wait, isolation begins: claims stop until every request held has finished. Then
    the model of the suspect claims alone as long as it gets suspects, and each of them finishes before the next claim.
    Any other result of such a claim, none or ordinary requests, ends the isolation, because another worker took the
    suspect.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Requests that this process has claimed and not finished.
        self._held = 0
        #: Claims in progress.
        self._claims = 0
        #: The model whose suspects wait; None outside isolation.
        self._model: str | None = None
        #: The claim in progress is one of that model, alone.
        self._is_alone = False

    def take_turn(self, model: str, timeout_s: float) -> ClaimTurn | None:
        """Return how ``model`` may claim, or None if it may not within ``timeout_s``. `claimed` ends the turn."""
        with self._changed:
            # Every claim passes here, so the usual case does not wait.
            if not self._may_claim(model) and not self._changed.wait_for(lambda: self._may_claim(model), timeout_s):
                return None
            self._claims += 1
            self._is_alone = self._model is not None
            return ClaimTurn.ALONE if self._is_alone else ClaimTurn.TOGETHER

    def claimed(self, model: str, requests: Sequence[Request], suspects_wait: bool) -> None:
        """End a turn with the ``requests`` of its claim; a claim that failed has none."""
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
        """Note that ``count`` requests are no longer held: finished, canceled, expired or lost."""
        with self._changed:
            self._held -= count
            if self._held == 0 and self._model is not None:
                self._changed.notify_all()

    def _may_claim(self, model: str) -> bool:
        return self._model is None or (self._model == model and self._held == 0 and self._claims == 0)
