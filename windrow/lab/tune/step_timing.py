"""Times each decode step of an engine while it serves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from windrow.lab.costs.cost import StepRuns
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.simulate.kv_tokens import CachedTokens
from windrow.scheduler.stepping.sequences import StepPlan
from windrow.worker.engines.base import Delta, EngineInfo
from windrow.worker.engines.generation.engine import GenerateEngine


@dataclass(frozen=True, slots=True)
class _Launched:
    """A step in flight: its start time, and the size of the KV cache."""

    began_s: float
    plan: StepPlan
    cached_tokens: int


def runs_of(info: EngineInfo) -> StepRuns:
    """Return how an engine runs its steps; on a CPU a step has finished when its start call returns."""
    ahead = 0 if info.device == "cpu" else 1
    if not info.is_captured:
        return StepRuns(ahead)
    # Imported here, because builds of torch without CUDA have no Triton.
    from windrow.worker.engines.generation.cuda import READ_RUNGS, decode_rungs

    return StepRuns(ahead, decode_rungs(info.max_sequences or 1), READ_RUNGS)


class TimedSteps:
    """A `StepEngine` that reports the time of each step.

    A step lasts from the end of the previous step, or from its own start if that is later, until its tokens were
    collected, so that the steps add up to the time in which the engine had work. Everything else is that of the engine;
    the cached tokens of a canceled request count until `forget`.
    """

    def __init__(self, engine: GenerateEngine, tell: Callable[[TimedStep], object]) -> None:
        self.engine, self.info = engine, engine.info
        self._tell, self._runs = tell, runs_of(engine.info)
        self._cached = CachedTokens()
        self._launched: deque[_Launched] = deque()
        self._ended_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self) -> Any | None:
        """Delegate to the engine and record the start time."""
        began_s = time.perf_counter()
        handle = self.engine.step()
        if handle is not None:
            plan: StepPlan = handle.plan
            if plan.released:
                self._cached.clear()
            self._launched.append(_Launched(began_s, plan, self._cached.add(plan)))
            if self.info.strategy == "continuous":
                self._cached.remove(plan.ended, plan.number)
        return handle

    def collect(self, handle: Any) -> list[Delta]:
        """Delegate to the engine and report the step's time."""
        deltas = self.engine.collect(handle)
        ended_s, one = time.perf_counter(), self._launched.popleft()
        since_s, self._ended_s = max(self._ended_s, one.began_s), ended_s
        plan = one.plan
        if plan.runs:
            rows, prompt_tokens = self._runs.computed(plan.rows, plan.prompt_tokens)
            sizes = rows + prompt_tokens, rows + len(plan.chunks), one.cached_tokens
            self._tell(TimedStep(*sizes, bool(plan.chunks), ended_s - since_s))
        return deltas

    def forget(self) -> None:
        """Reset the count of cached tokens; call it when the engine is empty."""
        self._cached.clear()
