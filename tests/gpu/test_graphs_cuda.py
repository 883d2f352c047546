"""Captured packed passes on a CUDA device: whatever ran before, each text gets the answer it gets alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.planning import Batch, plan_batches, token_rungs
from windrow.worker.engines.base import Engine
from windrow.worker.engines.loading import batch_limits, load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]

LIMIT = 512


def save_encoder(folder: Path, kind: str) -> Path:
    """A random encoder with heads of 64, and a tokenizer of single words."""
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


def run(engine: Engine, wishes: ModelSettings, texts: list[str]) -> np.ndarray:
    ready: list[Any] = engine.prepare(texts, [{}] * len(texts))
    rows: dict[int, np.ndarray] = {}
    for batch in plan_batches(engine.info.strategy, [one.tokens for one in ready], batch_limits(wishes, engine.info)):
        handle = engine.forward([ready[index] for index in batch.indices], batch)
        for index, outcome in zip(batch.indices, engine.collect(handle), strict=True):
            rows[index] = outcome.output["embedding"]
    return np.stack([rows[index] for index in range(len(texts))])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_captured_passes_answer_as_one_by_one_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, compiled: bool
) -> None:
    source = str(save_encoder(tmp_path, kind))
    more: dict[str, Any] = {"task": "embed", "source": source, "max_batch_size": 32, "max_batch_tokens": 2048}
    alone = ModelSettings(**more, strategy="none")
    packed = ModelSettings(**more, strategy="packed", compile=compiled)
    reference, engine = load_engine("alone", alone), load_engine("packed", packed)
    assert engine.info.is_captured
    assert "compiled passes differ" not in caplog.text
    assert "cannot be compiled" not in caplog.text
    assert engine.info.relative_error is not None
    assert engine.info.relative_error < 2e-2
    draw = np.random.default_rng(1)
    # One token, exactly a size, one above it, the model's limit, a full pass; then rows of all sizes in any order.
    rows = [[1], [64], [65], [LIMIT], [LIMIT] * 4, [1] * 32]
    rows += [draw.integers(1, LIMIT + 1, draw.integers(1, 33)).tolist() for _ in range(12)]
    for lengths in rows:
        texts = [text_of(draw, int(length)) for length in lengths]
        made, right = run(engine, packed, texts), run(reference, alone, texts)
        errors = np.linalg.norm(made - right, axis=1) / np.linalg.norm(right, axis=1)
        assert errors.max() < 2e-2, lengths


def test_a_pass_larger_than_any_captured_one_still_runs(tmp_path: Path) -> None:
    source = str(save_encoder(tmp_path, "bert"))
    wishes = ModelSettings(
        task="embed", source=source, strategy="packed", max_batch_size=4, max_batch_tokens=128, compile=False
    )
    engine = load_engine("small", wishes)
    ready: list[Any] = engine.prepare([text_of(np.random.default_rng(0), 300)], [{}])
    assert max(token_rungs(128)) < 300
    (outcome,) = engine.collect(engine.forward(ready, Batch((0,), None, 300, 300)))
    assert np.isfinite(outcome.output["embedding"]).all()
