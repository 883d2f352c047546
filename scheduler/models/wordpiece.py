"""WordPiece token ids from `nanotoken`, at a hundredth of the CPU time of `tokenizers`.

`tokenizers` stays the reference: it reads the model's files, and it tokenizes whatever `nanotoken` cannot. `nanotoken`
is optional (``pip install 'windrow-inference[wordpiece]'``) and is used only for tokenizers for which both packages
give the same ids (`load_wordpiece`).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from tokenizers import AddedToken, Tokenizer, models

if TYPE_CHECKING:  # not installed everywhere: the API's extra has neither
    import nanotoken
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

#: Maximum number of words that `nanotoken` caches per tokenizer, thread and stage (it has two).
CACHED_WORDS = 1 << 15
#: Maximum number of added tokens that are compared when a model is loaded.
CHECKED_ADDED_TOKENS = 100
#: Texts on which two tokenizers are likely to differ: case, accents, scripts without spaces, deleted characters,
#: special tokens written out in the text.
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
#: Number of random texts that are compared too, and the ranges of code points that they are drawn from.
RANDOM_TEXTS = 200
RANGES = ((0x20, 0x7E), (0, 0x24F), (0x300, 0x17FF), (0x1E00, 0x33FF), (0x4E00, 0xD7FF), (0xE000, 0x10FFFF))


class WordPiece:
    """Tokenizes texts into ids, special tokens included. Threads may share it."""

    def __init__(self, tokenizer: nanotoken.Tokenizer) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, texts: Sequence[str], max_tokens: int | None = None, *, cuts_end: bool = True
    ) -> list[NDArray[np.int64]]:
        """Return the (tokens,) ids of each of ``texts``, truncated to ``max_tokens`` at the end or else at the start.

        Raises `ValueError` if it cannot read one of them, for example text that is not valid Unicode.
        """
        side: Literal["right", "left"] = "right" if cuts_end else "left"
        with _panics_as_value_errors():
            # In this thread: batches are too small to gain from more threads.
            encoded = self._tokenizer.encode_batch(texts, max_length=max_tokens, truncation_side=side, parallel=False)
        ids, offsets = encoded.ids.astype("int64"), encoded.offsets.tolist()
        return [ids[start:end] for start, end in pairwise(offsets)]

    def count(self, text: str, *, special: bool = True) -> int:
        """Return the tokens of ``text``, with special tokens or without. Raises `ValueError` if it cannot read it."""
        with _panics_as_value_errors():
            return len(self._tokenizer.encode(text, add_special_tokens=special))


def load_wordpiece(tokenizer: Tokenizer) -> WordPiece | None:
    """Return a `WordPiece` with the same ids as ``tokenizer``, or None if there is none.

    ``tokenizer`` must neither truncate nor pad. Both are compared on `HARD_TEXTS`, on texts with the tokenizer's added
    tokens and on random texts; the first difference rules `nanotoken` out.
    """
    added = list(tokenizer.get_added_tokens_decoder().values())
    if not isinstance(tokenizer.model, models.WordPiece) or not all(map(_is_plain, added)):
        return None
    try:
        import nanotoken
    except ImportError:
        log.info(
            "nanotoken is not installed, so tokenizers tokenizes all texts; `pip install nanotoken` to save CPU time"
        )
        return None
    nanotoken.set_cache_entries(CACHED_WORDS)
    names = [token.content for token in added[:CHECKED_ADDED_TOKENS]]
    texts = [*HARD_TEXTS, *(f"{name} hay{name}{name} {name}row{name}" for name in names), *random_texts(RANDOM_TEXTS)]
    try:
        fast = WordPiece(nanotoken.Tokenizer.from_json(tokenizer.to_str()))
        found, expected = fast.encode(texts), [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]
    except nanotoken.UnsupportedTokenizerError:
        return None
    except BaseException as error:  # panics inside both packages derive from BaseException
        reraise_if_fatal(error)
        log.warning("texts are tokenized by tokenizers: nanotoken failed: %s", error)
        return None
    for text, ids, right in zip(texts, found, expected, strict=True):
        if ids.tolist() != right:
            log.warning("texts are tokenized by tokenizers: nanotoken differs on %a", text)
            return None
    return fast


@contextmanager
def _panics_as_value_errors() -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        reraise_if_fatal(error)
        raise ValueError(str(error)) from error


def reraise_if_fatal(error: BaseException) -> None:
    """Raise ``error`` again if it is no error of a tokenizer, whose panics derive from `BaseException` too."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
        raise error


def _is_plain(token: AddedToken) -> bool:
    """Whether both packages are known to treat an added token alike.

    They differ on white space around a token that is white space itself. For a token that normalizes to nothing,
    `tokenizers` panics or allocates without limit, so that comparing them is not an option.
    """
    content = token.content
    return content.isascii() and content.isprintable() and " " not in content and content != "" and not token.rstrip


def random_texts(count: int, seed: int = 0) -> list[str]:
    """Return ``count`` texts of 40 characters from all of Unicode, a fifth of them spaces, fixed by ``seed``."""
    draw = random.Random(seed)

    def character() -> str:
        return " " if draw.random() < 0.2 else chr(draw.randint(*draw.choice(RANGES)))

    return ["".join(character() for _ in range(40)) for _ in range(count)]
