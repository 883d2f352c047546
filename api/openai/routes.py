"""The routes themselves."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import orjson
from flask import Flask, Response, request
from pydantic import BaseModel

from windrow.api.auth.tenants import current_tenant
from windrow.api.http.body import read_object
from windrow.api.http.hangup import has_hung_up
from windrow.api.http.headers import parse_cancel_after
from windrow.api.openai import answers
from windrow.api.openai.answers import Kind
from windrow.api.openai.fields import settle_fields
from windrow.api.openai.names import FieldNames
from windrow.api.openai.requests import run_all
from windrow.api.openai.schemas import ChatRequest, CompletionRequest, EmbeddingsRequest
from windrow.api.openai.streaming import AnswerStream, StreamShape
from windrow.api.service import Service, SubmitCall
from windrow.errors import InvalidInput
from windrow.scheduler.queue import Prediction
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.validation import parse

#: Tasks that go on from a prompt.
STREAMING = [name for name, task in TASKS.items() if task.streams]
#: Of a seed that the task takes.
SEED_BITS = 62
#: Clients quote it, and it is the prediction's id, or the first one's of the call.
REQUEST_ID = "x-request-id"
Body = TypeVar("Body", bound=BaseModel)


def register(app: Flask, service: Service) -> None:
    """Add the routes to ``app``."""

    def embeddings() -> Response:
        body = _read(service, EmbeddingsRequest)
        with FieldNames("input").in_errors():
            _require_task(service, body.model, ("embed",))
            ended = run_all(service, _call(service, body), current_tenant(), _hangup_check())
        tokens = sum(one.metrics.get("tokens", 0) for one in ended)
        return _answer(answers.embeddings(body.model, [one.output for one in ended], tokens), ended)

    def completions() -> Response:
        body = _read(service, CompletionRequest)
        return _generate(service, body, "completion", FieldNames("prompt"))

    def chat_completions() -> Response:
        body = _read(service, ChatRequest)
        return _generate(service, body, "chat", FieldNames("messages", body.renamed()))

    app.add_url_rule("/v1/embeddings", "embeddings", embeddings, methods=["POST"])
    app.add_url_rule("/v1/completions", "completions", completions, methods=["POST"])
    app.add_url_rule("/v1/chat/completions", "chat_completions", chat_completions, methods=["POST"])


def _generate(service: Service, body: CompletionRequest | ChatRequest, kind: Kind, names: FieldNames) -> Response:
    """Submit every prompt, and answer in one piece or in chunks."""
    with names.in_errors():
        _require_task(service, body.model, STREAMING)
        if body.stream:
            return _stream(service, body, StreamShape(kind, body.n, body.includes_usage, names))
        ended = run_all(service, _call(service, body), current_tenant(), _hangup_check())
    head = answers.head(kind, ended[0].id, ended[0].created_s, body.model)
    return _answer(answers.generated(kind, head, [one.output for one in ended]), ended)


def _stream(service: Service, body: CompletionRequest | ChatRequest, shape: StreamShape) -> Response:
    """Submit and answer at once; what goes wrong later is said within the stream."""
    # Chance of our own choice: where a worker dies, the next one says the same, and the stream goes on.
    seeded = body if body.seed is not None else body.model_copy(update={"seed": secrets.randbits(SEED_BITS)})
    call, tenant = replace(_call(service, seeded), is_followed=True), current_tenant()
    costs = service.check(call)
    ids = service.submit(call, tenant, service.new_ids(tenant, len(costs)), costs)
    stream = AnswerStream(service, call, tenant, ids, shape, _hangup_check())
    headers = {REQUEST_ID: ids[0], "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    response = Response(iter(stream), headers=headers, content_type="text/event-stream; charset=utf-8")
    response.call_on_close(stream.close)
    return response


def _read(service: Service, kind: type[Body]) -> Body:
    return parse(kind, settle_fields(read_object(request.environ, service.settings.max_body_bytes)))


def _require_task(service: Service, model: str, tasks: Collection[str]) -> None:
    task = service.require_model(model).task
    if task not in tasks:
        raise InvalidInput(f"model: {model!r} is of task {task}; this route takes models of task {' or '.join(tasks)}")


def _call(service: Service, body: EmbeddingsRequest | CompletionRequest | ChatRequest) -> SubmitCall:
    inputs, most = body.inputs(), service.settings.max_batch_inputs
    if len(inputs) > most:
        raise InvalidInput(f"inputs: {len(inputs)} came; at most {most} in one call")
    return SubmitCall(
        model=body.model,
        inputs=inputs,
        parameters=service.read_parameters(body.model, body.parameters()),
        priority=body.priority,
        deadline_s=parse_cancel_after(request.headers.get("Cancel-After")),
        is_batch=len(inputs) > 1,
    )


def _hangup_check() -> Callable[[], bool]:
    """Tells whether the client has left; never so where the server cannot tell."""
    connection = request.environ.get("gunicorn.socket")
    return (lambda: False) if connection is None else partial(has_hung_up, connection)


def _answer(body: dict[str, Any], ended: Sequence[Prediction]) -> Response:
    return Response(orjson.dumps(body), content_type="application/json", headers={REQUEST_ID: ended[0].id})
