"""Broken files of a model are refused with their names."""

from pathlib import Path

import pytest

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object
from windrow.scheduler.models.token_counts import load_tokenizer
from windrow.scheduler.tasks.pooling import read_pooling


@pytest.mark.parametrize("written", [b"{", b"\xff", b"[]"])
def test_a_file_that_holds_no_object_is_named(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "config.json").write_bytes(written)
    with pytest.raises(ModelUnusable, match=r"config\.json: not "):
        read_object(tmp_path / "config.json")


@pytest.mark.parametrize("written", ['["x"]', "{}", '[{"type": "x"}]'])
def test_modules_that_are_none_are_named(tmp_path: Path, written: str) -> None:
    (tmp_path / "modules.json").write_text(written)
    with pytest.raises(ModelUnusable, match=r"modules\.json: not a list"):
        read_modules(tmp_path)


def test_a_pooling_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')
    with pytest.raises(ModelUnusable, match=r"1_Pooling/config\.json: it is not there"):
        read_pooling(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnusable, match=r"tokenizer\.json: the tokenizer cannot be read"):
        load_tokenizer(tmp_path)
