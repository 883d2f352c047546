"""How long an answer is expected to take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.token_pace import TokenPace

SECONDS = st.floats(0, 10)
COUNTS = st.integers(1, 4096)


def test_nothing_is_refused_before_anything_was_measured() -> None:
    assert TokenPace().expected_s(10_000, 10_000) == 0.0


def test_an_answer_like_the_last_takes_as_long() -> None:
    pace = TokenPace().ended(11, first_s=0.5, rest_s=1.0)  # 0.1 s a token
    assert pace.expected_s(0, 1000) == pytest.approx(0.5 + 10 * 0.1)


def test_what_must_come_and_what_may_come_bound_the_expectation() -> None:
    pace = TokenPace().ended(11, first_s=0.5, rest_s=1.0)
    assert pace.expected_s(101, 1000) == pytest.approx(0.5 + 100 * 0.1)
    assert pace.expected_s(0, 2) == pytest.approx(0.5 + 0.1)


def test_an_answer_of_one_token_says_nothing_of_the_time_between_two() -> None:
    pace = TokenPace().ended(11, 0.5, 1.0)
    assert pace.ended(1, 0.5, 0.0).token_s == pace.token_s


@given(st.lists(st.tuples(COUNTS, SECONDS, SECONDS), min_size=1, max_size=20), COUNTS, COUNTS)
def test_no_expectation_lies_outside_of_what_was_seen(
    answers: list[tuple[int, float, float]], one: int, other: int
) -> None:
    pace = TokenPace()
    for tokens, first_s, rest_s in answers:
        pace = pace.ended(tokens, first_s, rest_s)
    at_least, at_most = sorted((one, other))
    firsts = [first_s for _, first_s, _ in answers]
    rates = [rest_s / (tokens - 1) for tokens, _, rest_s in answers if tokens > 1] + [0.0]
    expected_s = pace.expected_s(at_least, at_most)
    assert min(firsts) - 1e-6 <= expected_s <= max(firsts) + max(rates) * (at_most - 1) + 1e-6
