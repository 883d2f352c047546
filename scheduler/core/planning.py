"""From the lengths of a row to forward passes: which requests run together, padded to what."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Shapes of ``bucket`` passes that are worth capturing.
MAX_RECTANGLES = 128


class Size(NamedTuple):
    """What one request brings into a pass: a sequence of tokens, or several that stay together."""

    #: Of all its sequences.
    tokens: int
    sequences: int
    #: Tokens of the longest of them.
    longest: int


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one forward pass may hold."""

    #: Requests, whatever the number of their sequences.
    max_batch_size: int
    #: Budget in tokens after padding; a single request of more still runs, alone.
    max_batch_tokens: int
    #: Increasing lengths in tokens, for ``bucket``.
    buckets: tuple[int, ...] = (32, 64, 128, 256, 512)
    #: The fixed length of ``static``, in tokens.
    static_length: int = 512
    #: Increasing sizes in tokens that a ``packed`` pass is rounded up to; empty where it keeps its own.
    rungs: tuple[int, ...] = ()
    #: For each of ``buckets``, increasing numbers of rows that its passes are rounded up to; none: they keep their own.
    row_rungs: tuple[tuple[int, ...], ...] = ()


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


def plan_batches(strategy: str, lengths: Sequence[int | Size], limits: BatchLimits) -> list[Batch]:
    """Plan a row: every index appears in exactly one batch, and no batch is over the limits.

    ``lengths`` are tokens per request, in arrival order, or a `Size` where a request has several sequences. Raises
    `ValueError` for an unknown strategy or a length below 1.
    """
    if strategy not in PLANNERS:
        raise ValueError(f"unknown strategy {strategy!r}; there are {', '.join(PLANNERS)}")
    sizes = [length if isinstance(length, Size) else Size(length, 1, length) for length in lengths]
    if any(size.tokens < 1 for size in sizes):
        raise ValueError("every request has at least one token")
    return list(PLANNERS[strategy](sizes, limits))


def _plan_none(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """One request a pass."""
    return (_padded((index,), sizes, size.longest) for index, size in enumerate(sizes))


def _plan_static(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, everything padded to one fixed length (or its own, where that is longer)."""
    fixed = [max(limits.static_length, size.longest) for size in sizes]
    return _cut_padded(range(len(sizes)), fixed, sizes, limits)


def _plan_dynamic(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, padded to the longest of the batch."""
    return _cut_padded(range(len(sizes)), [size.longest for size in sizes], sizes, limits)


def _plan_bucket(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """Each request in the smallest bucket that fits; one longer than the largest gets its own length."""
    groups: dict[int, list[int]] = {}
    padded = [bucket_length(size.longest, limits.buckets) for size in sizes]
    row_rungs = dict(zip(limits.buckets, limits.row_rungs, strict=False))
    for index, length in enumerate(padded):
        groups.setdefault(length, []).append(index)
    for length in sorted(groups):
        yield from _cut_padded(groups[length], padded, sizes, limits, row_rungs.get(length, ()))


def _plan_packed(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """Arrival order, laid end to end without padding."""
    row: list[int] = []
    tokens = 0
    for index, size in enumerate(sizes):
        if row and (len(row) == limits.max_batch_size or tokens + size.tokens > limits.max_batch_tokens):
            yield Batch(tuple(row), None, bucket_length(tokens, limits.rungs), tokens)
            row, tokens = [], 0
        row.append(index)
        tokens += size.tokens
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


def fitting_buckets(buckets: Iterable[int], longest: int) -> tuple[int, ...]:
    """``buckets`` for inputs of at most ``longest`` tokens: no wider than that."""
    return tuple(sorted({min(bucket, longest) for bucket in buckets}))


def rectangle_rungs(buckets: Sequence[int], max_batch_size: int, max_batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """For each of ``buckets`` the numbers of rows that its passes are rounded up to, as far as both limits let it.

    Every number to 8, then four steps an octave, which adds a tenth on average. Of more than `MAX_RECTANGLES` in all,
    the smallest in tokens: it is small passes that a device is slow to start.
    """
    most = [max(1, min(max_batch_size, max_batch_tokens // bucket)) for bucket in buckets]
    every = [(bucket * rows, bucket, rows) for bucket, top in zip(buckets, most, strict=True) for rows in _rows_to(top)]
    kept = {(bucket, rows) for _, bucket, rows in sorted(every)[:MAX_RECTANGLES]}
    return tuple(
        tuple(rows for rows in _rows_to(top) if (bucket, rows) in kept)
        for bucket, top in zip(buckets, most, strict=True)
    )


def _rows_to(most: int) -> Iterator[int]:
    rows = 1
    while rows < most:
        yield rows
        rows += max(1, (1 << (rows.bit_length() - 1)) // 4)
    yield most


def bucket_length(length: int, buckets: Sequence[int]) -> int:
    """The smallest bucket that holds ``length``, in tokens or in rows; ``length`` itself where none does."""
    position = bisect_left(buckets, length)
    return buckets[position] if position < len(buckets) else length


def _cut_padded(
    order: Iterable[int],
    padded: Sequence[int],
    sizes: Sequence[Size],
    limits: BatchLimits,
    row_rungs: Sequence[int] = (),
) -> Iterator[Batch]:
    """Cut ``order`` where one more request would pass the row or token limit of a rectangle."""
    row: list[int] = []
    longest = height = 0
    for index in order:
        grown, higher = max(longest, padded[index]), height + sizes[index].sequences
        tokens = grown * bucket_length(higher, row_rungs)
        if row and (len(row) == limits.max_batch_size or tokens > limits.max_batch_tokens):
            yield _padded(tuple(row), sizes, longest, row_rungs)
            row, grown, higher = [], padded[index], sizes[index].sequences
        row.append(index)
        longest, height = grown, higher
    if row:
        yield _padded(tuple(row), sizes, longest, row_rungs)


def _padded(
    indices: tuple[int, ...], sizes: Sequence[Size], padded_length: int, row_rungs: Sequence[int] = ()
) -> Batch:
    height = bucket_length(sum(sizes[index].sequences for index in indices), row_rungs)
    return Batch(indices, padded_length, padded_length * height, sum(sizes[index].tokens for index in indices))


#: Strategy name -> planner; the names are the values of ``strategy`` in windrow.toml.
PLANNERS: dict[str, Callable[[Sequence[Size], BatchLimits], Iterator[Batch]]] = {
    "none": _plan_none,
    "static": _plan_static,
    "dynamic": _plan_dynamic,
    "bucket": _plan_bucket,
    "packed": _plan_packed,
}
