"""`Intake`: validates calls, computes their cost, and queues them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from redis import Redis

from windrow.errors import InvalidInput, InvalidSetting, PredictionGone, RedisUnavailable, UnknownModel
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.tenant_settings import TenantSettings
from windrow.scheduler.connection.server_check import ServerCheck
from windrow.scheduler.core.admission import UNLIMITED
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, flow_name
from windrow.scheduler.core.webhooks import parse_url
from windrow.scheduler.intake.availability import Availability
from windrow.scheduler.intake.input_check import InputCheck
from windrow.scheduler.intake.submit_call import SubmitCall
from windrow.scheduler.queue import Accepted, Prediction, RedisQueue, Submission
from windrow.scheduler.queue.idempotency import find_first
from windrow.scheduler.queue.ids import make_id, shared_secret
from windrow.scheduler.queue.lookup import find_predictions
from windrow.scheduler.queue.records import encode_call
from windrow.scheduler.tasks import TASKS, Parameters

#: Limits of a tenant without a table in the settings.
DEFAULT_TENANT = TenantSettings.model_validate({})
#: Maximum depth and bytes for a call that no limit applies to.
NO_LIMIT = 1 << 53
#: How long the signing secret is kept before it is read again, in seconds: Redis may have been emptied.
SECRET_S = 30.0


class Intake:
    """The way into the queues of all models; one per process, shared by its threads.

    `redis.exceptions.RedisError` passes through.
    """

    def __init__(self, settings: Settings, redis: Redis, queues: Mapping[str, RedisQueue]) -> None:
        self.settings = settings
        self.server = ServerCheck(redis)
        self._redis = redis
        self._queues = queues
        self._checks = {name: InputCheck(model) for name, model in settings.models.items()}
        grace_s = settings.worker_grace_s
        self._availability = {name: Availability(redis, queue, grace_s) for name, queue in queues.items()}
        self._secret = b""
        self._secret_at_s = float("-inf")

    def require_model(self, name: str) -> ModelSettings:
        """Return the settings of a model; raises `UnknownModel`."""
        if name not in self.settings.models:
            raise UnknownModel(f"no model {name[:64]!r} is served here; there are {', '.join(self.settings.models)}")
        return self.settings.models[name]

    def read_parameters(self, model: str, value: Mapping[str, Any] | None) -> Parameters:
        """Validate the parameters of ``model``; raises `UnknownModel`, or `InvalidInput` with what is accepted."""
        self.require_model(model)
        return self._checks[model].read_parameters(value)

    def new_ids(self, tenant: str, count: int) -> list[str]:
        """Return new signed ids, which only this deployment can have made."""
        secret = self.secret()
        return [make_id(secret, tenant) for _ in range(count)]

    def secret(self) -> bytes:
        """Return the secret that signs ids."""
        if time.monotonic() - self._secret_at_s >= SECRET_S:
            self._secret = shared_secret(self._redis)
            self._secret_at_s = time.monotonic()
        return self._secret

    def load_failure(self, model: str) -> str | None:
        """Return why workers could not load ``model``; None if one serves it or none has tried."""
        return self._availability[model].load_failure()

    def wait_s(self, model: str) -> float | None:
        """Return the measured seconds until a request submitted now would finish; None if unknown."""
        return self._availability[model].wait_s() if model in self._availability else None

    def submit(self, call: SubmitCall, tenant: str, ids: Sequence[str]) -> list[Prediction]:
        """Queue every input of ``call`` under its id, or none, in one round trip, and return the predictions.

        A call with an idempotency key that was used before returns the predictions of the first call. Raises
        `InvalidInput`, `InputTooLong`, `UnknownModel` or `ModelUnusable` for a call that the model cannot serve,
        `QueueFull`, `QuotaExceeded` or `NoWorker` for one that it cannot serve now, `IdempotencyConflict`,
        `PredictionGone` for a repeated call whose results are no longer kept, and `RedisUnavailable` for a Redis
        server that is configured so that it could lose the requests.
        """
        model = self.require_model(call.model)
        costs = self._compute_costs(call) if call.admitted_costs is None else call.admitted_costs
        if call.webhook is not None:
            self._check_webhook(call.webhook, tenant)
        self._require_server()
        parameters = call.parameters.sent()
        key = call.idempotency_key
        idempotency = (f"{tenant}:{key}", call.fingerprint(parameters)) if key else None
        refusal = self._availability[call.model].refusal(waits_for_worker=call.waits_for_worker)
        if refusal is not None:
            first = find_first(self._redis, *idempotency) if idempotency else None
            if first is None:
                raise refusal
            return self._find_first_call(call.model, first)
        submissions = _encode(call, ids, costs, parameters, model)
        accepted = self._queue(call, tenant, model, submissions, idempotency)
        if accepted.created_s is None:
            return self._find_first_call(call.model, accepted.ids)
        return _queued_predictions(call, tenant, accepted.ids, parameters, accepted.created_s)

    def _compute_costs(self, call: SubmitCall) -> list[int]:
        """Validate the inputs and return the cost of each in tokens; raises the error of the first invalid one."""
        check = self._checks[call.model]
        names = (f"inputs.{index}" for index in range(len(call.inputs))) if call.is_batch else ("input",)
        return [
            check.cost_tokens(value, call.parameters, where=name)
            for name, value in zip(names, call.inputs, strict=True)
        ]

    def _check_webhook(self, url: str, tenant: str) -> None:
        if self.settings.webhook_key(tenant) is None:
            raise InvalidInput(
                "webhook: no webhook_secret is configured to sign it; poll for the result, or send Prefer: wait"
            )
        parse_url(url, self.settings.webhook_networks)

    def _require_server(self) -> None:
        try:
            self.server.require()
        except InvalidSetting as error:  # Redis was not reachable when the process checked it at its start
            raise RedisUnavailable(error.detail) from None

    def _queue(
        self,
        call: SubmitCall,
        tenant: str,
        model: ModelSettings,
        submissions: Sequence[Submission],
        idempotency: tuple[str, str] | None,
    ) -> Accepted:
        limits, is_new = self.settings.tenants.get(tenant, DEFAULT_TENANT), call.admitted_costs is None
        return self._queues[call.model].submit(
            submissions,
            flow=flow_name(tenant, call.priority),
            weight=PRIORITY_WEIGHTS[call.priority] * limits.weight,
            max_depth=model.max_depth if is_new else NO_LIMIT,
            max_bytes=model.max_queue_bytes if is_new else NO_LIMIT,
            quota=limits.quota if is_new else UNLIMITED,
            idempotency=idempotency,
        )

    def _find_first_call(self, model: str, ids: Sequence[str]) -> list[Prediction]:
        found = find_predictions(self._redis, model, ids)
        if None in found:
            raise PredictionGone(
                "this Idempotency-Key was used before, and the result is no longer kept; use a new key"
            )
        return [prediction for prediction in found if prediction is not None]


def _encode(
    call: SubmitCall, ids: Sequence[str], costs: Sequence[int], parameters: Mapping[str, Any], model: ModelSettings
) -> list[Submission]:
    is_followed = call.is_followed and TASKS[model.task].streams
    try:
        return [
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
    except TypeError as error:  # half a surrogate pair, or an integer that needs more than 64 bits
        raise InvalidInput(f"input or parameters: {error}") from None


def _queued_predictions(
    call: SubmitCall, tenant: str, ids: Sequence[str], parameters: Mapping[str, Any], created_s: float
) -> list[Prediction]:
    return [
        Prediction(
            id=id, model=call.model, status="queued", tenant=tenant, priority=call.priority, input=value,
            parameters=parameters, output=None, error=None, metrics={}, created_s=created_s, started_s=None,
            completed_s=None,
        )
        for id, value in zip(ids, call.inputs, strict=True)
    ]  # fmt: skip
