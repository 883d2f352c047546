"""The queue of waiting sequences, and the slots and pages that an admitted sequence receives."""

from windrow.scheduler.stepping.admission import Admission
from windrow.scheduler.stepping.sequences import GeneratingSequence, State, StepLimits
from windrow.scheduler.stepping.waiting import WaitingSequences

LIMITS = StepLimits(max_batch_size=2, max_batch_tokens=100, pages=8, page_tokens=4)


def make_sequence(
    order: int, prompt_tokens: int = 8, max_tokens: int = 5, keys: tuple[str, ...] = ()
) -> GeneratingSequence:
    return GeneratingSequence(
        order, prompt_tokens, max_tokens, keys, order=order, rank=(order, order), context_tokens=prompt_tokens
    )


def test_the_smallest_rank_is_first_and_canceled_sequences_are_skipped() -> None:
    waiting = WaitingSequences()
    first, second, third = (make_sequence(order) for order in (1, 2, 3))
    for sequence in (third, first, second):
        waiting.push(sequence)
    waiting.cancel(first)
    assert len(waiting) == 2
    assert waiting.first(0) is second
    waiting.pop_first()
    assert waiting.first(0) is third
    assert first.state is State.ENDED


def test_a_preempted_sequence_is_not_first_until_the_host_knows_its_last_step() -> None:
    waiting = WaitingSequences()
    sequence = make_sequence(1)
    sequence.last_step = 7
    waiting.push(sequence)
    assert waiting.first(6) is None
    assert waiting.first(7) is sequence


def test_a_sequence_receives_the_pages_of_its_context_and_later_ones_leave_a_page_per_decoding_sequence() -> None:
    admission = Admission(LIMITS, 2, reserves_output=False)
    first, second = make_sequence(1), make_sequence(2, prompt_tokens=24)
    assert admission.admit(first, decoding=0)
    assert (first.slot, len(first.pages)) == (0, 2)
    assert admission.missing_pages(second, decoding=1) == (1, [])
    assert not admission.admit(second, decoding=1)
    assert second.slot is None
    assert admission.admit(second, decoding=0)
    assert admission.pool.available == 0


def test_with_reserved_output_a_sequence_receives_the_pages_of_all_its_tokens() -> None:
    admission = Admission(LIMITS, 2, reserves_output=True)
    sequence = make_sequence(1, prompt_tokens=8, max_tokens=9)
    assert admission.admit(sequence, decoding=5)
    assert len(sequence.pages) == 4  # 8 prompt tokens and 8 generated ones; the last is never written to the cache


def test_no_slot_admits_nothing() -> None:
    admission = Admission(LIMITS, 1, reserves_output=False)
    first, second = make_sequence(1), make_sequence(2)
    assert admission.admit(first, decoding=0)
    assert not admission.admit(second, decoding=0)
    admission.free(first)
    assert (first.slot, first.pages) == (None, [])
    assert admission.admit(second, decoding=0)


def test_full_prompt_pages_are_published_and_the_last_token_is_never_taken_from_the_cache() -> None:
    admission = Admission(LIMITS, 2, reserves_output=False)
    first, second = make_sequence(1, keys=("a", "b")), make_sequence(2, keys=("a", "b"))
    assert admission.admit(first, decoding=0)
    first.prefilled_tokens = 8
    admission.publish_prefix(first)
    assert first.published == 2
    assert admission.admit(second, decoding=0)
    assert (second.cached_tokens, second.pages[0]) == (4, first.pages[0])
