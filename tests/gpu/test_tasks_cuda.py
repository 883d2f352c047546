"""Captured packed passes of tasks with several sequences a request, or several rows a sequence, on a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_tasks import WORDS, answers, save_scorer, save_tagger, settings
from windrow.worker.engines.loading import load_engine

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; this machine has none"),
]


def texts_of(draw: np.random.Generator, count: int, most: int) -> list[str]:
    return [" ".join(draw.choice(WORDS[:13], draw.integers(1, most))) for _ in range(count)]


def run(folder: Path, task: str, strategy: str, inputs: list[Any]) -> list[Any]:
    wishes = settings(folder, task, strategy, dtype="bfloat16", max_batch_tokens=1024, compile=False)
    engine = load_engine(strategy, wishes)
    assert engine.info.is_captured == (strategy == "packed")
    return [outcome.output for outcome in answers(engine, wishes, inputs)]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_captured_pairs_are_scored_as_each_alone(tmp_path: Path, family: str) -> None:
    draw = np.random.default_rng(0)
    # Of one pair, of more than are captured together, of more tokens than a pass may hold.
    inputs = [{"query": "dry hay", "documents": texts_of(draw, count, 60)} for count in (1, 3, 8, 100)]
    inputs.append({"query": "hay", "documents": ["sun"] * 300})
    folder = save_scorer(tmp_path, family)
    captured, alone = (run(folder, "rerank", strategy, inputs) for strategy in ("packed", "none"))
    for one, other in zip(captured, alone, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=3e-2)


def test_many_pairs_of_a_model_that_cannot_pack_run_in_passes_that_were_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(2)
    # Together more rows than requests fit a pass; and more tokens than a pass may hold.
    inputs = [{"query": "dry hay", "documents": texts_of(draw, count, 60)} for count in (1, 8, 8, 8, 100)]
    inputs.append({"query": "hay", "documents": ["sun"] * 300})
    folder = save_scorer(tmp_path, "deberta-v2")
    one_by_one = settings(folder, "rerank", "none", dtype="bfloat16", max_batch_tokens=1024)
    right = [one.output for one in answers(load_engine("none", one_by_one), one_by_one, inputs)]

    wishes = settings(folder, "rerank", dtype="bfloat16", max_batch_tokens=1024, compile=False)
    engine = load_engine("fallback", wishes)
    assert (engine.info.strategy, engine.info.is_captured) == ("bucket", True)
    monkeypatch.setattr(engine._forward, "split_padded", None)  # a batch without a graph raises
    for one, other in zip(answers(engine, wishes, inputs), right, strict=True):
        assert one.output["scores"] == pytest.approx(other["scores"], abs=3e-2)


def test_captured_tokens_are_labelled_as_each_text_alone(tmp_path: Path) -> None:
    inputs = texts_of(np.random.default_rng(1), 40, 90)
    captured, alone = (run(save_tagger(tmp_path), "token-classify", name, inputs) for name in ("packed", "none"))
    same = 0
    for one, other in zip(captured, alone, strict=True):
        right = {entity["index"]: entity for entity in other["entities"]}
        for entity in one["entities"]:
            if right.get(entity["index"], {}).get("entity") == entity["entity"]:
                assert entity["score"] == pytest.approx(right[entity["index"]]["score"], abs=3e-2)
                same += 1
    # Where two labels are as likely, rounding may turn one into the other.
    assert same > 0.9 * sum(len(one["entities"]) for one in alone)
