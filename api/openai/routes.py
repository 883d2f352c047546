"""OpenAI's routes: a body becomes inputs and parameters of a task, and the results become OpenAI's objects."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from flask import Response, request
from pydantic import BaseModel

from windrow.api.auth.tenants import current_tenant
from windrow.api.http.body import read_object
from windrow.api.http.hangup import hangup_check
from windrow.api.http.headers import CANCEL_AFTER, parse_cancel_after
from windrow.api.http.responses import EVENT_STREAM, event_stream_response, json_response
from windrow.api.http.route import RESULT_ERRORS, Answer, Route, response_header
from windrow.api.openai import answers
from windrow.api.openai.answers import Kind
from windrow.api.openai.errors import OPENAI
from windrow.api.openai.fields import FieldNames, supported_fields
from windrow.api.openai.request_schemas import ChatRequest, CompletionRequest, EmbeddingsRequest
from windrow.api.openai.requests import run_requests
from windrow.api.openai.response_schemas import ChatCompletion, Completion, Embeddings
from windrow.api.openai.streaming import AnswerStream, StreamOptions
from windrow.api.service import Service
from windrow.errors import InvalidInput
from windrow.scheduler.intake import SubmitCall
from windrow.scheduler.queue import Prediction
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.validation import parse

#: Tasks that generate text from a prompt.
GENERATING = [name for name, task in TASKS.items() if task.streams]
#: Bits of a random seed; the task accepts up to 63.
SEED_BITS = 62
#: The id of the call's first prediction.
REQUEST_ID = "x-request-id"
Body = TypeVar("Body", bound=BaseModel)


def embeddings(service: Service) -> Response:
    """Embed one or more texts."""
    body = _read(service, EmbeddingsRequest)
    with FieldNames("input").in_errors():
        _require_task(service, body.model, ("embed",))
        finished = run_requests(service, _call(service, body), current_tenant(), hangup_check(request.environ))
    tokens = sum(prediction.metrics.get("tokens", 0) for prediction in finished)
    outputs = [prediction.output for prediction in finished]
    return _answer(answers.embeddings(body.model, outputs, tokens), finished)


def completions(service: Service) -> Response:
    """Complete one or more prompts."""
    body = _read(service, CompletionRequest)
    return _generate(service, body, "completion", FieldNames("prompt"))


def chat_completions(service: Service) -> Response:
    """Answer a chat."""
    body = _read(service, ChatRequest)
    return _generate(service, body, "chat", FieldNames("messages", body.renamed()))


def _route(path: str, handler: Any, summary: str, body: type[BaseModel], answer: Answer) -> Route:
    return Route(
        "POST", path, handler, summary, {200: answer}, RESULT_ERRORS,
        parameters=[CANCEL_AFTER], body=body, error_format=OPENAI,
    )  # fmt: skip


REQUEST_ID_HEADER = response_header(REQUEST_ID, "The id of the call's first prediction.")
ANSWER = "The answer, in OpenAI's format."
ROUTES = (
    _route(
        "/v1/embeddings", embeddings, "Embed texts", EmbeddingsRequest,
        Answer(ANSWER, Embeddings, headers=REQUEST_ID_HEADER),
    ),
    _route(
        "/v1/completions", completions, "Complete prompts", CompletionRequest,
        Answer(ANSWER, Completion, EVENT_STREAM, REQUEST_ID_HEADER),
    ),
    _route(
        "/v1/chat/completions", chat_completions, "Answer a chat", ChatRequest,
        Answer(ANSWER, ChatCompletion, EVENT_STREAM, REQUEST_ID_HEADER),
    ),
)  # fmt: skip


def _generate(service: Service, body: CompletionRequest | ChatRequest, kind: Kind, names: FieldNames) -> Response:
    """Submit every prompt; answer with one document, or with chunks if the client asked for a stream."""
    with names.in_errors():
        _require_task(service, body.model, GENERATING)
        if body.stream:
            return _stream(service, body, StreamOptions(kind, body.n, body.includes_usage, names))
        finished = run_requests(service, _call(service, body), current_tenant(), hangup_check(request.environ))
    head = answers.head(kind, finished[0].id, finished[0].created_s, body.model)
    return _answer(answers.generated(kind, head, [prediction.output for prediction in finished]), finished)


def _stream(service: Service, body: CompletionRequest | ChatRequest, options: StreamOptions) -> Response:
    """Submit every prompt and answer at once; later errors are sent inside the stream."""
    # With a fixed seed, another attempt after a worker's death generates the same text, and the stream continues.
    seeded = body if body.seed is not None else body.model_copy(update={"seed": secrets.randbits(SEED_BITS)})
    call, tenant = replace(_call(service, seeded), is_followed=True), current_tenant()
    accepted = service.intake.submit(call, tenant, service.intake.new_ids(tenant, len(call.inputs)))
    stream = AnswerStream(service, accepted, options, hangup_check(request.environ))
    response = event_stream_response(iter(stream), {REQUEST_ID: accepted[0].id}, "text/event-stream; charset=utf-8")
    response.call_on_close(stream.close)
    return response


def _read(service: Service, kind: type[Body]) -> Body:
    return parse(kind, supported_fields(read_object(request.environ, service.settings.max_body_bytes)))


def _require_task(service: Service, model: str, tasks: Collection[str]) -> None:
    task = service.intake.require_model(model).task
    if task not in tasks:
        raise InvalidInput(f"model: {model!r} is of task {task}; this route takes models of task {' or '.join(tasks)}")


def _call(service: Service, body: EmbeddingsRequest | CompletionRequest | ChatRequest) -> SubmitCall:
    inputs, max_inputs = body.inputs(), service.settings.max_batch_inputs
    if len(inputs) > max_inputs:
        raise InvalidInput(f"inputs: {len(inputs)} inputs; at most {max_inputs} in one call")
    return SubmitCall(
        model=body.model,
        inputs=inputs,
        parameters=service.intake.read_parameters(body.model, body.parameters()),
        priority=body.priority,
        deadline_s=parse_cancel_after(request.headers.get("Cancel-After")),
        is_batch=len(inputs) > 1,
    )


def _answer(body: dict[str, Any], finished: Sequence[Prediction]) -> Response:
    return json_response(body, headers={REQUEST_ID: finished[0].id})
