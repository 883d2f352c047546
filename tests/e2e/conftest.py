"""The installed package, for the tests that must not see the checkout."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.support.installed import build_wheel, copy_sources, install


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_sources(folder / "source"), folder / "dist")


@pytest.fixture(scope="session")
def installed_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment that has the wheel and the packages of the test environment."""
    return install(wheel, tmp_path_factory.mktemp("installed") / "venv")


@pytest.fixture(scope="session")
def python_with(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``python_with("server,worker")`` is the Python of an environment with these extras only; "" has none."""

    @cache
    def make(extras: str) -> Path:
        return install(wheel, tmp_path_factory.mktemp("extras") / "venv", extras)

    return make
