"""Loads a model of windrow.toml into this process."""

from __future__ import annotations

from typing import Any

from windrow.errors import UnknownModel
from windrow.gateway.config import InferenceConfig
from windrow.scheduler.config.settings import load_settings
from windrow.scheduler.core.planning import BatchLimits
from windrow.worker.engines.base import Engine


def load(model: str, config: InferenceConfig) -> tuple[Engine, BatchLimits]:
    """Load ``model`` of the settings with the limits of ``config``.

    Raises `UnknownModel`, `InvalidSetting` and `ModelUnusable`.
    """
    models = load_settings().models
    if model not in models:
        raise UnknownModel(f"no model {model!r} is configured; configured are {', '.join(models)}")
    from windrow.worker.engines.loading import batch_limits, load_batch_engine  # imports torch

    window = config.window
    limits = {"max_batch_size": window.max_batch_size, "max_batch_tokens": window.max_batch_tokens}
    settings = models[model].model_copy(update=limits)
    engine = load_batch_engine(model, settings)
    return engine, batch_limits(settings, engine.info)


def to_lists(output: Any) -> Any:
    """Return an output of an engine as a server returns it: with lists instead of arrays."""
    if isinstance(output, dict):
        return {name: to_lists(value) for name, value in output.items()}
    return output.tolist() if hasattr(output, "tolist") else output
