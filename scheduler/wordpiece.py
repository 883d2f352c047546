"""WordPiece at a hundredth of the cost, for tokenizers of which `nanotoken` says exactly what `tokenizers` says.

The reference stays `tokenizers`: it reads the file, and whatever is asked here that fails is asked there again.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import nanotoken
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

log = logging.getLogger(__name__)

#: Words that are remembered, for each thread and each of two stages: 8 MiB when full.
REMEMBERED_WORDS = 1 << 16
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

        Raises `ValueError` for a text that is not Unicode.
        """
        side: Literal["right", "left"] = "right" if cuts_end else "left"
        # In this thread: rows are too small for others to be worth waking.
        encoded = self._tokenizer.encode_batch(texts, max_length=max_tokens, truncation_side=side, parallel=False)
        ids, offsets = encoded.ids.astype(np.int64), encoded.offsets.tolist()
        return [ids[start:end] for start, end in pairwise(offsets)]

    def count(self, text: str, *, special: bool = True) -> int:
        """Tokens of ``text``, with special ones or without. Raises `ValueError` for one that is not Unicode."""
        return len(self._tokenizer.encode(text, add_special_tokens=special))


def load_wordpiece(tokenizer: Tokenizer) -> WordPiece | None:
    """What says the same as ``tokenizer``, which neither cuts nor pads; None where it is of another kind.

    Both are asked for `HARD_TEXTS` and for random ones, and one difference is enough to go without.
    """
    if not isinstance(tokenizer.model, models.WordPiece):
        return None
    if "NANOTOKEN_CACHE_ENTRIES" not in os.environ:
        nanotoken.set_cache_entries(REMEMBERED_WORDS)
    try:
        fast = WordPiece(nanotoken.Tokenizer.from_json(tokenizer.to_str()))
    except nanotoken.UnsupportedTokenizerError:
        return None
    texts = [*HARD_TEXTS, *random_texts(RANDOM_TEXTS)]
    for text, said, expected in zip(texts, fast.encode(texts), tokenizer.encode_batch_fast(texts), strict=True):
        if said.tolist() != expected.ids:
            log.warning("tokenized by tokenizers alone: nanotoken differs on %a", text)
            return None
    return fast


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 40 characters from all of Unicode, a fifth of them spaces; always the same for a seed."""
    draw = random.Random(seed)

    def character() -> str:
        return " " if draw.random() < 0.2 else chr(draw.randint(*draw.choice(RANGES)))

    return ["".join(character() for _ in range(40)) for _ in range(count)]
