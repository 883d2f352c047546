"""Plan the requests of a closed window into batches: which run in one forward pass, and how they are padded."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: Maximum number of shapes of ``bucket`` batches that are captured.
MAX_RECTANGLES = 128


class Size(NamedTuple):
    """The size of one request: one sequence of tokens, or several that stay in one batch."""

    #: Sum over its sequences.
    tokens: int
    sequences: int
    #: Tokens of its longest sequence.
    longest: int


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """The limits of one batch."""

    #: In requests, however many sequences they have.
    max_batch_size: int
    #: In tokens after padding; a request that exceeds it runs alone.
    max_batch_tokens: int
    #: ``bucket`` only: lengths in tokens, in ascending order.
    buckets: tuple[int, ...] = (32, 64, 128, 256, 512)
    #: ``static`` only: the fixed length in tokens.
    static_length: int = 512
    #: ``packed`` only: sizes in tokens to which batches are rounded up, in ascending order; empty for no rounding.
    rungs: tuple[int, ...] = ()
    #: For each of ``buckets``, numbers of rows to which its batches are rounded up, in ascending order; empty for no
    #: rounding.
    row_rungs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """The plan of one forward pass."""

    #: Positions of its requests among those that were planned.
    indices: tuple[int, ...]
    #: Length in tokens to which every sequence is padded; None without padding (``packed``).
    padded_length: int | None
    #: Tokens that the device computes, padding included.
    tokens: int
    #: Tokens without padding.
    asked_tokens: int

    @property
    def padding_ratio(self) -> float:
        """Fraction (0 to 1) of the computed tokens that is padding."""
        return 1 - self.asked_tokens / self.tokens if self.tokens else 0.0


def plan_batches(strategy: str, lengths: Sequence[int | Size], limits: BatchLimits) -> list[Batch]:
    """Plan requests into batches: each request is in exactly one batch, and no batch exceeds the limits.

    ``lengths`` gives the tokens of each request in arrival order, or a `Size` for a request of several sequences.
    Raises `ValueError` for an unknown strategy or a length below 1.
    """
    if strategy not in PLANNERS:
        raise ValueError(f"unknown strategy {strategy!r}; accepted are {', '.join(PLANNERS)}")
    sizes = [length if isinstance(length, Size) else Size(length, 1, length) for length in lengths]
    if any(size.tokens < 1 for size in sizes):
        raise ValueError("a request has no tokens; every request needs at least one")
    return list(PLANNERS[strategy](sizes, limits))


def _plan_none(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """One request per batch."""
    return (_padded((index,), sizes, size.longest) for index, size in enumerate(sizes))


def _plan_static(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """In arrival order, padded to one fixed length, or to the request's own length if that is longer."""
    fixed = [max(limits.static_length, size.longest) for size in sizes]
    return _cut_padded(range(len(sizes)), fixed, sizes, limits)


def _plan_dynamic(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """In arrival order, padded to the longest sequence of the batch."""
    return _cut_padded(range(len(sizes)), [size.longest for size in sizes], sizes, limits)


def _plan_bucket(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """Each request in the smallest bucket that fits; longer ones are padded to their own length."""
    groups: dict[int, list[int]] = {}
    padded = [bucket_length(size.longest, limits.buckets) for size in sizes]
    row_rungs = dict(zip(limits.buckets, limits.row_rungs, strict=False))
    for index, length in enumerate(padded):
        groups.setdefault(length, []).append(index)
    for length in sorted(groups):
        yield from _cut_padded(groups[length], padded, sizes, limits, row_rungs.get(length, ()))


def _plan_packed(sizes: Sequence[Size], limits: BatchLimits) -> Iterator[Batch]:
    """In arrival order, end to end without padding."""
    members: list[int] = []
    tokens = 0
    for index, size in enumerate(sizes):
        if members and (len(members) == limits.max_batch_size or tokens + size.tokens > limits.max_batch_tokens):
            yield Batch(tuple(members), None, bucket_length(tokens, limits.rungs), tokens)
            members, tokens = [], 0
        members.append(index)
        tokens += size.tokens
    if members:
        yield Batch(tuple(members), None, bucket_length(tokens, limits.rungs), tokens)


def token_rungs(max_tokens: int) -> tuple[int, ...]:
    """Return sizes for packed batches of up to ``max_tokens``, close enough that rounding up costs little.

    Up to 1,024 tokens they are powers of two, because such batches take about the same time whatever their size. Above,
    they are 32 steps per doubling, of at least 64 tokens, which adds at most 1.6 % on average.
    """
    rungs, size = [], 64
    while size < max_tokens:
        rungs.append(size)
        octave = 1 << (size.bit_length() - 1)
        size += size if size < 1024 else max(64, octave // 32)
    return (*rungs, max_tokens)


def fitting_buckets(buckets: Iterable[int], longest: int) -> tuple[int, ...]:
    """Return ``buckets`` for inputs of at most ``longest`` tokens, none longer than that."""
    return tuple(sorted({min(bucket, longest) for bucket in buckets}))


def rectangle_rungs(buckets: Sequence[int], max_batch_size: int, max_batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Return, for each of ``buckets``, the numbers of rows to which its batches are rounded up, within both limits.

    They are every number up to 8 and then four steps per doubling, which adds a tenth on average. At most
    `MAX_RECTANGLES` shapes are returned, those with the fewest tokens, because starting a batch costs most for small
    batches.
    """
    max_rows = [max(1, min(max_batch_size, max_batch_tokens // bucket)) for bucket in buckets]
    shapes = [
        (bucket * rows, bucket, rows)
        for bucket, most in zip(buckets, max_rows, strict=True)
        for rows in _row_counts(most)
    ]
    kept = {(bucket, rows) for _, bucket, rows in sorted(shapes)[:MAX_RECTANGLES]}
    return tuple(
        tuple(rows for rows in _row_counts(most) if (bucket, rows) in kept)
        for bucket, most in zip(buckets, max_rows, strict=True)
    )


def _row_counts(max_rows: int) -> Iterator[int]:
    rows = 1
    while rows < max_rows:
        yield rows
        rows += max(1, (1 << (rows.bit_length() - 1)) // 4)
    yield max_rows


def bucket_length(length: int, buckets: Sequence[int]) -> int:
    """Return the smallest bucket of at least ``length``, or ``length`` if all are smaller; in tokens or in rows."""
    position = bisect_left(buckets, length)
    return buckets[position] if position < len(buckets) else length


def _cut_padded(
    order: Iterable[int],
    padded: Sequence[int],
    sizes: Sequence[Size],
    limits: BatchLimits,
    row_rungs: Sequence[int] = (),
) -> Iterator[Batch]:
    """Begin a new padded batch whenever one more request would exceed a limit."""
    members: list[int] = []
    width = rows = 0
    for index in order:
        new_width, new_rows = max(width, padded[index]), rows + sizes[index].sequences
        tokens = new_width * bucket_length(new_rows, row_rungs)
        if members and (len(members) == limits.max_batch_size or tokens > limits.max_batch_tokens):
            yield _padded(tuple(members), sizes, width, row_rungs)
            members, new_width, new_rows = [], padded[index], sizes[index].sequences
        members.append(index)
        width, rows = new_width, new_rows
    if members:
        yield _padded(tuple(members), sizes, width, row_rungs)


def _padded(
    indices: tuple[int, ...], sizes: Sequence[Size], padded_length: int, row_rungs: Sequence[int] = ()
) -> Batch:
    rows = bucket_length(sum(sizes[index].sequences for index in indices), row_rungs)
    return Batch(indices, padded_length, padded_length * rows, sum(sizes[index].tokens for index in indices))


#: Strategy name, as in ``strategy`` of windrow.toml -> planner.
PLANNERS: dict[str, Callable[[Sequence[Size], BatchLimits], Iterator[Batch]]] = {
    "none": _plan_none,
    "static": _plan_static,
    "dynamic": _plan_dynamic,
    "bucket": _plan_bucket,
    "packed": _plan_packed,
}
