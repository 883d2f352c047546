"""Hypothesis compares the queue with a model: no request is lost or doubled, each finishes once, flows are FIFO.

Times are real, so a lease lasts a minute, longer than the run, or no time: then it has expired when the reply arrives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import fakeredis
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from redis import Redis

from tests.support.backends import EMBEDDED, Servers
from tests.support.queue_calls import LEASE_S, MODEL, NO_LEASE_S, held, ids_of, request, submit
from windrow.errors import ModelFailed
from windrow.scheduler.core.fairness import PRIORITY_WEIGHTS, finish_tag, flow_name
from windrow.scheduler.core.outcomes import Done, Failed
from windrow.scheduler.core.retry import SUSPECT_AFTER
from windrow.scheduler.queue import RedisQueue, Request, redis_queue
from windrow.scheduler.queue.redis_queue import FEW_DOCUMENTS

MAX_ATTEMPTS = 4
FLOWS = [("acme", "high"), ("acme", "low"), ("zeta", "high")]


@dataclass
class ExpectedRequest:
    """The expected state of one request."""

    id: str
    flow: str
    tag: float
    state: str = "queued"
    lost_attempts: int = 0
    #: The claim that holds it, while it is held.
    claimed: Request | None = None


@dataclass
class Model:
    """The queue as a list: everything that was ever submitted, and the tags of the flows."""

    requests: dict[str, ExpectedRequest] = field(default_factory=dict)
    virtual_time: float = 0.0
    last_tags: dict[str, float] = field(default_factory=dict)
    #: Tokens of claims whose lease has expired.
    over: set[str] = field(default_factory=set)

    def submit(self, ids: list[str], flow: str, weight: float, cost: int) -> None:
        for id in ids:
            tag = finish_tag(self.virtual_time, self.last_tags.get(flow), cost, weight)
            self.last_tags[flow] = tag
            self.requests[id] = ExpectedRequest(id, flow, tag)

    def waiting(self) -> list[ExpectedRequest]:
        """Return the waiting requests in fair order."""
        queued = [one for one in self.requests.values() if one.state == "queued"]
        return sorted(queued, key=lambda one: (one.tag, one.id))

    def held(self) -> list[ExpectedRequest]:
        return [one for one in self.requests.values() if one.state == "processing"]

    def end(self, id: str, state: str) -> None:
        one = self.requests[id]
        assert one.state in ("queued", "processing")
        one.state, one.claimed = state, None
        self.forget_tags_where_nothing_waits()

    def put_back(self, one: ExpectedRequest) -> None:
        one.state, one.claimed = "queued", None

    def forget_tags_where_nothing_waits(self) -> None:
        if not self.waiting():
            self.last_tags.clear()


class QueueMachine(RuleBasedStateMachine):
    """Calls that are made to the queue and to the model alike."""

    def __init__(self, redis: Redis) -> None:
        super().__init__()
        self.redis = redis
        self.queue = RedisQueue(redis, MODEL, max_attempts=MAX_ATTEMPTS)
        self.model = Model()
        self.old_claims: list[Request] = []
        self.number = 0

    @rule(flow=st.sampled_from(FLOWS), count=st.integers(1, 5), cost=st.integers(1, 40))
    def submit(self, flow: tuple[str, str], count: int, cost: int) -> None:
        tenant, priority = flow
        # Ids whose alphabetical order differs from their order of submission.
        ids = [f"{(self.number + step) * 7919 % 1000:03}" for step in range(count)]
        self.number += count
        submit(self.queue, *ids, tenant=tenant, priority=priority, cost=cost)
        self.model.submit(ids, flow_name(tenant, priority), PRIORITY_WEIGHTS[priority], cost)

    @rule(data=st.data())
    @precondition(lambda self: self.model.requests)
    def submit_again_what_has_not_ended(self, data: st.DataObject) -> None:
        one = self._any_of(data, [*self.model.waiting(), *self.model.held()])
        if one is not None:
            submit(self.queue, one.id, tenant="zeta", priority="low")

    @rule(count=st.integers(1, 6), is_lost=st.booleans(), is_alone=st.booleans())
    def claim(self, count: int, is_lost: bool, is_alone: bool) -> None:
        expected = self.model.waiting()[:count]
        suspects = [place for place, one in enumerate(expected) if one.lost_attempts >= SUSPECT_AFTER]
        gets_suspect = bool(suspects) and suspects[0] == 0 and is_alone
        if suspects:
            expected = expected[: 1 if gets_suspect else suspects[0]]
        claimed_now = self.queue.claim(count, lease_s=NO_LEASE_S if is_lost else LEASE_S, alone=is_alone)
        requests = claimed_now.requests
        assert ids_of(requests) == [one.id for one in expected]
        assert claimed_now.suspects_wait == (bool(suspects) and not gets_suspect)
        if is_lost and requests:
            self.model.over.add(requests[0].token)
        for one, claimed in zip(expected, requests, strict=True):
            assert (claimed.attempt, claimed.flow) == (one.lost_attempts + 1, one.flow)
            assert claimed.payload == request(one.id).payload
            one.state, one.claimed = "processing", claimed
            self.model.virtual_time = max(self.model.virtual_time, one.tag)
        self.old_claims += requests

    @rule(data=st.data(), is_lost=st.booleans())
    def renew(self, data: st.DataObject, is_lost: bool) -> None:
        picked = self._some_claims(data)
        lost = self.queue.renew(held(picked), lease_s=NO_LEASE_S if is_lost else LEASE_S)
        assert set(lost) == {one.id for one in picked if not self._is_held_by(one)}
        for one in picked:
            if self._is_held_by(one):
                (self.model.over.add if is_lost else self.model.over.discard)(one.token)

    @rule(data=st.data(), is_good=st.booleans())
    def finish(self, data: st.DataObject, is_good: bool) -> None:
        picked = self._some_claims(data)
        outcome = Done(1) if is_good else Failed(ModelFailed("no"))
        stored = self.queue.finish([one.set_outcome(outcome) for one in picked])
        assert stored == [self._is_held_by(one) for one in picked]
        for one in picked:
            if self._is_held_by(one):
                self.model.end(one.id, "succeeded" if is_good else "failed")

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        picked = data.draw(st.permutations(self._some_claims(data)))
        mine = [one for one in picked if self._is_held_by(one)]
        assert self.queue.release(held(picked)) == len(mine)
        for one in mine:
            self.model.put_back(self.model.requests[one.id])

    @rule(data=st.data())
    @precondition(lambda self: self.model.requests)
    def cancel(self, data: st.DataObject) -> None:
        one = self._any_of(data, list(self.model.requests.values()))
        assert one is not None
        can_be = one.state in ("queued", "processing")
        assert self.queue.cancel(one.id) is can_be
        if can_be:
            self.model.end(one.id, "canceled")

    @rule()
    def reap(self) -> None:
        lost = [one for one in self.model.held() if one.claimed and one.claimed.token in self.model.over]
        assert self.queue.reap() == len(lost)
        for one in lost:
            one.lost_attempts += 1
            if one.lost_attempts == MAX_ATTEMPTS:
                self.model.end(one.id, "failed")
        for one in lost:
            if one.lost_attempts < MAX_ATTEMPTS:
                self.model.put_back(one)

    @invariant()
    def everything_is_in_the_one_state_it_should_be_in(self) -> None:
        for one in self.model.requests.values():
            found = self.queue.lookup(one.id)
            assert found is not None, f"{one.id} is lost"
            assert found.status == one.state

    @invariant()
    def the_counts_are_those_of_the_requests(self) -> None:
        depth = self.queue.depth()
        waiting, running = self.model.waiting(), self.model.held()
        size = len(request("any").payload)
        assert (depth.waiting, depth.running) == (len(waiting), len(running))
        assert depth.payload_bytes == size * (len(waiting) + len(running))
        ended = [one.state for one in self.model.requests.values() if one.state not in ("queued", "processing")]
        assert {name: depth.counts.get(name, 0) for name in ("succeeded", "failed", "canceled")} == {
            name: ended.count(name) for name in ("succeeded", "failed", "canceled")
        }

    def teardown(self) -> None:
        """Let a worker finish everything, lost leases too: each request ends, and nothing of it is left."""
        while self.model.waiting() or self.model.held():
            for one in self.model.held():
                assert one.claimed is not None
                self.queue.finish([one.claimed.set_outcome(Done(1))])
                self.model.end(one.id, "succeeded")
            self.claim(1000, is_lost=False, is_alone=True)
        self.everything_is_in_the_one_state_it_should_be_in()
        self.the_counts_are_those_of_the_requests()
        left = {key.decode().rpartition(":")[2] for key in self.redis.keys("windrow:*")}
        assert left <= {"state", "wake", "backlog", "dead", "dead_letters"}
        assert self.queue.depth().cost_tokens == 0

    def _is_held_by(self, claimed: Request) -> bool:
        now = self.model.requests[claimed.id].claimed
        return now is not None and now.token == claimed.token

    def _some_claims(self, data: st.DataObject) -> list[Request]:
        """Some of all claims that were ever made, the latest first, each request at most once."""
        latest = {one.id: one for one in self.old_claims}
        every = sorted(latest.values(), key=lambda one: one.id)
        stale = [one for one in self.old_claims if one is not latest[one.id]]
        picked = data.draw(st.lists(st.sampled_from(every), unique_by=lambda one: one.id, max_size=6)) if every else []
        if stale and data.draw(st.booleans()):
            late = data.draw(st.sampled_from(stale))
            picked = [one for one in picked if one.id != late.id] + [late]
        return picked

    def _any_of(self, data: st.DataObject, requests: list[ExpectedRequest]) -> ExpectedRequest | None:
        ordered = sorted(requests, key=lambda one: one.id)
        return data.draw(st.sampled_from(ordered)) if ordered else None


def run(redis: Redis, examples: int, steps: int) -> None:
    def machine() -> QueueMachine:
        redis.flushall()
        return QueueMachine(redis)

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.fixture
def embedded(servers: Servers) -> Iterator[Redis]:
    with Redis.from_url(servers.url(EMBEDDED)) as client:
        yield client


@pytest.fixture(params=[FEW_DOCUMENTS, 0], ids=["few", "many"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches finish with one script, or with the transaction of large ones."""
    monkeypatch.setattr(redis_queue, "FEW_DOCUMENTS", request.param)


# Passing takes seconds; making a failure short enough to read takes minutes.
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few")
def test_any_sequence_of_calls_on_an_emulated_redis() -> None:
    run(fakeredis.FakeRedis(server=fakeredis.FakeServer()), examples=25, steps=25)


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few")
def test_any_sequence_of_calls_on_a_real_redis(embedded: Redis) -> None:
    run(embedded, examples=60, steps=40)
