"""Fixtures for the tests of engines; tests/conftest.py makes them available everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory):
    """Tiny models of every family, each made on first use."""
    # Imported here, because most tests need no torch.
    from tests.support.tiny_models import TinyModels

    return TinyModels(tmp_path_factory.mktemp)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a model with the given function and arguments, once each, and returns its folder."""
    folders: dict[Any, Path] = {}

    def folder(save: Callable[..., Path], *arguments: Any) -> Path:
        if (save, arguments) not in folders:
            folders[save, arguments] = save(tmp_path_factory.mktemp(save.__name__), *arguments)
        return folders[save, arguments]

    return folder
