"""Settings: ``windrow.toml`` overridden by ``WINDROW_*``."""
