"""The expected duration of a generation, and the refusal of requests that would miss their deadline."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.stepping.generation_time import HALF_LIFE_S, GenerationTime

SECONDS = st.floats(0, 10)
COUNTS = st.integers(1, 4096)
#: 11 tokens at intervals of 0.1 s, the first after 0.5 s, with no other request running.
MEASURED = GenerationTime().record(0.0, 1, 11, first_s=0.5, rest_s=1.0)


def test_nothing_is_expected_before_the_first_measurement() -> None:
    assert GenerationTime().expected_s(0.0, 5, 10_000, 10_000) == 0.0


def test_an_idle_engine_refuses_nothing() -> None:
    assert MEASURED.expected_s(0.0, 0, 10_000, 10_000) == 0.0
    assert MEASURED.refuse_late(0.001, 0.0, 0, 10_000, 10_000) is None


def test_a_request_is_refused_if_it_is_expected_to_take_longer_than_the_time_left() -> None:
    assert MEASURED.refuse_late(1.6, 0.0, 1, 11, 11) is None
    refused = MEASURED.refuse_late(1.4, 0.0, 1, 11, 11)
    assert refused is not None
    assert refused.error.detail == "not started: generating takes about 1.5 s, and the deadline was 1.4 s away"


def test_an_equal_request_is_expected_to_take_as_long_as_the_last() -> None:
    assert MEASURED.expected_s(0.0, 1, 0, 1000) == pytest.approx(0.5 + 10 * 0.1)


def test_min_tokens_and_max_tokens_bound_the_expected_tokens() -> None:
    assert MEASURED.expected_s(0.0, 1, 101, 1000) == pytest.approx(0.5 + 100 * 0.1)
    assert MEASURED.expected_s(0.0, 1, 0, 2) == pytest.approx(0.5 + 0.1)


def test_a_generation_of_one_token_does_not_change_the_time_between_tokens() -> None:
    averages = MEASURED.record(0.0, 64, 1, 0.5, 0.0)
    assert (averages.token_s, averages.running) == (MEASURED.token_s, MEASURED.running)


def test_a_request_that_waited_for_a_slot_does_not_change_the_time_to_the_first_token() -> None:
    assert MEASURED.record(0.0, 1, 11, None, 1.0).first_s == 0.5
    assert GenerationTime().record(0.0, 1, 11, None, 1.0).expected_s(0.0, 1, 11, 11) == pytest.approx(10 * 0.1)


def test_the_token_time_of_a_full_batch_is_scaled_down_for_a_smaller_one_and_not_up_for_a_larger_one() -> None:
    full = GenerationTime().record(0.0, 64, 11, first_s=0.5, rest_s=1.0)
    assert full.expected_s(0.0, 1, 11, 11) == pytest.approx(0.5 + 10 * 0.1 * 2 / 64)
    assert full.expected_s(0.0, 63, 11, 11) == full.expected_s(0.0, 200, 11, 11) == pytest.approx(0.5 + 10 * 0.1)


def test_the_first_two_generations_have_equal_weights() -> None:
    assert MEASURED.record(0.0, 1, 11, first_s=0.1, rest_s=0.0).first_s == pytest.approx(0.3)


def test_the_expected_time_halves_after_each_half_life_without_a_measurement() -> None:
    now_s = MEASURED.expected_s(0.0, 1, 11, 11)
    assert MEASURED.expected_s(HALF_LIFE_S, 1, 11, 11) == pytest.approx(now_s / 2)
    assert MEASURED.expected_s(10 * HALF_LIFE_S, 1, 11, 11) == pytest.approx(now_s / 1024)


@given(
    st.lists(st.tuples(COUNTS, COUNTS, st.none() | SECONDS, SECONDS), min_size=1, max_size=20), COUNTS, COUNTS, COUNTS
)
def test_the_expected_time_never_exceeds_the_slowest_measurement(
    generations: list[tuple[int, int, float | None, float]], running: int, one_bound: int, other_bound: int
) -> None:
    averages = GenerationTime()
    for beside, tokens, first_s, rest_s in generations:
        averages = averages.record(0.0, beside, tokens, first_s, rest_s)
    min_tokens, max_tokens = sorted((one_bound, other_bound))
    slowest_first_s = max([first_s for _, _, first_s, _ in generations if first_s is not None], default=0.0)
    slowest_token_s = max([rest_s / (tokens - 1) for _, tokens, _, rest_s in generations if tokens > 1], default=0.0)
    expected_s = averages.expected_s(0.0, running, min_tokens, max_tokens)
    assert 0.0 <= expected_s <= slowest_first_s + slowest_token_s * (max_tokens - 1) + 1e-6
