"""Simulation of text generation: one `StepScheduler` per device, the same that the engine uses, on a virtual clock.

Every request generates exactly the tokens that the workload gives, which the scheduler knows as ``max_tokens``. Earlier
ends, by an end-of-sequence token or a stop string, are not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from operator import add

from windrow.lab.costs.cost import DecodeCost
from windrow.lab.simulate.device import Device, Step
from windrow.lab.simulate.kv_tokens import CachedTokens
from windrow.lab.simulate.outcome import ONE_DEVICE, Fleet, GiveUp, Outcome
from windrow.lab.simulate.simulation import Simulation
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.batch_scheduler import ClaimUpTo
from windrow.scheduler.core.window import Close, Wait
from windrow.scheduler.stepping.sequences import GeneratingSequence, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import StepScheduler

#: Policy name -> strategy of the step scheduler, and whether prefill is chunked while other sequences decode.
GENERATION = {
    "none": ("none", False),
    "static": ("static", False),
    "continuous": ("continuous", False),
    "chunked": ("continuous", True),
}


@dataclass(frozen=True, slots=True)
class GenerationPolicy:
    """How steps are scheduled. Raises `ValueError` for a name that is not in `GENERATION`."""

    name: str
    max_batch_size: int
    max_batch_tokens: int
    #: Capacity of the KV cache of one device, and page size, in tokens.
    cache_tokens: int
    page_tokens: int = 16
    #: ``chunked`` only: maximum prefill tokens of a step in which other sequences decode.
    prefill_chunk_tokens: int = 512

    def __post_init__(self) -> None:
        if self.name not in GENERATION:
            raise ValueError(f"unknown policy {self.name!r}; accepted are {', '.join(GENERATION)}")
        sizes = {name: value for name, value in asdict(self).items() if name != "name"}
        if min(sizes.values()) < 1:
            raise ValueError(f"takes {', '.join(sizes)} of 1 or more (got {list(sizes.values())})")

    def scheduler(self) -> StepScheduler:
        """Return a new scheduler with this policy."""
        strategy, is_chunked = GENERATION[self.name]
        limits = StepLimits(
            self.max_batch_size, self.max_batch_tokens, self.cache_tokens // self.page_tokens, self.page_tokens,
            self.prefill_chunk_tokens if is_chunked else None,
        )  # fmt: skip
        return StepScheduler(strategy, limits)


def simulate_generation(
    workload: Workload,
    policy: GenerationPolicy,
    cost: DecodeCost,
    fleet: Fleet = ONE_DEVICE,
    give_up: GiveUp | None = None,
    handover_s: float = 0.0,
) -> Outcome:
    """Simulate ``workload`` to its end, as `windrow.lab.simulate.simulation.simulate` does for batches.

    For ``handover_s`` see `windrow.lab.costs.cost.CostModel`. Raises `ValueError` if the workload has no output
    tokens, or if a request can never fit the cache.
    """
    if not workload.output_tokens:
        raise ValueError("the workload has no output tokens; record or draw one with the lengths of the answers")
    pages = policy.cache_tokens // policy.page_tokens
    for number, (prompt, output) in enumerate(zip(workload.tokens, workload.output_tokens, strict=True)):
        if -(-(prompt + output - 1) // policy.page_tokens) > pages:
            raise ValueError(
                f"request {number + 1} has {prompt} prompt and {output} output tokens; "
                f"the cache holds {policy.cache_tokens}"
            )

    def make(number: int) -> Device:
        return StepDevice(number, policy, cost, workload)

    return Simulation(workload, make, fleet, give_up, handover_s).run()


class StepDevice(Device):
    """Plans a step, waits for its end, and claims requests at any time, as the worker does in a thread of its own.

    With `StepRuns.ahead`, the next step is planned when one begins, so that the device never waits for the host.
    Requests that are claimed while a step runs then take part in the step after the next.
    """

    claims_first = True

    def __init__(self, number: int, policy: GenerationPolicy, cost: DecodeCost, workload: Workload) -> None:
        super().__init__(number)
        self._cost, self._workload = cost, workload
        self._scheduler = policy.scheduler()
        self._runs_whole_batches = self._scheduler.strategy != "continuous"
        #: Whether the cache may be too small for the longest requests of a full batch.
        limits, longest = self._scheduler.limits, max(map(add, workload.tokens, workload.output_tokens), default=0)
        fits = limits.max_batch_size * limits.pages_for(longest) <= limits.pages
        self._may_preempt = not (fits or self._runs_whole_batches)
        #: Claimed requests that have not ended, in the order of the claims.
        self._held: dict[int, GeneratingSequence] = {}
        #: Those of them that have no token yet.
        self._unstarted: set[int] = set()
        #: The step that runs, its plan, and the plan of the next step if there is one already.
        self._step: Step | None = None
        self._plan: StepPlan | None = None
        self._next_plan: StepPlan | None = None
        #: When the prefill of each request began, and when its first token was there.
        self._began_s: dict[int, float] = {}
        self._first_s: dict[int, float] = {}
        #: Tokens in the KV cache.
        self.cached = CachedTokens()
        #: Requests that ended in a batch that still runs.
        self._ended_in_batch: list[int] = []

    @property
    def is_running(self) -> bool:
        """Whether a step runs."""
        return self._step is not None

    @property
    def is_empty(self) -> bool:
        """Whether the device holds no request."""
        return not self._held

    @property
    def running_since_s(self) -> float:
        """When the step began; minus infinity if none runs."""
        return -math.inf if self._step is None else self._step.start_s

    @property
    def waiting(self) -> int:
        """Requests for the next step; 0 while a step runs."""
        return len(self._held) if self._step is None else 0

    def plan_claim(self, now_s: float) -> ClaimUpTo | Wait:
        """Decide whether it claims now, as in the worker; see `ClaimLimits.room`."""
        if self.is_isolated:
            return Wait(math.inf)
        scheduler, unstarted = self._scheduler, len(self._unstarted)
        room = scheduler.claims.room(scheduler.waiting + scheduler.running - unstarted, repeat(1, unstarted))
        return ClaimUpTo(room, 1) if room else Wait(math.inf)

    def end_claim(self, requests: Sequence[int], now_s: float) -> None:
        """End the claim in progress and queue its requests in the scheduler."""
        self.claiming = 0
        tokens, output_tokens = self._workload.tokens, self._workload.output_tokens
        for request in requests:
            # No two prompts share a prefix, but a preempted request finds the pages of its own prompt again.
            full_pages = tokens[request] // self._scheduler.limits.page_tokens if self._may_preempt else 0
            page_keys = [(request, page) for page in range(full_pages)]
            sequence = GeneratingSequence(request, tokens[request], output_tokens[request], page_keys)
            self._held[request] = sequence
            self._scheduler.add(sequence)
        self._unstarted.update(requests)

    def decide(self, now_s: float) -> Close | Wait:
        """Always run the next step."""
        return Close("step")

    def start(self, now_s: float) -> None:
        """Run the next step that computes anything."""
        plan = self._next_plan or self._plan_step()
        if plan is None:
            raise RuntimeError(
                f"device {self.number} holds {len(self._held)} requests, but the scheduler plans no step"
            )
        for sequence in plan.admitted:
            self._began_s.setdefault(_request(sequence), now_s)
        rows, prompt_tokens = self._cost.runs.computed(plan.rows, plan.prompt_tokens)
        tokens, cached_tokens = rows + prompt_tokens, self.cached.add(plan)
        end_s = now_s + self._cost.seconds(tokens, rows + len(plan.chunks), cached_tokens, reads=bool(plan.chunks))
        for chunk in plan.chunks:
            if chunk.is_last:
                self._first_s.setdefault(_request(chunk.sequence), end_s)
        ended = self._ended(plan)
        times = tuple((self._began_s[request], self._first_s[request]) for request in ended)
        sequences, asked = plan.rows + len(plan.chunks), plan.decoding + plan.prompt_tokens
        self._step = Step(now_s, end_s, tuple(ended), sequences, tokens, asked, self.number, plan.decoding, times)
        self._plan = plan
        self._next_plan = self._plan_step() if self._cost.runs.ahead else None
        self.ends_s = end_s

    def _plan_step(self) -> StepPlan | None:
        """Plan the next step that computes anything; None if no sequence can run."""
        plan = self._scheduler.plan_step()
        while plan is not None and not plan.runs:
            plan = self._scheduler.plan_step()
        return plan

    def end(self, now_s: float) -> list[Step]:
        """End the step and the requests that had their last token."""
        assert self._step is not None
        assert self._plan is not None
        step, self._step, self.ends_s = self._step, None, math.inf
        self._unstarted.difference_update(_request(chunk.sequence) for chunk in self._plan.chunks if chunk.is_last)
        self._scheduler.collected(self._plan.number)
        for request in step.requests:
            del self._held[request], self._began_s[request], self._first_s[request]
        if not self._held:
            self.is_isolated = False
        return [step]

    def die(self, now_s: float) -> tuple[list[int], float]:
        """Return all requests, whose tokens are lost, and the seconds spent on the step that ran."""
        return list(self._held), 0.0 if self._step is None else now_s - self._step.start_s

    def _ended(self, plan: StepPlan) -> list[int]:
        """The requests whose answer is complete with this step; in a batch, none before the longest."""
        ended = [_request(sequence) for sequence in plan.ended]
        if not self._runs_whole_batches:
            self.cached.remove(plan.ended, plan.number)
            return ended
        self._ended_in_batch += ended
        if self._scheduler.running:
            return []
        ended, self._ended_in_batch = self._ended_in_batch, []
        self.cached.clear()
        return ended


def _request(sequence: GeneratingSequence) -> int:
    assert isinstance(sequence.id, int)
    return sequence.id
