"""The routes under ``/v1/predictions``, apart from the event stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from flask import Response, request

from windrow import errors as core
from windrow.api.auth.tenants import current_tenant
from windrow.api.http import headers
from windrow.api.http.body import read_object
from windrow.api.http.hangup import hangup_check
from windrow.api.http.responses import EVENT_STREAM, base_url, json_response, whole_seconds
from windrow.api.http.route import READ_ERRORS, RETRY_AFTER, SUBMIT_ERRORS, Answer, Route, response_header
from windrow.api.routes import schemas
from windrow.api.routes.events import stream
from windrow.api.routes.schemas import BatchRequest, PredictionRequest
from windrow.api.service import Service
from windrow.errors import InvalidInput
from windrow.scheduler.intake import SubmitCall
from windrow.scheduler.queue import Prediction
from windrow.scheduler.queue.prediction import prediction_json
from windrow.scheduler.tasks.validation import parse

LOCATION = response_header("Location", "Path of the prediction.")
PREFERENCE_APPLIED = response_header("Preference-Applied", "The preferences that were applied.")


def create(service: Service) -> Response:
    """Submit one request; wait for its result or stream its events if the client asks for that."""
    wants_stream = headers.wants_event_stream(request.headers.get("Accept"))
    after = headers.parse_last_event_id(request.headers.get("Last-Event-ID"))
    wait_s = headers.parse_prefer(request.headers.get("Prefer"))
    body = parse(PredictionRequest, read_object(request.environ, service.settings.max_body_bytes))
    call = _call(service, body, [body.input], is_batch=False)
    if wants_stream:
        return stream(service, _submit(service, replace(call, is_followed=True), 0), after, _hangup_check())
    prediction = _submit(service, call, wait_s or 0)
    response = _answer(service, prediction, 200 if prediction.is_ended and wait_s else 202)
    response.headers["Location"] = f"/v1/predictions/{prediction.id}"
    if wait_s is not None:
        cancels = f", {headers.CANCEL_ON_DISCONNECT}" if wait_s and _hangup_check() else ""
        response.headers["Preference-Applied"] = f"wait={wait_s}{cancels}"
    return response


def create_batch(service: Service) -> Response:
    """Submit many requests for one model: all of them are queued, or none is."""
    headers.refuse_event_stream(request.headers.get("Accept"))
    settings = service.settings
    body = parse(BatchRequest, read_object(request.environ, settings.max_body_bytes))
    if len(body.inputs) > settings.max_batch_inputs:
        raise InvalidInput(f"inputs: {len(body.inputs)} inputs; at most {settings.max_batch_inputs} in one batch")
    call, tenant = _call(service, body, body.inputs, is_batch=True), current_tenant()
    accepted = service.intake.submit(call, tenant, service.intake.new_ids(tenant, len(body.inputs)))
    url = base_url()
    predictions = [prediction_json(prediction, url) for prediction in accepted]
    return json_response({"predictions": predictions}, 202, _retry_after(service, call.model))


def get(service: Service, id: str) -> Response:
    """Read a prediction; with ``wait=N``, wait up to N seconds for it to finish."""
    headers.refuse_event_stream(request.headers.get("Accept"))
    text = request.args.get("wait")
    wait_s = 0 if text is None else headers.parse_wait(text, "wait")
    return _answer(service, service.find_ended(id, current_tenant(), wait_s, _hangup_check()), 200)


def cancel(service: Service, id: str) -> Response:
    """Cancel a prediction that has not finished."""
    return _answer(service, service.cancel(id, current_tenant()), 200)


ROUTES = (
    Route(
        "POST", "/v1/predictions", create, "Create a prediction",
        {
            200: Answer(
                "The prediction finished while the client waited. With Accept: text/event-stream, its events as they "
                "are published.",
                schemas.Prediction, EVENT_STREAM, {**LOCATION, **PREFERENCE_APPLIED},
            ),
            202: Answer(
                "The prediction is queued.", schemas.Prediction,
                headers={**LOCATION, **RETRY_AFTER, **PREFERENCE_APPLIED},
            ),
        },
        SUBMIT_ERRORS,
        parameters=[headers.PREFER, headers.IDEMPOTENCY, headers.CANCEL_AFTER, headers.LAST_EVENT_ID],
        body=PredictionRequest,
    ),
    Route(
        "POST", "/v1/predictions:batch", create_batch, "Create many predictions at once",
        {202: Answer("All predictions are queued, in input order.", schemas.Predictions, headers=RETRY_AFTER)},
        SUBMIT_ERRORS, http_errors=[406],
        parameters=[headers.IDEMPOTENCY, headers.CANCEL_AFTER],
        body=BatchRequest,
    ),
    Route(
        "GET", "/v1/predictions/<id>", get, "Read a prediction",
        {200: Answer("The prediction in its current state.", schemas.Prediction, headers=RETRY_AFTER)},
        [core.MalformedRequest, *READ_ERRORS], http_errors=[406],
        parameters=[headers.ID_PATH, headers.WAIT_QUERY, headers.PREFER_CANCEL],
    ),
    Route(
        "POST", "/v1/predictions/<id>/cancel", cancel, "Cancel a prediction",
        {200: Answer("The prediction is canceled, or had already finished.", schemas.Prediction)},
        READ_ERRORS,
        parameters=[headers.ID_PATH],
    ),
)  # fmt: skip


def _submit(service: Service, call: SubmitCall, wait_s: float) -> Prediction:
    """Submit the one input of ``call`` and wait up to ``wait_s`` seconds for its result."""
    tenant = current_tenant()
    (id,) = service.intake.new_ids(tenant, 1)
    if wait_s <= 0:
        return service.intake.submit(call, tenant, [id])[0]
    # Subscribe before the submit, so that the message with the result cannot be missed.
    with service.waiters.expect(id) as waiter:
        (accepted,) = service.intake.submit(call, tenant, [id])
        if accepted.id == id:
            return service.wait(waiter, id, tenant, wait_s, _hangup_check()) or service.refresh([accepted])[0]
    return service.find_ended(accepted.id, tenant, wait_s, _hangup_check())


def _hangup_check() -> Callable[[], bool] | None:
    """Return the check for a disconnected client; None unless the client sent ``cancel-on-disconnect``."""
    return hangup_check(request.environ) if headers.parse_cancel_on_disconnect(request.headers.get("Prefer")) else None


def _call(
    service: Service, body: PredictionRequest | BatchRequest, inputs: Sequence[object], *, is_batch: bool
) -> SubmitCall:
    after_s = headers.parse_cancel_after(request.headers.get("Cancel-After"))
    deadlines = [after_s, None if body.deadline_ms is None else body.deadline_ms / 1000]
    return SubmitCall(
        model=body.model,
        inputs=inputs,
        parameters=service.intake.read_parameters(body.model, body.parameters),
        priority=body.priority or "normal",
        deadline_s=min((deadline for deadline in deadlines if deadline is not None), default=None),
        idempotency_key=headers.parse_idempotency_key(request.headers.get("Idempotency-Key")),
        webhook=body.webhook,
        is_followed=body.stream or False,
        is_batch=is_batch,
    )


def _answer(service: Service, prediction: Prediction, status: int) -> Response:
    retry_after = None if prediction.is_ended else _retry_after(service, prediction.model)
    return json_response(prediction_json(prediction, base_url()), status, retry_after)


def _retry_after(service: Service, model: str) -> dict[str, str]:
    return {"Retry-After": whole_seconds(service.wait_s(model))}
