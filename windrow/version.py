"""The version of Windrow, as in pyproject.toml."""

__version__ = "0.1.0"
