"""How a model's vectors are made of its hidden states, as its sentence-transformers files say."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from windrow.errors import ModelUnusable
from windrow.scheduler.models.files import read_modules, read_object

#: Key of 1_Pooling/config.json -> mode, in the order in which sentence-transformers concatenates them.
POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
#: Keys of config.json that hold the width of the hidden states, family by family.
WIDTH_KEYS = ("hidden_size", "dim", "d_model")


def read_pooling(folder: Path) -> tuple[list[str], bool]:
    """Pooling modes and whether to normalise, from ``modules.json`` and the pooling folder it names.

    Without ``modules.json``: the mean, not normalised, which is what sentence-transformers does with such a folder.
    Raises `ModelUnusable` for a module that is not computed here: a vector without it would be wrong.
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
                f"{folder}: modules.json: {kind} is not supported; there are Transformer, Pooling and Normalize"
            )
    return modes, normalize


def leaves_prompt_out(folder: Path) -> bool:
    """Whether the tokens of a prompt are not pooled."""
    pooling = [one for one in read_modules(folder) if str(one["type"]).endswith("Pooling")]
    return any(_pooling_config(folder, one).get("include_prompt") is False for one in pooling)


@cache
def embedding_width(folder: Path) -> int | None:
    """Numbers of a vector; None where the model's files do not tell."""
    config = read_object(folder / "config.json")
    width = next((config[key] for key in WIDTH_KEYS if isinstance(config.get(key), int)), None)
    return None if width is None else width * len(read_pooling(folder)[0])


def _pooling_config(folder: Path, module: dict[str, Any]) -> dict[str, Any]:
    file = folder / module["path"] / "config.json"
    if not file.is_file():
        raise ModelUnusable(f"{file}: it is not there, and modules.json names it")
    return read_object(file)


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    named = config.get("pooling_mode")
    if named is not None:
        return [named] if isinstance(named, str) else list(named)
    return [mode for key, mode in POOLING_KEYS.items() if config.get(key)] or ["mean"]
