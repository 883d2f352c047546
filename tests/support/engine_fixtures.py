"""Fixtures for the tests of engines; tests/conftest.py makes them available everywhere."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory):
    """Tiny models of every family, each made on first use."""
    # Imported here, because most tests need no torch.
    from tests.support.tiny_models import TinyModels

    return TinyModels(tmp_path_factory.mktemp)
