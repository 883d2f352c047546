"""How long an answer is expected to take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.stepping.generation_time import HALF_LIFE_S, GenerationTime

SECONDS = st.floats(0, 10)
COUNTS = st.integers(1, 4096)
#: 11 tokens of 0.1 s, the first after 0.5 s, beside nobody.
MEASURED = GenerationTime().ended(0.0, 1, 11, first_s=0.5, rest_s=1.0)


def test_nothing_is_refused_before_anything_was_measured() -> None:
    assert GenerationTime().expected_s(0.0, 5, 10_000, 10_000) == 0.0


def test_nothing_is_refused_while_nobody_runs() -> None:
    assert MEASURED.expected_s(0.0, 0, 10_000, 10_000) == 0.0


def test_an_answer_like_the_last_takes_as_long() -> None:
    assert MEASURED.expected_s(0.0, 1, 0, 1000) == pytest.approx(0.5 + 10 * 0.1)


def test_what_must_come_and_what_may_come_bound_the_expectation() -> None:
    assert MEASURED.expected_s(0.0, 1, 101, 1000) == pytest.approx(0.5 + 100 * 0.1)
    assert MEASURED.expected_s(0.0, 1, 0, 2) == pytest.approx(0.5 + 0.1)


def test_an_answer_of_one_token_says_nothing_of_the_time_between_two() -> None:
    pace = MEASURED.ended(0.0, 64, 1, 0.5, 0.0)
    assert (pace.token_s, pace.running) == (MEASURED.token_s, MEASURED.running)


def test_one_that_waited_for_room_says_nothing_of_the_time_to_the_first_token() -> None:
    assert MEASURED.ended(0.0, 1, 11, None, 1.0).first_s == 0.5
    assert GenerationTime().ended(0.0, 1, 11, None, 1.0).expected_s(0.0, 1, 11, 11) == pytest.approx(10 * 0.1)


def test_the_time_of_a_full_batch_is_not_expected_beside_a_few() -> None:
    full = GenerationTime().ended(0.0, 64, 11, first_s=0.5, rest_s=1.0)
    assert full.expected_s(0.0, 1, 11, 11) == pytest.approx(0.5 + 10 * 0.1 * 2 / 64)
    assert full.expected_s(0.0, 63, 11, 11) == full.expected_s(0.0, 200, 11, 11) == pytest.approx(0.5 + 10 * 0.1)


def test_the_first_answer_counts_half_once_there_is_a_second() -> None:
    assert MEASURED.ended(0.0, 1, 11, first_s=0.1, rest_s=0.0).first_s == pytest.approx(0.3)


def test_what_is_not_measured_any_more_counts_less_and_less() -> None:
    now_s = MEASURED.expected_s(0.0, 1, 11, 11)
    assert MEASURED.expected_s(HALF_LIFE_S, 1, 11, 11) == pytest.approx(now_s / 2)
    assert MEASURED.expected_s(10 * HALF_LIFE_S, 1, 11, 11) == pytest.approx(now_s / 1024)


@given(
    st.lists(st.tuples(COUNTS, COUNTS, st.none() | SECONDS, SECONDS), min_size=1, max_size=20), COUNTS, COUNTS, COUNTS
)
def test_no_expectation_is_beyond_what_was_seen(
    answers: list[tuple[int, int, float | None, float]], running: int, one: int, other: int
) -> None:
    pace = GenerationTime()
    for beside, tokens, first_s, rest_s in answers:
        pace = pace.ended(0.0, beside, tokens, first_s, rest_s)
    at_least, at_most = sorted((one, other))
    firsts = [first_s for _, _, first_s, _ in answers if first_s is not None] + [0.0]
    rates = [rest_s / (tokens - 1) for _, tokens, _, rest_s in answers if tokens > 1] + [0.0]
    expected_s = pace.expected_s(0.0, running, at_least, at_most)
    assert 0.0 <= expected_s <= max(firsts) + max(rates) * (at_most - 1) + 1e-6
