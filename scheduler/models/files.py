"""JSON files in a model's folder. Every error names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from windrow.errors import ModelUnusable


def read_model_json(file: Path) -> Any:
    """Return the content of ``file``; raise `ModelUnusable` if it is not JSON in UTF-8."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is a ValueError, too
        raise ModelUnusable(f"{file}: not JSON: {error}") from error


def read_object(file: Path) -> dict[str, Any]:
    """Return the JSON object in ``file``, or an empty one if the file is missing; raise `ModelUnusable` otherwise."""
    value = read_model_json(file) if file.is_file() else {}
    if not isinstance(value, dict):
        raise ModelUnusable(f"{file}: not a JSON object")
    return value


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """Return the modules in ``modules.json``, or an empty list if the file is missing; raise `ModelUnusable` otherwise.

    The format is that of sentence-transformers: a list of objects with ``type`` and ``path``.
    """
    file = folder / "modules.json"
    value = read_model_json(file) if file.is_file() else []
    if not isinstance(value, list) or not all(
        isinstance(module, dict) and {"type", "path"} <= module.keys() for module in value
    ):
        raise ModelUnusable(f"{file}: not a list of JSON objects with type and path")
    return value
