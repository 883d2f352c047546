"""Text generation on a virtual clock: one `StepScheduler` a device, the very one that the engine runs.

Every request gets as many tokens as the workload says, and the scheduler knows that number from the start, as it knows
``max_tokens`` of a request; an end that the text itself brings about earlier is not simulated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from windrow.lab.measure.cost import DecodeCost
from windrow.lab.simulate.device import Device, Step
from windrow.lab.simulate.kv_tokens import CachedTokens
from windrow.lab.simulate.simulation import Fleet, GiveUp, Outcome, Simulation
from windrow.lab.simulate.workload import Workload
from windrow.scheduler.core.window import Close, Wait
from windrow.scheduler.stepping.sequences import GeneratingSequence, StepLimits, StepPlan
from windrow.scheduler.stepping.step_scheduler import StepScheduler

ONE_DEVICE = Fleet()
#: Policy name -> strategy of the step scheduler, and whether prompts are read in pieces beside those who decode.
GENERATION = {
    "none": ("none", False),
    "static": ("static", False),
    "continuous": ("continuous", False),
    "chunked": ("continuous", True),
}


@dataclass(frozen=True, slots=True)
class GenerationPolicy:
    """How steps are made. Raises `ValueError` for a name that is not in `GENERATION`."""

    name: str
    max_batch_size: int
    max_batch_tokens: int
    #: Tokens that the cache of a device holds, and those of a page of it.
    cache_tokens: int
    page_tokens: int = 16
    #: Of ``chunked``: prompt tokens of a step in which others decode.
    prefill_chunk_tokens: int = 512

    def __post_init__(self) -> None:
        if self.name not in GENERATION:
            raise ValueError(f"unknown policy {self.name!r}; there are {', '.join(GENERATION)}")

    def scheduler(self) -> StepScheduler:
        """A scheduler of this policy that has seen nothing yet."""
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
    """Run ``workload`` to its end; as `windrow.lab.simulate.simulation.simulate`, with steps for passes.

    ``handover_s`` is as in `windrow.lab.measure.cost.CostModel`. Raises `ValueError` for a workload that generates
    nothing, and a request that can never fit the cache.
    """
    if not workload.output_tokens:
        raise ValueError("the workload says nothing of what is generated")
    pages = policy.cache_tokens // policy.page_tokens
    for number, (prompt, output) in enumerate(zip(workload.tokens, workload.output_tokens, strict=True)):
        if -(-(prompt + output - 1) // policy.page_tokens) > pages:
            raise ValueError(
                f"request {number + 1} has {prompt} + {output} tokens; the cache holds {policy.cache_tokens}"
            )

    def make(number: int) -> Device:
        return StepDevice(number, policy, cost, workload)

    return Simulation(workload, make, fleet, give_up, handover_s).run()


class StepDevice(Device):
    """Plans a step, waits for its end, and takes in whoever has come meanwhile.

    Where the device is never waited for, the step after it is planned as soon as one begins, without those who come
    while it runs.
    """

    def __init__(self, number: int, policy: GenerationPolicy, cost: DecodeCost, workload: Workload) -> None:
        super().__init__(number)
        self._cost, self._workload = cost, workload
        self._scheduler = policy.scheduler()
        self._by_batch = GENERATION[policy.name][0] != "continuous"
        self._size = 1 if policy.name == "none" else policy.max_batch_size
        # Of a batch that grows as it goes, the next ones are at hand when somebody leaves.
        self._at_hand = 0 if self._by_batch or not cost.runs.ahead else max(1, self._size // 8)
        #: Claimed and not ended, in order of the claims.
        self._held: dict[int, GeneratingSequence] = {}
        self._step: Step | None = None
        #: The one after it, where it is planned already.
        self._next: StepPlan | None = None
        #: When each began to be read, and when its first token was there.
        self._began_s: dict[int, float] = {}
        self._first_s: dict[int, float] = {}
        #: What the cache holds.
        self.cached = CachedTokens()
        #: Ended, in a batch that goes on.
        self._over: list[int] = []

    @property
    def is_running(self) -> bool:
        """Whether a step runs."""
        return self._step is not None

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing at all."""
        return not self._held

    @property
    def waits(self) -> int:
        """Sequences for the next step."""
        return len(self._held) if self._step is None else 0

    @property
    def room(self) -> int:
        """Places that are free: of a batch, only before it begins."""
        if self.is_closed or self._step is not None or (self._by_batch and self._scheduler.running):
            return 0
        return self._size + self._at_hand - len(self._held)

    @property
    def window_ends_s(self) -> float:
        """There is no window: a step is soon over."""
        return -math.inf

    def claim_in_s(self, now_s: float) -> float:
        """Between two steps."""
        return math.inf

    def add(self, requests: Sequence[int], now_s: float) -> None:
        """Queue them for the scheduler."""
        tokens, output_tokens = self._workload.tokens, self._workload.output_tokens
        for request in requests:
            sequence = GeneratingSequence(request, tokens[request], output_tokens[request])
            self._held[request] = sequence
            self._scheduler.add(sequence)

    def decide(self, now_s: float) -> Close | Wait:
        """Always the next step."""
        return Close("step")

    def start(self, now_s: float) -> None:
        """Run the next step that computes anything."""
        plan = self._next or self._plan()
        if plan is None:
            raise RuntimeError("the scheduler holds requests and plans no step")
        for sequence in plan.admitted:
            self._began_s.setdefault(_request(sequence), now_s)
        rows, prompt_tokens = self._cost.runs.computed(plan.rows, plan.prompt_tokens)
        tokens, cached_tokens = rows + prompt_tokens, self.cached.follow(plan)
        end_s = now_s + self._cost.seconds(tokens, rows + len(plan.chunks), cached_tokens, reads=bool(plan.chunks))
        for chunk in plan.chunks:
            if chunk.is_last:
                self._first_s.setdefault(_request(chunk.sequence), end_s)
        ended = self._ended(plan)
        times = tuple((self._began_s[request], self._first_s[request]) for request in ended)
        sequences, asked = plan.rows + len(plan.chunks), plan.decoding + plan.prompt_tokens
        self._step = Step(now_s, end_s, tuple(ended), sequences, tokens, asked, self.number, plan.decoding, times)
        self._next = self._plan() if self._cost.runs.ahead else None
        self.over_s = end_s

    def _plan(self) -> StepPlan | None:
        """The next step that computes anything; None where nobody needs one."""
        plan = self._scheduler.plan_step()
        while plan is not None and not plan.runs:
            plan = self._scheduler.plan_step()
        if plan is not None:
            self._scheduler.learned(plan.number)
        return plan

    def end(self, now_s: float) -> list[Step]:
        """The step is over, and with it those that had their last token."""
        assert self._step is not None
        done, self._step, self.over_s = self._step, None, math.inf
        for request in done.requests:
            del self._held[request], self._began_s[request], self._first_s[request]
        if not self._held:
            self.is_closed = False
        return [done]

    def die(self, now_s: float) -> tuple[list[int], float]:
        """Whatever it held is lost, with all its tokens."""
        return list(self._held), 0.0 if self._step is None else now_s - self._step.start_s

    def _ended(self, plan: StepPlan) -> list[int]:
        """Whose answer is complete with this step: in a batch, nobody's before the longest."""
        ended = [_request(sequence) for sequence in plan.ended]
        if not self._by_batch:
            self.cached.left(plan.ended, plan.number)
            return ended
        self._over += ended
        if self._scheduler.running:
            return []
        ended, self._over = self._over, []
        self.cached.clear()
        return ended


def _request(sequence: GeneratingSequence) -> int:
    assert isinstance(sequence.id, int)
    return sequence.id
