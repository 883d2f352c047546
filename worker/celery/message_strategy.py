"""The Celery strategy of ``windrow.predict``: the worker's parent process queues each message itself.

Requests of Celery callers therefore share batches, fairness and limits with all others, and no pool process is
occupied by waiting for results.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from celery.worker.state import revoked
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis.exceptions import RedisError

from windrow.errors import InvalidInput, ModelUnusable, NoWorker, WindrowError
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.intake import Intake, SubmitCall
from windrow.scheduler.queue import RedisQueue, result_key
from windrow.worker.celery.worker_settings import worker_settings

log = logging.getLogger(__name__)
#: The tenant of all Celery callers; no table in the settings may have this name.
TENANT = "celery"
#: Fields of a message that the queue cannot fulfil. A message with one of them is refused.
CANVAS = ("callbacks", "errbacks", "chain", "chord")
#: While the model's queue is full, a message is submitted again after this many seconds.
RETRY_S = 1.0
#: Redis keys and result documents contain the id without escaping.
TASK_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
MAX_DEADLINE_MS = 7 * 24 * 3600 * 1000


class PredictCall(BaseModel):
    """The keyword arguments of ``windrow.predict``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: Any
    parameters: dict[str, Any] | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    deadline_ms: float | None = Field(None, gt=0, le=MAX_DEADLINE_MS)


def put_on_the_queue(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Return the function that handles each message of the task: Celery's Strategy interface."""

    settings = worker_settings()
    redis = connect(settings.redis_url)
    queues = {
        name: RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
        for name in settings.models
    }
    intake = Intake(settings, redis, queues)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        id = message.headers.get("id")
        if not isinstance(id, str):  # an exception here would make the broker deliver the message again and again
            log.warning("dropped a message of protocol 1, which has no task id in its headers; use task_protocol 2")
            return ack(log, consumer.connection_errors)
        try:
            left_s = _seconds_left(message.headers.get("expires"))
            if id in revoked:
                app.backend.mark_as_revoked(id, "revoked", request=None)
            elif left_s is not None and left_s <= 0:
                app.backend.mark_as_revoked(id, "expired", request=None)
            elif not redis.exists(result_key(id)):  # a message that was delivered twice has a result already
                submit_message(intake, id, message.headers, message.payload, left_s)
        except RedisError as error:
            log.warning("prediction %s returns to the broker: %s", id, error)
            reject(log, consumer.connection_errors, requeue=True)
            return
        except Exception as error:  # an exception here would end the worker
            if isinstance(error, WindrowError) and error.retryable:
                log.warning("prediction %s waits: %s", id, error.detail)
                consumer.timer.call_after(RETRY_S, on_message, (message, body, ack, reject, callbacks))
                return
            detail = error.detail if isinstance(error, WindrowError) else describe_exception(error)
            log.warning("prediction %s is refused: %s", id, detail)
            app.backend.mark_as_failure(id, error if isinstance(error, WindrowError) else InvalidInput(str(error)))
        ack(log, consumer.connection_errors)

    return on_message


def submit_message(intake: Intake, id: str, headers: Mapping[str, Any], payload: Any, left_s: float | None) -> None:
    """Queue the call of one message under its task id; raises `WindrowError` for a call that is not accepted.

    The call waits for a worker, as any Celery task does, unless workers failed to load its model.
    """
    args, kwargs, embed = payload
    if args:
        raise InvalidInput("windrow.predict takes keyword arguments only: " + ", ".join(PredictCall.model_fields))
    if any(embed.get(name) for name in CANVAS):
        raise InvalidInput("windrow.predict takes no link, chain or chord; get() its result and send the next task")
    if headers.get("eta"):
        raise InvalidInput("windrow.predict takes no eta or countdown; send it when it is due")
    if not TASK_ID.fullmatch(id):
        raise InvalidInput("the task id takes letters, digits, '.', '_', ':' and '-', at most 128")
    call = read_call(kwargs)
    _require_size(call, intake.settings.max_body_bytes)
    limits_s = [seconds for seconds in (left_s, call.deadline_ms and call.deadline_ms / 1e3) if seconds is not None]
    submit = SubmitCall(
        model=call.model,
        inputs=[call.input],
        parameters=intake.read_parameters(call.model, call.parameters),
        priority=call.priority,
        deadline_s=min(limits_s, default=None),
        waits_for_worker=True,
    )
    try:
        intake.submit(submit, TENANT, [id])
    except (NoWorker, ModelUnusable) as error:
        raise ModelUnusable(intake.load_failure(call.model) or error.detail) from None


def read_call(kwargs: Any) -> PredictCall:
    """Validate the keyword arguments; raises `InvalidInput` with the wrong one and what it accepts."""
    try:
        return PredictCall.model_validate(kwargs)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"]) or "the keyword arguments"
        if problem["type"] == "extra_forbidden":
            accepted = ", ".join(PredictCall.model_fields)
            raise InvalidInput(f"unknown argument {name!r}; windrow.predict takes {accepted}") from None
        raise InvalidInput(f"{name}: {problem['msg']}") from None


def _require_size(call: PredictCall, max_bytes: int) -> None:
    try:
        size_bytes = len(orjson.dumps([call.input, call.parameters]))
    except TypeError as error:  # half a surrogate pair, or an integer that needs more than 64 bits
        raise InvalidInput(f"input or parameters: {error}") from None
    if size_bytes > max_bytes:
        raise InvalidInput(f"input and parameters have {size_bytes} bytes; at most {max_bytes} are accepted")


def _seconds_left(expires: str | None) -> float | None:
    if expires is None:
        return None
    moment = datetime.fromisoformat(expires)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
