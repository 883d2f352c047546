"""The blocking client is generated from the asynchronous one."""

import runpy
from pathlib import Path

TOOL = runpy.run_path(str(Path(__file__).parents[3] / "tools" / "make_sync_client.py"))


def test_the_committed_client_is_what_the_tool_generates() -> None:
    generated = TOOL["make_sync_client"](TOOL["SOURCE"].read_text())
    assert TOOL["TARGET"].read_text() == generated, "run: python tools/make_sync_client.py"


def test_no_word_of_coroutines_is_left() -> None:
    text = TOOL["TARGET"].read_text().removeprefix(TOOL["HEADER"])
    assert [word for word in ("async", "await", "Async", "aclose", "__a") if word in text] == []
