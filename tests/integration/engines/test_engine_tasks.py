"""Tasks on tiny random models: each strategy answers as transformers or sentence-transformers does one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForTokenClassification, AutoTokenizer, pipeline

from tests.support.tiny_tasks import (
    FAMILIES,
    LIMIT,
    STRATEGIES,
    TAILS,
    WORDS,
    answers,
    save,
    save_scorer,
    save_tagger,
    settings,
    whole_words,
)
from windrow.errors import InputTooLong, InvalidInput, ModelFailed, ModelUnusable
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.worker.engines.loading import load_engine

NLI = ("contradiction", "neutral", "entailment")
#: Words in each text: nothing, a bucket, one more, and what fills the model beside the hypothesis of a label.
COUNTS = (0, 1, 14, 15, 31, 3, 70, 8)


def text_of(words: int, seed: int = 0) -> str:
    """So many words, a third of them with a tail, some unknown."""
    draw = np.random.default_rng(seed)
    tails = [tail.removeprefix("##") for tail in TAILS]
    chosen = draw.choice([*WORDS[:13], "xyz"], words)
    return " ".join(word + (str(draw.choice(tails)) if draw.random() < 0.3 else "") for word in chosen)


TEXTS = [text_of(count, seed) for seed, count in enumerate(COUNTS)]
RERANKS = [
    {"query": "dry hay", "documents": TEXTS[:5]},
    {"query": "the sun", "documents": [TEXTS[6]]},
    {"query": "", "documents": [TEXTS[1], "rain"] * 4},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """(what saves it, its arguments) -> folder, saved once."""
    folders: dict[Any, Path] = {}

    def folder(save: Callable[..., Path], *arguments: Any) -> Path:
        if (save, arguments) not in folders:
            folders[save, arguments] = save(tmp_path_factory.mktemp(save.__name__), *arguments)
        return folders[save, arguments]

    return folder


def outputs(outcomes: list[Any]) -> list[dict[str, Any]]:
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    return [outcome.output for outcome in outcomes]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_reranks_as_a_cross_encoder_does_one_by_one(made: Any, family: str) -> None:
    from sentence_transformers import CrossEncoder

    folder = made(save_scorer, family)
    pairs = [(asked["query"], document) for asked in RERANKS for document in asked["documents"]]
    right = CrossEncoder(str(folder), device="cpu").predict(pairs, batch_size=1)
    for strategy in STRATEGIES:
        wishes = settings(folder, "rerank", strategy)
        engine = load_engine("ranker", wishes)
        assert engine.info.strategy == (strategy if family != "deberta-v2" or strategy != "packed" else "bucket")
        found = outputs(answers(engine, wishes, RERANKS))
        assert [len(one["scores"]) for one in found] == [5, 1, 8]
        assert [score for one in found for score in one["scores"]] == pytest.approx(right, rel=1e-5), strategy


@pytest.mark.parametrize(("family", "types"), [("bert", [0, 0, 0, 1, 1]), ("modernbert", None)])
def test_a_model_is_told_which_text_a_token_is_of_where_it_can_be(made: Any, family: str, types: Any) -> None:
    engine = load_engine("ranker", settings(made(save_scorer, family), "rerank"))
    (prepared,) = engine.prepare([{"query": "hay", "documents": ["rain"]}], [{}])
    ((tokens),) = prepared.data.sequences
    assert (tokens.types if tokens.types is None else tokens.types.tolist()) == types


def test_the_best_documents_are_listed_where_that_is_asked_for(made: Any) -> None:
    wishes = settings(made(save_scorer), "rerank")
    (found,) = outputs(answers(load_engine("ranker", wishes), wishes, RERANKS[:1], [{"top_n": 2}]))
    best = sorted(range(5), key=lambda index: -found["scores"][index])[:2]
    assert found["results"] == [{"index": index, "score": found["scores"][index]} for index in best]


def test_logits_stay_as_they_are_where_the_model_says_so(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    inner, folder = save_scorer(tmp_path / "inner"), tmp_path / "whole"
    reference = CrossEncoder(str(inner), device="cpu", activation_fn=torch.nn.Identity())
    reference.save_pretrained(str(folder))
    wishes = settings(folder, "rerank")
    (found,) = outputs(answers(load_engine("ranker", wishes), wishes, RERANKS[:1]))
    right = reference.predict([("dry hay", document) for document in TEXTS[:5]], batch_size=1)
    assert found["scores"] == pytest.approx(right, rel=1e-5)
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.modules.activation.Tanh"}')
    with pytest.raises(ModelUnusable, match="Tanh"):
        load_engine("other", wishes)


@pytest.mark.parametrize("strategy", ["dynamic", "packed"])
def test_a_request_of_more_than_a_pass_may_hold_is_computed_in_several(made: Any, strategy: str) -> None:
    wishes = settings(made(save_scorer), "rerank", strategy)
    small = settings(made(save_scorer), "rerank", strategy, max_batch_tokens=50)
    whole, cut = (outputs(answers(load_engine("ranker", one), one, RERANKS)) for one in (wishes, small))
    for one, other in zip(whole, cut, strict=True):
        assert other["scores"] == pytest.approx(one["scores"], rel=1e-5)


def test_more_pairs_than_one_request_may_bring_fail_alone(made: Any) -> None:
    documents = ["hay"] * 79 + ["hay " * 40]  # of 5 tokens with the query, and of 44
    asked = [{"query": "sun", "documents": some} for some in (documents, documents[:2], documents[:79])]
    for strategy, kinds in {"packed": [Done, Done, Done], "dynamic": [Failed, Done, Done]}.items():
        wishes = settings(made(save_scorer), "rerank", strategy, max_batch_tokens=64)
        found = answers(load_engine("ranker", wishes), wishes, asked)
        assert [type(one) for one in found] == kinds
    most = "80 pairs of texts are 3520 tokens, and one request takes 1024"
    (refused,) = answers(load_engine("ranker", wishes), wishes, asked[:1])
    assert isinstance(refused.error, InputTooLong)
    assert most in refused.error.detail


def test_a_cut_pair_is_cut_as_a_cross_encoder_cuts_it(made: Any) -> None:
    from sentence_transformers import CrossEncoder

    wishes = settings(made(save_scorer), "rerank")
    asked = {"query": text_of(60, 1), "documents": [text_of(20, 2), text_of(200, 3)]}
    engine = load_engine("ranker", wishes)
    (refused,) = answers(engine, wishes, [asked])
    assert isinstance(refused.error, InputTooLong)
    assert all(part in refused.error.detail for part in ("input.documents.0: ", f"takes {LIMIT}", "truncate: true"))
    (found,) = outputs(answers(engine, wishes, [asked], [{"truncate": True}]))
    pairs = [(asked["query"], document) for document in asked["documents"]]
    right = CrossEncoder(str(made(save_scorer)), device="cpu").predict(pairs, batch_size=1)
    assert found["scores"] == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_bad_pair_fails_its_request_and_no_neighbour(made: Any, tmp_path: Path, strategy: str) -> None:
    wishes = settings(save_scorer(tmp_path), "rerank", strategy)
    engine = load_engine("ranker", wishes)
    asked: list[Any] = [
        {"query": "hay", "documents": ["sun", "dry"]},
        {"query": "hay", "documents": ["sun", "rain"]},
        {"query": "hay", "documents": ["sun", 7]},
        {"query": "wet", "documents": ["row"]},
        "hay",
        {"query": "hay", "documents": [text_of(200)]},
        {"query": "hay", "documents": ["dry"]},
    ]
    right = outputs(answers(engine, wishes, [asked[0], asked[3]]))
    with torch.inference_mode():
        engine._forward.weights.module.base_model.embeddings.word_embeddings.weight[4 + WORDS.index("rain")] = torch.nan
    found = answers(engine, wishes, asked, [{}] * 6 + [{"labels": []}])
    kinds = [type(one.error) if isinstance(one, Failed) else None for one in found]
    assert kinds == [None, ModelFailed, InvalidInput, None, InvalidInput, InputTooLong, InvalidInput]
    for one, other in zip(outputs([found[0], found[3]]), right, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], rel=1e-5)


def test_a_model_with_several_labels_is_no_reranker(made: Any) -> None:
    with pytest.raises(ModelUnusable, match="3 labels"):
        load_engine("nli", settings(made(save_scorer, "bert", NLI), "rerank"))


@pytest.mark.parametrize("labels", [NLI, ("entailment", "neutral", "contradiction"), ("ENTAILMENT", "not_entailment")])
def test_every_strategy_answers_zero_shot_as_the_pipeline_does(made: Any, labels: tuple[str, ...]) -> None:
    folder = made(save_scorer, "bert", labels)
    reference = pipeline("zero-shot-classification", model=str(folder), device="cpu")
    asked: list[dict[str, Any]] = [
        {"labels": ["hay", "rain", "the sun"]},
        {"labels": ["hay", "rain"], "multi_label": True},
        {"labels": ["rows"], "hypothesis_template": "{} and hay"},
        {"labels": [text_of(9, 5), "dry", ""][:2], "hypothesis_template": "wet {}!"},
    ]
    texts = [TEXTS[index] for index in (2, 4, 5, 3)]
    right = [
        reference(text, wanted["labels"], **{name: value for name, value in wanted.items() if name != "labels"})
        for text, wanted in zip(texts, asked, strict=True)
    ]
    for strategy in STRATEGIES:
        wishes = settings(folder, "zero-shot", strategy)
        engine = load_engine("nli", wishes)
        assert engine.info.strategy == strategy
        for found, one in zip(outputs(answers(engine, wishes, texts, asked)), right, strict=True):
            assert found["labels"] == one["labels"]
            assert found["scores"] == pytest.approx(one["scores"], rel=1e-5)


def test_of_a_long_text_with_a_label_only_the_text_is_cut(made: Any) -> None:
    folder = made(save_scorer, "bert", NLI)
    wishes, long = settings(folder, "zero-shot"), text_of(200)
    engine = load_engine("nli", wishes)
    labels = ["hay", text_of(30, 9)]
    (refused, unreadable) = answers(engine, wishes, [long, "hay"], [{"labels": labels}, {"labels": [long]}])
    assert "input with parameters.labels.0: " in refused.error.detail
    assert isinstance(unreadable.error, InputTooLong)
    (found,) = outputs(answers(engine, wishes, [long], [{"labels": labels, "truncate": True}]))
    right = pipeline("zero-shot-classification", model=str(folder), device="cpu")(long, labels)
    assert found["labels"] == right["labels"]
    assert found["scores"] == pytest.approx(right["scores"], rel=1e-5)


def test_a_label_too_long_to_leave_room_for_the_text_fails_alone(made: Any) -> None:
    wishes = settings(made(save_scorer, "bert", NLI), "zero-shot")
    asked = [{"labels": ["hay", text_of(200)], "truncate": True}, {"labels": ["hay"], "truncate": True}]
    bad, good = answers(load_engine("nli", wishes), wishes, ["the sun", "the sun"], asked)
    assert isinstance(bad.error, InvalidInput)
    assert "parameters.labels.1: the label leaves no room for the text" in bad.error.detail
    assert isinstance(good, Done)


def test_a_model_with_one_label_twice_is_refused_with_the_label(made: Any) -> None:
    with pytest.raises(ModelUnusable, match="two labels have the name 'good'"):
        load_engine("sentiment", settings(made(save_scorer, "bert", ("good", "bad", "good")), "classify"))


def test_a_model_that_knows_no_entailment_is_refused_with_its_labels(made: Any) -> None:
    with pytest.raises(ModelUnusable, match=r"labels are good, bad; zero-shot needs .* 'entail'"):
        load_engine("sentiment", settings(made(save_scorer, "bert", ("good", "bad")), "zero-shot"))


TAGGED = [*TEXTS, "Ä haying, raked the fields .  rain!xyz", "hayer\n\tdrying, Äs"]


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
    wishes = settings(folder, "token-classify")
    engine = load_engine("tagger", wishes)
    found = outputs(answers(engine, wishes, TAGGED, [{"aggregation": aggregation}] * len(TAGGED)))
    assert sum(len(one["entities"]) for one in found) > 30
    for text, one in zip(TAGGED, found, strict=True):
        right = reference(text)
        assert [leave(entity, "score") for entity in one["entities"]] == [leave(entity, "score") for entity in right]
        scores = [float(entity["score"]) for entity in right]
        assert [entity["score"] for entity in one["entities"]] == pytest.approx(scores, rel=1e-5)


def save_tagger_of(folder: Path, tokenizer: Callable[[], Any] | None) -> Path:
    return save_tagger(folder, tokenizer=tokenizer and tokenizer())


def leave(entity: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in entity.items() if key != name}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_strategy_labels_tokens_as_one_by_one_does(made: Any, family: str) -> None:
    folder = made(save_tagger, family)
    model = AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        right = [model(input_ids=tokenizer(text, return_tensors="pt").input_ids).logits[0] for text in TEXTS]
    for strategy in STRATEGIES:
        wishes = settings(folder, "token-classify", strategy)
        engine = load_engine("tagger", wishes)
        found = outputs(answers(engine, wishes, TEXTS))
        for one, logits in zip(found, right, strict=True):
            best = logits.softmax(1)[1:-1].max(1)
            tagged = [(at + 1, float(score)) for at, (score, label) in enumerate(zip(*best, strict=True)) if label]
            assert [entity["index"] for entity in one["entities"]] == [at for at, _ in tagged], strategy
            assert [entity["score"] for entity in one["entities"]] == pytest.approx([s for _, s in tagged], rel=1e-5)


def test_offsets_are_those_of_the_given_text_even_where_its_start_is_cut(tmp_path: Path) -> None:
    folder = save_tagger(tmp_path)
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"truncation_side": "left"}))
    wishes, text = settings(folder, "token-classify", max_input_tokens=12), text_of(400)
    assert len(text) > 64 * 12
    (found,) = outputs(answers(load_engine("tagger", wishes), wishes, [text], [{"truncate": True}]))
    assert found["entities"]
    for entity in found["entities"]:
        assert text[entity["start"] : entity["end"]] == entity["word"].removeprefix("##")
    assert found["entities"][-1]["end"] > len(text) - 20


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_token_that_is_not_a_number_fails_its_text_alone(tmp_path: Path, strategy: str) -> None:
    wishes = settings(save_tagger(tmp_path), "token-classify", strategy)
    engine = load_engine("tagger", wishes)
    texts = ["the sun", "the rain and sun", "hay", "rake"]
    right = outputs(answers(engine, wishes, [texts[0], *texts[2:]]))
    with torch.inference_mode():
        engine._forward.weights.module.base_model.embeddings.word_embeddings.weight[4 + WORDS.index("rain")] = torch.nan
    found = answers(engine, wishes, texts)
    assert isinstance(found[1].error, ModelFailed)
    for one, other in zip(outputs([found[0], *found[2:]]), right, strict=True):
        assert [leave(entity, "score") for entity in one["entities"]] == [
            leave(entity, "score") for entity in other["entities"]
        ]


def save_embedder(folder: Path) -> Path:
    """An embedder whose vectors have length 1."""
    save(folder, FAMILIES["bert"](), AutoModel)
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": kind} for kind in ("Pooling", "Normalize")]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    return folder


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_text_of_a_row_gets_its_vector_as_it_was_asked_for(made: Any, strategy: str) -> None:
    wishes = settings(made(save_embedder), "embed", strategy)
    engine = load_engine("embedder", wishes)
    asked: list[dict[str, Any]] = [
        {}, {"dimensions": 8}, {"dimensions": 33}, {"encoding_format": "base64"}, {"dimensions": 32},
        {"encoding_format": "int8", "dimensions": 16},
    ]  # fmt: skip
    whole, cut, too_many, packed, all_of_it, coded = answers(engine, wishes, ["hay in the sun"] * 6, asked)
    vector = whole.output["embedding"]
    assert vector.shape == (32,)
    assert cut.output["embedding"] == pytest.approx(vector[:8] / np.linalg.norm(vector[:8]), rel=1e-4, abs=1e-6)
    assert "takes 1 to 32, the width of this model's vectors, not 33" in too_many.error.detail
    assert np.frombuffer(base64.b64decode(packed.output["embedding"]), "<f4") == pytest.approx(vector, abs=1e-6)
    assert all_of_it.output["embedding"] == pytest.approx(vector, abs=1e-6)
    assert coded.output["embedding"].dtype == np.int8
    assert np.linalg.norm(coded.output["embedding"] * coded.output["scale"]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("save", "task", "says"),
    [
        (
            save_scorer,
            "token-classify",
            r"BertForSequenceClassification is a model of another.*\.\.\.ForTokenClassification",
        ),
        (save_tagger, "classify", r"BertForTokenClassification is a model of another.*\.\.\.ForSequenceClassification"),
    ],
)
def test_a_head_of_another_task_is_refused_although_its_tensors_fit(
    tmp_path: Path, save: Callable[[Path], Path], task: str, says: str
) -> None:
    with pytest.raises(ModelUnusable, match=says):
        load_engine("wrong", settings(save(tmp_path), task))
