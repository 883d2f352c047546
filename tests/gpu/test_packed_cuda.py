"""On a CUDA device, variable-length flash attention gives the vectors that SDPA gives for each text alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.run_engine import answers
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.worker.engines.base import Engine
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]

LENGTHS = (3, 400, 17, 64, 65, 1, 128, 250, 9)


def save_encoder(folder: Path) -> Path:
    """Save a random BERT with 64 dimensions per attention head, and a tokenizer of whole words."""
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


def embed_all(engine: Engine, settings: ModelSettings, texts: list[str]) -> np.ndarray:
    return np.stack([outcome.output["embedding"] for outcome in answers(engine, settings, texts)])


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 2e-2), ("float16", 2e-2), ("float32", 1e-5)])
@pytest.mark.parametrize("strategy", ["static", "dynamic", "bucket", "packed"])
def test_every_strategy_agrees_with_single_texts(tmp_path: Path, strategy: str, dtype: str, tolerance: float) -> None:
    draw = np.random.default_rng(0)
    texts = [" ".join(f"w{number}" for number in draw.integers(1, 1000, length)) for length in LENGTHS]
    source = str(save_encoder(tmp_path))
    vectors = {}
    for name in ("none", strategy):
        settings = ModelSettings(task="embed", source=source, strategy=name, dtype=dtype)
        engine = load_engine(name, settings)
        assert (engine.info.device, engine.info.strategy, engine.info.strategy_note) == ("cuda", name, None)
        vectors[name] = embed_all(engine, settings, texts)
    errors = np.linalg.norm(vectors[strategy] - vectors["none"], axis=1) / np.linalg.norm(vectors["none"], axis=1)
    assert errors.max() < tolerance


def test_a_model_with_a_sliding_window_runs_packed(tmp_path: Path) -> None:
    from transformers import ModernBertConfig, ModernBertModel

    save_encoder(tmp_path)
    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 4, "intermediate_size": 384}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = ModernBertConfig(vocab_size=1000, local_attention=32, max_position_embeddings=512, **shape, **ids)
    ModernBertModel(config).save_pretrained(tmp_path)
    info = load_engine("local", ModelSettings(task="embed", source=str(tmp_path), strategy="packed")).info
    assert (info.strategy, info.strategy_note) == ("packed", None)


def test_importing_the_engines_does_not_initialize_cuda() -> None:
    import subprocess
    import sys

    code = "import torch, windrow.worker.engines.loading; print(torch.cuda.is_initialized())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
