import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import median, median_ratio, percentile, rates_within

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


def test_the_median_of_an_even_number_of_values_lies_between_the_middle_two() -> None:
    assert median([4.0, 1.0, 3.0, 2.0]) == 2.5


def test_the_median_of_an_empty_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        median([])


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, 10.0),
        (0.5, 20.0),  # place 0.5 * 2 = 1
        (0.9, 28.0),  # place 1.8: 20 + 0.8 * (30 - 20)
        (1.0, 30.0),
    ],
)
def test_a_percentile_is_interpolated_between_its_neighbours(share: float, expected: float) -> None:
    assert percentile([30.0, 10.0, 20.0], share) == pytest.approx(expected)


@given(numbers)
def test_the_percentile_of_one_half_is_the_median(values: list[float]) -> None:
    assert percentile(values, 0.5) == pytest.approx(median(values))


@given(numbers, st.floats(0, 1))
def test_a_percentile_lies_within_the_values(values: list[float], share: float) -> None:
    assert min(values) - 1e-6 <= percentile(values, share) <= max(values) + 1e-6


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        percentile([1.0], share)


def test_a_slow_round_of_the_machine_does_not_change_the_ratio() -> None:
    # 2, 2 and 2: the machine ran at half its speed in the second round.
    assert median_ratio([200.0, 100.0, 220.0], [100.0, 50.0, 110.0]) == 2.0


def test_unpaired_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1.0, 2.0], [1.0])


def test_whole_bursts_are_divided_by_their_own_time() -> None:
    # Bursts of 2 texts end at 1, 2, 3 ... s; the interval 1.5 to 4.5 s has those of 2, 3 and 4 s, which began at 1 s.
    ended = [(float(second), tokens) for second in range(1, 7) for tokens in (10, 30)]
    rates = rates_within(ended, 1.5, 4.5)
    assert rates.texts_per_s == pytest.approx(6 / 3)
    assert rates.tokens_per_s == pytest.approx(120 / 3)


@given(st.floats(1.1, 3.0), st.floats(5.0, 9.0))
def test_the_edges_of_the_interval_do_not_matter_for_equal_bursts(begin_s: float, end_s: float) -> None:
    ended = [(float(second), 5) for second in range(1, 11) for _ in range(4)]
    assert rates_within(ended, begin_s, end_s).texts_per_s == pytest.approx(4.0)


def test_an_interval_without_an_earlier_burst_counts_from_its_beginning() -> None:
    assert rates_within([(3.0, 1), (4.0, 1)], 2.0, 5.0).texts_per_s == pytest.approx(2 / 2)


def test_an_empty_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="measure for longer"):
        rates_within([(1.0, 1)], 2.0, 3.0)
