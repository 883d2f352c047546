"""A step engine without a model: each step outputs the next word of the input of every running request.

Inputs other than strings fail. As in real engines, the output of a step is dropped for requests that were canceled
between `WordEngine.step` and `WordEngine.collect`.
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
    output: list[str] = field(default_factory=list)


class WordEngine:
    """Runs at most ``size`` requests at the same time; a step takes ``step_s`` seconds.

    With ``gate``, each step acquires it, so that a test decides how many steps run.
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
        """Return one token per word."""
        return [
            Prepared(len(text.split()), text.split())
            if isinstance(text, str)
            else Failed(InvalidInput("input: no text"))
            for text in inputs
        ]

    def room(self) -> int:
        """Return the number of free places."""
        with self._changed:
            return self._size - len(self._answers)

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Run the request from the next step on."""
        with self._changed:
            assert id not in self._answers
            self._answers[id] = _Answer(list(prepared.data))
            self._changed.notify_all()

    def cancel(self, id: str) -> None:
        """Remove the request at once."""
        with self._changed:
            self.canceled.append(id)
            self._answers.pop(id, None)

    def step(self) -> list[str] | None:
        """Start a step for all running requests."""
        with self._changed:
            if not self._answers:
                return None
        if self._gate is not None and not self._gate.acquire(timeout=0.02):
            return None
        with self._changed:
            return list(self._answers)

    def collect(self, handle: list[str]) -> list[Delta]:
        """Return the next word of each request."""
        time.sleep(self._step_s)
        self.busy_s += self._step_s
        with self._changed:
            return [self._word(id) for id in handle if id in self._answers]

    def wait(self, timeout_s: float) -> None:
        """Wait for a request."""
        with self._changed:
            self._changed.wait_for(lambda: self._answers, 0.02 if self._gate else timeout_s)

    def _word(self, id: str) -> Delta:
        answer = self._answers[id]
        word = answer.words[len(answer.output)] if answer.words else ""
        text = (" " if answer.output else "") + word
        answer.output.append(text)
        outcome = None
        if len(answer.output) >= len(answer.words):
            del self._answers[id]
            count, total = len(answer.words), len(answer.output)
            usage = {"prompt_tokens": count, "completion_tokens": total, "total_tokens": count + total}
            outcome = Done(
                {"text": "".join(answer.output), "finish_reason": "stop", "usage": usage | {"cached_tokens": 0}}
            )
        return Delta(id, 0, text, 1, None, outcome, len(answer.output) == 1)
