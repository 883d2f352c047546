"""Settings of one model: a ``[models.<name>]`` table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from windrow.scheduler.config.base_url import parse_base_url
from windrow.scheduler.config.fields import Buckets, FrozenSettings, WaitMs
from windrow.scheduler.core.planning import PLANNERS
from windrow.scheduler.stepping.step_scheduler import STEP_STRATEGIES
from windrow.scheduler.tasks import TASKS

Strategy = Literal["none", "static", "dynamic", "bucket", "packed", "continuous"]

#: Strategies of the tasks whose requests run in one forward pass.
BATCH_STRATEGIES = tuple(PLANNERS)
#: Strategies of the other tasks.
STEP_TASK_STRATEGIES = {"generate": STEP_STRATEGIES, "upstream": ("continuous",)}
BATCH_TASKS = tuple(task for task in TASKS if task not in STEP_TASK_STRATEGIES)
#: Setting -> the tasks that have it. A table of another task must not set it, because it would have no effect.
TASKS_OF_SETTING: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("url", "upstream_model", "api_key_env", "max_concurrency"), ("upstream",)),
    **dict.fromkeys(("cache_tokens", "page_tokens", "prefill_chunk_tokens"), ("generate",)),
    **dict.fromkeys(("dtype", "compile"), (*BATCH_TASKS, "generate")),
    "buckets": BATCH_TASKS,
}


def _require_known_task(task: str) -> str:
    if task not in TASKS:
        raise ValueError(f"takes {', '.join(TASKS)}")
    return task


class ModelSettings(FrozenSettings):
    """One ``[models.<name>]`` table."""

    task: Annotated[str, AfterValidator(_require_known_task)]
    #: Hub id, folder, ``package:<module>/<folder>`` for weights inside an installed Python package, or
    #: ``builtin:tiny-llama``; see `windrow.scheduler.models.sources`.
    source: str = Field(min_length=1)
    #: The default is ``continuous`` for the tasks ``generate`` and ``upstream``, and ``packed`` for all others.
    strategy: Strategy = "packed"
    max_batch_size: int = Field(64, ge=1, le=1000)
    #: Largest batch, in tokens after padding.
    max_batch_tokens: int = Field(16384, ge=1)
    #: ``auto`` learns the window from the traffic, see `windrow.scheduler.core.learned_window`.
    max_wait_ms: WaitMs = 5.0
    buckets: Buckets = (32, 64, 128, 256, 512)
    #: Longest input in tokens, special tokens included. None means the model's own limit.
    max_input_tokens: int | None = Field(None, ge=1)
    #: int8 runs on CPUs only. The engine uses float32 instead if int8 is not close enough or not faster.
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    #: Compile forward passes with torch on CUDA: about a tenth faster, and about 20 s more at each start.
    compile: bool = True
    #: Task ``generate``: tokens in the KV cache. None means as many as the device has memory for.
    cache_tokens: int | None = Field(None, ge=1)
    #: Task ``generate``: tokens per page of the KV cache.
    page_tokens: int = Field(32, ge=1, le=1024)
    #: Task ``generate``: prompt tokens that one step may read while other sequences decode.
    prefill_chunk_tokens: int = Field(2048, ge=1)
    #: Most requests, and most payload bytes, in the queue. A submit beyond either gets 429.
    max_depth: int = Field(100_000, ge=1)
    max_queue_bytes: int = Field(256 << 20, ge=1)
    #: Task ``upstream``: address of the server up to its ``/v1``.
    url: Annotated[str, AfterValidator(parse_base_url)] | None = None
    #: Task ``upstream``: the server's name for the model, if it differs from ours.
    upstream_model: str | None = Field(None, min_length=1)
    #: Task ``upstream``: environment variable that holds the server's API key.
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    #: Task ``upstream``: most requests in flight on the server.
    max_concurrency: int = Field(256, ge=1, le=10_000)

    @property
    def max_wait_s(self) -> float | None:
        """``max_wait_ms`` in seconds; None if the window is learned."""
        return None if self.max_wait_ms == "auto" else self.max_wait_ms / 1e3

    @model_validator(mode="before")
    @classmethod
    def _default_strategy(cls, table: Any) -> Any:
        if isinstance(table, dict) and table.get("task") in tuple(STEP_TASK_STRATEGIES):
            return {"strategy": "continuous", **table}
        return table

    @model_validator(mode="before")
    @classmethod
    def _refuse_settings_of_other_tasks(cls, table: Any) -> Any:
        task = table.get("task") if isinstance(table, dict) else None
        if task in tuple(TASKS):
            for name, tasks in TASKS_OF_SETTING.items():
                if name in table and task not in tasks:
                    raise ValueError(f"{name}: is a setting of task{'s' * (len(tasks) > 1)} {', '.join(tasks)} only")
        return table

    @model_validator(mode="before")
    @classmethod
    def _use_url_as_source(cls, table: Any) -> Any:
        if not isinstance(table, dict) or table.get("task") != "upstream":
            return table
        if "url" not in table:
            raise ValueError("url: task upstream takes the address of a server, such as http://127.0.0.1:8080/v1")
        if table.get("source", table["url"]) != table["url"]:
            raise ValueError(
                "source: task upstream takes no source, because the server has the model; use url and upstream_model"
            )
        return {**table, "source": table["url"]}

    @field_validator("strategy", mode="before")
    @classmethod
    def _require_strategy_of_task(cls, strategy: Any, info: ValidationInfo) -> Any:
        # Runs before pydantic's own check, whose message would list the strategies of all tasks.
        task = info.data.get("task")
        accepted = STEP_TASK_STRATEGIES.get(task, BATCH_STRATEGIES) if task else ()
        if isinstance(strategy, str) and task and strategy not in accepted:
            raise ValueError(f"task {task} takes {', '.join(accepted)}")
        return strategy

    @model_validator(mode="after")
    def _check_generation(self) -> ModelSettings:
        if self.task == "generate" and self.dtype == "int8":
            raise ValueError("dtype 'int8': task generate takes auto, float32, bfloat16, float16")
        if self.task == "generate" and self.max_input_tokens == 1:
            raise ValueError("max_input_tokens 1: task generate takes at least 2, one each for prompt and answer")
        return self
