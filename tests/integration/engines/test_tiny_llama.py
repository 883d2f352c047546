"""The built-in model is trained reproducibly and atomically, and transformers can load it."""

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from windrow.errors import ModelUnusable
from windrow.scheduler.models.builtin import builtin_cache, builtin_files
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.models.token_counts import load_text_limit
from windrow.worker import tiny_llama

#: Too few for real words, but enough to run every part of the training.
FEW_STEPS = 2
SOURCE = "builtin:tiny-llama"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_llama.train(folder, FEW_STEPS)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> list[Path]:
    """Point to an empty cache and replace the training by a copy; return the folders that were trained."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[Path] = []

    def train(folder: Path, steps: int | None = None) -> None:
        made.append(folder)
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((trained / "model.safetensors").read_bytes())

    monkeypatch.setattr(tiny_llama, "train", train)
    return made


def test_training_is_reproducible_and_leaves_the_global_random_state_unchanged(trained: Path, tmp_path: Path) -> None:
    state = torch.random.get_rng_state()
    tiny_llama.train(tmp_path / "again", FEW_STEPS)
    assert torch.equal(torch.random.get_rng_state(), state)
    first, again = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_training_reduces_the_loss(trained: Path, tmp_path: Path) -> None:
    tiny_llama.train(tmp_path / "untrained", 0)
    page = AutoTokenizer.from_pretrained(trained)(tiny_llama.documents(builtin_files("tiny-llama"))[0])["input_ids"]
    losses = []
    for folder in (tmp_path / "untrained", trained):
        model = AutoModelForCausalLM.from_pretrained(folder)
        ids = torch.tensor([page])
        losses.append(model(input_ids=ids, labels=ids).loss.item())
    assert losses[1] < losses[0]


def test_transformers_loads_the_model_and_its_chat_template(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is hay?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(trained)
    assert model.num_parameters() > 2_000_000
    assert model.generate(**ids, max_new_tokens=3, do_sample=False).shape[1] > ids["input_ids"].shape[1]


def test_the_chat_template_matches_the_training_text(trained: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained)
    question, answer = "What is hay?", "Hay is grass that was cut, dried in the sun and kept for the winter."
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) in tiny_llama.documents(builtin_files("tiny-llama"))


@pytest.mark.parametrize("text", ["plain words", "Wörter, \U0001f33e, 雨", "\x00\x7f", " two  spaces\n"])
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    limit = load_text_limit(SOURCE)
    assert limit.max_input_tokens == 1024
    assert limit.tokenizer.decode(limit.tokenizer.encode(text).ids) == text


def test_the_model_is_trained_once_and_found_afterwards(cache: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ModelUnusable, match=r"run `python -m windrow\.worker\.tiny_llama`"):
        resolve_source(SOURCE)
    with caplog.at_level(logging.INFO):
        folder = tiny_llama.make_tiny_llama()
    assert "about a minute" in caplog.text
    assert resolve_source(SOURCE) == folder == tiny_llama.make_tiny_llama()
    assert len(cache) == 1
    assert [file.name for file in folder.parent.iterdir() if file.is_dir()] == [folder.name]


def test_an_interrupted_training_leaves_no_model(cache: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, steps: int | None = None) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(tiny_llama, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny_llama.make_tiny_llama()
    assert not builtin_cache("tiny-llama").exists()
    assert tiny_llama.make_tiny_llama().is_dir()


def test_the_error_names_a_cache_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelUnusable, match="cannot be written"):
        tiny_llama.make_tiny_llama()


def test_a_relative_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert builtin_cache("tiny-llama").parent == tmp_path / ".cache" / "windrow"


def test_an_unknown_builtin_model_is_refused() -> None:
    with pytest.raises(ModelUnusable, match="'builtin:huge': there is no such model; accepted: builtin:tiny-llama"):
        resolve_source("builtin:huge", weights=False)
