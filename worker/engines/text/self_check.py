"""What a model is asked when it was loaded: does it answer alike, however its texts are put together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from windrow.scheduler.models.token_counts import TextLimit
from windrow.worker.engines.text.sequences import Tokens

#: Lengths of the texts: one token, and more than a sliding window of 128 sees.
CHECK_LENGTHS = (1, 9, 33, 300)
#: Largest relative difference that is taken for rounding, where rounding alone does not do more.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.int8: 2e-2}


@dataclass(frozen=True, slots=True)
class Reference:
    """What a model answers to some texts one by one, which every other way to run it has to repeat."""

    model: str
    texts: Sequence[Tokens]
    #: Of each text, (rows, width).
    rows: Sequence[Tensor]
    #: Largest relative difference that is taken for rounding.
    tolerance: float

    def up_to(self, tokens: int) -> Reference:
        """Of texts of at most so many ``tokens``."""
        kept = [index for index, text in enumerate(self.texts) if len(text) <= tokens]
        return replace(self, texts=[self.texts[index] for index in kept], rows=[self.rows[index] for index in kept])

    def difference(self, rows: Sequence[Tensor]) -> float:
        """How far other ``rows`` of the same texts are from these; the rows of a text may be apart or not."""
        return relative_difference(torch.cat(list(rows)), torch.cat(list(self.rows))) if self.texts else 0.0


def check_texts(limit: TextLimit, pad_id: int, types: bool) -> list[Tokens]:
    """Texts of random plain tokens, of `CHECK_LENGTHS` as far as the model takes them; always the same.

    With ``types`` the second half of each is another text's.
    """
    special = set(limit.tokenizer.get_added_tokens_decoder()) | {pad_id}
    plain = [token for token in range(limit.tokenizer.get_vocab_size()) if token not in special] or [0]
    draw = np.random.default_rng(0)
    lengths = [min(length, limit.max_input_tokens) for length in CHECK_LENGTHS]
    return [
        Tokens(
            draw.choice(np.array(plain, dtype=np.int64), length),
            (np.arange(length) > length // 2).astype(np.int64) if types else None,
        )
        for length in lengths
    ]


def relative_difference(rows: Tensor, expected: Tensor) -> float:
    """Largest distance of a row, over the mean size of a row: a single logit may be near zero by chance."""
    expected = expected.float()
    return float(((rows.float() - expected).norm(dim=1).max() / expected.norm(dim=1).mean()).item())
