"""Loads the engine of a model from its settings."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from windrow.errors import ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import BatchLimits, token_rungs
from windrow.worker.engines.base import Engine, EngineInfo, StepEngine
from windrow.worker.engines.device.captured_sizes import captured_padded_sizes

#: Task -> its engine class, ``module:class``. The module, and torch with it, is imported when a model is loaded.
ENGINES: dict[str, str] = {
    "embed": "windrow.worker.engines.text.encoder:EncoderEngine",
    "classify": "windrow.worker.engines.text.encoder:EncoderEngine",
    "token-classify": "windrow.worker.engines.text.encoder:EncoderEngine",
    "rerank": "windrow.worker.engines.text.encoder:EncoderEngine",
    "zero-shot": "windrow.worker.engines.text.encoder:EncoderEngine",
    "generate": "windrow.worker.engines.generation.engine:GenerateEngine",
    "upstream": "windrow.worker.engines.upstream.engine:UpstreamEngine",
}
#: Source of a built-in model -> the function that trains it unless this machine has its weights already.
TRAINERS: dict[str, str] = {"builtin:tiny-llama": "windrow.worker.tiny_llama:make_tiny_llama"}


def load_engine(name: str, settings: ModelSettings) -> Engine | StepEngine:
    """Load the model ``name``. Call this in the pool process only, because it may initialize CUDA.

    A built-in model is trained first if this machine does not have its weights. Raises `ModelUnusable` if the source
    is missing, contains no safetensors, or is a model of another task.
    """
    if settings.task not in ENGINES:
        raise ModelUnusable(f"model {name!r}: no engine for task {settings.task!r}; accepted: {', '.join(ENGINES)}")
    if settings.source in TRAINERS:
        _import(TRAINERS[settings.source])()
    engine: Engine | StepEngine = _import(ENGINES[settings.task])(name, settings)
    return engine


def load_engine_afresh(name: str, settings: ModelSettings) -> Engine | StepEngine:
    """Call `load_engine` with weights read from the files as they are now; loaded engines keep their weights.

    On a CPU in float32 other models may run meanwhile. Otherwise no model may: transformers changes the default dtype
    of this process while it reads weights, and nothing else may run on the device during a CUDA graph capture.
    """
    for cached in (
        "windrow.worker.engines.device.weights:load_weights",
        "windrow.worker.engines.device.int8:load_int8",
    ):
        _import(cached).cache_clear()
    return load_engine(name, settings)


def _import(path: str) -> Any:
    """Return the object named by ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def load_batch_engine(name: str, settings: ModelSettings) -> Engine:
    """Call `load_engine`; raise `ModelUnusable` if the model generates step by step."""
    engine = load_engine(name, settings)
    if isinstance(engine, StepEngine):
        raise ModelUnusable(f"model {name!r}: task {settings.task!r} does not answer in one forward pass")
    return engine


def batch_limits(settings: ModelSettings, info: EngineInfo) -> BatchLimits:
    """Return the planner's limits for a loaded model.

    Buckets are capped at the model's longest input, ``static`` pads to exactly that length, and captured batches are
    rounded up to the captured sizes.
    """
    tokens = settings.max_batch_tokens
    padded_sizes = captured_padded_sizes(settings, info.max_input_tokens)
    captured = info.strategy if info.is_captured else None
    return BatchLimits(
        max_batch_size=settings.max_batch_size,
        max_batch_tokens=tokens,
        buckets=tuple(padded_sizes),
        static_length=info.max_input_tokens,
        rungs=token_rungs(tokens) if captured == "packed" else (),
        row_rungs=tuple(padded_sizes.values()) if captured == "bucket" else (),
    )
