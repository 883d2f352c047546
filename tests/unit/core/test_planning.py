"""Properties of every plan: each request is in one batch, and no batch exceeds its limits."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.core.planning import (
    MAX_RECTANGLES,
    PLANNERS,
    Batch,
    BatchLimits,
    Size,
    bucket_length,
    fitting_buckets,
    plan_batches,
    rectangle_rungs,
    token_rungs,
)

LENGTHS = st.lists(st.integers(1, 600), max_size=200)
LIMITS = st.builds(
    BatchLimits,
    max_batch_size=st.integers(1, 64),
    max_batch_tokens=st.integers(1, 20_000),
    buckets=st.sets(st.integers(1, 512), min_size=1, max_size=6).map(lambda sizes: tuple(sorted(sizes))),
    static_length=st.integers(1, 512),
)
STRATEGIES = st.sampled_from(sorted(PLANNERS))


def plan(strategy: str, *lengths: int, size: int = 8, tokens: int = 100) -> list[tuple[int, ...]]:
    limits = BatchLimits(size, tokens, buckets=(10, 20, 40), static_length=30)
    return [batch.indices for batch in plan_batches(strategy, lengths, limits)]


@given(STRATEGIES, LENGTHS, LIMITS)
def test_every_request_is_planned_exactly_once(strategy: str, lengths: list[int], limits: BatchLimits) -> None:
    planned = [index for batch in plan_batches(strategy, lengths, limits) for index in batch.indices]
    assert sorted(planned) == list(range(len(lengths)))


@given(STRATEGIES, LENGTHS, LIMITS)
def test_no_batch_is_empty_or_exceeds_max_batch_size(strategy: str, lengths: list[int], limits: BatchLimits) -> None:
    for batch in plan_batches(strategy, lengths, limits):
        assert 1 <= len(batch.indices) <= limits.max_batch_size


@given(STRATEGIES, LENGTHS, LIMITS)
def test_only_a_batch_of_one_request_may_exceed_the_token_budget(
    strategy: str, lengths: list[int], limits: BatchLimits
) -> None:
    for batch in plan_batches(strategy, lengths, limits):
        assert batch.tokens <= limits.max_batch_tokens or len(batch.indices) == 1


@given(STRATEGIES, LENGTHS, LIMITS)
def test_the_asked_tokens_of_a_batch_are_the_sum_over_its_requests(
    strategy: str, lengths: list[int], limits: BatchLimits
) -> None:
    batches = plan_batches(strategy, lengths, limits)
    assert sum(batch.asked_tokens for batch in batches) == sum(lengths)
    for batch in batches:
        assert batch.asked_tokens == sum(lengths[index] for index in batch.indices)
        assert batch.asked_tokens <= batch.tokens
        assert 0 <= batch.padding_ratio < 1


@given(st.sampled_from(["none", "static", "dynamic", "bucket"]), LENGTHS, LIMITS)
def test_every_request_fits_into_the_rectangle_of_a_padded_batch(
    strategy: str, lengths: list[int], limits: BatchLimits
) -> None:
    for batch in plan_batches(strategy, lengths, limits):
        assert batch.padded_length is not None
        assert batch.tokens == batch.padded_length * len(batch.indices)
        assert all(lengths[index] <= batch.padded_length for index in batch.indices)


@given(LENGTHS, LIMITS)
def test_packed_batches_have_no_padding(lengths: list[int], limits: BatchLimits) -> None:
    for batch in plan_batches("packed", lengths, limits):
        assert batch.padded_length is None
        assert batch.tokens == batch.asked_tokens
        assert batch.padding_ratio == 0


@given(LENGTHS, LIMITS)
def test_bucket_pads_each_request_to_the_smallest_bucket_that_fits_or_to_its_own_length(
    lengths: list[int], limits: BatchLimits
) -> None:
    for batch in plan_batches("bucket", lengths, limits):
        for index in batch.indices:
            fitting = [size for size in limits.buckets if size >= lengths[index]]
            assert batch.padded_length == (min(fitting) if fitting else lengths[index])


@given(LENGTHS, LIMITS)
def test_dynamic_pads_to_the_longest_request_of_the_batch(lengths: list[int], limits: BatchLimits) -> None:
    for batch in plan_batches("dynamic", lengths, limits):
        assert batch.padded_length == max(lengths[index] for index in batch.indices)


@given(LENGTHS, LIMITS)
def test_static_pads_to_the_fixed_length_or_to_a_longer_request(lengths: list[int], limits: BatchLimits) -> None:
    for batch in plan_batches("static", lengths, limits):
        assert batch.padded_length == max(limits.static_length, *(lengths[index] for index in batch.indices))


@given(st.sampled_from(["none", "static", "dynamic", "packed"]), LENGTHS, LIMITS)
def test_the_arrival_order_is_kept_across_batches(strategy: str, lengths: list[int], limits: BatchLimits) -> None:
    planned = [index for batch in plan_batches(strategy, lengths, limits) for index in batch.indices]
    assert planned == list(range(len(lengths)))


@given(LENGTHS, LIMITS)
def test_the_arrival_order_is_kept_within_a_bucket(lengths: list[int], limits: BatchLimits) -> None:
    by_size: dict[int | None, list[int]] = {}
    for batch in plan_batches("bucket", lengths, limits):
        by_size.setdefault(batch.padded_length, []).extend(batch.indices)
    assert all(indices == sorted(indices) for indices in by_size.values())


@given(st.sampled_from(["static", "dynamic", "packed"]), LENGTHS, LIMITS)
def test_a_batch_ends_only_if_one_more_request_would_exceed_a_limit(
    strategy: str, lengths: list[int], limits: BatchLimits
) -> None:
    batches = plan_batches(strategy, lengths, limits)
    for batch, following in itertools.pairwise(batches):
        grown = [*batch.indices, following.indices[0]]
        merged = plan_batches(strategy, [lengths[index] for index in grown], limits)
        assert len(merged) == 2


@pytest.mark.parametrize(
    ("strategy", "lengths", "expected"),
    [
        ("none", (10, 10), [(0,), (1,)]),
        ("packed", (40, 40, 20, 1), [(0, 1, 2), (3,)]),  # 40 + 40 + 20 = 100; one more is 101
        ("packed", (101, 1), [(0,), (1,)]),  # 101 > 100 runs alone
        ("dynamic", (10, 50, 51), [(0, 1), (2,)]),  # 2 * 50 = 100; 3 * 51 = 153
        ("static", (1, 1, 1, 1), [(0, 1, 2), (3,)]),  # 3 * 30 = 90; 4 * 30 = 120
        ("bucket", (5, 15, 10, 50, 20), [(0, 2), (1, 4), (3,)]),  # 10: 5, 10; 20: 15, 20; 50 > 40
    ],
)
def test_requests_are_split_into_batches_by_the_token_budget(
    strategy: str, lengths: tuple[int, ...], expected: list[tuple[int, ...]]
) -> None:
    assert plan(strategy, *lengths) == expected


def test_requests_are_split_into_batches_by_max_batch_size() -> None:
    assert plan("packed", *[1] * 5, size=2) == [(0, 1), (2, 3), (4,)]


@pytest.mark.parametrize("strategy", sorted(PLANNERS))
def test_no_requests_make_no_batches(strategy: str) -> None:
    assert plan(strategy) == []


def test_an_unknown_strategy_raises_an_error_with_the_accepted_names() -> None:
    with pytest.raises(ValueError, match="unknown strategy 'fast'; accepted are none, static, dynamic, bucket, packed"):
        plan("fast", 1)


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_below_one_token_raises_an_error(length: int) -> None:
    with pytest.raises(ValueError, match="a request has no tokens"):
        plan("packed", 1, length)


@pytest.mark.parametrize(("length", "expected"), [(1, 10), (10, 10), (11, 20), (20, 20), (21, 21)])
def test_a_length_is_rounded_up_to_the_smallest_bucket_that_holds_it(length: int, expected: int) -> None:
    assert bucket_length(length, (10, 20)) == expected


def test_the_padding_ratio_is_the_share_of_padding_in_the_computed_tokens() -> None:
    assert Batch((0, 1), 20, tokens=40, asked_tokens=30).padding_ratio == 0.25


@pytest.mark.parametrize("max_tokens", [1, 63, 64, 65, 1024, 4096, 16384, 20_000])
def test_rungs_ascend_to_the_budget(max_tokens: int) -> None:
    rungs = token_rungs(max_tokens)
    assert list(rungs) == sorted(set(rungs))
    assert rungs[-1] == max_tokens


def test_rounding_a_large_batch_up_to_its_rung_adds_little() -> None:
    rungs = token_rungs(16384)
    added = [bucket_length(tokens, rungs) / tokens for tokens in range(3000, 16384)]
    assert max(added) < 1.04
    assert sum(added) / len(added) < 1.02


@given(st.lists(st.integers(1, 600), min_size=1, max_size=80))
def test_packed_batches_are_rounded_up_to_a_rung_unless_one_text_exceeds_the_budget(lengths: list[int]) -> None:
    limits = BatchLimits(max_batch_size=16, max_batch_tokens=500, rungs=token_rungs(500))
    for batch in plan_batches("packed", lengths, limits):
        assert batch.asked_tokens == sum(lengths[index] for index in batch.indices)
        if batch.asked_tokens <= 500:
            assert batch.tokens == bucket_length(batch.asked_tokens, limits.rungs)
            assert batch.tokens in limits.rungs
        else:
            assert (len(batch.indices), batch.tokens) == (1, batch.asked_tokens)


#: Requests of several sequences; the numbers are the lengths of the sequences.
REQUESTS = st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=20), max_size=60)


def size_of(lengths: list[int]) -> Size:
    return Size(sum(lengths), len(lengths), max(lengths))


@given(STRATEGIES, LENGTHS, LIMITS)
def test_a_request_of_one_sequence_is_planned_by_its_length(
    strategy: str, lengths: list[int], limits: BatchLimits
) -> None:
    sizes = [size_of([length]) for length in lengths]
    assert plan_batches(strategy, sizes, limits) == plan_batches(strategy, lengths, limits)


@given(STRATEGIES, REQUESTS, LIMITS)
def test_all_sequences_of_a_request_are_in_one_batch_and_all_are_counted(
    strategy: str, requests: list[list[int]], limits: BatchLimits
) -> None:
    batches = plan_batches(strategy, [size_of(lengths) for lengths in requests], limits)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(requests)))
    for batch in batches:
        sequences = [length for index in batch.indices for length in requests[index]]
        computed = sum(sequences) if batch.padded_length is None else batch.padded_length * len(sequences)
        assert (batch.asked_tokens, batch.tokens) == (sum(sequences), computed)
        assert batch.padded_length is None or max(sequences) <= batch.padded_length
        assert len(batch.indices) <= limits.max_batch_size
        assert batch.tokens <= limits.max_batch_tokens or len(batch.indices) == 1


BUCKETS = st.sets(st.integers(1, 512), min_size=1, max_size=40).map(lambda sizes: tuple(sorted(sizes)))


@given(BUCKETS, st.integers(1, 1000), st.integers(1, 70_000))
def test_captured_shapes_are_within_the_limits_and_at_most_the_maximum(
    buckets: tuple[int, ...], size: int, tokens: int
) -> None:
    rungs = rectangle_rungs(buckets, size, tokens)
    assert len(rungs) == len(buckets)
    assert sum(map(len, rungs)) <= MAX_RECTANGLES
    for bucket, rows in zip(buckets, rungs, strict=True):
        assert list(rows) == sorted(set(rows))
        assert all(1 <= number <= size and (number * bucket <= tokens or number == 1) for number in rows)


def test_captured_batch_sizes_are_every_number_to_8_and_four_per_doubling_above() -> None:
    (rows,) = rectangle_rungs([32], 40, 16384)
    assert rows == (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40)
    # In the second bucket, the token budget allows fewer rows than max_batch_size.
    assert rectangle_rungs([32, 512], 6, 1500) == ((1, 2, 3, 4, 5, 6), (1, 2))


def test_the_largest_shapes_are_omitted_above_the_maximum() -> None:
    buckets = range(10, 500, 10)
    rungs = rectangle_rungs(buckets, 64, 10**6)
    captured = [bucket * rows for bucket, numbers in zip(buckets, rungs, strict=True) for rows in numbers]
    assert len(captured) == MAX_RECTANGLES
    assert rungs[0][-1] == 40  # 400 tokens
    assert max(captured) == 420
    assert rungs[-1] == ()


@given(LENGTHS, LIMITS)
def test_the_number_of_sequences_in_a_batch_is_rounded_up_to_the_next_captured_batch_size(
    lengths: list[int], limits: BatchLimits
) -> None:
    rungs = rectangle_rungs(limits.buckets, limits.max_batch_size, limits.max_batch_tokens)
    captured = BatchLimits(
        limits.max_batch_size, limits.max_batch_tokens, limits.buckets, limits.static_length, row_rungs=rungs
    )
    batches = plan_batches("bucket", lengths, captured)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(lengths)))
    rungs_by_bucket = dict(zip(limits.buckets, rungs, strict=True))
    for batch in batches:
        assert batch.padded_length is not None
        rows, rest = divmod(batch.tokens, batch.padded_length)
        assert rest == 0
        assert rows == bucket_length(len(batch.indices), rungs_by_bucket.get(batch.padded_length, ()))
        assert batch.tokens <= limits.max_batch_tokens or len(batch.indices) == 1


@given(st.lists(st.integers(1, 64), min_size=1, max_size=200), st.integers(64, 5000))
def test_captured_shapes_do_not_exceed_a_token_budget_that_has_shrunk(lengths: list[int], tokens: int) -> None:
    limits = BatchLimits(64, tokens, buckets=(16, 64), row_rungs=rectangle_rungs((16, 64), 64, 16384))
    assert all(batch.tokens <= tokens for batch in plan_batches("bucket", lengths, limits))


def test_buckets_are_at_most_as_long_as_the_longest_input() -> None:
    assert fitting_buckets((16, 32, 256, 512), 96) == (16, 32, 96)
    assert fitting_buckets((16,), 96) == (16,)
