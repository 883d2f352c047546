"""Rotary sines and cosines, computed once per pass by an operation that the compiler does not look into."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.support.tiny_llama import save_tiny_llama
from windrow.worker.engines.generation.fused_linear import cache_rotary


def test_the_logits_do_not_change_and_positions_are_computed_once_per_pass(tmp_path: Path) -> None:
    module = AutoModelForCausalLM.from_pretrained(save_tiny_llama(tmp_path)).eval()
    ids = torch.arange(12)[None]
    with torch.inference_mode():
        right = module(input_ids=ids).logits
        assert cache_rotary(module) == 1
        with torch.profiler.profile() as profile:
            made = module(input_ids=ids).logits
    assert torch.equal(made, right)
    # A sine and a cosine, however many layers read them.
    assert [event.count for event in profile.key_averages() if event.key == "windrow::kept"] == [2]
