"""The engine of the worker and the simulator make the same claims and step plans for a trace."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.steps import ready
from tests.support.tiny_llama import save_tiny_llama
from windrow.lab.costs.cost import DecodeCost, StepRuns
from windrow.lab.simulate import generation as laboratory
from windrow.lab.simulate.generation import GENERATION, GenerationPolicy, StepDevice, simulate_generation
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.stepping.sequences import GeneratingSequence, StepPlan
from windrow.scheduler.stepping.step_scheduler import StepScheduler
from windrow.worker.engines.generation import engine as worker_engine
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.loading import load_engine

SIZE, BATCH_TOKENS, CACHE_TOKENS, PAGE_TOKENS, CHUNK_TOKENS = 6, 32, 96, 4, 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=128)


def draw_trace(seed: int) -> Workload:
    """Return bursts of requests that together need more slots and pages than are available."""
    numbers = np.random.default_rng(seed)
    count = 40
    arrival_s = np.sort(numbers.integers(0, 8, count) * 12 + numbers.random(count) * 4)
    return Workload(
        arrival_s.tolist(), numbers.integers(1, 40, count).tolist(), numbers.integers(1, 40, count).tolist()
    )


class PlanRecorder(StepScheduler):
    """A step scheduler that records its plans in ``plans``."""

    plans: list[Any]

    def plan_step(self) -> StepPlan | None:
        plan = super().plan_step()
        if plan is not None and plan.runs:
            self.plans.append(describe(plan))
        return plan


def number_of(sequence: GeneratingSequence) -> int:
    return sequence.id if isinstance(sequence.id, int) else int(sequence.id.request.id)


def describe(plan: StepPlan) -> dict[str, Any]:
    """Return a plan with request numbers instead of sequences; pages are omitted, as only the engine shares them."""

    def numbers(sequences: Sequence[GeneratingSequence]) -> list[int]:
        return [number_of(sequence) for sequence in sequences]

    return {
        "number": plan.number,
        "stopped": numbers(plan.stopped), "started": numbers(plan.started), "grown": numbers(plan.grown),
        "admitted": [(number_of(new), new.slot, len(new.pages), new.context_tokens) for new in plan.admitted],
        "preempted": numbers(plan.preempted), "ended": numbers(plan.ended), "released": numbers(plan.released),
        "chunks": [(number_of(chunk.sequence), chunk.start, chunk.tokens, chunk.is_last) for chunk in plan.chunks],
        "decoding": plan.decoding, "rows": plan.rows,
    }  # fmt: skip


class WorkerOnVirtualTime:
    """Drives a real engine like the threads of the worker; every step takes one second of virtual time."""

    def __init__(self, engine: GenerateEngine, trace: Workload, ahead: int) -> None:
        self._engine, self._trace, self._ahead = engine, trace, ahead
        draw = np.random.default_rng(0)
        self._prompts = [draw.integers(0, 256, tokens).tolist() for tokens in trace.tokens]
        self._backlog: list[int] = []
        self._arrived = 0
        #: The requests and the times of their claims.
        self.claims: list[tuple[float, int]] = []

    def run(self) -> None:
        now_s, launched = 0.0, []
        while self._arrived < len(self._trace) or self._backlog or launched or self._engine._collector.requests:
            self._arrive_until(now_s)
            while len(launched) <= self._ahead and (handle := self._launch()) is not None:
                launched.append(handle)
            if not launched:
                now_s = self._trace.arrival_s[self._arrived]
                continue
            self._claim(now_s)
            self._arrive_until(now_s + 1.0)
            now_s += 1.0
            self._engine.collect(launched.pop(0))
            self._claim(now_s)

    def _arrive_until(self, end_s: float) -> None:
        arrival_s = self._trace.arrival_s
        while self._arrived < len(arrival_s) and arrival_s[self._arrived] <= end_s:
            self._backlog.append(self._arrived)
            self._arrived += 1
            self._claim(arrival_s[self._arrived - 1])

    def _claim(self, now_s: float) -> None:
        while self._backlog and (room := self._engine.room()):
            claimed, self._backlog = self._backlog[:room], self._backlog[room:]
            self.claims += [(now_s, number) for number in claimed]
            for number in claimed:
                max_tokens = (self._trace.output_tokens or [])[number]
                prompt = {"prompt_ids": self._prompts[number]}
                self._engine.add(str(number), ready(self._engine, prompt, max_tokens=max_tokens, ignore_eos=True))

    def _launch(self) -> Any:
        while (handle := self._engine.step()) is not None and not handle.plan.runs:
            self._engine.collect(handle)
        return handle


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("name", sorted(GENERATION))
def test_worker_and_simulator_make_the_same_claims_and_step_plans(
    folder: Path, name: str, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = draw_trace(seed=ahead)
    monkeypatch.setattr(worker_engine, "StepScheduler", PlanRecorder)
    monkeypatch.setattr(laboratory, "StepScheduler", PlanRecorder)

    strategy, is_chunked = GENERATION[name]
    settings = ModelSettings(
        task="generate", source=str(folder), dtype="float32", strategy=strategy, max_batch_size=SIZE,
        max_batch_tokens=BATCH_TOKENS, cache_tokens=CACHE_TOKENS, page_tokens=PAGE_TOKENS,
        **({"prefill_chunk_tokens": CHUNK_TOKENS} if is_chunked else {}),
    )  # fmt: skip
    engine = load_engine("tiny", settings)
    assert isinstance(engine, GenerateEngine)
    by_worker: list[Any] = []
    PlanRecorder.plans = by_worker
    worker = WorkerOnVirtualTime(engine, trace, ahead)
    worker.run()

    claims: list[tuple[float, int]] = []
    end_claim = StepDevice.end_claim

    def record_claim(device: StepDevice, requests: Sequence[int], now_s: float) -> None:
        claims.extend((now_s, request) for request in requests)
        end_claim(device, requests, now_s)

    monkeypatch.setattr(StepDevice, "end_claim", record_claim)
    by_laboratory: list[Any] = []
    PlanRecorder.plans = by_laboratory
    policy = GenerationPolicy(name, SIZE, BATCH_TOKENS, CACHE_TOKENS, PAGE_TOKENS, CHUNK_TOKENS)
    simulate_generation(trace, policy, DecodeCost(1.0, 0.0, runs=StepRuns(ahead)))

    assert by_worker == by_laboratory
    assert worker.claims == claims
    assert any(plan["preempted"] for plan in by_laboratory) == (strategy == "continuous")
