"""Models built into Windrow: the tokenizer and the configuration are files here; each machine trains the weights once.

``source = "builtin:tiny-llama"`` is a byte-level Llama that has learned one page of text by heart, for demonstrations
and for tests that need real words without a network. `windrow.worker.tiny_llama` trains it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from windrow.errors import ModelUnusable

PREFIX = "builtin:"
NAMES = ("tiny-llama",)


def builtin_files(name: str) -> Path:
    """Return the folder of the files in the package: all but the weights. Raises `ModelUnusable` for another name."""
    if name not in NAMES:
        raise ModelUnusable(f"source '{PREFIX}{name}': there is no such model; accepted: {PREFIX}{', '.join(NAMES)}")
    return Path(__file__).parent / name


def builtin_cache(name: str) -> Path:
    """Return the folder of the trained model, in ``$XDG_CACHE_HOME/windrow`` or ``~/.cache/windrow``.

    The name of the folder contains a hash of the files that the weights are trained from, so that a new release
    trains its own. Raises `ModelUnusable` if the user has no home folder.
    """
    files = sorted(file for file in builtin_files(name).iterdir() if file.is_file())
    digest = hashlib.sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in files))
    # Relative paths are ignored, as the XDG specification requires.
    configured = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        cache = configured if configured.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise ModelUnusable(f"source '{PREFIX}{name}': this user has no home folder; set XDG_CACHE_HOME") from None
    return cache / "windrow" / f"{name}-{digest.hexdigest()[:16]}"
