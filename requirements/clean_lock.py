"""Make a compiled lock fit every machine: no CUDA packages, no local build of torch, no note of the other lock."""

import re
import sys
from pathlib import Path

#: torch pins these itself, where its build wants them.
CUDA_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b.*==")
LOCAL_VERSION = re.compile(r"(==[^+\s]+)\+\S+")


def clean_lock(lock: str) -> str:
    """Return the text of ``lock`` without CUDA packages and without local versions such as ``+cpu``."""
    lines = [line for line in lock.splitlines() if not CUDA_PACKAGE.match(line)]
    return "".join(LOCAL_VERSION.sub(r"\1", line).replace("-c requirements/lock.txt, ", "") + "\n" for line in lines)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(clean_lock(path.read_text(encoding="utf-8")), encoding="utf-8")
