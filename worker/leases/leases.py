"""What a worker process holds of one model, whatever becomes of it: claims, leases, ends, and the worker's presence."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import orjson
from redis.exceptions import RedisError

from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import Claim, ClaimedRequest, FinishedRequest, RedisQueue
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL
from windrow.scheduler.queue.observations import Observations
from windrow.scheduler.queue.redis_queue import expired
from windrow.worker.batches.batch_buffer import PreparedRequest
from windrow.worker.batches.forward import prepare_inputs
from windrow.worker.engines.base import Preparer
from windrow.worker.process.stopping import DRAINED

log = logging.getLogger(__name__)
#: How long a claim blocks for work before it looks around again, in seconds.
CLAIM_BLOCK_S = 1.0
#: How long a spare process waits for requests to be enough, in seconds.
SPARE_PATIENCE_S = 1.0
#: A worker unheard of for this long is taken off the list.
FORGET_AFTER_S = 60.0


class Leases:
    """Claims, prepares, renews and finishes for one model. Its methods are called by different threads."""

    def __init__(
        self, queue: RedisQueue, engine: Preparer, lease_s: float, worker: str, *, is_spare: bool = False
    ) -> None:
        self.queue = queue
        self.engine = engine
        self.lease_s = lease_s
        self.worker = worker
        #: Another process serves this model on the same device: this one takes what that one leaves behind.
        self.is_spare = is_spare
        #: Tells this process from those before it of the same name.
        self.started = secrets.token_hex(3)
        #: id -> attempt token of everything claimed and not yet finished; what the keeper renews.
        self.held: dict[str, str] = {}
        #: Told of each request (id, token) that turns out to be held no longer; None where nobody needs to know.
        self.on_lost: Callable[[str, str], None] | None = None
        self.observed = Observations()
        #: What became of the last time it was to be loaded anew; None where it never was.
        self.reload_note: str | None = None
        self.is_paused = False
        self._claiming = 0
        self._claims = threading.Lock()
        #: What the device had worked for this model when it was last told, and when that was.
        self._device_told = (0.0, time.monotonic())

    @property
    def model(self) -> str:
        """The model's name."""
        return self.queue.model

    @property
    def redis_offset_s(self) -> float:
        """Redis time minus `time.monotonic`, as of the last claim."""
        return self.queue.clock.offset_s

    def redis_now_s(self) -> float:
        """Redis time, in seconds since the epoch, without asking."""
        return self.queue.clock.now_s()

    def claim(
        self, room: int, blocking: bool, alone: bool = False, priorities: Collection[str] = (), enough: int = 1
    ) -> Claim:
        """Take up to ``room`` requests; block up to `CLAIM_BLOCK_S` for the first if ``blocking``.

        A spare process leaves fewer than ``enough`` to the one before it for `SPARE_PATIENCE_S`: they are in its next
        pass, on the same device. ``alone`` promises that this process holds nothing; for it and for ``priorities`` see
        `RedisQueue.claim`. Takes nothing while it is paused.
        """
        wait_s = CLAIM_BLOCK_S if blocking else 0.0
        with self._claims:
            if self.is_paused:
                return Claim(self.redis_now_s(), [])
            self._claiming += 1
        try:
            claim = self.queue.claim(
                room,
                lease_s=self.lease_s,
                alone=alone,
                wait_s=wait_s,
                is_spare=self.is_spare,
                patience_s=SPARE_PATIENCE_S if self.is_spare else 0.0,
                enough=enough,
                priorities=priorities,
            )
            self.held.update((request.id, request.token) for request in claim.requests)
        finally:
            with self._claims:
                self._claiming -= 1
        return claim

    def pause(self) -> None:
        """Claim nothing until `resume`; what is held goes on."""
        with self._claims:
            self.is_paused = True

    def resume(self) -> None:
        """Claim again."""
        with self._claims:
            self.is_paused = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, nor about to be."""
        with self._claims:
            return not (self._claiming or self.held)

    def prepare(self, requests: Sequence[ClaimedRequest]) -> tuple[list[PreparedRequest], list[FinishedRequest]]:
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
                ended.append(FinishedRequest(request, ready, self.redis_now_s()))
            else:
                waiting.append(PreparedRequest(request, ready, request.created_s - self.redis_offset_s, claimed_s))
        return waiting, ended

    def split_late(self, waiting: Sequence[PreparedRequest]) -> tuple[list[PreparedRequest], list[FinishedRequest]]:
        """Part what may still start from what is past its deadline; what was canceled or lost is in neither."""
        now_s = self.redis_now_s()
        waiting = [one for one in waiting if self.held.get(one.request.id) == one.request.token]
        late = {
            one.request.id for one in waiting if one.request.deadline_s is not None and one.request.deadline_s <= now_s
        }
        ends = [FinishedRequest(one.request, expired()) for one in waiting if one.request.id in late]
        return [one for one in waiting if one.request.id not in late] if late else waiting, ends

    def describe(self) -> Mapping[str, Any]:
        """What heartbeats say beside the engine's own description."""
        return {}

    def heartbeat(self, busy_s: float = 0.0) -> None:
        """Say what is served here, and for how long the loop has been at the same thing.

        A worker that stops is simply heard of no more: requests wait for the next one. Whoever reads this ignores
        fields that it does not know: workers of several versions may share a queue.
        """
        info = asdict(self.engine.info) | {"busy_s": round(busy_s, 1), "held": len(self.held)}
        info["drained"] = bool(DRAINED.value)
        info["reload_note"] = self.reload_note
        info["device_busy_ratio"] = self._device_busy_ratio()
        info |= self.describe()
        self.queue.heartbeat(self.worker, orjson.dumps(info), stale_s=FORGET_AFTER_S)

    def _forget_engine_times(self) -> None:
        """The engine is another one, which has done nothing so far."""
        self._device_told = (self.engine.busy_s, time.monotonic())

    def _device_busy_ratio(self) -> float:
        """Share of the time since the last heartbeat, 0 to 1, in which the device worked for this model."""
        busy_s, now_s = self.engine.busy_s, time.monotonic()
        (told_s, at_s), self._device_told = self._device_told, (busy_s, now_s)
        # Passes are booked when they are collected: one that began before counts here too.
        return round(min(1.0, (busy_s - told_s) / max(1e-3, now_s - at_s)), 4)

    def store_observations(self) -> None:
        """Add what was observed to that of all workers; where Redis fails, the next call has it too."""
        counts = self.observed.take_out()
        try:
            if counts:
                self.queue.observe(counts)
        except RedisError:
            self.observed.put_back(counts)
            raise

    def renew(self) -> None:
        """Extend the leases of everything held; what was lost meanwhile will find its finish refused."""
        held = dict(self.held)
        for start in range(0, len(held), MAX_REQUESTS_PER_CALL):
            part = dict(list(held.items())[start : start + MAX_REQUESTS_PER_CALL])
            for id in self.queue.renew(part, lease_s=self.lease_s):
                self._let_go(id, part[id])
                if self.on_lost is not None:
                    self.on_lost(id, part[id])

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

    def finish(self, endings: Sequence[FinishedRequest], busy_s: float = 0.0) -> None:
        """Store the ends, and let go of the requests."""
        self.queue.finish(endings, busy_s=busy_s)
        for ending in endings:
            self._let_go(ending.request.id, ending.request.token)


def milliseconds(seconds: float) -> float:
    """For metrics: not negative, and to the microsecond."""
    return round(max(0.0, seconds) * 1e3, 3)
