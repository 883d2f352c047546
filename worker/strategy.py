"""How ``windrow.predict`` messages are taken: in the worker's parent process, straight onto the model's queue.

So Celery callers share batches, fairness and limits with everyone else, and no pool process is spent on waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from celery.worker.state import revoked
from redis.exceptions import RedisError

from scheduler.core.errors import InvalidInput, UnknownModel, WindrowError
from scheduler.core.fairness import PRIORITY_WEIGHTS, estimate_cost_tokens, flow_name
from scheduler.queue import RedisQueue, Submission, result_key
from scheduler.queue.connection import connect
from scheduler.settings import Settings

log = logging.getLogger(__name__)
TENANT = "celery"
FIELDS = frozenset({"model", "input", "parameters", "priority", "deadline_ms"})
#: What a message may carry that the queue cannot do: refused, not dropped.
CANVAS = ("callbacks", "errbacks", "chain", "chord")
#: While the queue is full or Redis is away, the message is looked at again after so many seconds.
RETRY_S = 1.0


def put_on_the_queue(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Celery's Strategy interface: return the function that handles each message of the task."""
    from worker.celery import settings

    redis = connect(settings.redis_url)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        id = message.headers["id"]
        try:
            left_s = _seconds_left(message.headers.get("expires"))
            if id in revoked:
                app.backend.mark_as_revoked(id, "revoked", request=None)
            elif left_s is not None and left_s <= 0:
                app.backend.mark_as_revoked(id, "expired", request=None)
            elif not redis.exists(result_key(id)):  # else delivered twice, and answered already
                submit_call(redis, settings, id, message.payload, left_s)
        except WindrowError as error:
            if error.retryable:
                log.warning("prediction %s has to wait: %s", id, error.detail)
                consumer.timer.call_after(RETRY_S, on_message, (message, body, ack, reject, callbacks))
                return
            app.backend.mark_as_failure(id, error)
        except RedisError as error:
            log.warning("prediction %s goes back to the broker: %s", id, error)
            reject(log, consumer.connection_errors, requeue=True)
            return
        ack(log, consumer.connection_errors)

    return on_message


def submit_call(redis: Any, settings: Settings, id: str, payload: Any, left_s: float | None) -> None:
    """Queue one message's call under the task's own id; raise `WindrowError` where it is not one we take."""
    args, call, embed = payload
    if args:
        raise InvalidInput("windrow.predict takes keyword arguments only: " + ", ".join(sorted(FIELDS)))
    if any(embed.get(name) for name in CANVAS):
        raise InvalidInput("windrow.predict takes no link, chain or chord; get() its result and send the next task")
    if unknown := call.keys() - FIELDS:
        raise InvalidInput(f"unknown argument {min(unknown)!r}; windrow.predict takes {', '.join(sorted(FIELDS))}")
    name = call.get("model")
    if name not in settings.models:
        raise UnknownModel(f"unknown model {name!r}; there are {', '.join(settings.models)}")
    model = settings.models[name]
    priority = call.get("priority", "normal")
    if priority not in PRIORITY_WEIGHTS:
        raise InvalidInput(f"priority {priority!r}: takes {', '.join(PRIORITY_WEIGHTS)}")
    body = orjson.dumps({"model": name, "input": call.get("input"), "parameters": call.get("parameters") or {}})
    if len(body) > settings.max_body_bytes:
        raise InvalidInput(f"the call has {len(body)} bytes; at most {settings.max_body_bytes} are taken")
    cost = estimate_cost_tokens(len(call["input"])) if isinstance(call.get("input"), str) else 1
    submission = Submission(id, body, cost, _deadline_s(call, left_s))
    RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s).submit(
        [submission],
        flow=flow_name(TENANT, priority),
        weight=PRIORITY_WEIGHTS[priority],
        max_depth=model.max_depth,
        max_bytes=model.max_queue_bytes,
    )


def _deadline_s(call: Mapping[str, Any], left_s: float | None) -> float | None:
    deadline_ms = call.get("deadline_ms")
    if deadline_ms is None:
        return left_s
    if isinstance(deadline_ms, bool) or not isinstance(deadline_ms, (int, float)) or not deadline_ms > 0:
        raise InvalidInput(f"deadline_ms {deadline_ms!r}: takes milliseconds above 0")
    return deadline_ms / 1e3 if left_s is None else min(left_s, deadline_ms / 1e3)


def _seconds_left(expires: str | None) -> float | None:
    if expires is None:
        return None
    moment = datetime.fromisoformat(expires)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
