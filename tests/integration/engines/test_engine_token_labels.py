"""Task token-classify gives the labels and entities of transformers, in every strategy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.support.run_engine import answers
from tests.support.tiny_tasks import (
    FAMILIES,
    STRATEGIES,
    TEXTS,
    WORDS,
    outputs,
    save_tagger,
    settings_for,
    text_of,
    whole_words,
    without,
)
from windrow.errors import ModelFailed
from windrow.worker.engines.loading import load_engine

TAGGED = [*TEXTS, "Ä haying, raked the fields .  rain!xyz", "hayer\n\tdrying, Äs"]


def save_tagger_of(folder: Path, tokenizer: Callable[[], Any] | None) -> Path:
    return save_tagger(folder, tokenizer=tokenizer and tokenizer())


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("tokenizer", [None, whole_words], ids=["pieces", "words"])
def test_entities_are_those_of_the_transformers_pipeline(made: Any, tokenizer: Any, aggregation: str) -> None:
    folder = made(save_tagger_of, tokenizer)
    reference = pipeline(
        "token-classification",
        model=AutoModelForTokenClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        aggregation_strategy=aggregation,
        device="cpu",
    )
    settings = settings_for(folder, "token-classify")
    engine = load_engine("tagger", settings)
    found = outputs(answers(engine, settings, TAGGED, [{"aggregation": aggregation}] * len(TAGGED)))
    assert sum(len(output["entities"]) for output in found) > 30
    for text, output in zip(TAGGED, found, strict=True):
        expected = reference(text)
        assert [without(entity, "score") for entity in output["entities"]] == [
            without(entity, "score") for entity in expected
        ]
        scores = [float(entity["score"]) for entity in expected]
        assert [entity["score"] for entity in output["entities"]] == pytest.approx(scores, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_gives_the_token_labels_of_transformers(made: Any, family: str) -> None:
    folder = made(save_tagger, family)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        expected = [model(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits[0] for text in TEXTS]
    for strategy in STRATEGIES:
        settings = settings_for(folder, "token-classify", strategy)
        engine = load_engine("tagger", settings)
        found = outputs(answers(engine, settings, TEXTS))
        for output, logits in zip(found, expected, strict=True):
            best = logits.softmax(1)[1:-1].max(1)
            tagged = [(at + 1, float(score)) for at, (score, label) in enumerate(zip(*best, strict=True)) if label]
            assert [entity["index"] for entity in output["entities"]] == [at for at, _ in tagged], strategy
            assert [entity["score"] for entity in output["entities"]] == pytest.approx([s for _, s in tagged], rel=1e-5)


def test_offsets_refer_to_the_whole_text_if_its_start_is_truncated(tmp_path: Path) -> None:
    folder = save_tagger(tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left"}))
    settings, text = settings_for(folder, "token-classify", max_input_tokens=12), text_of(400)
    assert len(text) > 64 * 12
    (found,) = outputs(answers(load_engine("tagger", settings), settings, [text], [{"truncate": True}]))
    assert found["entities"]
    for entity in found["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["word"].removeprefix("##")
    assert found["entities"][-1]["end"] > len(text) - 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_token_with_nan_fails_its_own_text_only(tmp_path: Path, strategy: str) -> None:
    settings = settings_for(save_tagger(tmp_path), "token-classify", strategy)
    engine = load_engine("tagger", settings)
    texts = ["the sun", "the rain and sun", "hay", "rake"]
    expected = outputs(answers(engine, settings, [texts[0], *texts[2:]]))
    with torch.inference_mode():
        engine._forward.weights.module.base_model.embeddings.word_embeddings.weight[4 + WORDS.index("rain")] = torch.nan
    found = answers(engine, settings, texts)
    assert isinstance(found[1].error, ModelFailed)
    for output, alone in zip(outputs([found[0], *found[2:]]), expected, strict=True):
        assert [without(entity, "score") for entity in output["entities"]] == [
            without(entity, "score") for entity in alone["entities"]
        ]
