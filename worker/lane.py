"""One model in one worker process: its queue, its engine, and what it holds."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import orjson

from scheduler.core.adaptive import FIRST_WAIT_S, MAX_WAIT_S
from scheduler.core.outcomes import Failed
from scheduler.core.planning import BatchLimits
from scheduler.core.window import WindowLimits
from scheduler.queue import Claim, Claimed, Ending, RedisQueue
from scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from scheduler.queue.redis_queue import expired
from worker.engines.base import Engine
from worker.passes import Budget, Pass, collect_pass, prepare_inputs
from worker.rows import Waiting
from worker.stopping import DRAINED

log = logging.getLogger(__name__)
#: How long a claim blocks for work before it looks around again, in seconds.
CLAIM_BLOCK_S = 1.0
#: A clock that is off by more than this after a reply was set, in seconds.
SLOWEST_REPLY_S = 0.5
#: By how much two clocks part, in seconds a second.
MOST_DRIFT = 0.001
#: A worker unheard of for this long is taken off the list.
FORGET_AFTER_S = 60.0


@dataclass(slots=True)
class Lane:
    """Claims, prepares and finishes for one model. Its methods are called by different threads."""

    queue: RedisQueue
    engine: Engine
    limits: BatchLimits
    #: None where it is learnt.
    max_wait_s: float | None
    lease_s: float
    worker: str
    #: Another process serves this model on the same device: this one takes what that one leaves behind.
    is_spare: bool = False
    #: Tells this process from those before it of the same name.
    started: str = field(default_factory=lambda: secrets.token_hex(3))
    #: id -> attempt token of everything claimed and not yet finished; what the keeper renews.
    held: dict[str, str] = field(default_factory=dict)
    #: What its passes may hold, which may turn out to be less than ``limits``.
    budget: Budget = field(init=False)
    #: Redis time minus `time.monotonic`, as of the last claim.
    redis_offset_s: float = float("-inf")
    #: The window in use, as the resident last said.
    wait_s: float = field(init=False)
    _offset_at_s: float = 0.0

    def __post_init__(self) -> None:
        self.budget = Budget(self.limits)
        self.wait_s = FIRST_WAIT_S if self.max_wait_s is None else self.max_wait_s

    @property
    def model(self) -> str:
        """The model's name."""
        return self.queue.model

    @property
    def window(self) -> WindowLimits:
        """What closes this model's window."""
        size, tokens = self.limits.max_batch_size, self.limits.max_batch_tokens
        if self.max_wait_s is None:
            return WindowLimits(size, tokens, MAX_WAIT_S, is_learnt=True)
        return WindowLimits(size, tokens, self.max_wait_s)

    def redis_now_s(self) -> float:
        """Redis time, in seconds since the epoch, without asking."""
        return time.monotonic() + self.redis_offset_s

    def claim(self, room: int, blocking: bool, alone: bool = False) -> Claim:
        """Take up to ``room`` requests; block up to `CLAIM_BLOCK_S` for the first if ``blocking``.

        ``alone`` promises that this process holds nothing; see `RedisQueue.claim`.
        """
        wait_s = CLAIM_BLOCK_S if blocking else 0.0
        claim = self.queue.claim(room, lease_s=self.lease_s, alone=alone, wait_s=wait_s, is_spare=self.is_spare)
        self._learn_offset(claim.now_s)
        self.held.update((request.id, request.token) for request in claim.requests)
        return claim

    def _learn_offset(self, redis_s: float) -> None:
        """A reply says what Redis' time was a moment ago, so the latest of what replies said is the nearest.

        An older one is held less and less, because clocks drift, and not at all once Redis' clock was set back.
        """
        now_s = time.monotonic()
        seen_s = redis_s - now_s
        older_s = self.redis_offset_s - MOST_DRIFT * (now_s - self._offset_at_s)
        self.redis_offset_s = max(seen_s, older_s) if older_s < seen_s + SLOWEST_REPLY_S else seen_s
        self._offset_at_s = now_s

    def prepare(self, requests: Sequence[Claimed]) -> tuple[list[Waiting], list[Ending]]:
        """Decode and tokenise; return what can run, and the ends of what cannot."""
        if not requests:
            return [], []
        claimed_s = time.monotonic()
        calls = [request.call() for request in requests]
        inputs, parameters = [call.get("input") for call in calls], [call.get("parameters") or {} for call in calls]
        prepared = prepare_inputs(self.engine, inputs, parameters)
        waiting, ended = [], []
        for request, ready in zip(requests, prepared, strict=True):
            if isinstance(ready, Failed):
                ended.append(Ending(request.id, request.token, ready, self.redis_now_s()))
            else:
                waiting.append(Waiting(request, ready, request.created_s - self.redis_offset_s, claimed_s))
        return waiting, ended

    def split_late(self, waiting: Sequence[Waiting]) -> tuple[list[Waiting], list[Ending]]:
        """Part what may still start from what is past its deadline; what was canceled or lost is in neither."""
        now_s = self.redis_now_s()
        waiting = [one for one in waiting if self.held.get(one.request.id) == one.request.token]
        late = {
            one.request.id for one in waiting if one.request.deadline_s is not None and one.request.deadline_s <= now_s
        }
        ends = [Ending(one.request.id, one.request.token, expired()) for one in waiting if one.request.id in late]
        return [one for one in waiting if one.request.id not in late] if late else waiting, ends

    def endings(self, done: Pass, closed_by: str) -> list[Ending]:
        """Wait for the pass and say how each of its requests ended."""
        outcomes = collect_pass(self.engine, done)
        ended_s = time.monotonic()
        started_s = done.started_s + self.redis_offset_s
        of_pass = {
            "compute_ms": _ms(ended_s - done.started_s),
            "batch_size": len(done.members),
            "batch_tokens": done.batch.tokens,
            "padding_ratio": round(done.batch.padding_ratio, 4),
            "closed_by": closed_by,
            "worker": self.worker,
            "batch_id": f"{self.worker}-{self.started}-{done.number}",
        }
        return [
            Ending(
                one.request.id,
                one.request.token,
                outcome,
                started_s,
                {
                    "queue_ms": _ms(one.claimed_s - one.arrived_s),
                    "batch_wait_ms": _ms(done.started_s - one.claimed_s),
                    "total_ms": _ms(ended_s - one.arrived_s),
                    "attempts": one.request.attempt,
                    **of_pass,
                },
            )
            for one, outcome in zip(done.members, outcomes, strict=True)
        ]

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Say what is served here, and for how long the loop has been at the same thing.

        A worker that stops is simply heard of no more: requests wait for the next one. Whoever reads this ignores
        fields that it does not know: workers of several versions may share a queue.
        """
        info = asdict(self.engine.info) | {"busy_s": round(busy_s, 1), "held": len(self.held)}
        info["wait_ms"] = _ms(self.wait_s)
        info["drained"] = bool(DRAINED.value)
        info["ran_out_tokens"] = self.budget.ran_out_tokens
        self.queue.heartbeat(self.worker, orjson.dumps(info), stale_s=FORGET_AFTER_S)

    def renew(self) -> None:
        """Extend the leases of everything held; what was lost meanwhile will find its finish refused."""
        held = dict(self.held)
        for start in range(0, len(held), MAX_REQUESTS_PER_CALL):
            part = dict(list(held.items())[start : start + MAX_REQUESTS_PER_CALL])
            for id in self.queue.renew(part, lease_s=self.lease_s):
                self._let_go(id, part[id])

    def release(self, held: Mapping[str, str]) -> None:
        """Give requests (id -> token) back to the front of the queue, without counting an attempt."""
        tokens = list(held.items())
        for start in range(0, len(tokens), MAX_REQUESTS_PER_CALL):
            part = dict(tokens[start : start + MAX_REQUESTS_PER_CALL])
            self.queue.release(part)
            for id, token in part.items():
                self._let_go(id, token)

    def _let_go(self, id: str, token: str) -> None:
        # The same request may be held again by now, under another token.
        if self.held.get(id) == token:
            self.held.pop(id, None)

    def finish(self, endings: Sequence[Ending], busy_s: float = 0.0) -> None:
        """Store the ends, and let go of the requests."""
        self.queue.finish(endings, busy_s=busy_s)
        for ending in endings:
            self._let_go(ending.id, ending.token)


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1e3, 3)
