"""Hypothesis compares the queue with a model: no request is lost or duplicated, each finishes once, flows are FIFO.

The test uses real time: a lease lasts either longer than the run, or so short that it has expired when the reply
arrives.
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
    #: The current claim of the request, if it has one.
    claimed: Request | None = None


@dataclass
class Model:
    """The expected state of the queue: every request ever submitted, and the last tag of each flow."""

    requests: dict[str, ExpectedRequest] = field(default_factory=dict)
    virtual_time: float = 0.0
    last_tags: dict[str, float] = field(default_factory=dict)
    #: Tokens of claims whose lease has expired.
    expired: set[str] = field(default_factory=set)

    def submit(self, ids: list[str], flow: str, weight: float, cost: int) -> None:
        for id in ids:
            tag = finish_tag(self.virtual_time, self.last_tags.get(flow), cost, weight)
            self.last_tags[flow] = tag
            self.requests[id] = ExpectedRequest(id, flow, tag)

    def waiting(self) -> list[ExpectedRequest]:
        """Return the waiting requests in fair order."""
        queued = [record for record in self.requests.values() if record.state == "queued"]
        return sorted(queued, key=lambda record: (record.tag, record.id))

    def held(self) -> list[ExpectedRequest]:
        return [record for record in self.requests.values() if record.state == "processing"]

    def finish_request(self, id: str, state: str) -> None:
        record = self.requests[id]
        assert record.state in ("queued", "processing")
        record.state, record.claimed = state, None
        self.delete_tags_of_an_empty_queue()

    def requeue(self, record: ExpectedRequest) -> None:
        record.state, record.claimed = "queued", None

    def delete_tags_of_an_empty_queue(self) -> None:
        if not self.waiting():
            self.last_tags.clear()


class QueueMachine(RuleBasedStateMachine):
    """Makes the same calls to the queue and to the model, and compares the results."""

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
        # The alphabetical order of the ids differs from their order of submission.
        ids = [f"{(self.number + step) * 7919 % 1000:03}" for step in range(count)]
        self.number += count
        submit(self.queue, *ids, tenant=tenant, priority=priority, cost=cost)
        self.model.submit(ids, flow_name(tenant, priority), PRIORITY_WEIGHTS[priority], cost)

    @rule(data=st.data())
    @precondition(lambda self: self.model.requests)
    def submit_again_an_unfinished_request(self, data: st.DataObject) -> None:
        record = self._any_of(data, [*self.model.waiting(), *self.model.held()])
        if record is not None:
            submit(self.queue, record.id, tenant="zeta", priority="low")

    @rule(count=st.integers(1, 6), is_lost=st.booleans(), is_alone=st.booleans())
    def claim(self, count: int, is_lost: bool, is_alone: bool) -> None:
        expected = self.model.waiting()[:count]
        suspects = [place for place, record in enumerate(expected) if record.lost_attempts >= SUSPECT_AFTER]
        gets_suspect = bool(suspects) and suspects[0] == 0 and is_alone
        if suspects:
            expected = expected[: 1 if gets_suspect else suspects[0]]
        claimed_now = self.queue.claim(count, lease_s=NO_LEASE_S if is_lost else LEASE_S, alone=is_alone)
        requests = claimed_now.requests
        assert ids_of(requests) == [record.id for record in expected]
        assert claimed_now.suspects_wait == (bool(suspects) and not gets_suspect)
        if is_lost and requests:
            self.model.expired.add(requests[0].token)
        for record, claimed in zip(expected, requests, strict=True):
            assert (claimed.attempt, claimed.flow) == (record.lost_attempts + 1, record.flow)
            assert claimed.payload == request(record.id).payload
            record.state, record.claimed = "processing", claimed
            self.model.virtual_time = max(self.model.virtual_time, record.tag)
        self.old_claims += requests

    @rule(data=st.data(), is_lost=st.booleans())
    def renew(self, data: st.DataObject, is_lost: bool) -> None:
        picked = self._some_claims(data)
        lost = self.queue.renew(held(picked), lease_s=NO_LEASE_S if is_lost else LEASE_S)
        assert set(lost) == {claim.id for claim in picked if not self._is_current(claim)}
        for claim in picked:
            if self._is_current(claim):
                (self.model.expired.add if is_lost else self.model.expired.discard)(claim.token)

    @rule(data=st.data(), is_good=st.booleans())
    def finish(self, data: st.DataObject, is_good: bool) -> None:
        picked = self._some_claims(data)
        outcome = Done(1) if is_good else Failed(ModelFailed("no"))
        stored = self.queue.finish([claim.set_outcome(outcome) for claim in picked])
        assert stored == [self._is_current(claim) for claim in picked]
        for claim in picked:
            if self._is_current(claim):
                self.model.finish_request(claim.id, "succeeded" if is_good else "failed")

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        picked = data.draw(st.permutations(self._some_claims(data)))
        current = [claim for claim in picked if self._is_current(claim)]
        assert self.queue.release(held(picked)) == len(current)
        for claim in current:
            self.model.requeue(self.model.requests[claim.id])

    @rule(data=st.data())
    @precondition(lambda self: self.model.requests)
    def cancel(self, data: st.DataObject) -> None:
        record = self._any_of(data, list(self.model.requests.values()))
        assert record is not None
        is_unfinished = record.state in ("queued", "processing")
        assert self.queue.cancel(record.id) is is_unfinished
        if is_unfinished:
            self.model.finish_request(record.id, "canceled")

    @rule()
    def reap(self) -> None:
        lost = [record for record in self.model.held() if record.claimed and record.claimed.token in self.model.expired]
        assert self.queue.reap() == len(lost)
        for record in lost:
            record.lost_attempts += 1
            if record.lost_attempts == MAX_ATTEMPTS:
                self.model.finish_request(record.id, "failed")
        for record in lost:
            if record.lost_attempts < MAX_ATTEMPTS:
                self.model.requeue(record)

    @invariant()
    def every_request_is_in_its_expected_state(self) -> None:
        for record in self.model.requests.values():
            found = self.queue.lookup(record.id)
            assert found is not None, f"{record.id} is lost"
            assert found.status == record.state

    @invariant()
    def the_counts_match_the_requests(self) -> None:
        depth = self.queue.depth()
        waiting, running = self.model.waiting(), self.model.held()
        size = len(request("any").payload)
        assert (depth.waiting, depth.running) == (len(waiting), len(running))
        assert depth.payload_bytes == size * (len(waiting) + len(running))
        final_states = [
            record.state for record in self.model.requests.values() if record.state not in ("queued", "processing")
        ]
        assert {name: depth.counts.get(name, 0) for name in ("succeeded", "failed", "canceled")} == {
            name: final_states.count(name) for name in ("succeeded", "failed", "canceled")
        }

    def teardown(self) -> None:
        """Finish every request, including those with lost leases, and check that no keys of them remain."""
        while self.model.waiting() or self.model.held():
            for record in self.model.held():
                assert record.claimed is not None
                self.queue.finish([record.claimed.set_outcome(Done(1))])
                self.model.finish_request(record.id, "succeeded")
            self.claim(1000, is_lost=False, is_alone=True)
        self.every_request_is_in_its_expected_state()
        self.the_counts_match_the_requests()
        remaining_keys = {key.decode().rpartition(":")[2] for key in self.redis.keys("windrow:*")}
        assert remaining_keys <= {"state", "wake", "backlog", "dead", "dead_letters"}
        assert self.queue.depth().cost_tokens == 0

    def _is_current(self, claimed: Request) -> bool:
        now = self.model.requests[claimed.id].claimed
        return now is not None and now.token == claimed.token

    def _some_claims(self, data: st.DataObject) -> list[Request]:
        """Draw some claims of different requests, which may include one claim that is no longer current."""
        latest = {claim.id: claim for claim in self.old_claims}
        current = sorted(latest.values(), key=lambda claim: claim.id)
        stale = [claim for claim in self.old_claims if claim is not latest[claim.id]]
        picked: list[Request] = []
        if current:
            picked = data.draw(st.lists(st.sampled_from(current), unique_by=lambda claim: claim.id, max_size=6))
        if stale and data.draw(st.booleans()):
            late = data.draw(st.sampled_from(stale))
            picked = [claim for claim in picked if claim.id != late.id] + [late]
        return picked

    def _any_of(self, data: st.DataObject, requests: list[ExpectedRequest]) -> ExpectedRequest | None:
        ordered = sorted(requests, key=lambda record: record.id)
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
def few_documents(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finish small batches with one script, or with the transaction that large batches use."""
    monkeypatch.setattr(redis_queue, "FEW_DOCUMENTS", request.param)


# A passing run takes seconds; shrinking a failure takes minutes.
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few_documents")
def test_any_sequence_of_calls_on_an_emulated_redis() -> None:
    run(fakeredis.FakeRedis(server=fakeredis.FakeServer()), examples=25, steps=25)


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("few_documents")
def test_any_sequence_of_calls_on_a_real_redis(embedded: Redis) -> None:
    run(embedded, examples=60, steps=40)
