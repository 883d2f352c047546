"""What clients send and read, as pydantic models: requests are checked with them, /openapi.json is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, WithJsonSchema

from windrow.api.http.headers import MAX_DEADLINE_S
from windrow.scheduler.tasks import TASKS
from windrow.scheduler.tasks.validation import Strict

Priority = Literal["high", "normal", "low"]
Status = Literal["queued", "processing", "succeeded", "failed", "canceled", "expired"]

#: Where models are in the OpenAPI document.
REF = "#/components/schemas/{model}"
#: The models of what tasks take, which requests refer to: which of them holds depends on the model that is asked.
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
    parameters: ParametersObject = Field(None, description="What the model's task takes; see docs/tasks.md.")
    priority: Priority | None = Field(None, description="Which share of the device it gets; normal where absent.")
    deadline_ms: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S * 1000)] | None = Field(
        None, description="Not started so many milliseconds from now: expired, and never sent to the device."
    )
    stream: bool | None = Field(
        None, description="Let `urls.events` have the output of a model that generates piece by piece, as it comes."
    )
    webhook: str | None = Field(
        None,
        description="https URL that gets a signed POST of the prediction once it has ended; see docs/webhooks.md.",
        examples=["https://example.org/windrow"],
    )


class PredictionRequest(_Submit):
    """One input for one model."""

    input: Input = Field(
        description="What the model's task takes: a string, or for rerank an object.", examples=["a text"]
    )


class BatchRequest(_Submit):
    """Many inputs for one model: all are queued, or none is."""

    inputs: list[Input] = Field(
        min_length=1, description="As many as the server's max_batch_inputs, each like `input`."
    )


class PredictionError(BaseModel):
    """Why a prediction has no output."""

    code: str
    detail: str


class Urls(BaseModel):
    """Where the prediction is read, canceled and followed."""

    get: str
    cancel: str
    events: str


class Prediction(BaseModel):
    """One request and what became of it."""

    id: str
    model: str
    status: Status
    input: Any
    output: Any = Field(description="null until succeeded; then what the model's task gives, see docs/tasks.md.")
    error: PredictionError | None
    metrics: dict[str, Any] = Field(description="queue_ms, compute_ms, batch_size and the like, once it has ended.")
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    started_at: str | None = Field(
        description="When a worker began with it; while it is processing or was canceled then, when it was claimed.",
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
    workers: int = Field(description="Workers that serve it now.")
    strategy: str | None = Field(description="The strategy in effect; null while no worker serves the model.")
    strategy_note: str | None = Field(description="Why it differs from the one configured; null where it does not.")
    device: str | None = Field(examples=["cuda"])
    dtype: str | None = Field(examples=["bfloat16"])
    dtype_note: str | None = Field(description="Why it differs from the one configured; null where it does not.")
    max_input_tokens: int | None = Field(description="Longest input, special tokens included.")
    relative_error: float | None = Field(
        description="Of its outputs before the last step, against float32 and one text at a time; measured at the load."
    )
    ran_out_tokens: int | None = Field(
        description="The smallest batch that ran out of memory, in tokens; later ones are smaller. Null where none did."
    )
    reload_note: str | None = Field(description="What became of the last time a worker was to load it anew.")
    failures: dict[str, str] | None = Field(
        description="Workers that could not load it, and why; null where none said so."
    )


class Models(BaseModel):
    """Every configured model."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The process answers, or a worker serves every model."""

    status: Literal["ok", "ready"]
