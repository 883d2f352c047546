"""The texts of the benchmarks, and the model that embeds them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from windrow.lab.sample_texts import mixed_texts
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.values import DEFAULT_MODELS
from windrow.scheduler.models.token_counts import load_text_limit

MODEL = "minilm"
#: `max_batch_size` of the model.
BATCH_SIZE = 64
CONFIG = f"""[models.{MODEL}]
task = "embed"
source = "{DEFAULT_MODELS[MODEL]["source"]}"
strategy = "packed"
max_batch_size = {BATCH_SIZE}
"""
#: Environment variables that would change what is measured.
NOT_INHERITED = ("CELERY_BROKER_URL", "PORT", "WEB_CONCURRENCY")


def model_settings() -> ModelSettings:
    """Return the settings of the model in `CONFIG`."""
    return ModelSettings.model_validate(DEFAULT_MODELS[MODEL] | {"strategy": "packed", "max_batch_size": BATCH_SIZE})


def counted_texts(count: int) -> tuple[list[str], list[int]]:
    """Return texts of 3 to 400 words, and the tokens of each after truncation to the model's limit."""
    texts = mixed_texts(count)
    limit = load_text_limit(model_settings().source)
    return texts, [min(limit.count(text), limit.max_input_tokens) for text in texts]


def bench_environ(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of the benchmark's programs: its own model, no ``windrow.toml`` and no ``WINDROW_*``."""
    config = folder / "windrow.toml"
    config.write_text(CONFIG, encoding="utf-8")
    kept = {
        name: value for name, value in environ.items() if name not in NOT_INHERITED and not name.startswith("WINDROW_")
    }
    return kept | {
        "WINDROW_CONFIG": str(config),
        "PORT": "0",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }
