"""Token counts use the model's tokenizer; token limits come from the model's files."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from windrow.errors import ModelUnusable
from windrow.scheduler.models.token_counts import load_text_limit


def save_tokenizer(folder: Path, *, lowercase: bool = False, truncate_to: int | None = None) -> None:
    words = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hay": 3, "row": 4}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if lowercase:
        tokenizer.normalizer = Lowercase()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    if truncate_to is not None:
        tokenizer.enable_truncation(truncate_to)
        tokenizer.enable_padding(length=truncate_to)
    tokenizer.save(str(folder / "tokenizer.json"))


def save(folder: Path, name: str, **values: Any) -> None:
    (folder / name).write_text(json.dumps(values), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path)
    return tmp_path


def test_special_tokens_are_counted(folder: Path) -> None:
    limit = load_text_limit(str(folder))
    assert limit.count("hay hay row") == 5  # [CLS] hay hay row [SEP]
    assert limit.added_tokens == 2


def test_the_whole_text_is_counted_even_if_the_tokenizer_truncates(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, truncate_to=4)
    limit = load_text_limit(str(tmp_path))
    assert limit.count("hay " * 10) == 12
    assert limit.count("hay") == 3


def test_do_lower_case_in_the_models_files_is_applied(folder: Path) -> None:
    save(folder, "sentence_bert_config.json", do_lower_case=True)
    limit = load_text_limit(str(folder))
    assert limit.tokenizer.encode("HAY").tokens == ["[CLS]", "hay", "[SEP]"]


def test_lower_case_is_applied_before_the_tokenizers_own_normalizer(tmp_path: Path) -> None:
    save_tokenizer(tmp_path, lowercase=True)
    save(tmp_path, "sentence_bert_config.json", do_lower_case=True)
    assert load_text_limit(str(tmp_path)).tokenizer.encode("HAY").tokens[1] == "hay"


@pytest.mark.parametrize(
    ("file", "values", "expected"),
    [
        ("sentence_bert_config.json", {"max_seq_length": 128}, 128),
        ("tokenizer_config.json", {"model_max_length": 256}, 256),
        ("tokenizer_config.json", {"model_max_length": 1e30}, 512),  # a tokenizer without a limit
        ("config.json", {"max_position_embeddings": 384}, 384),
        ("config.json", {"max_position_embeddings": 514, "model_type": "roberta", "pad_token_id": 1}, 512),
        ("config.json", {"max_position_embeddings": 514, "model_type": "mpnet"}, 512),
        ("config.json", {"max_position_embeddings": 514, "model_type": "data2vec-text", "pad_token_id": 1}, 512),
        ("config.json", {"n_positions": 1024, "model_type": "gpt2"}, 1024),
        ("config.json", {"n_positions": 64, "model_type": "t5"}, 512),  # T5 uses relative positions only
        ("config.json", {"max_position_embeddings": 0}, 512),
        ("config.json", {"max_position_embeddings": "many"}, 512),
        ("config.json", {}, 512),
    ],
)
def test_the_limit_is_read_from_the_models_files(
    folder: Path, file: str, values: dict[str, Any], expected: int
) -> None:
    save(folder, file, **values)
    assert load_text_limit(str(folder)).max_input_tokens == expected


def test_the_smallest_of_several_limits_applies(folder: Path) -> None:
    save(folder, "config.json", max_position_embeddings=512)
    save(folder, "tokenizer_config.json", model_max_length=300)
    save(folder, "sentence_bert_config.json", max_seq_length=256)
    assert load_text_limit(str(folder)).max_input_tokens == 256


def test_max_input_tokens_lowers_the_limit(folder: Path) -> None:
    save(folder, "config.json", max_position_embeddings=512)
    assert load_text_limit(str(folder), 100).max_input_tokens == 100


def test_max_input_tokens_above_the_models_limit_is_refused(folder: Path) -> None:
    save(folder, "config.json", max_position_embeddings=512)
    with pytest.raises(ModelUnusable, match="max_input_tokens 513 is above the model's 512"):
        load_text_limit(str(folder), 513)


def test_the_error_for_a_missing_fast_tokenizer_says_how_to_save_one(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"no tokenizer\.json; save the model with its fast tokenizer"):
        load_text_limit(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "prompt"), [(None, ""), ("query", "query: "), ("plain", ""), ("document", ""), ("empty", "")]
)
def test_the_default_prompt_is_read_from_the_models_files(folder: Path, name: str | None, prompt: str) -> None:
    prompts = {"query": "query: ", "plain": "", "document": "", "empty": None}
    save(folder, "config_sentence_transformers.json", prompts=prompts, default_prompt_name=name)
    assert load_text_limit(str(folder)).prompt == prompt


def test_a_missing_default_prompt_is_refused(folder: Path) -> None:
    save(folder, "config_sentence_transformers.json", prompts={}, default_prompt_name="query")
    with pytest.raises(ModelUnusable, match="'query' is not among its prompts"):
        load_text_limit(str(folder))
