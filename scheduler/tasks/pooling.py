"""Pooling of hidden states into a vector, as configured in a model's sentence-transformers files."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object

#: Key in the config.json of the pooling module -> mode, in the order in which sentence-transformers concatenates them.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Keys of the model's config.json that hold the width of the hidden states; families use different ones.
WIDTH_KEYS = ("hidden_size", "dim", "d_model")


def read_pooling(folder: Path) -> tuple[list[str], bool]:
    """Return the pooling modes and whether vectors are normalized, from ``modules.json`` and the pooling folder.

    Without ``modules.json`` this is the mean, not normalized, as in sentence-transformers. Raises `ModelUnusable` for
    a module that Windrow does not compute, because vectors without it would be wrong.
    """
    modes, normalize = ["mean"], False
    for module in read_modules(folder):
        kind = str(module["type"]).rpartition(".")[2]
        if kind == "Pooling":
            modes = _pooling_modes(_pooling_config(folder, module))
        elif kind == "Normalize":
            normalize = True
        elif kind not in {"Transformer", "Dropout"}:
            raise ModelUnusable(
                f"{folder}: modules.json: module {kind} is not supported; supported are Transformer, Dropout, Pooling "
                "and Normalize"
            )
    return modes, normalize


def excludes_prompt(folder: Path) -> bool:
    """Return whether the tokens of a prompt are left out of the pooling (``include_prompt: false``)."""
    pooling = [module for module in read_modules(folder) if str(module["type"]).endswith("Pooling")]
    return any(_pooling_config(folder, module).get("include_prompt") is False for module in pooling)


@cache
def embedding_width(folder: Path) -> int | None:
    """Return how many numbers a vector has; None if the model's files do not contain it."""
    config = read_object(folder / "config.json")
    width = next((config[key] for key in WIDTH_KEYS if isinstance(config.get(key), int)), None)
    return None if width is None else width * len(read_pooling(folder)[0])


def _pooling_config(folder: Path, module: dict[str, Any]) -> dict[str, Any]:
    file = folder / module["path"] / "config.json"
    if not file.is_file():
        raise ModelUnusable(f"{file}: missing, although modules.json names it")
    return read_object(file)


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    modes = config.get("pooling_mode")
    if modes is not None:
        return [modes] if isinstance(modes, str) else list(modes)
    return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"]
