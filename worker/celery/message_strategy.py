"""How ``windrow.predict`` messages are taken: in the worker's parent process, straight onto the model's queue.

So Celery callers share batches, fairness and limits with everyone else, and no pool process is spent on waiting.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from celery.worker.state import revoked
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from redis import Redis
from redis.exceptions import RedisError

from windrow.errors import InvalidInput, ModelUnusable, UnknownModel, WindrowError
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.connection.connect import connect
from windrow.scheduler.core.exception_text import describe_exception
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_failures
from windrow.scheduler.queue import RedisQueue, Submission, result_key
from windrow.scheduler.queue.load_failures import read_reasons
from windrow.scheduler.tasks import TASKS

log = logging.getLogger(__name__)
TENANT = "celery"
#: What a message may carry that the queue cannot do: refused, not dropped.
CANVAS = ("callbacks", "errbacks", "chain", "chord")
#: While the queue is full, the message is looked at again after so many seconds.
RETRY_S = 1.0
#: Result keys and documents carry the id as it is.
TASK_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
LONGEST_DEADLINE_MS = 7 * 24 * 3600 * 1000
#: For so long it is believed what was last heard of a model's workers, in seconds.
BELIEVED_S = 1.0


class PredictCall(BaseModel):
    """The keyword arguments of ``windrow.predict``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    input: Any
    parameters: dict[str, Any] | None = None
    priority: Literal["high", "normal", "low"] = "normal"
    deadline_ms: float | None = Field(None, gt=0, le=LONGEST_DEADLINE_MS)


class ModelQueues:
    """The queues that calls may go to, by model."""

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._queues = {
            name: RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
            for name in settings.models
        }
        #: Model -> when its workers were last asked about, `time.monotonic`, and why it is of no use; None where it is.
        self._heard: dict[str, tuple[float, str | None]] = {}

    def of(self, model: str) -> RedisQueue:
        """Raises `UnknownModel`, or `ModelUnusable` where workers could not load it and none serves it.

        Where none is there at all the call waits for one, as with any Celery task.
        """
        if model not in self._queues:
            raise UnknownModel(f"unknown model {model[:64]!r}; there are {', '.join(self._queues)}")
        at_s, trouble = self._heard.get(model, (float("-inf"), None))
        if (now_s := time.monotonic()) > at_s + BELIEVED_S:
            trouble = self._trouble(model)
            self._heard[model] = now_s, trouble
        if trouble:
            raise ModelUnusable(trouble)
        return self._queues[model]

    def _trouble(self, model: str) -> str | None:
        reasons = read_reasons(self._redis, model)
        if not reasons or self._queues[model].workers(within_s=HEARD_WITHIN_S):
            return None
        return describe_failures(model, reasons)


def put_on_the_queue(task: Any, app: Any, consumer: Any, **_: Any) -> Callable[..., None]:
    """Celery's Strategy interface: return the function that handles each message of the task."""
    from windrow.worker.celery.app import settings

    redis = connect(settings.redis_url)
    queues = ModelQueues(redis, settings)

    def on_message(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **_: Any) -> None:
        id = message.headers.get("id")
        if not isinstance(id, str):  # raised here, it would come again and again
            log.warning("a message without a task id in its headers, as protocol 1 has them, was dropped")
            return ack(log, consumer.connection_errors)
        try:
            left_s = _seconds_left(message.headers.get("expires"))
            if id in revoked:
                app.backend.mark_as_revoked(id, "revoked", request=None)
            elif left_s is not None and left_s <= 0:
                app.backend.mark_as_revoked(id, "expired", request=None)
            elif not redis.exists(result_key(id)):  # else delivered twice, and answered already
                submit_call(queues, settings, id, message.headers, message.payload, left_s)
        except RedisError as error:
            log.warning("prediction %s goes back to the broker: %s", id, error)
            reject(log, consumer.connection_errors, requeue=True)
            return
        except Exception as error:  # raised here, it would end the worker
            if isinstance(error, WindrowError) and error.retryable:
                log.warning("prediction %s has to wait: %s", id, error.detail)
                consumer.timer.call_after(RETRY_S, on_message, (message, body, ack, reject, callbacks))
                return
            said = error.detail if isinstance(error, WindrowError) else describe_exception(error)
            log.warning("prediction %s is refused: %s", id, said)
            app.backend.mark_as_failure(id, error if isinstance(error, WindrowError) else InvalidInput(str(error)))
        ack(log, consumer.connection_errors)

    return on_message


def submit_call(
    queues: ModelQueues,
    settings: Settings,
    id: str,
    headers: Mapping[str, Any],
    payload: Any,
    left_s: float | None,
) -> None:
    """Queue one message's call under the task's own id; raise `WindrowError` where it is not one we take."""
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
    queue, model = queues.of(call.model), settings.models[call.model]
    try:
        body = orjson.dumps({"model": call.model, "input": call.input, "parameters": call.parameters or {}})
    except TypeError as error:  # half a surrogate pair, an integer past 64 bits
        raise InvalidInput(f"input or parameters: {error}") from None
    if len(body) > settings.max_body_bytes:
        raise InvalidInput(f"the call has {len(body)} bytes; at most {settings.max_body_bytes} are taken")
    limits = [seconds for seconds in (left_s, call.deadline_ms and call.deadline_ms / 1e3) if seconds is not None]
    task = TASKS[model.task]
    parameters = task.read_parameters(call.parameters)
    texts = task.texts(call.input, parameters, "input")
    # No text costs more than the model reads of it, or one caller's would stand for a queue of others.
    cost = task.estimate_tokens(texts, model.max_input_tokens or model.max_batch_tokens)
    cost += task.extra_tokens(call.input, parameters)
    queue.submit(
        [Submission(id, body, cost, min(limits, default=None))],
        flow=flow_name(TENANT, call.priority),
        weight=PRIORITY_WEIGHTS[call.priority],
        max_depth=model.max_depth,
        max_bytes=model.max_queue_bytes,
    )


def read_call(kwargs: Any) -> PredictCall:
    """Check the keyword arguments; raise `InvalidInput` naming the one that is wrong and what it takes."""
    try:
        return PredictCall.model_validate(kwargs)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(str(part) for part in problem["loc"]) or "the keyword arguments"
        if problem["type"] == "extra_forbidden":
            takes = ", ".join(PredictCall.model_fields)
            raise InvalidInput(f"unknown argument {name!r}; windrow.predict takes {takes}") from None
        raise InvalidInput(f"{name}: {problem['msg']}") from None


def _seconds_left(expires: str | None) -> float | None:
    if expires is None:
        return None
    moment = datetime.fromisoformat(expires)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
