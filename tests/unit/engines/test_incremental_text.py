"""Incremental text: however the tokens arrive, the parts add up to the text, without any part of a stop string."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.support.tiny_llama import save_byte_tokenizer
from windrow.worker.engines.generation.incremental_text import IncrementalText


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder: Path = tmp_path_factory.mktemp("bytes")
    save_byte_tokenizer(folder)
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def show(stream: IncrementalText, ids: list[int], data: bytes, sizes: list[int]) -> list[str]:
    """Feed the bytes of ``data`` in pieces of ``sizes``, over and over."""
    shown, at, turn = [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        ids += data[at : at + size]
        at, turn = at + size, turn + 1
        shown.append(stream.advance(len(ids), is_last=at >= len(data)))
    return shown


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@given(text=st.text(min_size=1, max_size=60), sizes=SIZES)
def test_the_parts_add_up_to_the_text_and_contain_no_half_characters(
    tokenizer: Tokenizer, text: str, sizes: list[int]
) -> None:
    ids: list[int] = []
    stream = IncrementalText(tokenizer, ids)
    shown = show(stream, ids, text.encode(), sizes)
    assert "".join(shown) == stream.text == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in shown)


@given(data=st.binary(min_size=1, max_size=80), sizes=SIZES)
def test_invalid_bytes_do_not_delay_the_text(tokenizer: Tokenizer, data: bytes, sizes: list[int]) -> None:
    ids: list[int] = []
    stream = IncrementalText(tokenizer, ids)
    shown = show(stream, ids, data, sizes)
    # What is a character for certain is shown, and nothing waits for more than the bytes of one.
    assert [one for one in stream.text if one.isascii()] == [
        one for one in data.decode(errors="replace") if one.isascii()
    ]
    assert "".join(shown) == stream.text


@given(
    before=st.text("ab", max_size=12), stop=st.text("ab", min_size=1, max_size=4), after=st.text("ab", max_size=6),
    sizes=SIZES,
)  # fmt: skip
def test_the_text_ends_before_the_first_stop_string(
    tokenizer: Tokenizer, before: str, stop: str, after: str, sizes: list[int]
) -> None:
    whole = before + stop + after
    ids: list[int] = []
    stream = IncrementalText(tokenizer, ids, [stop, "zz"])
    shown = "".join(show(stream, ids, whole.encode(), sizes))
    assert stream.stopped
    assert shown == stream.text == whole[: whole.index(stop)]


def test_a_possible_start_of_a_stop_string_is_held_back(tokenizer: Tokenizer) -> None:
    ids: list[int] = []
    stream = IncrementalText(tokenizer, ids, ["END"])
    assert show(stream, ids, b"so EN", [1])[:-1] == ["s", "o", " ", ""]
    ids = []
    other = IncrementalText(tokenizer, ids, ["END"])
    ids += b"so E"
    assert other.advance(4) == "so "
    ids += b"xit"
    assert other.advance(7) == "Exit"


def shown_from(
    tokenizer: Tokenizer, stops: list[str], text: str, may_stop_from: int
) -> tuple[list[str], IncrementalText]:
    """Feed ``text`` byte by byte; stop strings count after the given number of bytes."""
    ids: list[int] = []
    stream = IncrementalText(tokenizer, ids, stops)
    pieces = []
    for count, byte in enumerate(text.encode(), 1):
        ids.append(byte)
        pieces.append(stream.advance(count, is_last=count == len(text), may_stop=count >= may_stop_from))
    return pieces, stream


@pytest.mark.parametrize("may_stop_from", [0, 4, 6])
def test_a_stop_string_may_begin_before_stop_strings_count(tokenizer: Tokenizer, may_stop_from: int) -> None:
    pieces, stream = shown_from(tokenizer, ["?\nA"], "hay?\nAnd", may_stop_from)
    assert stream.stopped
    assert pieces == ["h", "a", "y", "", "", "", "", ""]


def test_a_stop_string_that_is_completed_before_min_tokens_is_text(tokenizer: Tokenizer) -> None:
    pieces, stream = shown_from(tokenizer, ["?\nA"], "hay?\nAnd?\nAh", 7)
    assert "".join(pieces) == stream.text == "hay?\nAnd"


def test_a_stop_string_completed_before_min_tokens_does_not_count_later(tokenizer: Tokenizer) -> None:
    _, stream = shown_from(tokenizer, ["ab", "abcd"], "abcxaby", 3)
    assert stream.text == "abcx"
    _, stream = shown_from(tokenizer, ["ab", "abcd"], "abcdx", 3)
    assert stream.text == ""
