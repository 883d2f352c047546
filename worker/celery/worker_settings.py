"""The settings of a worker, read once per process."""

from __future__ import annotations

from functools import cache

from windrow.scheduler.config.settings import Settings, load_settings


@cache
def worker_settings() -> Settings:
    """Return the settings; raises `windrow.errors.InvalidSetting` at the first call."""
    return load_settings()
