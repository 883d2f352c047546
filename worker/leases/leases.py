"""`Leases`: the requests of one model that this process has claimed, to be renewed, released or finished."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence

from windrow.scheduler.core.claim_ahead import CLAIM_BLOCK_S
from windrow.scheduler.queue import Claim, RedisQueue, Request
from windrow.scheduler.queue.keys import MAX_REQUESTS_PER_CALL

#: How long a spare process leaves a small backlog to the first process of its device, in seconds.
SPARE_PATIENCE_S = 1.0


class Leases:
    """The requests of one model that one process holds, with their attempt tokens. Any thread may call the methods."""

    def __init__(self, queue: RedisQueue, lease_s: float, *, is_spare: bool = False) -> None:
        self.queue = queue
        self.lease_s = lease_s
        #: Whether this is a spare process: another one serves this model on the same device and claims first.
        self.is_spare = is_spare
        #: Request ID -> attempt token of every request claimed and not yet finished or released.
        self.held: dict[str, str] = {}
        #: Called with the ID and the attempt token of each request that this process has lost, because it was canceled
        #: or its lease expired.
        self.on_lost: Callable[[str, str], None] | None = None
        self.is_paused = False
        self._claiming = 0
        self._claims = threading.Lock()

    @property
    def redis_offset_s(self) -> float:
        """Redis time minus `time.monotonic`, in seconds, measured at the last claim."""
        return self.queue.clock.offset_s

    def redis_now_s(self) -> float:
        """Return the current Redis time in seconds since the epoch, without a round trip."""
        return self.queue.clock.now_s()

    def claim(
        self, count: int, blocking: bool, alone: bool = False, priorities: Collection[str] = (), enough: int = 1
    ) -> Claim:
        """Claim up to ``count`` requests; if ``blocking``, wait up to `CLAIM_BLOCK_S` for the first.

        A spare process leaves a backlog of fewer than ``enough`` requests to the first process of the device for
        `SPARE_PATIENCE_S`. The caller may set ``alone`` only if this process holds no request; see `RedisQueue.claim`
        for ``alone`` and ``priorities``. While paused, the claim is empty.
        """
        with self._claims:
            if self.is_paused:
                return Claim(self.redis_now_s(), [])
            self._claiming += 1
        try:
            claim = self.queue.claim(
                count,
                lease_s=self.lease_s,
                alone=alone,
                wait_s=CLAIM_BLOCK_S if blocking else 0.0,
                is_spare=self.is_spare,
                patience_s=SPARE_PATIENCE_S if self.is_spare else 0.0,
                enough=enough,
                priorities=priorities,
            )
            # Earlier attempts that this process still held: their leases have expired.
            held = {} if self.on_lost is None else self.held
            lost = [(request.id, held[request.id]) for request in claim.requests if request.id in held]
            self.held.update((request.id, request.token) for request in claim.requests)
        finally:
            with self._claims:
                self._claiming -= 1
        if self.on_lost is not None:
            for id, token in lost:
                self.on_lost(id, token)
        return claim

    def pause(self) -> None:
        """Claim no requests until `resume`; those already claimed continue."""
        with self._claims:
            self.is_paused = True

    def resume(self) -> None:
        """Claim again after `pause`."""
        with self._claims:
            self.is_paused = False

    @property
    def is_idle(self) -> bool:
        """Whether this process holds no request and no claim is in progress."""
        with self._claims:
            return not (self._claiming or self.held)

    def holds(self, id: str, token: str) -> bool:
        """Whether this process still holds attempt ``token`` of request ``id``."""
        return self.held.get(id) == token

    def renew(self) -> None:
        """Extend every lease; forget requests that were lost, and report them to ``on_lost``."""
        held = list(self.held.items())
        for start in range(0, len(held), MAX_REQUESTS_PER_CALL):
            part = dict(held[start : start + MAX_REQUESTS_PER_CALL])
            for id in self.queue.renew(part, lease_s=self.lease_s):
                self.forget(id, part[id])
                if self.on_lost is not None:
                    self.on_lost(id, part[id])

    def release(self, held: Mapping[str, str]) -> None:
        """Return requests (ID -> attempt token) to their old place in the queue without counting an attempt."""
        tokens = list(held.items())
        for start in range(0, len(tokens), MAX_REQUESTS_PER_CALL):
            part = dict(tokens[start : start + MAX_REQUESTS_PER_CALL])
            self.queue.release(part)
            for id, token in part.items():
                self.forget(id, token)

    def finish(self, finished: Sequence[Request], busy_s: float = 0.0, *, may_stream: bool = False) -> None:
        """Store and publish results, then forget the requests; see `RedisQueue.finish` for the arguments."""
        self.queue.finish(finished, busy_s=busy_s, may_stream=may_stream)
        for done in finished:
            self.forget(done.id, done.token)

    def forget(self, id: str, token: str) -> None:
        """Remove request ``id`` from `held`, unless this process holds a later attempt of it than ``token``."""
        if self.held.get(id) == token:
            self.held.pop(id, None)
