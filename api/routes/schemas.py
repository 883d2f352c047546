"""Schemas of request and response bodies: requests are validated with them, and /openapi.json describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from windrow.api.http.headers import MAX_DEADLINE_S
from windrow.scheduler.core.fairness import Priority
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.validation import Strict

Status = Literal["queued", "processing", "succeeded", "failed", "canceled", "expired"]

#: Reference to a schema in the OpenAPI document.
REF = "#/components/schemas/{model}"
#: Schemas of the tasks' parameters and inputs; which of them applies depends on the requested model.
OF_TASKS: tuple[type[BaseModel], ...] = tuple(
    dict.fromkeys(
        [*(task.parameters for task in TASKS.values()), *(task.input for task in TASKS.values() if task.input)]
    )
)


def _any_of(*kinds: type[BaseModel] | str) -> WithJsonSchema:
    schemas = [
        {"type": kind} if isinstance(kind, str) else {"$ref": REF.format(model=kind.__name__)}
        for kind in dict.fromkeys(kinds)
    ]
    return WithJsonSchema({"anyOf": schemas})


Input = Annotated[Any, _any_of("string", *(task.input for task in TASKS.values() if task.input))]
ParametersObject = Annotated[dict[str, Any] | None, _any_of(*(task.parameters for task in TASKS.values()), "null")]


class _Submit(Strict):
    model: str = Field(description="Name of a configured model; GET /v1/models lists them.", examples=["minilm"])
    parameters: ParametersObject = Field(None, description="Parameters of the model's task; see docs/tasks.md.")
    priority: Priority | None = Field(None, description="Share of the device that the request gets; normal if absent.")
    deadline_ms: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S * 1000)] | None = Field(
        None, description="A request that has not started after this many milliseconds expires and is never run."
    )
    stream: bool | None = Field(
        None, description="Publish generated text as it is produced, for readers of `urls.events`."
    )
    webhook: str | None = Field(
        None,
        description="HTTPS URL that receives a signed POST of the finished prediction; see docs/webhooks.md.",
        examples=["https://example.org/windrow"],
    )


class PredictionRequest(_Submit):
    """One input for one model."""

    input: Input = Field(
        description="Input of the model's task: a string, or an object for some tasks; see docs/tasks.md.",
        examples=["a text"],
    )


class BatchRequest(_Submit):
    """Many inputs for one model: either all are queued or none is."""

    inputs: list[Input] = Field(
        min_length=1, description="Up to max_batch_inputs (a server setting) inputs, each like `input`."
    )


class PredictionError(BaseModel):
    """Why a prediction has no output."""

    code: str
    detail: str


class Urls(BaseModel):
    """Addresses to read, cancel and follow the prediction."""

    get: str
    cancel: str
    events: str


class Prediction(BaseModel):
    """A request and its result."""

    id: str
    model: str
    status: Status
    input: Any
    output: Any = Field(description="null until the status is succeeded; see docs/tasks.md for each task.")
    error: PredictionError | None
    metrics: dict[str, Any] = Field(description="queue_ms, compute_ms, batch_size and others, once it has finished.")
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    started_at: str | None = Field(
        description="When a worker started it; until it has finished, and if it was canceled, when it was claimed.",
        json_schema_extra={"format": "date-time"},
    )
    completed_at: str | None = Field(json_schema_extra={"format": "date-time"})
    urls: Urls


class Predictions(BaseModel):
    """The predictions of a batch, in the order of its inputs."""

    predictions: list[Prediction]


class Model(BaseModel):
    """A configured model, in OpenAI's shape, with its task beside it."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    task: str
    workers: int = Field(description="Number of workers that serve it at present.")
    strategy: str | None = Field(description="The batching strategy in effect; null while no worker serves the model.")
    strategy_note: str | None = Field(description="Why the strategy is not the configured one; null if it is.")
    device: str | None = Field(examples=["cuda"])
    dtype: str | None = Field(examples=["bfloat16"])
    dtype_note: str | None = Field(description="Why the dtype is not the configured one; null if it is.")
    max_input_tokens: int | None = Field(description="Longest input in tokens, special tokens included.")
    relative_error: float | None = Field(
        description="Error of its outputs before the last step, relative to float32 at batch size 1; measured at load."
    )
    ran_out_tokens: int | None = Field(
        description="Tokens of the smallest batch that ran out of memory; later batches are smaller. Null if none did."
    )
    reload_note: str | None = Field(description="Result of the last reload that was requested.")
    failures: dict[str, str] | None = Field(
        description="Workers that could not load it, and why; null if there are none."
    )


class Models(BaseModel):
    """Every configured model."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The process answers, or a worker serves every model."""

    status: Literal["ok", "ready"]
