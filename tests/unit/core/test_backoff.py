"""Exponential backoff: pauses grow to a cap, and jitter keeps them within their range."""

from hypothesis import given
from hypothesis import strategies as st

from windrow.backoff import Backoff

DOUBLING = Backoff(first_s=0.1, max_s=2.0)


def test_pauses_double_up_to_the_cap() -> None:
    pauses = [DOUBLING.pause_s(failures, 1.0) for failures in range(1, 8)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_another_factor_and_jitter_around_the_pause() -> None:
    backoff = Backoff(first_s=5.0, max_s=3600.0, factor=5.0, jitter=(0.8, 1.2))
    assert [backoff.pause_s(failures, 0.5) for failures in (1, 2, 3)] == [5.0, 25.0, 125.0]
    assert (backoff.pause_s(1, 0.0), backoff.pause_s(1, 1.0)) == (4.0, 6.0)


def test_callers_with_different_random_numbers_pause_for_different_times() -> None:
    assert DOUBLING.pause_s(5, 0.1) != DOUBLING.pause_s(5, 0.2)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_pause_is_at_least_half_the_first_and_at_most_the_cap(failures: int, fraction: float) -> None:
    assert DOUBLING.first_s / 2 <= DOUBLING.pause_s(failures, fraction) <= DOUBLING.max_s
