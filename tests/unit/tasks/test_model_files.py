"""Errors about broken model files name the file."""

from pathlib import Path

import pytest

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object
from windrow.scheduler.models.token_counts import load_tokenizer
from windrow.scheduler.tasks.pooling import read_pooling


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]"])
def test_a_file_without_a_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ModelUnusable, match=r"config\.json: not "):
        read_object(tmp_path / "config.json")


@pytest.mark.parametrize("content", ['["x"]', "{}", '[{"type": "x"}]'])
def test_invalid_modules_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelUnusable, match=r"modules\.json: not a list"):
        read_modules(tmp_path)


def test_a_missing_pooling_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')
    with pytest.raises(ModelUnusable, match=r"1_Pooling/config\.json: missing"):
        read_pooling(tmp_path)


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json: the tokenizer cannot be read"):
        load_tokenizer(tmp_path)
