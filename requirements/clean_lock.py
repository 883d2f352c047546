"""Make a compiled lock fit every machine: remove CUDA packages, local builds of torch and notes about the other lock.

``--beyond LOCK`` keeps only the packages that ``LOCK`` does not contain.
"""

import argparse
import re
from collections.abc import Collection
from pathlib import Path

#: torch pins these itself if its build needs them.
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b.*==")
#: The extras name each other, so pip-compile pins this folder too.
THIS_PACKAGE = re.compile(r"windrow-inference\b")
LOCAL_VERSION = re.compile(r"(==[^+\s]+)\+\S+")
NAME = re.compile(r"[^#\s=]+(?===)")


def clean_lock(lock: str) -> str:
    """Return the text of ``lock`` without CUDA packages, this package and local versions such as ``+cpu``."""
    lines = [line for line in lock.splitlines() if not (CUDA_PACKAGE.match(line) or THIS_PACKAGE.match(line))]
    return "".join(LOCAL_VERSION.sub(r"\1", line).replace("-c requirements/lock.txt, ", "") + "\n" for line in lines)


def names_in(lock: str) -> set[str]:
    """Return the packages that a lock pins."""
    return {found[0] for line in lock.splitlines() if (found := NAME.match(line))}


def left_without(lock: str, known: Collection[str]) -> str:
    """Return only the lines of ``lock`` that pin a package which is not ``known``."""
    return "".join(f"{line}\n" for line in lock.splitlines() if (found := NAME.match(line)) and found[0] not in known)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    parser.add_argument("--beyond", type=Path, metavar="LOCK")
    asked = parser.parse_args()
    text = clean_lock(asked.lock.read_text(encoding="utf-8"))
    if asked.beyond:
        text = left_without(text, names_in(asked.beyond.read_text(encoding="utf-8")))
    asked.lock.write_text(text, encoding="utf-8")
