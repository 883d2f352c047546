"""A generate engine on a tiny random Llama, and what its tests compare it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support.steps import drive, ready
from tests.support.tiny_llama import EOS
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.base import StepEngine
from windrow.worker.engines.device.weights import load_weights
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.loading import load_engine

CONTEXT = 128


def load(folder: Path, **settings: Any) -> GenerateEngine:
    defaults: dict[str, Any] = {"max_batch_size": 8, "page_tokens": 4, "dtype": "float32"}
    engine = load_engine("tiny", ModelSettings(task="generate", source=str(folder), **defaults | settings))
    assert isinstance(engine, GenerateEngine)
    assert isinstance(engine, StepEngine)
    return engine


def assert_empty(engine: GenerateEngine) -> None:
    assert engine.step() is None
    assert engine._scheduler.is_idle
    assert engine._scheduler.pages_taken == 0
    assert not engine._collector.requests
    assert not engine._runner._rows


def run(engine: GenerateEngine, value: Any, **parameters: Any) -> dict[str, Any]:
    engine.add("one", ready(engine, value, **parameters))
    return drive(engine).output("one")


def prompts_of(count: int, longest: int = 40, seed: int = 0) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 256, draw.integers(1, longest)).tolist() for _ in range(count)]


def generated(folder: Path, ids: list[int], **options: Any) -> list[int]:
    """Return the new tokens of ``generate`` of transformers, end token included."""
    module: Any = load_weights(folder, "AutoModelForCausalLM", torch.float32, torch.device("cpu")).module
    module.config._attn_implementation = "sdpa"
    tensor = torch.tensor([ids])
    made = module.generate(tensor, attention_mask=torch.ones_like(tensor), pad_token_id=0, **options)
    return made[0, len(ids) :].tolist()


def text_of(engine: GenerateEngine, ids: list[int]) -> str:
    return engine._tokenizer.decode([token for token in ids if token != EOS])
