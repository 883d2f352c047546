"""From a model's settings to a loaded engine."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import BatchLimits, token_rungs
from windrow.worker.engines.base import Engine, EngineInfo, StepEngine
from windrow.worker.engines.device.captured_sizes import captured_rectangles

#: Task -> the class of its engine, which is imported with torch when a model of it is loaded.
ENGINES: dict[str, str] = {
    "embed": "windrow.worker.engines.text.embed:EmbedEngine",
    "classify": "windrow.worker.engines.text.classify:ClassifyEngine",
    "token-classify": "windrow.worker.engines.text.token_classify:TokenClassifyEngine",
    "rerank": "windrow.worker.engines.text.rerank:RerankEngine",
    "zero-shot": "windrow.worker.engines.text.zero_shot:ZeroShotEngine",
    "generate": "windrow.worker.engines.generation.engine:GenerateEngine",
    "upstream": "windrow.worker.engines.upstream.engine:UpstreamEngine",
}
#: Source -> what makes its weights, where nobody has on this machine.
MAKERS: dict[str, str] = {"builtin:tiny-llama": "windrow.worker.tiny_llama:make_tiny_llama"}


def load_engine(name: str, settings: ModelSettings) -> Engine | StepEngine:
    """Load the model ``name``; in the pool process only, since it may initialise CUDA.

    The weights of a builtin model are made first, where nobody has yet. Raises `ModelUnusable` where the source is not
    there, holds no safetensors or is of another task.
    """
    if settings.task not in ENGINES:
        raise ModelUnusable(f"model {name!r}: no engine for task {settings.task!r}; there are {', '.join(ENGINES)}")
    if settings.source in MAKERS:
        _named(MAKERS[settings.source])()
    engine: Engine | StepEngine = _named(ENGINES[settings.task])(name, settings)
    return engine


def load_anew(name: str, settings: ModelSettings) -> Engine | StepEngine:
    """`load_engine` with weights of its own, from the files as they are now: engines that are there keep theirs.

    What runs in float32 on a CPU may go on meanwhile. Elsewhere nothing may: the default type of this process's tensors
    is the model's while it is read, and graphs are captured by themselves.
    """
    for shared in (
        "windrow.worker.engines.device.weights:load_weights",
        "windrow.worker.engines.device.int8:load_int8",
    ):
        _named(shared).cache_clear()
    return load_engine(name, settings)


def _named(name: str) -> Any:
    """What ``module:name`` names."""
    module, _, inside = name.partition(":")
    return getattr(import_module(module), inside)


def load_row_engine(name: str, settings: ModelSettings) -> Engine:
    """`load_engine` for models that answer in one pass; raises `ModelUnusable` for others."""
    engine = load_engine(name, settings)
    if isinstance(engine, StepEngine):
        raise ModelUnusable(f"model {name!r}: task {settings.task!r} does not answer in one pass")
    return engine


def batch_limits(settings: ModelSettings, info: EngineInfo) -> BatchLimits:
    """The planner's limits for a loaded model.

    No bucket is longer than the model's positions, ``static`` pads to exactly its limit, and captured passes are
    rounded up to the sizes that were captured.
    """
    tokens = settings.max_batch_tokens
    rectangles = captured_rectangles(settings, info.max_input_tokens)
    captured = info.strategy if info.is_captured else None
    return BatchLimits(
        max_batch_size=settings.max_batch_size,
        max_batch_tokens=tokens,
        buckets=tuple(rectangles),
        static_length=info.max_input_tokens,
        rungs=token_rungs(tokens) if captured == "packed" else (),
        row_rungs=tuple(rectangles.values()) if captured == "bucket" else (),
    )
