"""Make a compiled lock fit every machine: remove CUDA packages, local builds of torch and notes on the other lock."""

import argparse
import re
from pathlib import Path

#: torch pins these itself if its build needs them.
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b.*==")
#: The extras name each other, so pip-compile pins this folder too.
THIS_PACKAGE = re.compile(r"windrow-inference\b")
LOCAL_VERSION = re.compile(r"(==[^+\s]+)\+\S+")


def clean_lock(lock: str) -> str:
    """Return the text of ``lock`` without CUDA packages, this package and local versions such as ``+cpu``."""
    lines = [line for line in lock.splitlines() if not (CUDA_PACKAGE.match(line) or THIS_PACKAGE.match(line))]
    return "".join(LOCAL_VERSION.sub(r"\1", line).replace("-c requirements/lock.txt, ", "") + "\n" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path)
    lock: Path = parser.parse_args().lock
    lock.write_text(clean_lock(lock.read_text(encoding="utf-8")), encoding="utf-8")
