"""The routes under ``/v1/predictions``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
from flask import Flask, Response, request

from windrow.api.auth.tenants import current_tenant
from windrow.api.http.body import read_object
from windrow.api.http.errors import whole_seconds
from windrow.api.http.hangup import has_hung_up
from windrow.api.http.headers import (
    CANCEL_ON_DISCONNECT,
    parse_cancel_after,
    parse_cancel_on_disconnect,
    parse_idempotency_key,
    parse_prefer,
    parse_wait,
    refuse_event_stream,
    wants_event_stream,
)
from windrow.api.routes.events import parse_last_event_id, stream
from windrow.api.routes.schemas import BatchRequest, PredictionRequest
from windrow.api.service import Service, SubmitCall
from windrow.errors import InvalidInput
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.prediction_view import prediction_json
from windrow.scheduler.tasks.validation import parse


def register(app: Flask, service: Service) -> None:
    """Add the routes to ``app``."""
    settings = service.settings

    def create() -> Response:
        wants_stream = wants_event_stream(request.headers.get("Accept"))
        after = parse_last_event_id(request.headers.get("Last-Event-ID"))
        wait_s = parse_prefer(request.headers.get("Prefer"))
        body = parse(PredictionRequest, read_object(request.environ, settings.max_body_bytes))
        call = _call(service, body, [body.input], is_batch=False)
        if wants_stream:
            return stream(service, _create(service, replace(call, is_followed=True), 0), after, _hangup_check())
        found = _create(service, call, wait_s or 0)
        response = _answer(service, found, 200 if found.is_ended and wait_s else 202)
        response.headers["Location"] = f"/v1/predictions/{found.id}"
        if wait_s is not None:
            more = f", {CANCEL_ON_DISCONNECT}" if wait_s and _hangup_check() else ""
            response.headers["Preference-Applied"] = f"wait={wait_s}{more}"
        return response

    def create_batch() -> Response:
        refuse_event_stream(request.headers.get("Accept"))
        body = parse(BatchRequest, read_object(request.environ, settings.max_body_bytes))
        if len(body.inputs) > settings.max_batch_inputs:
            raise InvalidInput(f"inputs: {len(body.inputs)} inputs; at most {settings.max_batch_inputs} in one batch")
        call, tenant = _call(service, body, body.inputs, is_batch=True), current_tenant()
        costs = service.check(call)
        ids = service.submit(call, tenant, service.new_ids(tenant, len(costs)), costs)
        base = _base_url()
        rendered = [prediction_json(found, base) for found in service.accepted(call, tenant, ids)]
        response = _json({"predictions": rendered}, 202)
        response.headers["Retry-After"] = whole_seconds(service.wait_s(call.model))
        return response

    def get(id: str) -> Response:
        refuse_event_stream(request.headers.get("Accept"))
        text = request.args.get("wait")
        wait_s = 0 if text is None else parse_wait(text, "wait")
        return _answer(service, service.find_ended(id, current_tenant(), wait_s, _hangup_check()), 200)

    def cancel(id: str) -> Response:
        return _answer(service, service.cancel(id, current_tenant()), 200)

    app.add_url_rule("/v1/predictions", "create", create, methods=["POST"])
    app.add_url_rule("/v1/predictions:batch", "create_batch", create_batch, methods=["POST"])
    app.add_url_rule("/v1/predictions/<id>", "get", get, methods=["GET"])
    app.add_url_rule("/v1/predictions/<id>/cancel", "cancel", cancel, methods=["POST"])


def _create(service: Service, call: SubmitCall, wait_s: float) -> Prediction:
    """Submit the one input of ``call`` and wait for its end as long as that is asked for."""
    tenant = current_tenant()
    costs = service.check(call)
    (id,) = service.new_ids(tenant, 1)
    if wait_s <= 0:
        (id,) = service.submit(call, tenant, [id], costs)
        return service.accepted(call, tenant, [id])[0]
    # The waiter stands before the request can end.
    with service.waiters.expect(id) as waiter:
        (first,) = service.submit(call, tenant, [id], costs)
        if first == id:
            return service.wait(waiter, id, tenant, wait_s, _hangup_check()) or service.accepted(call, tenant, [id])[0]
    return service.find_ended(first, tenant, wait_s, _hangup_check())


def _hangup_check() -> Callable[[], bool] | None:
    """Tells whether the client has left; None where it does not ask for that, or the server cannot tell."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None or not parse_cancel_on_disconnect(request.headers.get("Prefer")):
        return None
    return partial(has_hung_up, connection)


def _call(
    service: Service, body: PredictionRequest | BatchRequest, inputs: Sequence[object], *, is_batch: bool
) -> SubmitCall:
    after_s = parse_cancel_after(request.headers.get("Cancel-After"))
    deadlines = [after_s, None if body.deadline_ms is None else body.deadline_ms / 1000]
    return SubmitCall(
        model=body.model,
        inputs=inputs,
        parameters=service.read_parameters(body.model, body.parameters),
        priority=body.priority or "normal",
        deadline_s=min((deadline for deadline in deadlines if deadline is not None), default=None),
        idempotency_key=parse_idempotency_key(request.headers.get("Idempotency-Key")),
        webhook=body.webhook,
        is_followed=body.stream or False,
        is_batch=is_batch,
    )


def _answer(service: Service, found: Prediction, status: int) -> Response:
    response = _json(prediction_json(found, _base_url()), status)
    if not found.is_ended:
        response.headers["Retry-After"] = whole_seconds(service.wait_s(found.model))
    return response


def _json(value: dict[str, Any], status: int) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


def _base_url() -> str:
    return request.host_url.rstrip("/")
