"""Tasks on tiny random models: every strategy gives the outputs of transformers or sentence-transformers."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, pipeline

from tests.support.run_engine import answers
from tests.support.tiny_tasks import (
    FAMILIES,
    LIMIT,
    STRATEGIES,
    TEXTS,
    WORDS,
    outputs,
    save,
    save_scorer,
    save_tagger,
    settings_for,
    text_of,
    without,
)
from windrow.errors import InputTooLong, InvalidInput, ModelFailed, ModelUnusable
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.worker.engines.loading import load_engine

NLI = ("contradiction", "neutral", "entailment")


RERANKS = [
    {"query": "dry hay", "documents": TEXTS[:5]},
    {"query": "the sun", "documents": [TEXTS[6]]},
    {"query": "", "documents": [TEXTS[1], "rain"] * 4},
]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_gives_the_scores_of_a_cross_encoder(made: Any, family: str) -> None:
    from sentence_transformers import CrossEncoder

    folder = made(save_scorer, family)
    pairs = [(request["query"], document) for request in RERANKS for document in request["documents"]]
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs, batch_size=1)
    for strategy in STRATEGIES:
        settings = settings_for(folder, "rerank", strategy)
        engine = load_engine("ranker", settings)
        assert engine.info.strategy == (strategy if family != "deberta-v2" or strategy != "packed" else "bucket")
        found = outputs(answers(engine, settings, RERANKS))
        assert [len(output["scores"]) for output in found] == [5, 1, 8]
        assert [score for output in found for score in output["scores"]] == pytest.approx(expected, rel=1e-5), strategy


@pytest.mark.parametrize(("family", "types"), [("bert", [0, 0, 0, 1, 1]), ("modernbert", None)])
def test_token_types_are_used_if_the_model_reads_them(made: Any, family: str, types: Any) -> None:
    engine = load_engine("ranker", settings_for(made(save_scorer, family), "rerank"))
    (prepared,) = engine.prepare([{"query": "hay", "documents": ["rain"]}], [{}])
    (tokens,) = prepared.data.sequences
    assert (tokens.types if tokens.types is None else tokens.types.tolist()) == types


def test_top_n_lists_the_best_documents(made: Any) -> None:
    settings = settings_for(made(save_scorer), "rerank")
    (found,) = outputs(answers(load_engine("ranker", settings), settings, RERANKS[:1], [{"top_n": 2}]))
    best = sorted(range(5), key=lambda index: -found["scores"][index])[:2]
    assert found["results"] == [{"index": index, "score": found["scores"][index]} for index in best]


def test_the_activation_is_the_one_in_the_models_files(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    inner, folder = save_scorer(tmp_path / "inner"), tmp_path / "whole"
    reference = CrossEncoder(str(inner), device="cpu", activation_fn=torch.nn.Identity())
    reference.save_pretrained(str(folder))
    settings = settings_for(folder, "rerank")
    (found,) = outputs(answers(load_engine("ranker", settings), settings, RERANKS[:1]))
    expected = reference.predict([("dry hay", document) for document in TEXTS[:5]], batch_size=1)
    assert found["scores"] == pytest.approx(expected, rel=1e-5)
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.modules.activation.Tanh"}')
    with pytest.raises(ModelUnusable, match="Tanh"):
        load_engine("other", settings)


@pytest.mark.parametrize("strategy", ["dynamic", "packed"])
def test_a_request_larger_than_max_batch_tokens_is_split_into_several_batches(made: Any, strategy: str) -> None:
    settings = settings_for(made(save_scorer), "rerank", strategy)
    small = settings_for(made(save_scorer), "rerank", strategy, max_batch_tokens=50)
    whole, split = (outputs(answers(load_engine("ranker", some), some, RERANKS)) for some in (settings, small))
    for expected, found in zip(whole, split, strict=True):
        assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)


def test_a_request_with_too_many_pairs_fails_alone(made: Any) -> None:
    documents = ["hay"] * 79 + ["hay " * 40]  # 5 tokens each with the query, and 44 for the last
    requests = [{"query": "sun", "documents": some} for some in (documents, documents[:2], documents[:79])]
    for strategy, kinds in {"packed": [Done, Done, Done], "dynamic": [Failed, Done, Done]}.items():
        settings = settings_for(made(save_scorer), "rerank", strategy, max_batch_tokens=64)
        found = answers(load_engine("ranker", settings), settings, requests)
        assert [type(outcome) for outcome in found] == kinds
    most = "80 pairs of texts are 3520 tokens, and one request takes 1024"
    (refused,) = answers(load_engine("ranker", settings), settings, requests[:1])
    assert isinstance(refused.error, InputTooLong)
    assert most in refused.error.detail


def test_a_pair_is_truncated_as_a_cross_encoder_truncates_it(made: Any) -> None:
    from sentence_transformers import CrossEncoder

    settings = settings_for(made(save_scorer), "rerank")
    request = {"query": text_of(60, 1), "documents": [text_of(20, 2), text_of(200, 3)]}
    engine = load_engine("ranker", settings)
    (refused,) = answers(engine, settings, [request])
    assert isinstance(refused.error, InputTooLong)
    assert all(part in refused.error.detail for part in ("input.documents.0: ", f"takes {LIMIT}", "truncate: true"))
    (found,) = outputs(answers(engine, settings, [request], [{"truncate": True}]))
    pairs = [(request["query"], document) for document in request["documents"]]
    expected = CrossEncoder(str(made(save_scorer)), device="cpu").predict(pairs, batch_size=1)
    assert found["scores"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_bad_pair_fails_its_own_request_only(made: Any, tmp_path: Path, strategy: str) -> None:
    settings = settings_for(save_scorer(tmp_path), "rerank", strategy)
    engine = load_engine("ranker", settings)
    requests: list[Any] = [
        {"query": "hay", "documents": ["sun", "dry"]},
        {"query": "hay", "documents": ["sun", "rain"]},
        {"query": "hay", "documents": ["sun", 7]},
        {"query": "wet", "documents": ["row"]},
        "hay",
        {"query": "hay", "documents": [text_of(200)]},
        {"query": "hay", "documents": ["dry"]},
    ]
    expected = outputs(answers(engine, settings, [requests[0], requests[3]]))
    with torch.inference_mode():
        engine._forward.weights.module.base_model.embeddings.word_embeddings.weight[4 + WORDS.index("rain")] = torch.nan
    found = answers(engine, settings, requests, [{}] * 6 + [{"labels": []}])
    kinds = [type(outcome.error) if isinstance(outcome, Failed) else None for outcome in found]
    assert kinds == [None, ModelFailed, InvalidInput, None, InvalidInput, InputTooLong, InvalidInput]
    for output, alone in zip(outputs([found[0], found[3]]), expected, strict=True):
        assert output["scores"] == pytest.approx(alone["scores"], rel=1e-5)


def test_rerank_refuses_a_model_with_several_labels(made: Any) -> None:
    with pytest.raises(ModelUnusable, match="3 labels"):
        load_engine("nli", settings_for(made(save_scorer, "bert", NLI), "rerank"))


@pytest.mark.parametrize("labels", [NLI, ("entailment", "neutral", "contradiction"), ("ENTAILMENT", "not_entailment")])
def test_every_strategy_gives_the_zero_shot_scores_of_the_pipeline(made: Any, labels: tuple[str, ...]) -> None:
    folder = made(save_scorer, "bert", labels)
    classify = pipeline("zero-shot-classification", model=str(folder), device="cpu")
    parameters: list[dict[str, Any]] = [
        {"labels": ["hay", "rain", "the sun"]},
        {"labels": ["hay", "rain"], "multi_label": True},
        {"labels": ["rows"], "hypothesis_template": "{} and hay"},
        {"labels": [text_of(9, 5), "dry", ""][:2], "hypothesis_template": "wet {}!"},
    ]
    texts = [TEXTS[index] for index in (2, 4, 5, 3)]
    reference = [
        classify(text, some["labels"], **without(some, "labels")) for text, some in zip(texts, parameters, strict=True)
    ]
    for strategy in STRATEGIES:
        settings = settings_for(folder, "zero-shot", strategy)
        engine = load_engine("nli", settings)
        assert engine.info.strategy == strategy
        for found, expected in zip(outputs(answers(engine, settings, texts, parameters)), reference, strict=True):
            assert found["labels"] == expected["labels"]
            assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)


def test_zero_shot_truncates_the_text_and_not_the_label(made: Any) -> None:
    folder = made(save_scorer, "bert", NLI)
    settings, long = settings_for(folder, "zero-shot"), text_of(200)
    engine = load_engine("nli", settings)
    labels = ["hay", text_of(30, 9)]
    (refused, unreadable) = answers(engine, settings, [long, "hay"], [{"labels": labels}, {"labels": [long]}])
    assert "input with parameters.labels.0: " in refused.error.detail
    assert isinstance(unreadable.error, InputTooLong)
    (found,) = outputs(answers(engine, settings, [long], [{"labels": labels, "truncate": True}]))
    expected = pipeline("zero-shot-classification", model=str(folder), device="cpu")(long, labels)
    assert found["labels"] == expected["labels"]
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5)


def test_a_label_that_leaves_no_room_for_the_text_fails_alone(made: Any) -> None:
    settings = settings_for(made(save_scorer, "bert", NLI), "zero-shot")
    parameters = [{"labels": ["hay", text_of(200)], "truncate": True}, {"labels": ["hay"], "truncate": True}]
    bad, good = answers(load_engine("nli", settings), settings, ["the sun", "the sun"], parameters)
    assert isinstance(bad.error, InvalidInput)
    assert "parameters.labels.1: the label leaves no room for the text" in bad.error.detail
    assert isinstance(good, Done)


def test_classify_refuses_a_model_with_a_repeated_label(made: Any) -> None:
    with pytest.raises(ModelUnusable, match="two labels have the name 'good'"):
        load_engine("sentiment", settings_for(made(save_scorer, "bert", ("good", "bad", "good")), "classify"))


def test_zero_shot_refuses_a_model_without_entailment(made: Any) -> None:
    with pytest.raises(ModelUnusable, match=r"labels are good, bad; zero-shot needs .* 'entail'"):
        load_engine("sentiment", settings_for(made(save_scorer, "bert", ("good", "bad")), "zero-shot"))


def save_embedder(folder: Path) -> Path:
    """Save an embedding model with normalized vectors."""
    save(folder, FAMILIES["bert"](), AutoModel)
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in ("Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_text_of_a_batch_gets_its_own_encoding(made: Any, strategy: str) -> None:
    settings = settings_for(made(save_embedder), "embed", strategy)
    engine = load_engine("embedder", settings)
    parameters: list[dict[str, Any]] = [
        {}, {"dimensions": 8}, {"dimensions": 33}, {"encoding_format": "base64"}, {"dimensions": 32},
        {"encoding_format": "int8", "dimensions": 16},
    ]  # fmt: skip
    whole, shortened, too_many, packed, full_width, coded = answers(
        engine, settings, ["hay in the sun"] * 6, parameters
    )
    vector = whole.output["embedding"]
    assert vector.shape == (32,)
    assert shortened.output["embedding"] == pytest.approx(vector[:8] / np.linalg.norm(vector[:8]), rel=1e-4, abs=1e-6)
    assert "takes 1 to 32, the width of this model's vectors, not 33" in too_many.error.detail
    assert np.frombuffer(base64.b64decode(packed.output["embedding"]), "<f4") == pytest.approx(vector, abs=1e-6)
    assert full_width.output["embedding"] == pytest.approx(vector, abs=1e-6)
    assert coded.output["embedding"].dtype == np.int8
    assert np.linalg.norm(coded.output["embedding"] * coded.output["scale"]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("save", "task", "message"),
    [
        (
            save_scorer,
            "token-classify",
            r"BertForSequenceClassification is a model of another.*\.\.\.ForTokenClassification",
        ),
        (save_tagger, "classify", r"BertForTokenClassification is a model of another.*\.\.\.ForSequenceClassification"),
    ],
)
def test_a_head_of_another_task_is_refused_even_if_its_tensors_fit(
    tmp_path: Path, save: Callable[[Path], Path], task: str, message: str
) -> None:
    with pytest.raises(ModelUnusable, match=message):
        load_engine("wrong", settings_for(save(tmp_path), task))
