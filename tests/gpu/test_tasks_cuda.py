"""Captured batches on a CUDA device, for tasks with several sequences per request or one vector per token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.run_engine import answers
from tests.support.tiny_tasks import WORDS, save_scorer, save_tagger, settings_for
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]


def texts_of(draw: np.random.Generator, count: int, most: int) -> list[str]:
    return [" ".join(draw.choice(WORDS[:13], draw.integers(1, most))) for _ in range(count)]


def run(folder: Path, task: str, strategy: str, inputs: list[Any]) -> list[Any]:
    settings = settings_for(folder, task, strategy, dtype="bfloat16", max_batch_tokens=1024, compile=False)
    engine = load_engine(strategy, settings)
    assert engine.info.is_captured == (strategy == "packed")
    return [outcome.output for outcome in answers(engine, settings, inputs)]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_captured_pairs_get_the_scores_of_single_pairs(tmp_path: Path, family: str) -> None:
    draw = np.random.default_rng(0)
    # One pair, several, more tokens than max_batch_tokens, and more sequences than a captured batch has.
    inputs = [{"query": "dry hay", "documents": texts_of(draw, count, 60)} for count in (1, 3, 8, 100)]
    inputs.append({"query": "hay", "documents": ["sun"] * 300})
    folder = save_scorer(tmp_path, family)
    captured, alone = (run(folder, "rerank", strategy, inputs) for strategy in ("packed", "none"))
    for found, expected in zip(captured, alone, strict=True):
        assert found["scores"] == pytest.approx(expected["scores"], abs=3e-2)


def test_many_pairs_run_in_captured_padded_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    # Together more sequences than max_batch_size, and more tokens than max_batch_tokens.
    inputs = [{"query": "dry hay", "documents": texts_of(draw, count, 60)} for count in (1, 8, 8, 8, 100)]
    inputs.append({"query": "hay", "documents": ["sun"] * 300})
    folder = save_scorer(tmp_path, "deberta-v2")
    one_by_one = settings_for(folder, "rerank", "none", dtype="bfloat16", max_batch_tokens=1024)
    expected = [outcome.output for outcome in answers(load_engine("none", one_by_one), one_by_one, inputs)]

    settings = settings_for(folder, "rerank", dtype="bfloat16", max_batch_tokens=1024, compile=False)
    engine = load_engine("fallback", settings)
    assert (engine.info.strategy, engine.info.is_captured) == ("bucket", True)
    monkeypatch.setattr(engine._forward, "split_padded", None)  # a batch without a graph raises
    for outcome, single in zip(answers(engine, settings, inputs), expected, strict=True):
        assert outcome.output["scores"] == pytest.approx(single["scores"], abs=3e-2)


def test_captured_tokens_get_the_labels_of_single_texts(tmp_path: Path) -> None:
    inputs = texts_of(np.random.default_rng(1), 40, 90)
    captured, alone = (run(save_tagger(tmp_path), "token-classify", name, inputs) for name in ("packed", "none"))
    same = 0
    for found, single in zip(captured, alone, strict=True):
        expected = {entity["index"]: entity for entity in single["entities"]}
        for entity in found["entities"]:
            if expected.get(entity["index"], {}).get("entity") == entity["entity"]:
                assert entity["score"] == pytest.approx(expected[entity["index"]]["score"], abs=3e-2)
                same += 1
    # If two labels are about equally likely, rounding may exchange them.
    assert same > 0.9 * sum(len(output["entities"]) for output in alone)
