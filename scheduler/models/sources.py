"""Model sources: a folder, an installed Python package, a model built into Windrow, or a Hugging Face Hub id."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from windrow.errors import ModelUnusable
from windrow.scheduler.models.builtin import PREFIX, builtin_cache, builtin_files

#: Download patterns: only the files that inference reads, never pickled weights and never code.
WEIGHTS = ["*.safetensors"]
OTHER_FILES = ["*.json", "*.txt", "*.model", "*/config.json"]
ACCEPTED = "accepted are a folder, package:<module>/<folder>, builtin:<name> or a hub id"


def resolve_source(source: str, *, weights: bool = True) -> Path:
    """Return the folder of ``source``: a folder, ``package:<module>/<folder>``, ``builtin:<name>``, or a hub id.

    A hub model is downloaded on first use. ``weights=False`` asks for the other files only, because the API needs
    just the tokenizer: weights are not downloaded, and a built-in model need not have been trained yet. Raises
    `ModelUnusable` with what is missing.
    """
    if source.startswith(PREFIX):
        return _builtin_folder(source, weights)
    if source.startswith("package:"):
        return _package_folder(source)
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")):
        raise ModelUnusable(f"source {source!r}: there is no such folder; {ACCEPTED}")
    return _hub_folder(source, weights)


def _builtin_folder(source: str, weights: bool) -> Path:
    name = source.removeprefix(PREFIX)
    folder = builtin_cache(name) if weights else builtin_files(name)
    if not folder.is_dir():
        raise ModelUnusable(
            f"source {source!r}: the model is not trained on this machine yet; "
            "run `python -m windrow.worker.tiny_llama`, which takes about a minute"
        )
    return folder


def _package_folder(source: str) -> Path:
    module, _, inside = source.removeprefix("package:").partition("/")
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # the parent package is missing, or the name is relative or empty
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnusable(f"source {source!r}: no Python package {module!r} is installed")
    folder = Path(spec.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise ModelUnusable(f"source {source!r}: the package has no folder {inside!r}")
    return folder


def _hub_folder(source: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=OTHER_FILES + WEIGHTS * weights))
    except (OSError, ValueError, HFValidationError) as error:
        raise ModelUnusable(
            f"source {source!r}: not a folder, and the download from the hub failed ({type(error).__name__}); "
            f"{ACCEPTED}"
        ) from error
