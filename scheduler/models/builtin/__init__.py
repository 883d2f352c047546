"""Models that come with Windrow: tokenizer and configuration are files here, weights are made once a machine.

``source = "builtin:tiny-llama"`` is a byte-level Llama that knows one page of text by heart, for demonstrations and
tests that want real words without a network. `windrow.worker.tiny_llama` makes its weights.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from windrow.errors import ModelUnusable

PREFIX = "builtin:"
NAMES = ("tiny-llama",)


def builtin_files(name: str) -> Path:
    """The folder of what comes with the package: everything but weights. Raises `ModelUnusable`."""
    if name not in NAMES:
        raise ModelUnusable(f"source '{PREFIX}{name}': there is no such model; there is {', '.join(NAMES)}")
    return Path(__file__).parent / name


def builtin_cache(name: str) -> Path:
    """Where the model stands once its weights are made: ``$XDG_CACHE_HOME/windrow``, else ``~/.cache/windrow``.

    The name has a hash of everything that the weights are made from, so that a newer release makes its own.
    """
    files = sorted(file for file in builtin_files(name).iterdir() if file.is_file())
    made_from = hashlib.sha256(b"".join(file.name.encode() + b"\0" + file.read_bytes() for file in files))
    # The specification has paths that are not absolute ignored.
    named = Path(os.environ.get("XDG_CACHE_HOME") or "")
    try:
        cache = named if named.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        raise ModelUnusable(f"source '{PREFIX}{name}': this user has no home; set XDG_CACHE_HOME") from None
    return cache / "windrow" / f"{name}-{made_from.hexdigest()[:16]}"
