"""The API under a clock that may be wrong: ``gunicorn 'benchmarks.faults.api_app:create_app()'``."""

# ruff: noqa: E402

from __future__ import annotations

from benchmarks.faults.clock import shift_as_asked

shift_as_asked()

from windrow.api import create_app

__all__ = ["create_app"]
