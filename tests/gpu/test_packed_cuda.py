"""Packed passes on a CUDA device: variable-length flash attention answers what SDPA answers to each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import plan_batches
from windrow.worker.engines.base import Engine
from windrow.worker.engines.loading import batch_limits, load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]

LENGTHS = (3, 400, 17, 64, 65, 1, 128, 250, 9)


def save_encoder(folder: Path) -> Path:
    """A random BERT with heads of 64, and a tokenizer of single words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=1000, hidden_size=256, num_attention_heads=4, num_hidden_layers=4)).save_pretrained(
        folder
    )
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(1000)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def embed_all(engine: Engine, wishes: ModelSettings, texts: list[str]) -> np.ndarray:
    prepared = engine.prepare(texts, [{}] * len(texts))
    rows: dict[int, np.ndarray] = {}
    limits = batch_limits(wishes, engine.info)
    for batch in plan_batches(engine.info.strategy, [one.tokens for one in prepared], limits):
        handle = engine.forward([prepared[index] for index in batch.indices], batch)
        for index, outcome in zip(batch.indices, engine.collect(handle), strict=True):
            rows[index] = outcome.output["embedding"]
    return np.stack([rows[index] for index in range(len(texts))])


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-2), ("float32", 1e-5)])
@pytest.mark.parametrize("strategy", ["static", "dynamic", "bucket", "packed"])
def test_every_strategy_agrees_with_one_by_one_on_cuda(
    tmp_path: Path, strategy: str, dtype: str, tolerance: float
) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{number}" for number in draw.integers(1, 1000, length)) for length in LENGTHS]
    source = str(save_encoder(tmp_path))
    rows = {}
    for name in ("none", strategy):
        wishes = ModelSettings(task="embed", source=source, strategy=name, dtype=dtype)
        engine = load_engine(name, wishes)
        assert (engine.info.device, engine.info.strategy, engine.info.strategy_note) == ("cuda", name, None)
        rows[name] = embed_all(engine, wishes, texts)
    errors = np.linalg.norm(rows[strategy] - rows["none"], axis=1) / np.linalg.norm(rows["none"], axis=1)
    assert errors.max() < tolerance


def test_a_window_is_kept_in_packed_passes_on_cuda(tmp_path: Path) -> None:
    from transformers import ModernBertConfig, ModernBertModel

    save_encoder(tmp_path)
    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 384}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(vocab_size=1000, local_attention=32, max_position_embeddings=512, **shape, **ids)
    ModernBertModel(config).save_pretrained(tmp_path)
    info = load_engine("local", ModelSettings(task="embed", source=str(tmp_path), strategy="packed")).info
    assert (info.strategy, info.strategy_note) == ("packed", None)


def test_importing_the_engines_leaves_cuda_alone() -> None:
    import subprocess
    import sys

    code = "import torch, windrow.worker.engines.loading; print(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
