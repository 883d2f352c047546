"""Dead letters can be listed, found and dropped."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, ids_of, submit
from windrow.scheduler.queue import RedisQueue


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    """One attempt, and two dead letters."""
    queue = RedisQueue(redis, MODEL, max_attempts=1)
    for id in ("old", "new"):
        submit(queue, id, priority="high", cost=7)
        claim(queue, lease_s=NO_LEASE_S)
        queue.reap()
    return queue


def test_dead_letters_are_listed_newest_first(queue: RedisQueue) -> None:
    assert [letter.id for letter in queue.dead_letters()] == ["new", "old"]
    assert [letter.id for letter in queue.dead_letters(1)] == ["new"]


def test_dead_letters_are_found_by_id_and_unknown_ids_are_left_out(queue: RedisQueue) -> None:
    (letter,) = queue.find_dead_letters(["old", "unknown"])
    assert (letter.id, letter.tenant, letter.priority, letter.cost_tokens) == ("old", "acme", "high", 7)
    assert letter.call() == {"model": MODEL, "input": "hay", "parameters": {}}
    assert queue.find_dead_letters([]) == []


def test_a_dropped_dead_letter_is_gone(queue: RedisQueue) -> None:
    assert queue.drop_dead(["old", "unknown"]) == 1
    assert [letter.id for letter in queue.dead_letters()] == ["new"]
    assert queue.drop_dead([]) == 0
    assert ids_of(claim(queue)) == []
