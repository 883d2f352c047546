"""Which sequences are preempted for an urgent one."""

from windrow.scheduler.stepping.pages import PagePool
from windrow.scheduler.stepping.preemption import last_in_rank, plan_preemption
from windrow.scheduler.stepping.sequences import GeneratingSequence


def running(pool: PagePool, order: int, priority: int, pages: int) -> GeneratingSequence:
    sequence = GeneratingSequence(order, 4, 4, priority=priority, rank=(order + 100 * priority, order))
    sequence.pages = pool.take(pages)
    return sequence


URGENT = GeneratingSequence("urgent", 4, 4, priority=0, rank=(5, 5))


def test_the_latest_of_the_least_urgent_is_preempted_first() -> None:
    pool = PagePool(8)
    early, late, normal = running(pool, 1, 2, 2), running(pool, 3, 2, 2), running(pool, 4, 1, 2)
    sequences = [early, normal, late]
    assert last_in_rank(sequences) is late
    assert plan_preemption(URGENT, sequences, (), pool, 2, ()) == [late]
    assert plan_preemption(URGENT, sequences, (), pool, 3, ()) == [late, early]


def test_a_decoding_sequence_also_frees_the_page_kept_for_its_next_tokens() -> None:
    pool = PagePool(8)
    low = running(pool, 1, 2, 2)
    assert plan_preemption(URGENT, [low], [low], pool, 3, ()) == [low]
    assert plan_preemption(URGENT, [low], (), pool, 3, ()) == []


def test_no_sequence_is_preempted_if_all_together_free_too_few_pages() -> None:
    pool = PagePool(8)
    low, equal = running(pool, 1, 2, 2), running(pool, 2, 0, 4)
    assert plan_preemption(URGENT, [low, equal], [low, equal], pool, 4, ()) == []


def test_a_shared_page_counts_when_its_last_owner_is_preempted_and_never_if_the_urgent_sequence_shares_it() -> None:
    pool = PagePool(8)
    first = running(pool, 1, 2, 1)
    pool.publish(first.pages[0], "prefix")
    second = GeneratingSequence(2, 4, 4, priority=2, rank=(202, 2), pages=list(first.pages))
    pool.share(second.pages)
    assert plan_preemption(URGENT, [first, second], (), pool, 1, ()) == [second, first]
    assert plan_preemption(URGENT, [first, second], (), pool, 1, first.pages) == []
