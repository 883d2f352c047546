"""Drives a step engine as the step loop does, but in one thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windrow.scheduler.core.outcomes import Done, Outcome
from windrow.worker.engines.base import Delta, Prepared, StepEngine


@dataclass
class Collected:
    """The deltas and the outcome of each request."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    deltas: dict[str, list[Delta]] = field(default_factory=dict)

    def output(self, id: str) -> dict[str, Any]:
        outcome = self.outcomes[id]
        assert isinstance(outcome, Done), outcome
        output: dict[str, Any] = outcome.output
        return output


def drive(engine: StepEngine, late: int = 1, limit: int = 5000) -> Collected:
    """Step until the engine is idle; collect each step after ``late`` more have been launched."""
    collected = Collected()
    handles: list[Any] = []
    for _ in range(limit):
        handle = engine.step()
        handles += [handle] if handle is not None else []
        if handles and (handle is None or len(handles) > late):
            for delta in engine.collect(handles.pop(0)):
                collected.deltas.setdefault(delta.id, []).append(delta)
                if delta.outcome is not None:
                    assert delta.id not in collected.outcomes
                    collected.outcomes[delta.id] = delta.outcome
        elif handle is None:
            return collected
    raise AssertionError("the engine never became idle")


def ready(engine: StepEngine, value: Any, **parameters: Any) -> Prepared:
    (prepared,) = engine.prepare([value], [parameters])
    assert isinstance(prepared, Prepared), prepared
    return prepared
