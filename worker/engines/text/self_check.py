"""Self-check of a model at load: which ways to run it give the same vectors as one sequence at a time in float32."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from windrow.scheduler.models.token_counts import TextLimit
from windrow.worker.engines.device.int8 import reason_against_int8
from windrow.worker.engines.device.token_batches import Tokens
from windrow.worker.engines.text.encoder_forward import EncoderForward

#: Lengths of the test sequences in tokens: from one token to more than a sliding window of 128.
CHECK_LENGTHS = (1, 9, 33, 300)
#: Largest relative difference that counts as rounding, unless rounding to the dtype alone makes a larger one.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2, torch.int8: 2e-2}
#: The strategy that replaces ``packed`` for a model that cannot run packed batches.
UNPACKED = "bucket"
#: The strategy for a model whose vectors change with padding.
UNPADDED = "none"
#: Number of runs in which the speeds of int8 and float32 are compared.
SPEED_RUNS = 3


@dataclass(frozen=True, slots=True)
class Reference:
    """The vectors of the test sequences one by one, which every other way to run the model must reproduce."""

    model: str
    sequences: Sequence[Tokens]
    #: (vectors, width) for each sequence.
    vectors: Sequence[Tensor]
    #: Largest relative difference that counts as rounding.
    tolerance: float

    @property
    def has_types(self) -> bool:
        """Whether the model reads token types."""
        return self.sequences[0].types is not None

    def up_to(self, tokens: int) -> Reference:
        """Return the part of this reference with sequences of at most ``tokens`` tokens."""
        kept = [index for index, sequence in enumerate(self.sequences) if len(sequence) <= tokens]
        sequences, vectors = ([values[index] for index in kept] for values in (self.sequences, self.vectors))
        return replace(self, sequences=sequences, vectors=vectors)

    def difference(self, vectors: Sequence[Tensor]) -> float:
        """Return the relative difference of other vectors of the same sequences, in any number of tensors."""
        return relative_difference(torch.cat(list(vectors)), torch.cat(list(self.vectors))) if self.sequences else 0.0


class BatchForm(NamedTuple):
    """How the batches of a model may be formed."""

    #: The strategy in effect.
    strategy: str
    #: Why it is not the strategy in the settings; None if it is.
    note: str | None
    #: Whether sequences may be packed.
    packs: bool
    #: Whether sequences may be padded; if they may be neither packed nor padded, each runs in a batch of one.
    pads: bool


def check_sequences(limit: TextLimit, pad_id: int, types: bool) -> list[Tokens]:
    """Return test sequences of random ordinary tokens, the same in each call, of `CHECK_LENGTHS` up to the limit.

    With ``types``, the second half of each belongs to the second text of a pair.
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


def relative_difference(vectors: Tensor, expected: Tensor) -> float:
    """Return the largest distance of a vector, divided by the mean length of the expected vectors.

    Not by its own length, because a single logit may be near zero by chance.
    """
    expected = expected.float()
    return float(((vectors.float() - expected).norm(dim=1).max() / expected.norm(dim=1).mean()).item())


def choose_batch_form(strategy: str, forward: EncoderForward, reference: Reference, reads_pairs: bool) -> BatchForm:
    """Return how the model can be served, as close to ``strategy`` as its vectors allow.

    ``packed`` falls back to padding, and padding to one sequence at a time.
    """
    reasons: list[str] = []
    if strategy == "packed":
        reason = _reason_against(forward, reference, packed=True)
        if reason is None:
            return BatchForm(strategy, None, packs=True, pads=True)
        reasons.append(reason)
        strategy = UNPACKED
    if strategy == UNPADDED and not reads_pairs:  # the pairs of one request are padded in every strategy
        return BatchForm(strategy, None, packs=False, pads=True)
    reason = _reason_against(forward, reference, packed=False)
    if reason is None:
        return BatchForm(strategy, "; ".join(reasons) or None, packs=False, pads=True)
    if strategy == UNPADDED:
        return BatchForm(strategy, None, packs=False, pads=False)
    note = "; ".join([*reasons, f"padding changes the answers of this model: {reason}"])
    return BatchForm(UNPADDED, note, packs=False, pads=False)


def _reason_against(forward: EncoderForward, reference: Reference, *, packed: bool) -> str | None:
    """Run the test sequences in one batch; return why the model must not be served so, or None if it may."""
    kind = "packed" if packed else "padded"
    try:
        difference = reference.difference([forward.together(reference.sequences, packed=packed)])
    except Exception as error:  # Whatever the model raises here, it can still be served in another way.
        return f"the {kind} batch raised {type(error).__name__}: {error}"
    if difference <= reference.tolerance:
        return None
    return f"{kind} and one by one differ by {difference:.1e}, more than rounding ({reference.tolerance:.0e})"


def compare_int8(
    int8: EncoderForward, load_float32: Callable[[], EncoderForward], sequences: Sequence[Tokens]
) -> str | None:
    """Run ``sequences`` in int8 and in float32 in turn; return why int8 must not be served, or None if it may."""
    vectors: dict[str, Tensor] = {}
    fastest_s = {"float32": math.inf, "int8": math.inf}
    try:
        forwards = {"float32": load_float32(), "int8": int8}
        for _ in range(SPEED_RUNS):
            for dtype, forward in forwards.items():
                # CPU time of this thread, which runs batches of one, so that other processes do not disturb it.
                began_s = time.thread_time()
                vectors[dtype] = forward.one_by_one(sequences)
                fastest_s[dtype] = min(fastest_s[dtype], time.thread_time() - began_s)
    except Exception as error:  # Whatever the model raises here, it can still be served in float32.
        return f"the int8 batch raised {type(error).__name__}: {error}"
    difference = relative_difference(vectors["int8"], vectors["float32"])
    return reason_against_int8(difference, fastest_s["int8"], fastest_s["float32"])
