"""Generate ``windrow/client/sync_client.py`` from ``async_client.py``: ``python tools/make_sync_client.py``.

Rules replace the words of coroutines by those of functions, and ruff formats the result.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parents[1] / "windrow" / "client"
SOURCE, TARGET = CLIENT / "async_client.py", CLIENT / "sync_client.py"
HEADER = "# Generated from async_client.py by tools/make_sync_client.py; edit that file and run the tool.\n"
#: Regular expressions and their replacements, in order.
RULES = (
    (r'^"""`AsyncClient`: a Windrow server over HTTP, for asyncio."""', '"""`Client`: a Windrow server over HTTP."""'),
    (r"for coroutines of one event loop", "which threads may share"),
    (r"^import asyncio\n", ""),
    (r"\basync for (\w+) in (.+):\n +yield \1\n", r"yield from \2\n"),
    (r"\bfor (\w+) in (stream\.feed\(chunk\)):\n +yield \1\n", r"yield from \2\n"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bAsync(Client|BaseTransport|Iterator)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\ba(close|read|iter_bytes)\b", r"\1"),
)


def make_sync_client(source: str) -> str:
    """Return the source of the blocking client for the source of the asynchronous one."""
    for pattern, replacement in RULES:
        source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
    ruff = [sys.executable, "-m", "ruff"]
    # Shorter names change the order of the imports.
    for step in (["check", "--select", "I", "--fix-only", "--quiet"], ["format"]):
        command = [*ruff, *step, "--stdin-filename", str(TARGET), "-"]
        source = subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout
    return HEADER + source


if __name__ == "__main__":
    TARGET.write_text(make_sync_client(SOURCE.read_text()))
