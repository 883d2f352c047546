"""What clients send and read, as pydantic models: requests are checked with them, /openapi.json is made from them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.body import json_type
from api.headers import MAX_DEADLINE_S
from scheduler.core.errors import InvalidInput

Priority = Literal["high", "normal", "low"]
Status = Literal["queued", "processing", "succeeded", "failed", "canceled", "expired"]
Request = TypeVar("Request", bound="_Request")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Parameters(_Request):
    """How the model is to treat the input."""

    truncate: bool = Field(False, description="Cut an input that is longer than the model takes, instead of a 422.")


class _Submit(_Request):
    model: str = Field(description="Name of a configured model; GET /v1/models lists them.", examples=["minilm"])
    parameters: Parameters | None = None
    priority: Priority | None = Field(None, description="Which share of the device it gets; normal where absent.")
    deadline_ms: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S * 1000)] | None = Field(
        None, description="Not started so many milliseconds from now: expired, and never sent to the device."
    )
    webhook: str | None = Field(
        None,
        description="https URL that gets a signed POST of the prediction once it has ended; see docs/webhooks.md.",
        examples=["https://example.org/windrow"],
    )


class PredictionRequest(_Submit):
    """One input for one model."""

    input: Any = Field(description="What the model's task takes: a string for embed and classify.", examples=["a text"])


class BatchRequest(_Submit):
    """Many inputs for one model: all are queued, or none is."""

    inputs: list[Any] = Field(min_length=1, description="As many as the server's max_batch_inputs, each like `input`.")


class Problem(BaseModel):
    """Any error: application/problem+json, RFC 9457."""

    type: str = Field(examples=["urn:windrow:error:unknown_model"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["unknown_model"])


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
    output: Any = Field(
        description="null until succeeded; `{embedding}` for embed, `{label, score, scores}` for classify."
    )
    error: PredictionError | None
    metrics: dict[str, Any] = Field(description="queue_ms, compute_ms, batch_size and the like, once it has ended.")
    created_at: str = Field(json_schema_extra={"format": "date-time"})
    started_at: str | None = Field(json_schema_extra={"format": "date-time"})
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
    max_input_tokens: int | None = Field(description="Longest input, special tokens included.")
    relative_error: float | None = Field(
        description="Of its outputs before the last step, against float32 and one text at a time; measured at the load."
    )
    ran_out_tokens: int | None = Field(
        description="The smallest batch that ran out of memory, in tokens; later ones are smaller. Null where none did."
    )


class Models(BaseModel):
    """Every configured model."""

    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """The process answers, or a worker serves every model."""

    status: Literal["ok", "ready"]


def parse_request(kind: type[Request], value: dict[str, Any]) -> Request:
    """Check ``value`` against ``kind``; raise `InvalidInput` naming each field and what it takes."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        problems = [_explain(kind, dict(problem)) for problem in error.errors(include_url=False)[:5]]
        raise InvalidInput("; ".join(problems)) from None


def _explain(kind: type[BaseModel], problem: dict[str, Any]) -> str:
    names = [str(part)[:64] for part in problem["loc"]]
    field = ".".join(names)
    if problem["type"] == "extra_forbidden":
        known, what = (Parameters, "parameter") if names[0] == "parameters" else (kind, "field")
        return f"{field}: unknown {what}; accepted: {', '.join(known.model_fields)}"
    if problem["type"] == "missing":
        return f"{field}: is missing"
    if problem["type"] == "too_short":
        return f"{field}: takes at least {problem['ctx']['min_length']}, and none came"
    came = problem["input"]
    shown = f"{came!r:.60}" if isinstance(came, (str, int, float)) else json_type(came)
    message = problem["msg"].removeprefix("Input ")
    return f"{field}: {message}, not {shown}"
