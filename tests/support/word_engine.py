"""A step engine without a model: every step gives each of its requests the next word of its input.

An input is a text, which is answered with itself, word by word. Others are refused. As real engines do, it drops what
was canceled between the launch of a step and its reading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windrow.errors import InvalidInput
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.worker.engines.base import Delta, EngineInfo, Prepared


@dataclass(slots=True)
class _Answer:
    words: list[str]
    said: list[str] = field(default_factory=list)


class WordEngine:
    """Runs at most ``size`` requests at a time; a step takes ``step_s``.

    With ``gate``, a step is only made where it can be acquired: a test that releases it says how many.
    """

    def __init__(
        self, model: str = "m", *, size: int = 4, step_s: float = 0.0, gate: threading.Semaphore | None = None
    ) -> None:
        self.info = EngineInfo(model, "generate", "continuous", None, "cpu", "float32", 512)
        self.busy_s = 0.0
        self.canceled: list[str] = []
        self._size = size
        self._step_s = step_s
        self._gate = gate
        self._answers: dict[str, _Answer] = {}
        self._changed = threading.Condition()

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """One token a word."""
        return [
            Prepared(len(one.split()), one.split()) if isinstance(one, str) else Failed(InvalidInput("input: no text"))
            for one in inputs
        ]

    def room(self) -> int:
        """Places that nobody has."""
        with self._changed:
            return self._size - len(self._answers)

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Join at the next step."""
        with self._changed:
            assert id not in self._answers
            self._answers[id] = _Answer(list(prepared.data))
            self._changed.notify_all()

    def cancel(self, id: str) -> None:
        """Leave at once."""
        with self._changed:
            self.canceled.append(id)
            self._answers.pop(id, None)

    def step(self) -> list[str] | None:
        """Launch a step for all that are there."""
        with self._changed:
            if not self._answers:
                return None
        if self._gate is not None and not self._gate.acquire(timeout=0.02):
            return None
        with self._changed:
            return list(self._answers)

    def collect(self, handle: list[str]) -> list[Delta]:
        """A word each."""
        time.sleep(self._step_s)
        self.busy_s += self._step_s
        with self._changed:
            return [self._word(id) for id in handle if id in self._answers]

    def wait(self, timeout_s: float) -> None:
        """Until something is there."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers, 0.02 if self._gate else timeout_s)

    def _word(self, id: str) -> Delta:
        answer = self._answers[id]
        word = answer.words[len(answer.said)] if answer.words else ""
        text = (" " if answer.said else "") + word
        answer.said.append(text)
        outcome = None
        if len(answer.said) >= len(answer.words):
            del self._answers[id]
            count, total = len(answer.words), len(answer.said)
            usage = {"prompt_tokens": count, "completion_tokens": total, "total_tokens": count + total}
            outcome = Done(
                {"text": "".join(answer.said), "finish_reason": "stop", "usage": usage | {"cached_tokens": 0}}
            )
        return Delta(id, 0, text, 1, None, outcome, len(answer.said) == 1)
