"""Captured packed batches on a CUDA device give each text the vector that it gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.run_engine import answers
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import Batch, token_rungs
from windrow.worker.engines.base import Engine
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]

LIMIT = 512


def save_encoder(folder: Path, kind: str) -> Path:
    """Save a random encoder with 64 dimensions per attention head, and a tokenizer of whole words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    shape = {"vocab_size": 1000, "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 3}
    config, model = {
        "bert": (transformers.BertConfig(**shape), transformers.BertModel),
        "roberta": (
            transformers.RobertaConfig(**shape, max_position_embeddings=LIMIT + 2, pad_token_id=1),
            transformers.RobertaModel,
        ),
    }[kind]
    model(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(1000)}, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def text_of(draw: np.random.Generator, tokens: int) -> str:
    return " ".join(f"w{number}" for number in draw.integers(3, 1000, tokens))


def run(engine: Engine, settings: ModelSettings, texts: list[str]) -> np.ndarray:
    return np.stack([outcome.output["embedding"] for outcome in answers(engine, settings, texts)])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_captured_batches_give_the_vectors_of_single_texts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, compiled: bool
) -> None:
    source = str(save_encoder(tmp_path, kind))
    more: dict[str, Any] = {"task": "embed", "source": source, "max_batch_size": 32, "max_batch_tokens": 2048}
    alone = ModelSettings(**more, strategy="none")
    packed = ModelSettings(**more, strategy="packed", compile=compiled)
    reference, engine = load_engine("alone", alone), load_engine("packed", packed)
    assert engine.info.is_captured
    assert "compiled batches differ" not in caplog.text
    assert "cannot be compiled" not in caplog.text
    assert engine.info.relative_error is not None
    assert engine.info.relative_error < 2e-2
    draw = np.random.default_rng(1)
    # One token, exactly a captured size, one more, the model's limit, a full batch; then random batches.
    batches = [[1], [64], [65], [LIMIT], [LIMIT] * 4, [1] * 32]
    batches += [draw.integers(1, LIMIT + 1, draw.integers(1, 33)).tolist() for _ in range(12)]
    for lengths in batches:
        texts = [text_of(draw, int(length)) for length in lengths]
        made, expected = run(engine, packed, texts), run(reference, alone, texts)
        errors = np.linalg.norm(made - expected, axis=1) / np.linalg.norm(expected, axis=1)
        assert errors.max() < 2e-2, lengths


def test_a_batch_larger_than_any_captured_one_still_runs(tmp_path: Path) -> None:
    source = str(save_encoder(tmp_path, "bert"))
    settings = ModelSettings(
        task="embed", source=source, strategy="packed", max_batch_size=4, max_batch_tokens=128, compile=False
    )
    engine = load_engine("small", settings)
    ready: list[Any] = engine.prepare([text_of(np.random.default_rng(0), 300)], [{}])
    assert max(token_rungs(128)) < 300
    (outcome,) = engine.collect(engine.forward(ready, Batch((0,), None, 300, 300)))
    assert np.isfinite(outcome.output["embedding"]).all()
