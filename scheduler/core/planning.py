"""From the lengths of a row to forward passes: which requests run together, padded to what."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one forward pass may hold."""

    max_batch_size: int
    #: Budget in tokens after padding; a single longer request still runs, alone.
    max_batch_tokens: int
    #: Increasing lengths in tokens, for ``bucket``.
    buckets: tuple[int, ...] = (32, 64, 128, 256, 512)
    #: The fixed length of ``static``, in tokens.
    static_length: int = 512
    #: Increasing sizes in tokens that a ``packed`` pass is rounded up to; empty where it keeps its own.
    rungs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """One forward pass over some requests of a row."""

    #: Positions in the row that was planned.
    indices: tuple[int, ...]
    #: Length in tokens that every request is padded to; None where nothing is padded (``packed``).
    padded_length: int | None
    #: Tokens the device computes, padding included.
    tokens: int
    #: Tokens that were asked for.
    asked_tokens: int

    @property
    def padding_ratio(self) -> float:
        """Share of the computed tokens that is padding, 0 to 1."""
        return 1 - self.asked_tokens / self.tokens if self.tokens else 0.0


def plan_batches(strategy: str, lengths: Sequence[int], limits: BatchLimits) -> list[Batch]:
    """Plan a row: every index appears in exactly one batch, and no batch is over the limits.

    ``lengths`` are tokens per request, in arrival order. Raises `ValueError` for an unknown strategy or a length
    below 1.
    """
    if strategy not in PLANNERS:
        raise ValueError(f"unknown strategy {strategy!r}; there are {', '.join(PLANNERS)}")
    if any(length < 1 for length in lengths):
        raise ValueError("every request has at least one token")
    return list(PLANNERS[strategy](lengths, limits))


def _plan_none(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Batch]:
    """One request a pass."""
    return (_padded((index,), lengths, length) for index, length in enumerate(lengths))


def _plan_static(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, everything padded to one fixed length (or its own, where that is longer)."""
    fixed = [max(limits.static_length, length) for length in lengths]
    return _cut_padded(range(len(lengths)), fixed, lengths, limits)


def _plan_dynamic(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, padded to the longest of the batch."""
    return _cut_padded(range(len(lengths)), lengths, lengths, limits)


def _plan_bucket(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Batch]:
    """Each request in the smallest bucket that fits; one longer than the largest gets its own length."""
    groups: dict[int, list[int]] = {}
    sizes = [bucket_length(length, limits.buckets) for length in lengths]
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    for size in sorted(groups):
        yield from _cut_padded(groups[size], sizes, lengths, limits)


def _plan_packed(lengths: Sequence[int], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, laid end to end without padding."""
    row: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if row and (len(row) == limits.max_batch_size or tokens + length > limits.max_batch_tokens):
            yield Batch(tuple(row), None, bucket_length(tokens, limits.rungs), tokens)
            row, tokens = [], 0
        row.append(index)
        tokens += length
    if row:
        yield Batch(tuple(row), None, bucket_length(tokens, limits.rungs), tokens)


def token_rungs(max_tokens: int) -> tuple[int, ...]:
    """Sizes for packed passes of up to ``max_tokens``, such that rounding up adds little where the device is busy.

    Powers of two to 1,024 tokens, where a pass costs about the same whatever its size; then 32 steps an octave, of 64
    tokens at least, which adds 1.6 % or less on average.
    """
    rungs, size = [], 64
    while size < max_tokens:
        rungs.append(size)
        octave = 1 << (size.bit_length() - 1)
        size += size if size < 1024 else max(64, octave // 32)
    return (*rungs, max_tokens)


def bucket_length(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``length`` tokens; ``length`` itself where none does."""
    position = bisect_left(buckets, length)
    return buckets[position] if position < len(buckets) else length


def _cut_padded(
    order: Iterable[int], padded: Sequence[int], lengths: Sequence[int], limits: BatchLimits
) -> Iterator[Batch]:
    """Cut ``order`` where one more request would pass the row or token limit of a rectangle."""
    row: list[int] = []
    longest = 0
    for index in order:
        grown = max(longest, padded[index])
        full = len(row) == limits.max_batch_size or grown * (len(row) + 1) > limits.max_batch_tokens
        if row and full:
            yield _padded(tuple(row), lengths, longest)
            row, grown = [], padded[index]
        row.append(index)
        longest = grown
    if row:
        yield _padded(tuple(row), lengths, longest)


def _padded(indices: tuple[int, ...], lengths: Sequence[int], padded_length: int) -> Batch:
    return Batch(indices, padded_length, padded_length * len(indices), sum(lengths[index] for index in indices))


#: Strategy name -> planner; the names are the values of ``strategy`` in windrow.toml.
PLANNERS: dict[str, Callable[[Sequence[int], BatchLimits], Iterator[Batch]]] = {
    "none": _plan_none,
    "static": _plan_static,
    "dynamic": _plan_dynamic,
    "bucket": _plan_bucket,
    "packed": _plan_packed,
}
