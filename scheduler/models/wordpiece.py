"""WordPiece at a hundredth of the cost, for tokenizers of which `nanotoken` says exactly what `tokenizers` says.

The reference stays `tokenizers`: it reads the file, and whatever is asked here that fails is asked there again.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Literal

import nanotoken
import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, models

log = logging.getLogger(__name__)

#: Words that are remembered, for each tokenizer and thread and each of two stages; then it remembers no more.
REMEMBERED_WORDS = 1 << 15
#: Added tokens that are tried at load.
TRIED_TOKENS = 100
#: Where the two could part: case, accents, scripts without spaces, what is deleted, special tokens spelt out.
HARD_TEXTS = (
    "",
    "\t\n\r\x0b\x0c \u3000 a\x00b\ufffdc\u200bd\u00ade",
    "unaffable UNAFFABLE Straße İstanbul ΣΑΣ résumé re\u0301sume\u0301 ﬁne Ⅷ ①",
    "東京タワー 한국어 ไทย العربية हिन्दी",
    "👩🏽\u200d🚀🇩🇪 \ue000\U00020000",
    "[CLS] [SEP][MASK] [UNK]x [PAD] <s> </s> <mask> ##ing ##",
    "don't-stop...now!?#$%^&*()_+ 3.14159e-10 1,000,000",
    "x" * 300,
)
#: How many random texts follow, and the first and last code points of what they are made of.
RANDOM_TEXTS = 200
RANGES = ((0x20, 0x7E), (0, 0x24F), (0x300, 0x17FF), (0x1E00, 0x33FF), (0x4E00, 0xD7FF), (0xE000, 0x10FFFF))


class WordPiece:
    """Token ids of texts, special tokens included. Threads may share it."""

    def __init__(self, tokenizer: nanotoken.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, texts: Sequence[str], max_tokens: int | None = None, *, cuts_end: bool = True
    ) -> list[NDArray[np.int64]]:
        """(tokens,) ids of each of ``texts``, cut to ``max_tokens`` at the end or else at the start.

        Raises `ValueError` for texts that it cannot read, as those that are not Unicode.
        """
        side: Literal["right", "left"] = "right" if cuts_end else "left"
        with _panics_are_errors():
            # In this thread: rows are too small for others to be worth waking.
            encoded = self._tokenizer.encode_batch(texts, max_length=max_tokens, truncation_side=side, parallel=False)
        ids, offsets = encoded.ids.astype(np.int64), encoded.offsets.tolist()
        return [ids[start:end] for start, end in pairwise(offsets)]

    def count(self, text: str, *, special: bool = True) -> int:
        """Tokens of ``text``, with special ones or without. Raises `ValueError` for one that it cannot read."""
        with _panics_are_errors():
            return len(self._tokenizer.encode(text, add_special_tokens=special))


def load_wordpiece(tokenizer: Tokenizer) -> WordPiece | None:
    """What says the same as ``tokenizer``, which neither cuts nor pads; None where it is of another kind.

    Both are asked for `HARD_TEXTS`, the tokenizer's own added tokens and random texts, and one difference is enough to
    go without.
    """
    added = list(tokenizer.get_added_tokens_decoder().values())
    if not isinstance(tokenizer.model, models.WordPiece) or not all(map(_is_plain, added)):
        return None
    nanotoken.set_cache_entries(REMEMBERED_WORDS)
    names = [token.content for token in added[:TRIED_TOKENS]]
    texts = [*HARD_TEXTS, *(f"{name} hay{name}{name} {name}row{name}" for name in names), *random_texts(RANDOM_TEXTS)]
    try:
        fast = WordPiece(nanotoken.Tokenizer.from_json(tokenizer.to_str()))
        said, expected = fast.encode(texts), [one.ids for one in tokenizer.encode_batch_fast(texts)]
    except nanotoken.UnsupportedTokenizerError:
        return None
    except BaseException as error:  # whatever either of them cannot do, the other one may; panics derive from it
        raise_if_meant_for_us(error)
        log.warning("tokenized by tokenizers alone: %s", error)
        return None
    for text, ids, right in zip(texts, said, expected, strict=True):
        if ids.tolist() != right:
            log.warning("tokenized by tokenizers alone: nanotoken differs on %a", text)
            return None
    return fast


@contextmanager
def _panics_are_errors() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        raise_if_meant_for_us(error)
        raise ValueError(str(error)) from error


def raise_if_meant_for_us(error: BaseException) -> None:
    """Go on with what is no fault of a tokenizer. Their panics derive from `BaseException` too."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        raise error


def _is_plain(token: AddedToken) -> bool:
    """Whether all is well known that a tokenizer does with it.

    Of white space around tokens of white space the two think otherwise, and of what normalizes to nothing `tokenizers`
    panics or asks for memory without end, for texts that would have to be tried.
    """
    content = token.content
    return content.isascii() and content.isprintable() and " " not in content and content != "" and not token.rstrip


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 40 characters from all of Unicode, a fifth of them spaces; always the same for a seed."""
    draw = random.Random(seed)

    def character() -> str:
        return " " if draw.random() < 0.2 else chr(draw.randint(*draw.choice(RANGES)))

    return ["".join(character() for _ in range(40)) for _ in range(count)]
