"""The API, with a shifted clock if `SHIFT_VARIABLE` is set: ``gunicorn 'benchmarks.faults.api_app:create_app()'``."""

# ruff: noqa: E402

from __future__ import annotations

from benchmarks.faults.clock import shift_from_environ

shift_from_environ()

from windrow.api import create_app

__all__ = ["create_app"]
