"""Claims take requests in fair order, and each request has only one worker."""

import threading
from collections import Counter

import pytest
from redis import Redis

from tests.support.queue_calls import MODEL, claim, finish, ids_of, status_of, submit
from windrow.scheduler.queue import RedisQueue


def test_a_claim_takes_at_most_count_requests(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c")
    assert ids_of(claim(queue, 2)) == ["a", "b"]
    assert ids_of(claim(queue, 2)) == ["c"]
    assert claim(queue, 2) == []


def test_an_empty_claim_has_the_redis_time(queue: RedisQueue, redis: Redis) -> None:
    before_s = redis.time()[0]
    assert queue.claim(1, lease_s=1).now_s >= before_s


def test_the_lease_of_a_claim_expires_lease_s_after_the_redis_time(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    claimed = queue.claim(1, lease_s=60)
    now_s = claimed.now_s
    assert redis.zscore(f"windrow:{MODEL}:leases", claimed.requests[0].token) == pytest.approx(
        (now_s + 60) * 1e6, abs=1
    )


def test_each_claim_has_its_own_token(queue: RedisQueue) -> None:
    submit(queue, "a", "b")
    assert claim(queue, 1)[0].token != claim(queue, 1)[0].token


def test_a_claimed_request_has_its_submit_time_and_its_deadline(queue: RedisQueue) -> None:
    submit(queue, "a", deadline_s=30)
    submit(queue, "b")
    with_deadline, without = claim(queue)
    assert with_deadline.deadline_s == pytest.approx(with_deadline.created_s + 30, abs=1e-5)
    assert without.deadline_s is None


def test_a_claim_of_some_priorities_ends_before_the_first_of_another(queue: RedisQueue) -> None:
    submit(queue, "low", priority="low", cost=100)
    assert claim(queue, priorities=["high", "normal"]) == []
    submit(queue, "high", "higher", priority="high", cost=100)
    submit(queue, "normal", priority="normal", cost=500)
    assert ids_of(claim(queue, 1, priorities=["high", "normal"])) == ["high"]
    assert ids_of(claim(queue, priorities=["high", "normal"])) == ["higher"]  # low comes before normal
    assert claim(queue, priorities=["high", "normal"]) == []
    assert ids_of(claim(queue)) == ["low", "normal"]


def test_requests_not_taken_by_a_claim_of_some_priorities_keep_their_positions(queue: RedisQueue) -> None:
    submit(queue, "a", "b", "c", priority="low")
    submit(queue, "urgent", tenant="other", priority="high", cost=100)
    assert claim(queue, 2, priorities=["high"]) == []
    assert ids_of(claim(queue)) == ["a", "b", "c", "urgent"]


def test_a_claim_takes_no_requests_of_other_models(redis: Redis) -> None:
    first, second = RedisQueue(redis, "first"), RedisQueue(redis, "second")
    submit(first, "a")
    assert claim(second) == []
    assert ids_of(claim(first)) == ["a"]


def test_backlogged_priorities_share_a_thousand_claims_by_their_weights(queue: RedisQueue) -> None:
    for priority in ("low", "normal", "high"):
        submit(queue, *(f"{priority}-{number}" for number in range(1000)), priority=priority)
    served = Counter(id.partition("-")[0] for id in ids_of(claim(queue, 1000)))
    assert served["high"] == pytest.approx(762, abs=2)  # 1,000 * 16 / 21
    assert served["normal"] == pytest.approx(190, abs=2)  # 1,000 * 4 / 21
    assert served["low"] == pytest.approx(48, abs=2)  # 1,000 * 1 / 21


def test_two_backlogged_tenants_of_one_priority_get_equal_shares(queue: RedisQueue) -> None:
    submit(queue, *(f"x{number}" for number in range(1000)), tenant="x")
    submit(queue, *(f"y{number}" for number in range(1000)), tenant="y")
    served = Counter(id[0] for id in ids_of(claim(queue, 1000)))
    assert served == {"x": pytest.approx(500, abs=1), "y": pytest.approx(500, abs=1)}


def test_a_tenant_of_long_texts_gets_no_more_tokens_than_one_of_short_ones(queue: RedisQueue) -> None:
    submit(queue, *(f"long-{number}" for number in range(500)), tenant="x", cost=10)
    submit(queue, *(f"short-{number}" for number in range(500)), tenant="y", cost=1)
    served = Counter(id.partition("-")[0] for id in ids_of(claim(queue, 440)))
    assert served == {"long": pytest.approx(40, abs=1), "short": pytest.approx(400, abs=1)}


def test_a_late_low_priority_request_is_claimed_during_a_flood_of_high_priority_requests(queue: RedisQueue) -> None:
    submit(queue, *(f"high-{number}" for number in range(500)), priority="high")
    claim(queue, 100)
    submit(queue, "low", priority="low")
    for number in range(10):
        submit(queue, *(f"more-{number}-{other}" for other in range(50)), priority="high")
    # One token of weight 1 counts as much as 16 tokens of weight 16.
    assert "low" in ids_of(claim(queue, 17))


def test_a_new_tenant_does_not_wait_for_the_backlog_of_another(queue: RedisQueue) -> None:
    submit(queue, *(f"x{number}" for number in range(1000)), tenant="x")
    claim(queue, 10)
    submit(queue, "y", tenant="y")
    assert "y" in ids_of(claim(queue, 2))


def test_the_tags_of_flows_are_deleted_once_all_requests_are_claimed(queue: RedisQueue, redis: Redis) -> None:
    for tenant in "xyz":
        submit(queue, *(f"{tenant}{number}" for number in range(20)), tenant=tenant, cost=ord(tenant))
    while claim(queue, 7):
        pass
    assert not redis.exists(f"windrow:{MODEL}:flows")


def test_the_tags_of_flows_are_deleted_when_the_remaining_requests_are_canceled(
    queue: RedisQueue, redis: Redis
) -> None:
    submit(queue, "a", tenant="x")
    submit(queue, "b", tenant="y", cost=100)
    finish(queue, claim(queue, 1))
    assert queue.cancel("b")
    assert not redis.exists(f"windrow:{MODEL}:flows")


def test_concurrent_workers_never_get_the_same_request(real_url: str) -> None:
    ids = [f"{number}" for number in range(2000)]
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)
        for start in range(0, len(ids), 500):
            submit(queue, *ids[start : start + 500])
        claimed: list[str] = []
        start_together = threading.Barrier(4)

        def work() -> None:
            start_together.wait()
            while requests := claim(queue, 7):
                claimed.extend(ids_of(requests))

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(claimed) == sorted(ids)
        assert queue.depth().running == len(ids)


def test_concurrent_submits_and_finishes_lose_and_duplicate_no_request(real_url: str) -> None:
    ids = [f"{number}" for number in range(1000)]
    finished: list[bool] = []
    with Redis.from_url(real_url) as client:
        queue = RedisQueue(client, MODEL)

        def feed() -> None:
            for start in range(0, len(ids), 20):
                submit(queue, *ids[start : start + 20])

        def work() -> None:
            while len(finished) < len(ids):
                finished.extend(finish(queue, claim(queue, 16, wait_s=0.05)))

        threads = [threading.Thread(target=target) for target in (feed, work, work, work)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert finished == [True] * len(ids)
        assert {status_of(queue, id) for id in ids} == {"succeeded"}


def test_scripts_are_reloaded_after_a_script_flush(queue: RedisQueue, redis: Redis) -> None:
    submit(queue, "a")
    redis.script_flush()
    requests = claim(queue)
    redis.script_flush()
    assert finish(queue, requests) == [True]
