"""Claims that wait for requests, and the wake-ups that end the wait."""

import threading
import time
from typing import Any

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, NO_LEASE_S, claim, held, ids_of, submit
from windrow.scheduler.queue import RedisQueue


def wake_ups(redis: Redis) -> int:
    """Return how many blocked workers would wake up at once."""
    return redis.llen(f"windrow:{MODEL}:wake") + redis.llen(f"windrow:{MODEL}:backlog")


def test_a_blocking_claim_returns_when_there_are_requests(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    assert wake_ups(redis) == 1
    assert ids_of(claim(queue, wait_s=60)) == ["a"]
    assert wake_ups(redis) == 0


def test_a_blocking_claim_returns_without_requests_after_its_timeout(queue: RedisQueue) -> None:
    assert claim(queue, wait_s=0.01) == []


def test_a_blocking_claim_gets_requests_submitted_meanwhile(real_url: str) -> None:
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)
        claimed: list[str] = []
        waiter = threading.Thread(target=lambda: claimed.extend(ids_of(claim(queue, wait_s=60))))
        waiter.start()
        while not client.info("clients")["blocked_clients"]:
            pass
        submit(queue, "a", "b")
        waiter.join(30)
        assert claimed == ["a", "b"]


def test_a_blocking_claim_reloads_scripts_after_a_script_flush(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    redis.script_flush()
    assert ids_of(claim(queue, wait_s=60)) == ["a"]


def test_a_claim_that_leaves_requests_in_the_queue_wakes_the_next_worker(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    claim(queue, 1, wait_s=60)
    assert wake_ups(redis) == 1


@pytest.mark.parametrize("requeued_by", ["release", "reap"])
def test_a_requeued_request_wakes_a_worker(queue: RedisQueue, redis: Redis, requeued_by: str) -> None:
    submit(queue, "a")
    requests = claim(queue, lease_s=NO_LEASE_S, wait_s=60)
    if requeued_by == "release":
        queue.release(held(requests))
    else:
        queue.reap()
    assert wake_ups(redis) == 1


def test_a_spare_worker_waits_until_a_claim_leaves_requests_in_the_queue(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a", "b")
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0
    claim(queue, 1)
    assert redis.llen(f"windrow:{MODEL}:backlog") == 1
    assert ids_of(claim(queue, wait_s=60, is_spare=True)) == ["b"]
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0


def test_a_spare_worker_claims_if_there_is_no_other_worker(queue: RedisQueue) -> None:
    submit(queue, "a")
    assert ids_of(claim(queue, wait_s=0.01, is_spare=True)) == ["a"]


def test_a_patient_spare_worker_leaves_a_small_backlog_to_other_workers(queue: RedisQueue, redis: Redis) -> None:
    patient: dict[str, Any] = {"is_spare": True, "patience_s": 60, "enough": 2}
    submit(queue, "a")
    redis.delete(f"windrow:{MODEL}:wake")
    assert claim(queue, **patient) == []
    assert queue.depth().waiting == 1
    assert redis.llen(f"windrow:{MODEL}:wake") == 1  # wakes a worker that is not spare
    assert redis.llen(f"windrow:{MODEL}:backlog") == 0  # does not wake the spare worker again
    submit(queue, "b", "c")
    assert ids_of(claim(queue, 2, **patient)) == ["a", "b"]
    assert ids_of(claim(queue, 2)) == ["c"]


def test_a_patient_spare_worker_claims_requests_that_waited_too_long(queue: RedisQueue) -> None:
    submit(queue, "a")
    assert ids_of(claim(queue, is_spare=True, patience_s=1e-6, enough=2)) == ["a"]


def test_patience_is_measured_from_the_oldest_request_even_if_it_is_last(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "old", cost=1000, priority="low")
    time.sleep(0.3)
    submit(queue, "new", tenant="another")
    assert claim(queue, is_spare=True, patience_s=60, enough=3) == []
    assert ids_of(claim(queue, is_spare=True, patience_s=0.3, enough=3)) == ["new", "old"]


def test_a_wake_up_after_another_worker_claimed_returns_no_requests(queue: RedisQueue) -> None:
    submit(queue, "a")
    claim(queue)
    assert claim(queue, wait_s=60) == []


def test_at_most_one_wake_up_is_pending(queue: RedisQueue, redis: Redis) -> None:
    for number in range(20):
        submit(queue, f"{number}")
    assert wake_ups(redis) == 1
