"""`RedisQueue`: the queue of one model in Redis. Every state transition is one Lua script, so it is atomic."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import orjson
from redis import Redis
from redis.exceptions import ExecAbortError, OutOfMemoryError, RedisError

from windrow.errors import AttemptsExhausted, Canceled, DeadlineExceeded
from windrow.scheduler.connection.redis_clock import RedisClock
from windrow.scheduler.core.admission import UNLIMITED, Quota
from windrow.scheduler.core.heartbeats import Heartbeat, decode_heartbeat
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.core.retry import SUSPECT_AFTER, GiveUp, decide_retry
from windrow.scheduler.queue.depth import Depth, read_depth
from windrow.scheduler.queue.idempotency import conflict, idempotency_key
from windrow.scheduler.queue.keys import (
    KEY_NAMES,
    MAX_REQUESTS_PER_CALL,
    canceled_channel,
    events_key,
    finished_channel,
    queue_key,
    result_key,
)
from windrow.scheduler.queue.lookup import find_prediction
from windrow.scheduler.queue.observations import store_observations
from windrow.scheduler.queue.prediction import Prediction
from windrow.scheduler.queue.refusals import quota_arguments, refusal
from windrow.scheduler.queue.request import Accepted, Claim, Request, Submission
from windrow.scheduler.queue.results import describe, encode_outcome
from windrow.scheduler.queue.script_calls import ScriptCalls
from windrow.scheduler.queue.wire import ClaimReply, encode_finished, encode_submissions

T = TypeVar("T")
#: Maximum number of requests of expired leases, and of requests past their deadline, in one `RedisQueue.reap`.
MAX_REAPED_PER_CALL = 500
#: Up to this many result documents are passed to finish.lua. For more of them, the script costs more time than three
#: plain commands beside it.
FEW_DOCUMENTS = 8


class RedisQueue:
    """The queue of one model, with a method for each transition: submit, claim, renew, finish, release, cancel, reap.

    Safe to share between threads. Redis errors pass through as `redis.exceptions.RedisError`.
    """

    def __init__(self, redis: Redis, model: str, *, result_ttl_s: int = 3600, max_attempts: int = 3) -> None:
        self.model = model
        self._redis = redis
        self._result_ttl_s = result_ttl_s
        self._max_attempts = max_attempts
        self._key = {name: queue_key(model, name) for name in KEY_NAMES}
        self._channel = finished_channel(model)
        self._calls = ScriptCalls(redis, model)
        #: The Redis time, learned from the reply to every claim.
        self.clock = RedisClock()
        #: Attempt tokens of claims whose reply was lost; the next claim repeats one of them.
        self._lost_claims: list[str] = []

    def submit(
        self,
        submissions: Sequence[Submission],
        *,
        flow: str,
        weight: float,
        max_depth: int,
        max_bytes: int,
        quota: Quota = UNLIMITED,
        idempotency: tuple[str, str] | None = None,
    ) -> Accepted:
        """Queue all of ``submissions`` in one round trip, or none.

        ``flow`` is ``<tenant>:<priority>``, and ``weight`` its share of the queue. ``quota`` limits the tenant.
        ``idempotency`` is ``(key, fingerprint)``; a call with the same pair returns the ids of the first call, even if
        the queue is full. Raises `QueueFull` or `QuotaExceeded`, with ``retry_after_s`` if it is known, or
        `IdempotencyConflict` if the key was used with another fingerprint.
        """
        if not submissions:
            return Accepted([], self._now_us() / 1e6)
        key, fingerprint = idempotency or ("", "")
        arguments: list[Any] = [max_depth, max_bytes, flow, weight, fingerprint, self._result_ttl_s]
        arguments += quota_arguments(quota, len(submissions))
        arguments += encode_submissions(_bounded(submissions))
        payloads = {item.id: item.payload for item in submissions}
        extra_keys = [idempotency_key(key)] if key else []
        reply = self._calls.run_after_hset(self._key["payloads"], payloads, "submit", arguments, extra_keys)
        match reply:
            case [b"full", what, present, wait_us]:
                retry_s = int(wait_us) / 1e6 if int(wait_us) >= 0 else self.depth().wait_s
                raise refusal(
                    what.decode(), self.model, int(present), len(submissions), max_depth, max_bytes, quota, retry_s
                )
            case [b"same", ids]:
                return Accepted(cast(bytes, ids).decode().split(), None)
            case [b"conflict"]:
                raise conflict()
        return Accepted([item.id for item in submissions], int(reply[1]) / 1e6)

    def claim(
        self,
        count: int,
        *,
        lease_s: float,
        alone: bool = False,
        wait_s: float = 0.0,
        is_spare: bool = False,
        patience_s: float = 0.0,
        enough: int = 1,
        priorities: Collection[str] = (),
    ) -> Claim:
        """Take up to ``count`` requests in fair order, under a lease of ``lease_s`` seconds.

        If the queue is empty, wait up to ``wait_s`` seconds for a request, in the same round trip. A spare process
        (``is_spare``) waits until a claim of another process has left requests in the queue. If ``patience_s`` is not
        0, fewer than ``enough`` requests are taken only if the first or the last of them has waited for that long. If
        the reply to a claim was lost, the next claim returns what that one took.

        A suspected poison request, which had `SUSPECT_AFTER` attempts without a result, is claimed by itself, and only
        by a process that holds no other request (``alone``). A claim that reaches a suspect that it may not take
        returns the requests before it and sets `Claim.suspects_wait`. If ``priorities`` is not empty, a claim returns
        the requests before the first one of another priority, so that no request is overtaken.
        """
        token = secrets.token_hex(8)
        with suppress(IndexError):
            token = self._lost_claims.pop()
        count = min(count, MAX_REQUESTS_PER_CALL)
        arguments = [count, round(lease_s * 1e6), token, int(alone), SUSPECT_AFTER]
        arguments += (f" {' '.join(priorities)} " if priorities else "", round(patience_s * 1e6), enough)
        try:
            wake = [self._key["backlog"]] if is_spare else [self._key["wake"], self._key["backlog"]]
            if wait_s > 0:
                reply = ClaimReply(self._calls.run_woken("claim", arguments, wait_s, wake))
            else:
                reply = ClaimReply(self._calls.run("claim", arguments))
            self.clock.learn(reply.now_s)
            return reply.claim(token, *(reply.records_and_payloads or self._read(reply.ids)))
        except RedisError:
            self._lost_claims.append(token)
            raise

    def renew(self, held: Mapping[str, str], *, lease_s: float) -> list[str]:
        """Extend the leases of the claims to which the requests ``held`` (id -> attempt token) belong.

        A claim has one lease for all its requests. Returns the ids that are no longer held,
        because they were reaped, finished or canceled.
        """
        if not held:
            return []
        reply = self._calls.run("renew", [round(lease_s * 1e6), *_flat(held)])
        return [id.decode() for id in reply]

    def finish(self, requests: Sequence[Request], *, busy_s: float = 0.0, may_stream: bool = False) -> list[bool]:
        """Store and publish the outcomes of a batch in one round trip.

        Returns False for each request whose outcome was refused, because its claim no longer holds it. ``busy_s`` is
        the device time of the batch, from which the queue estimates waiting times. With ``may_stream``, event streams
        get their last event.
        """
        if not requests:
            return []
        described, documents = encode_finished(_bounded(requests), self._now_us())
        arguments = [self._result_ttl_s, round(busy_s * 1e6), self._channel, int(may_stream), *described]
        ids = [request.id for request in requests]
        by_key = {result_key(id): document for id, document in zip(ids, documents, strict=True)}
        late: Any = None
        if FEW_DOCUMENTS < len(requests) == len(by_key):
            # A full Redis refuses every transaction with a command that stores, but runs the script below.
            with suppress(OutOfMemoryError, ExecAbortError):
                publish = [self._result_ttl_s, self._channel, described[0]]
                deleted = (self._key["jobs"], self._key["payloads"]), ids
                late = self._calls.run_around_mset(("finish", arguments), deleted, by_key, ("publish_results", publish))
        if late is None:
            late = self._calls.run("finish", arguments + documents)
        return [number + 1 not in late for number in range(len(requests))]

    def release(self, held: Mapping[str, str]) -> int:
        """Return requests (id -> attempt token) to their old place in the queue, without counting an attempt."""
        return int(self._calls.run("release", _flat(held))) if held else 0

    def cancel(self, id: str) -> bool:
        """Finish a request as canceled; return False if it is neither waiting nor claimed."""
        _, head = encode_outcome(Failed(Canceled("canceled by request")))
        arguments = [id, self._result_ttl_s, self._channel, head, canceled_channel(self.model)]
        return bool(self._calls.run("cancel", arguments, [result_key(id), events_key(id)]))

    def reap(self) -> int:
        """Requeue or finish the requests of expired leases, and finish those past their deadline; return how many."""
        lost, late = self._calls.run("find_overdue", [MAX_REAPED_PER_CALL])
        ids: list[str] = []
        arguments: list[Any] = [self._result_ttl_s, self._channel]
        for token, id, attempts in zip(lost[0::3], lost[1::3], lost[2::3], strict=True):
            ids.append(id.decode())
            verdict = decide_retry(int(attempts) + 1, self._max_attempts)
            if isinstance(verdict, GiveUp):
                error = AttemptsExhausted(verdict.reason)
                arguments += (id, token, "dead", encode_outcome(Failed(error))[1], orjson.dumps(describe(error)))
            else:
                arguments += (id, token, "retry", b"", b"")
        for id in late:
            ids.append(id.decode())
            arguments += (id, b"", "expired", encode_outcome(expired())[1], b"")
        keys = [*map(result_key, ids), *map(events_key, ids)]
        return int(self._calls.run("reap", arguments, keys)) if ids else 0

    def heartbeat(self, worker: str, heartbeat: Heartbeat, *, stale_s: float) -> None:
        """Store the heartbeat of a worker, and remove workers without one for ``stale_s`` seconds."""
        self._calls.run("heartbeat", [worker, heartbeat.encode(), round(stale_s * 1e6)])

    def observe(self, counts: Mapping[str, int]) -> None:
        """Add ``counts``, from `Observations.take_out`, to the sums over all workers."""
        store_observations(self._redis, self.model, counts)

    def lookup(self, id: str) -> Prediction | None:
        """Return an unfinished request of this model, or a finished one of any model; None if there is none."""
        return find_prediction(self._redis, [self.model], id)

    def depth(self) -> Depth:
        """Return how many requests wait and run, and how fast the queue is."""
        return read_depth(self._redis, self.model)

    def workers(self, *, within_s: float) -> dict[str, Heartbeat]:
        """Return the last heartbeat of every worker that sent one in the last ``within_s`` seconds.

        Heartbeats that cannot be read are left out; see `decode_heartbeat`.
        """
        seconds, micros = self._redis.time()
        oldest_us = seconds * 1_000_000 + micros - round(within_s * 1e6)
        names = self._redis.zrangebyscore(self._key["workers"], oldest_us, "+inf")
        if not names:
            return {}
        infos = self._redis.hmget(self._key["info"], cast(list[str], names))
        return {
            name.decode(): heartbeat
            for name, info in zip(cast(list[bytes], names), cast(list[bytes | None], infos), strict=True)
            if info is not None and (heartbeat := decode_heartbeat(info)) is not None
        }

    def _read(self, ids: Sequence[bytes]) -> Sequence[Sequence[bytes | None]]:
        """Return the records and the payloads of requests."""
        if not ids:
            return [], []
        pipe = self._redis.pipeline(transaction=False)
        for name in ("jobs", "payloads"):
            pipe.hmget(self._key[name], list(ids))
        return pipe.execute()

    def _now_us(self) -> int:
        if not self.clock.is_set:
            seconds, micros = self._redis.time()
            self.clock.learn(seconds + micros / 1e6)
        return round(self.clock.now_s() * 1e6)


def expired() -> Failed:
    """Return the outcome of a request whose deadline passed before it was started."""
    return Failed(DeadlineExceeded("the deadline passed before a worker could start it"))


def _flat(held: Mapping[str, str]) -> list[str]:
    return [part for pair in _bounded(list(held.items())) for part in pair]


def _bounded(items: Sequence[T]) -> Sequence[T]:
    if len(items) > MAX_REQUESTS_PER_CALL:
        raise ValueError(f"{len(items)} requests in one call; at most {MAX_REQUESTS_PER_CALL}")
    return items
