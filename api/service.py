"""What the API knows of one model and of Redis, and the calls its routes make: submit, find, cancel, wait."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from redis import Redis
from redis.exceptions import RedisError

from windrow.api.inputs import InputCheck
from windrow.api.subscriptions.event_followers import Followers
from windrow.api.subscriptions.waiters import Waiter, Waiters
from windrow.errors import (
    InvalidInput,
    InvalidSetting,
    NoWorker,
    PredictionGone,
    RedisUnavailable,
    UnknownModel,
    UnknownPrediction,
)
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.tenant_settings import TenantSettings
from windrow.scheduler.connection.server_check import ServerCheck
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name
from windrow.scheduler.core.heartbeats import HEARD_WITHIN_S, describe_failures, describe_trouble
from windrow.scheduler.core.webhooks import parse_url
from windrow.scheduler.queue import Prediction, RedisQueue, Submission, finished_channel
from windrow.scheduler.queue.idempotency import find_first
from windrow.scheduler.queue.ids import is_issued, make_id, shared_secret
from windrow.scheduler.queue.load_failures import read_reasons
from windrow.scheduler.queue.lookup import find_prediction, find_predictions
from windrow.scheduler.queue.records import encode_call
from windrow.scheduler.tasks import TASKS, Parameters

#: How old an answer about workers and queue depth may be, in seconds.
FRESH_S = 1.0
#: How often it is looked whether a waiting client is still there, where it asked for that. In seconds.
LOOK_S = 0.5
#: What a tenant may that no table names.
PLAIN_TENANT = TenantSettings.model_validate({})
#: What could not be loaded is not mended sooner, in seconds; longer than clients go on trying by themselves.
MENDED_AFTER_S = 120.0
#: How long the signing secret is trusted to be that of everybody else, in seconds: Redis may have been emptied.
SECRET_S = 30.0


@dataclass(frozen=True, slots=True)
class SubmitCall:
    """One submit, checked: inputs for one model and what applies to all of them."""

    model: str
    inputs: Sequence[object]
    #: Of the model's task, as `Service.read_parameters` reads them.
    parameters: Parameters
    priority: str = "normal"
    deadline_s: float | None = None
    idempotency_key: str | None = None
    #: HTTPS URL that is told of each end.
    webhook: str | None = None
    #: Somebody wants the event stream, where the model has one.
    is_followed: bool = False
    #: True for the batch route, which names inputs by their index and never equals a call of the other.
    is_batch: bool = False

    def fingerprint(self) -> str:
        """The same for the same call, whatever the order and spelling of its JSON."""
        parameters = self.parameters.sent()
        what = [self.is_batch, self.model, self.inputs, parameters, self.priority, self.deadline_s]
        what += [] if self.webhook is None else [self.webhook]
        return hashlib.sha256(orjson.dumps(what, option=orjson.OPT_SORT_KEYS)).hexdigest()


@dataclass(slots=True)
class _ModelState:
    """When a model was last looked at, and what was seen."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    seen_at_s: float = float("-inf")
    #: Makes the error that submits get; None where they are taken.
    refused: Callable[[], NoWorker] | None = None
    wait_s: float | None = None


class Service:
    """One per process, shared by all its requests. `redis.exceptions.RedisError` passes through."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        self.settings = settings
        self.redis = redis
        self.server = ServerCheck(redis)
        self.queues = {
            name: RedisQueue(redis, name, result_ttl_s=settings.result_ttl_s, max_attempts=settings.max_attempts)
            for name in settings.models
        }
        self.waiters = Waiters(redis, [finished_channel(name) for name in settings.models])
        self.followers = Followers(redis, list(settings.models), self.waiters)
        self._checks = {name: InputCheck(model) for name, model in settings.models.items()}
        self._pulses = {name: _ModelState() for name in settings.models}
        self._secret = b""
        self._secret_at_s = float("-inf")

    def require_model(self, name: str) -> ModelSettings:
        """The settings of the model of that name; raises `UnknownModel`."""
        if name not in self.settings.models:
            raise UnknownModel(f"no model {name[:64]!r} is served here; there are {', '.join(self.settings.models)}")
        return self.settings.models[name]

    def read_parameters(self, model: str, value: Mapping[str, Any] | None) -> Parameters:
        """The parameters that ``model`` takes; raises `UnknownModel`, or `InvalidInput` naming what is accepted."""
        return self._check_of(model).read_parameters(value)

    def check(self, call: SubmitCall) -> list[int]:
        """Return what each input costs in tokens, or raise what is wrong with the first that cannot be served."""
        check = self._check_of(call.model)
        names = (f"inputs.{at}" for at in range(len(call.inputs))) if call.is_batch else ("input",)
        return [
            check.cost_tokens(value, call.parameters, where=name)
            for name, value in zip(names, call.inputs, strict=True)
        ]

    def _check_of(self, model: str) -> InputCheck:
        self.require_model(model)
        return self._checks[model]

    def new_ids(self, tenant: str, count: int) -> list[str]:
        """Ids that only this deployment can have made."""
        secret = self._shared_secret()
        return [make_id(secret, tenant) for _ in range(count)]

    def submit(self, call: SubmitCall, tenant: str, ids: Sequence[str], costs: Sequence[int]) -> list[str]:
        """Queue every input under its id, or none, in one round trip; an idempotent repeat returns the first ids.

        Raises `QueueFull`, `QuotaExceeded`, `NoWorker` or `IdempotencyConflict`, `InvalidInput` for a webhook that
        cannot be sent, and `RedisUnavailable` for a Redis that would lose it.
        """
        if call.webhook is not None:
            if self.settings.webhook_key(tenant) is None:
                raise InvalidInput("webhook: no webhook_secret is configured that could sign it; poll, or Prefer: wait")
            parse_url(call.webhook, self.settings.webhook_networks)
        try:
            self.server.require()
        except InvalidSetting as error:  # it came after the application
            raise RedisUnavailable(error.detail) from None
        model = self.settings.models[call.model]
        limits = self.settings.tenants.get(tenant, PLAIN_TENANT)
        idempotency = (f"{tenant}:{call.idempotency_key}", call.fingerprint()) if call.idempotency_key else None
        if refused := self._pulse(call.model).refused:
            # What was taken in before is found all the same.
            first = find_first(self.redis, *idempotency) if idempotency else None
            if first is None:
                raise refused()
            return first
        parameters = call.parameters.sent()
        is_followed = call.is_followed and TASKS[model.task].streams
        submissions = [
            Submission(
                id=id,
                payload=encode_call(call.model, value, parameters, is_followed=is_followed),
                cost_tokens=cost,
                deadline_s=call.deadline_s,
                webhook=call.webhook,
                is_followed=is_followed,
            )
            for id, value, cost in zip(ids, call.inputs, costs, strict=True)
        ]
        return self.queues[call.model].submit(
            submissions,
            flow=flow_name(tenant, call.priority),
            weight=PRIORITY_WEIGHTS[call.priority] * limits.weight,
            max_depth=model.max_depth,
            max_bytes=model.max_queue_bytes,
            quota=limits.quota,
            idempotency=idempotency,
        )

    def accepted(self, call: SubmitCall, tenant: str, ids: Sequence[str]) -> list[Prediction]:
        """The predictions of a submit that was taken in.

        Where Redis cannot be asked any more they are told from the call: they were taken in, and the client needs ids.
        """
        try:
            found = find_predictions(self.redis, call.model, ids)
        except RedisError:
            return [_as_submitted(call, tenant, id, at) for at, id in enumerate(ids)]
        if None in found and call.idempotency_key:
            raise PredictionGone(
                "this Idempotency-Key was used before, and the result is no longer kept; use a new key"
            )
        if None in found:  # a Redis that replaced the one that took it in
            return [_as_submitted(call, tenant, id, at) for at, id in enumerate(ids)]
        return [known for known in found if known is not None]

    def find(self, id: str, tenant: str) -> Prediction:
        """The prediction of that id; raises `UnknownPrediction` or `PredictionGone`."""
        found = find_prediction(self.redis, list(self.queues), id) if len(id) <= 64 else None
        if found is not None and found.tenant == tenant:
            return found
        if found is None and is_issued(self._shared_secret(), tenant, id):
            raise PredictionGone(f"prediction {id} has ended and its result is no longer kept")
        raise UnknownPrediction(f"there is no prediction {id[:64]!r}")

    def find_ended(
        self, id: str, tenant: str, wait_s: float, has_hung_up: Callable[[], bool] | None = None
    ) -> Prediction:
        """The prediction of that id, once it has ended or ``wait_s`` have passed; see `wait`."""
        if wait_s <= 0:
            return self.find(id, tenant)
        with self.waiters.expect(id) as waiter:
            found = self.find(id, tenant)
            if found.is_ended:
                return found
            return self.wait(waiter, id, tenant, wait_s, has_hung_up) or self.find(id, tenant)

    def wait(
        self, waiter: Waiter, id: str, tenant: str, wait_s: float, has_hung_up: Callable[[], bool] | None
    ) -> Prediction | None:
        """The ended prediction; None where it has not ended in time, or the server stops.

        ``has_hung_up`` tells whether the client has left, which cancels the prediction; None where it need not.
        """
        if has_hung_up is None:
            return waiter.wait(wait_s)
        end_s = time.monotonic() + wait_s
        while (left_s := end_s - time.monotonic()) > 0:
            ended = waiter.wait(min(LOOK_S, left_s))
            if ended is not None or waiter.is_over:
                return ended
            if has_hung_up():
                return self.cancel(id, tenant)
        return None

    def cancel(self, id: str, tenant: str) -> Prediction:
        """End the prediction as canceled, unless it has ended already."""
        found = self.find(id, tenant)
        if found.is_ended or found.model not in self.queues:
            return found
        self.queues[found.model].cancel(id)
        return self.find(id, tenant)

    def wait_s(self, model: str) -> float | None:
        """Measured seconds until a request submitted now would end; None while unknown."""
        try:
            return self._pulse(model).wait_s if model in self._pulses else None
        except RedisError:
            return None

    def failures(self, model: str) -> dict[str, str]:
        """Workers that could not load ``model``, and why."""
        return read_reasons(self.redis, model)

    def trouble(self, model: str, within_s: float) -> str | None:
        """Why ``model`` is not served by anybody heard of in the last ``within_s`` seconds; None where it is."""
        infos = self.queues[model].workers(within_s=within_s)
        failures = {} if infos else self.failures(model)
        return describe_trouble(model, infos, within_s=within_s, stall_s=self.settings.stall_s, failures=failures)

    def _refusal(self, model: str) -> Callable[[], NoWorker] | None:
        """What says why nobody will soon serve ``model``; None where it is served, or was until a moment ago."""
        grace_s, workers = self.settings.worker_grace_s, self.queues[model].workers
        if workers(within_s=min(grace_s, HEARD_WITHIN_S)):
            return None
        if failures := self.failures(model):
            return partial(NoWorker, describe_failures(model, failures), retry_after_s=MENDED_AFTER_S)
        if workers(within_s=grace_s):
            return None
        return partial(NoWorker, f"no worker has served model {model!r} in the last {grace_s:g} s")

    def _pulse(self, model: str) -> _ModelState:
        """Workers and depth of ``model``, looked up by one request at a time while others use what was seen last."""
        pulse = self._pulses[model]
        if time.monotonic() - pulse.seen_at_s < FRESH_S:
            return pulse
        is_mine = pulse.lock.acquire(blocking=False)
        if not is_mine and pulse.seen_at_s > 0:
            return pulse
        try:
            pulse.refused = self._refusal(model)
            pulse.wait_s = self.queues[model].depth().wait_s
            pulse.seen_at_s = time.monotonic()
        finally:
            if is_mine:
                pulse.lock.release()
        return pulse

    def _shared_secret(self) -> bytes:
        if time.monotonic() - self._secret_at_s >= SECRET_S:
            self._secret = shared_secret(self.redis)
            self._secret_at_s = time.monotonic()
        return self._secret


def _as_submitted(call: SubmitCall, tenant: str, id: str, at: int) -> Prediction:
    return Prediction(
        id=id, model=call.model, status="queued", tenant=tenant, priority=call.priority, input=call.inputs[at],
        parameters={}, output=None, error=None, metrics={}, created_s=time.time(), started_s=None, completed_s=None,
    )  # fmt: skip
