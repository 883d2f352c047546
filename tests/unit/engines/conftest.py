"""The tiny generate engine of several test files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.steps import drive
from tests.support.tiny_engine import CONTEXT, assert_empty, load
from tests.support.tiny_llama import save_tiny_llama
from windrow.worker.engines.generation.engine import GenerateEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("llama"), context_tokens=CONTEXT)


@pytest.fixture(scope="module")
def shared(folder: Path) -> GenerateEngine:
    return load(folder)


@pytest.fixture
def engine(shared: GenerateEngine) -> Iterator[GenerateEngine]:
    yield shared
    drive(shared)
    assert_empty(shared)
