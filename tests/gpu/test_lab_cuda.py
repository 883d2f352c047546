"""Timings on a CUDA device use the captured sizes of steps and batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.support.tiny_llama import VOCABULARY, save_tiny_llama
from windrow.lab.costs.fitting import fit_steps
from windrow.lab.tune.step_timing import runs_of
from windrow.lab.tune.steps import Rig, time_steps
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]


def test_steps_are_timed_in_captured_sizes_one_step_ahead(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, context_tokens=512)
    settings = ModelSettings(
        task="generate", source=str(folder), max_batch_size=40, cache_tokens=40_000, compile=False, page_tokens=16
    )
    engine = load_engine("tiny", settings)
    runs = runs_of(engine.info)
    assert runs.ahead == 1
    assert runs.row_rungs[-1] == 40
    timings = time_steps(Rig(engine, VOCABULARY, 2048), 20.0, lambda text: None)
    assert {step.tokens for step in timings.steps if not step.reads} <= set(runs.row_rungs)
    cost, _ = fit_steps(timings.steps, runs)
    assert cost.seconds(2, 2, 100, reads=False) > 0
