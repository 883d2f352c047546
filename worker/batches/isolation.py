"""Suspects run alone: who may claim while one of them is about."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from enum import Enum

from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import Request


class ClaimTurn(Enum):
    """How a lane may claim now."""

    #: Beside the other lanes, whatever this process holds.
    TOGETHER = "together"
    #: This process holds nothing, and nobody else here claims: a suspect may be asked for.
    ALONE = "alone"


class PoisonIsolation:
    """One per process, shared by the claim threads of all its lanes.

    Once a claim says that suspects wait, nobody claims until everything held has ended; then the lane of the suspect
    claims alone, as long as it gets suspects, and each has to end before the next. Whatever else such a claim finds,
    nothing or ordinary requests, ends the quarantine: another worker may have been faster.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        #: Requests claimed by this process and not ended.
        self._held = 0
        self._claims = 0
        #: Whose suspects are waited for; None outside of quarantine.
        self._model: str | None = None
        #: The claim under way is that lane's own, and alone.
        self._is_alone = False

    def take_turn(self, model: str, timeout_s: float) -> ClaimTurn | None:
        """Return how ``model`` may claim, or None if it may not within ``timeout_s``. `claimed` ends the turn."""
        with self._changed:
            # Asked first without waiting: this is in the path of every claim.
            if not self._may_claim(model) and not self._changed.wait_for(lambda: self._may_claim(model), timeout_s):
                return None
            self._claims += 1
            self._is_alone = self._model is not None
            return ClaimTurn.ALONE if self._is_alone else ClaimTurn.TOGETHER

    def claimed(self, model: str, requests: Sequence[Request], suspects_wait: bool) -> None:
        """Say what the claim of this turn got; a claim that failed got nothing."""
        with self._changed:
            self._claims -= 1
            self._held += len(requests)
            if self._is_alone and not any(one.attempt > SUSPECT_AFTER for one in requests):
                self._model = None
                self._changed.notify_all()
            self._is_alone = False
            if suspects_wait and self._model is None:
                self._model = model
            if self._claims == 0 and self._model is not None:
                self._changed.notify_all()

    def ended(self, count: int) -> None:
        """So many requests are no longer held: finished, canceled, expired or lost."""
        with self._changed:
            self._held -= count
            if self._held == 0 and self._model is not None:
                self._changed.notify_all()

    def _may_claim(self, model: str) -> bool:
        return self._model is None or (self._model == model and self._held == 0 and self._claims == 0)
