"""The queue of one model in Redis: every change is one Lua script, so it happens whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from redis import Redis
from redis.commands.core import Script

from scheduler.core.errors import AttemptsExhausted, Canceled, DeadlineExceeded, IdempotencyConflict, QueueFull
from scheduler.core.outcomes import Failed
from scheduler.core.retry import GiveUp, decide_retry
from scheduler.queue.records import (
    Claim,
    Ending,
    Prediction,
    Submission,
    encode_ending,
    encode_exception,
    encode_run,
    ended_prediction,
    parse_claim,
    waiting_prediction,
)
from scheduler.queue.scripts import load_scripts

T = TypeVar("T")

#: Requests in one script call; Lua's stack holds about 8,000 values.
MAX_REQUESTS_PER_CALL = 1000
#: In the order of the key schema, lua/schema.lua.
KEY_NAMES = (
    "ready", "jobs", "leases", "owners", "attempts", "flows", "state", "wake", "deadlines", "dead", "workers", "info",
)  # fmt: skip
REAPED_PER_CALL = 500


def result_key(id: str) -> str:
    """Key and channel of a result: Celery's own."""
    return f"celery-task-meta-{id}"


def finished_channel(model: str) -> str:
    """Channel that gets one message per batch: the ids that ended, separated by spaces."""
    return f"windrow:{model}:finished"


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a model's queue is, and how fast it empties."""

    waiting: int
    running: int
    workers: int
    #: Device time of one request in seconds, averaged; None before the first.
    service_s: float | None
    #: Payload bytes of everything not ended.
    payload_bytes: int
    #: Requests by what became of them: submitted, rejected, succeeded, failed, canceled, expired, redelivered, late.
    counts: dict[str, int]

    @property
    def wait_s(self) -> float | None:
        """Expected seconds until a request submitted now has ended; None before anything was measured."""
        if self.service_s is None:
            return None
        return (self.waiting + self.running + 1) * self.service_s / max(1, self.workers)


class RedisQueue:
    """Submit, claim, finish and what lies between, for one model.

    Safe to share between threads. Redis errors pass through as `redis.exceptions.RedisError`.
    """

    def __init__(self, redis: Redis, model: str, *, result_ttl_s: int = 3600, max_attempts: int = 3) -> None:
        self.model = model
        self._redis = redis
        self._result_ttl_s = result_ttl_s
        self._max_attempts = max_attempts
        self._keys = [f"windrow:{model}:{name}" for name in KEY_NAMES]
        self._key = dict(zip(KEY_NAMES, self._keys, strict=True))
        self._loaded: dict[str, Script] | None = None

    def submit(
        self,
        submissions: Sequence[Submission],
        *,
        flow: str,
        weight: float,
        max_depth: int,
        max_bytes: int,
        idempotency: tuple[str, str] | None = None,
    ) -> list[str]:
        """Queue all of ``submissions`` in one round trip, or none, and return their ids.

        ``idempotency`` is ``(key, fingerprint)``: the same pair again returns the ids of the first call.
        Raises `QueueFull`, or `IdempotencyConflict` where the key came with another fingerprint.
        """
        key, fingerprint = idempotency or ("", "")
        arguments: list[Any] = [max_depth, max_bytes, flow, weight, fingerprint, self._result_ttl_s]
        for item in _bounded(submissions):
            left_us = 0 if item.deadline_s is None else max(1, round(item.deadline_s * 1e6))
            arguments += (item.id, item.cost_tokens, left_us, item.payload)
        reply = self._run("submit", [f"windrow:idempotency:{key}"] if key else [], arguments)
        match reply:
            case [b"full", what, depth]:
                raise self._full(what.decode(), int(depth), len(submissions), max_depth, max_bytes)
            case [b"same", ids]:
                return cast(bytes, ids).decode().split()
            case [b"conflict"]:
                raise IdempotencyConflict("this Idempotency-Key was used before with another body; use a new key")
        return [item.id for item in submissions]

    def claim(self, count: int, *, lease_s: float) -> Claim:
        """Take up to ``count`` requests in fair order; each is ours until ``lease_s`` seconds pass."""
        token = secrets.token_hex(8)
        reply = self._run("claim", [], [min(count, MAX_REQUESTS_PER_CALL), round(lease_s * 1e6), token])
        return parse_claim(token, reply)

    def wait_for_work(self, timeout_s: float) -> None:
        """Block until something waits, or ``timeout_s`` passes. Only a hint: claim either way."""
        self._redis.blpop([self._key["wake"]], timeout=timeout_s)

    def renew(self, held: Mapping[str, str], *, lease_s: float) -> list[str]:
        """Extend the leases of ``held`` (id -> token); return the ids no longer held: reaped, ended or canceled."""
        if not held:
            return []
        reply = self._run("renew", [], [round(lease_s * 1e6), *_flat(held)])
        return [id.decode() for id in reply]

    def finish(self, endings: Sequence[Ending], *, busy_s: float = 0.0) -> list[bool]:
        """Store and announce the ends of a batch in one round trip; False where another end had come first.

        ``busy_s`` is the device time the batch took, from which the queue estimates waits.
        """
        if not endings:
            return []
        arguments: list[Any] = [self._result_ttl_s, round(busy_s * 1e6), finished_channel(self.model)]
        for ending in _bounded(endings):
            arguments += (ending.id, ending.token, *encode_ending(ending))
        reply = self._run("finish", [result_key(ending.id) for ending in endings], arguments)
        return [flag == 1 for flag in reply]

    def release(self, held: Mapping[str, str]) -> int:
        """Give unstarted requests (id -> token) back to the front, without counting an attempt."""
        return int(self._run("release", [], _flat(held))) if held else 0

    def cancel(self, id: str) -> bool:
        """End a request as canceled; False where it is not waiting or running here."""
        error = Canceled("canceled by request")
        arguments = [id, self._result_ttl_s, finished_channel(self.model), encode_exception(error)]
        return bool(self._run("cancel", [result_key(id)], [*arguments, encode_run(error, None, {})]))

    def reap(self) -> int:
        """Put requests of lost workers back, end those out of attempts or past their deadline; return how many."""
        lost, late = self._run("overdue", [], [REAPED_PER_CALL])
        if not lost and not late:
            return 0
        ids: list[str] = []
        arguments: list[Any] = [self._result_ttl_s, finished_channel(self.model)]
        for at in range(0, len(lost), 2):
            ids.append(lost[at].decode())
            verdict = decide_retry(int(lost[at + 1]) + 1, self._max_attempts)
            if isinstance(verdict, GiveUp):
                error = AttemptsExhausted(verdict.reason)
                arguments += (ids[-1], "dead", encode_exception(error), encode_run(error, None, {}))
            else:
                arguments += (ids[-1], "retry", b"", b"")
        for id in late:
            ids.append(id.decode())
            _, result, _, run = encode_ending(Ending(ids[-1], "", expired()))
            arguments += (ids[-1], "expired", result, run)
        return int(self._run("reap", [result_key(id) for id in ids], arguments))

    def heartbeat(self, worker: str, info: bytes, *, stale_s: float) -> None:
        """Say that ``worker`` serves this model; ``info`` is its description as JSON."""
        self._run("heartbeat", [], [worker, info, round(stale_s * 1e6)])

    def lookup(self, id: str) -> Prediction | None:
        """What is known of ``id``: waiting or running here, or ended anywhere; None where neither."""
        return find_prediction(self._redis, [self.model], id)

    def depth(self) -> Depth:
        """How much waits and runs, and how fast it goes."""
        pipe = self._redis.pipeline(transaction=False)
        for name in ("ready", "leases", "workers"):
            pipe.zcard(self._key[name])
        pipe.hgetall(self._key["state"])
        waiting, running, workers, state = pipe.execute()
        state = {name.decode(): value for name, value in state.items()}
        state.pop("vtime", None)
        service_us = state.pop("service_us", None)
        return Depth(
            waiting, running, workers, None if service_us is None else float(service_us) / 1e6,
            int(state.pop("bytes", 0)), {name: int(value) for name, value in state.items()},
        )  # fmt: skip

    def workers(self, *, within_s: float) -> dict[str, bytes]:
        """Workers heard of in the last ``within_s`` seconds: name -> info JSON."""
        seconds, micros = self._redis.time()
        oldest_us = seconds * 1_000_000 + micros - round(within_s * 1e6)
        names = self._redis.zrangebyscore(self._key["workers"], oldest_us, "+inf")
        if not names:
            return {}
        infos = self._redis.hmget(self._key["info"], cast(list[str], names))
        return {
            name.decode(): info
            for name, info in zip(cast(list[bytes], names), cast(list[bytes | None], infos), strict=True)
            if info is not None
        }

    def _run(self, script: str, more_keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        if self._loaded is None:
            self._loaded = load_scripts(self._redis)
        return self._loaded[script](keys=[*self._keys, *more_keys], args=arguments)

    def _full(self, what: str, depth: int, count: int, max_depth: int, max_bytes: int) -> QueueFull:
        wait_s = self.depth().wait_s
        if what == "depth":
            detail = f"{depth} requests wait for model {self.model!r}, {count} more came, and {max_depth} may wait"
        else:
            detail = f"the requests waiting for model {self.model!r} would hold more than {max_bytes} bytes"
        return QueueFull(detail, retry_after_s=1.0 if wait_s is None else max(1.0, wait_s / 2))


def find_prediction(redis: Redis, models: Sequence[str], id: str) -> Prediction | None:
    """Look for ``id`` among what waits and runs in ``models`` and among all results; None where it is nowhere."""
    pipe = redis.pipeline(transaction=False)
    for model in models:
        pipe.hget(f"windrow:{model}:jobs", id)
        pipe.hexists(f"windrow:{model}:owners", id)
    # Results are read last: a request that ends in between has left its model and is found here.
    pipe.get(result_key(id))
    *waiting, result = pipe.execute()
    if result is not None:
        return ended_prediction(result) if b'"windrow":{' in result else None
    for record, owned in zip(waiting[::2], waiting[1::2], strict=True):
        if record is not None:
            return waiting_prediction(id, record, "processing" if owned else "queued")
    return None


def find_predictions(redis: Redis, model: str, ids: Sequence[str]) -> list[Prediction | None]:
    """Look for many requests of one model in one round trip; in the order of ``ids``, None for each that is nowhere."""
    if not ids:
        return []
    pipe = redis.pipeline(transaction=False)
    pipe.hmget(f"windrow:{model}:jobs", list(_bounded(ids)))
    pipe.hmget(f"windrow:{model}:owners", list(ids))
    pipe.mget([result_key(id) for id in ids])
    found: list[Prediction | None] = []
    for id, record, owner, result in zip(ids, *pipe.execute(), strict=True):
        if result is not None:
            found.append(ended_prediction(result) if b'"windrow":{' in result else None)
        elif record is not None:
            found.append(waiting_prediction(id, record, "queued" if owner is None else "processing"))
        else:
            found.append(None)
    return found


def expired() -> Failed:
    """The outcome of a request whose deadline passed before it was started."""
    return Failed(DeadlineExceeded("the deadline passed before a worker could start it"))


def _flat(held: Mapping[str, str]) -> list[str]:
    return [part for pair in _bounded(list(held.items())) for part in pair]


def _bounded(items: Sequence[T]) -> Sequence[T]:
    if len(items) > MAX_REQUESTS_PER_CALL:
        raise ValueError(f"{len(items)} requests in one call; at most {MAX_REQUESTS_PER_CALL}")
    return items
