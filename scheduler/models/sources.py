"""Where a model's files are: a folder, an installed Python package, the hub's cache, or Windrow itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from windrow.errors import ModelUnusable
from windrow.scheduler.models.builtin import PREFIX, builtin_cache, builtin_files

#: Only what inference reads; never pickled weights, never code.
WEIGHTS = ["*.safetensors"]
OTHER_FILES = ["*.json", "*.txt", "*.model", "*/config.json"]


def resolve_source(source: str, *, weights: bool = True) -> Path:
    """Return the folder of ``source``: a folder, ``package:<module>/<folder>``, ``builtin:<name>``, or a hub id.

    What the hub has is downloaded once. Without ``weights``, a hub model is downloaded and a model of our own is found
    without them: the API needs the tokenizer only. Raises `ModelUnusable` naming what was looked for.
    """
    if source.startswith(PREFIX):
        name = source.removeprefix(PREFIX)
        folder = builtin_cache(name) if weights else builtin_files(name)
        if not folder.is_dir():
            raise ModelUnusable(
                f"source {source!r}: its weights are not made yet; python -m windrow.worker.tiny_llama does"
            )
        return folder
    if source.startswith("package:"):
        module, _, inside = source.removeprefix("package:").partition("/")
        try:
            spec = importlib.util.find_spec(module)
        except (ImportError, ValueError):  # a parent that is missing, a relative or an empty name
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise ModelUnusable(f"source {source!r}: no Python package {module!r} is installed")
        folder = Path(spec.submodule_search_locations[0]) / inside
        if not folder.is_dir():
            raise ModelUnusable(f"source {source!r}: the package has no folder {inside!r}")
        return folder
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if source.startswith(("/", ".", "~")):
        raise ModelUnusable(
            f"source {source!r}: there is no such folder; it takes a folder, package:<module>/<folder> or a hub id"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(source, allow_patterns=OTHER_FILES + WEIGHTS * weights))
    except (OSError, ValueError, HFValidationError) as error:
        raise ModelUnusable(
            f"source {source!r}: not a folder, and the hub did not give it ({type(error).__name__}); "
            "it takes a folder, package:<module>/<folder> or a hub id"
        ) from error
