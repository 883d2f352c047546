"""Generation on a CUDA device: kernels compared with SDPA, and captured steps with ``generate`` of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.steps import drive, ready
from tests.support.tiny_llama import save_tiny_llama
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.device.weights import load_weights
from windrow.worker.engines.generation.engine import GenerateEngine
from windrow.worker.engines.generation.kv_cache import CacheShape, PagedCache
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]

PAGE, PAGES = 16, 40


def random_heads(heads: int, tokens: int, head_dim: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(heads, tokens, head_dim, device="cuda").to(dtype)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 2, 64), (4, 4, 80), (32, 4, 128)])
def test_kernels_equal_sdpa(heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, tolerance: float) -> None:
    from windrow.worker.engines.generation.attention import DecodeLayout, ReadLayout
    from windrow.worker.engines.generation.cuda import DecodeKernels, ReadKernels
    from windrow.worker.engines.generation.kernels import READ_BLOCK

    torch.manual_seed(0)
    device = torch.device("cuda")
    shape = CacheShape(1, kv_heads, head_dim, dtype)
    plain, kernels = (PagedCache(shape, PAGES, PAGE, device) for _ in range(2))
    tables = torch.randperm(PAGES, device=device)[:30].view(3, 10).to(torch.int32)
    scale = head_dim**-0.5

    def close(made: torch.Tensor, right: torch.Tensor) -> bool:
        return bool((made.float() - right.float()).norm() <= tolerance * right.float().norm())

    for slots, starts, counts in (([0, 1], [0, 0], [100, 5]), ([2, 0], [0, 100], [64, 37]), ([1], [5], [1])):
        parts = [random_heads(count, sum(counts), head_dim, dtype) for count in (heads, kv_heads, kv_heads)]
        layout = ReadLayout(plain, tables[slots].long(), starts, counts)
        places, blocks, first = [], [], 0
        for slot, start, count in zip(slots, starts, counts, strict=True):
            at = torch.arange(start, start + count, device=device)
            places.append(tables[slot][at // PAGE] * PAGE + at % PAGE)
            blocks += [
                (slot, first + begin, min(READ_BLOCK, count - begin), start + begin)
                for begin in range(0, count, READ_BLOCK)
            ]
            first += count
        read = ReadKernels(
            kernels, tables, torch.cat(places).to(torch.int32),
            torch.tensor([*blocks, (0, 0, 0, 0)], dtype=torch.int32, device=device),
        )  # fmt: skip
        assert close(read.attend(0, *parts, scale), layout.attend(0, *parts, scale))
    positions = torch.tensor([137, 6, 64], device=device)
    rows = torch.arange(3, device=device)
    for splits in (1, 2, 16):
        parts = [random_heads(count, 3, head_dim, dtype) for count in (heads, kv_heads, kv_heads)]
        decode = DecodeKernels(kernels, tables, rows, positions, splits)
        right = DecodeLayout(plain, tables.long(), positions, 137).attend(0, *parts, scale)
        assert close(decode.attend(0, *parts, scale), right)
    assert torch.equal(plain.keys, kernels.keys)
    assert torch.equal(plain.values, kernels.values)


@pytest.mark.parametrize("compiled", [False, True])
def test_captured_steps_equal_transformers(tmp_path: Path, compiled: bool) -> None:
    folder = save_tiny_llama(
        tmp_path, context_tokens=512, hidden_size=256, num_attention_heads=4, intermediate_size=512
    )
    settings = ModelSettings(
        task="generate", source=str(folder), dtype="float32", max_batch_size=40, max_batch_tokens=2048,
        prefill_chunk_tokens=700, cache_tokens=6000, compile=compiled,
    )  # fmt: skip
    engine = load_engine("captured", settings)
    assert isinstance(engine, GenerateEngine)
    assert engine.info.is_captured
    draw = np.random.default_rng(0)
    # Short and long, more than fit at once, and more than the cache holds.
    prompts = [draw.integers(0, 256, draw.integers(1, 400)).tolist() for _ in range(60)]
    lengths = [int(draw.integers(1, 60)) for _ in prompts]
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        engine.add(str(number), ready(engine, {"prompt_ids": ids}, max_tokens=length, ignore_eos=True))
    heard = drive(engine)
    module: Any = load_weights.__wrapped__(folder, "AutoModelForCausalLM", torch.float32, torch.device("cuda")).module
    for number, (ids, length) in enumerate(zip(prompts, lengths, strict=True)):
        tensor = torch.tensor([ids], device="cuda")
        made = module.generate(
            tensor, attention_mask=torch.ones_like(tensor), max_new_tokens=length, do_sample=False, eos_token_id=-1,
            pad_token_id=0,
        )  # fmt: skip
        right = engine._tokenizer.decode(made[0, len(ids) :].tolist())
        assert heard.output(str(number))["text"] == right, number
    assert engine._scheduler.pages_taken == 0


def test_a_seed_gives_the_same_text_in_any_row(tmp_path: Path) -> None:
    folder = save_tiny_llama(tmp_path, context_tokens=256)
    settings = ModelSettings(task="generate", source=str(folder), dtype="float32", max_batch_size=16, compile=False)
    engine = load_engine("sampled", settings)
    parameters = {"max_tokens": 24, "temperature": 1.0, "top_p": 0.9, "seed": 3, "presence_penalty": 0.5}
    engine.add("one", ready(engine, "a prompt", **parameters))
    alone = drive(engine).output("one")["text"]
    for number in range(12):
        engine.add(str(number), ready(engine, f"another {number}", max_tokens=5 + number, temperature=1.0))
    engine.add("one", ready(engine, "a prompt", **parameters))
    assert drive(engine).output("one")["text"] == alone
