"""The API under a clock that may be wrong: ``gunicorn 'windrow.bench.faults.api_app:create_app()'``."""

# ruff: noqa: E402

from __future__ import annotations

from windrow.bench.faults.clock import shift_as_asked

shift_as_asked()

from api import create_app

__all__ = ["create_app"]
