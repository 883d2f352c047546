"""Times each decode step of an engine while it serves."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windrow.lab.costs.cost import StepRuns
from windrow.lab.costs.fitting import TimedStep
from windrow.lab.simulate.kv_tokens import CachedTokens
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.stepping.sequences import StepPlan
from windrow.worker.engines.base import Delta, EngineInfo, Prepared
from windrow.worker.engines.generation.cache_metrics import CacheMetrics
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
    collected, so that the steps add up to the time in which the engine had work.
    """

    def __init__(self, engine: GenerateEngine, tell: Callable[[TimedStep], object]) -> None:
        self.engine, self.info = engine, engine.info
        self.busy_s = 0.0
        self._tell, self._runs = tell, runs_of(engine.info)
        self._cached = CachedTokens()
        self._launched: deque[_Launched] = deque()
        self._ended_s = 0.0

    def prepare(self, inputs: Sequence[Any], parameters: Sequence[Mapping[str, Any]]) -> list[Prepared | Failed]:
        """Delegate to the engine."""
        return self.engine.prepare(inputs, parameters)

    def room(self) -> int:
        """Delegate to the engine."""
        return self.engine.room()

    def cache_use(self) -> CacheMetrics:
        """Delegate to the engine."""
        return self.engine.cache_use()

    def add(self, id: str, prepared: Prepared, *, stream: bool = False, priority: int = 0) -> None:
        """Delegate to the engine."""
        self.engine.add(id, prepared, stream=stream, priority=priority)

    def cancel(self, id: str) -> None:
        """Delegate to the engine; the request's cached tokens count until `forget`."""
        self.engine.cancel(id)

    def wait(self, timeout_s: float) -> None:
        """Delegate to the engine."""
        self.engine.wait(timeout_s)

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
        self.busy_s = self.engine.busy_s
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
