"""Fixtures of the engines' tests, known everywhere through tests/conftest.py."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory):
    """Tiny models of every family, made when they are first asked for."""
    # Imported here: most tests need no torch.
    from tests.support.tiny_models import TinyModels

    return TinyModels(tmp_path_factory.mktemp)
