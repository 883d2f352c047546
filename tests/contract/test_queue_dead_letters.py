"""Dead letters can be listed, found and dropped."""

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, ids_of, submit
from windrow.scheduler.queue import DeadLetters, RedisQueue


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, MODEL, max_attempts=1)


@pytest.fixture
def letters(redis: Redis, queue: RedisQueue) -> DeadLetters:
    """Two dead letters."""
    for id in ("old", "new"):
        submit(queue, id, priority="high", cost=7)
        claim(queue, lease_s=NO_LEASE_S)
        queue.reap()
    return DeadLetters(redis, MODEL)


def test_dead_letters_are_listed_newest_first(letters: DeadLetters) -> None:
    assert [letter.id for letter in letters.newest()] == ["new", "old"]
    assert [letter.id for letter in letters.newest(1)] == ["new"]


def test_dead_letters_are_found_by_id_and_unknown_ids_are_ignored(letters: DeadLetters) -> None:
    (letter,) = letters.find(["old", "unknown"])
    assert (letter.id, letter.tenant, letter.priority, letter.cost_tokens) == ("old", "acme", "high", 7)
    assert letter.call() == {"model": MODEL, "input": "hay", "parameters": {}}
    assert letters.find([]) == []


def test_a_dropped_dead_letter_is_deleted(letters: DeadLetters, queue: RedisQueue) -> None:
    assert letters.drop(["old", "unknown"]) == 1
    assert [letter.id for letter in letters.newest()] == ["new"]
    assert letters.drop([]) == 0
    assert ids_of(claim(queue)) == []
