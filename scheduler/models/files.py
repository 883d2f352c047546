"""Reading the JSON files of a model's folder, so that what is wrong with one is said with its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from windrow.errors import ModelUnusable


def read_model_json(file: Path) -> Any:
    """What ``file`` holds; raises `ModelUnusable` where it is not JSON in UTF-8."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError is one, too
        raise ModelUnusable(f"{file}: not JSON: {error}") from error


def read_object(file: Path) -> dict[str, Any]:
    """The object in ``file``, empty where there is no file; raises `ModelUnusable` for anything else."""
    value = read_model_json(file) if file.is_file() else {}
    if not isinstance(value, dict):
        raise ModelUnusable(f"{file}: not a JSON object")
    return value


def read_modules(folder: Path) -> list[dict[str, Any]]:
    """The modules in ``modules.json``, none where there is no file; raises `ModelUnusable` for anything else."""
    file = folder / "modules.json"
    value = read_model_json(file) if file.is_file() else []
    if not isinstance(value, list) or not all(
        isinstance(one, dict) and {"type", "path"} <= one.keys() for one in value
    ):
        raise ModelUnusable(f"{file}: not a list of JSON objects with type and path")
    return value
