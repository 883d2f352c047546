"""The intake, with which all callers submit requests, and the predictions that it returns."""

from __future__ import annotations

import pytest
from redis import Redis
from tokenizers import Tokenizer

from tests.support.queue_calls import NO_LEASE_S, claim, finish
from windrow.errors import InvalidInput, NoWorker, PredictionGone, QueueFull, UnknownModel
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS
from windrow.scheduler.core.heartbeats import Heartbeat
from windrow.scheduler.intake import Intake, SubmitCall
from windrow.scheduler.intake.dead_letters import retry_dead_letters
from windrow.scheduler.models.sources import resolve_source
from windrow.scheduler.queue import DeadLetters, RedisQueue, result_key
from windrow.scheduler.queue.load_failures import report_load_failure
from windrow.worker.celery.message_strategy import submit_message

MODEL = "server"
SETTINGS = {
    "models": {MODEL: {"task": "upstream", "url": "http://127.0.0.1:1/v1", "max_depth": 2}},
    "tenants": {"acme": {"weight": 2.0, "keys": ["sha256:" + "0" * 64]}},
}


@pytest.fixture
def redis(real_redis: Redis) -> Redis:
    """Use real servers only: the intake calls INFO, which the emulation does not support."""
    return real_redis


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, MODEL, max_attempts=1)


@pytest.fixture
def intake(redis: Redis, queue: RedisQueue) -> Intake:
    """An intake for a model that one worker serves."""
    queue.heartbeat("worker@test/0", Heartbeat(), stale_s=60)
    return new_intake(redis, queue)


def new_intake(redis: Redis, queue: RedisQueue) -> Intake:
    return Intake(Settings.model_validate(SETTINGS), redis, {MODEL: queue})


def call(intake: Intake, *inputs: object, key: str | None = None, waits: bool = False) -> SubmitCall:
    parameters = intake.read_parameters(MODEL, {"max_tokens": 5})
    return SubmitCall(MODEL, inputs, parameters, idempotency_key=key, is_batch=len(inputs) > 1, waits_for_worker=waits)


def test_submit_returns_the_same_predictions_as_a_lookup(intake: Intake, queue: RedisQueue) -> None:
    accepted = intake.submit(call(intake, "one", {"prompt": "two"}), "acme", ["a", "b"])
    assert accepted == [queue.lookup("a"), queue.lookup("b")]
    assert [request.cost_tokens for request in claim(queue)] == [6, 6]


def test_a_repeated_call_returns_the_current_state_of_the_first_calls_predictions(
    intake: Intake, queue: RedisQueue, redis: Redis
) -> None:
    intake.submit(call(intake, "hay", key="k"), "acme", ["a"])
    finish(queue, claim(queue))
    (repeated,) = intake.submit(call(intake, "hay", key="k"), "acme", ["b"])
    assert (repeated.id, repeated.status) == ("a", "succeeded")
    redis.delete(result_key("a"))
    with pytest.raises(PredictionGone, match="Idempotency-Key"):
        intake.submit(call(intake, "hay", key="k"), "acme", ["c"])


def test_an_invalid_input_is_refused_with_its_index_and_no_request_is_queued(intake: Intake, queue: RedisQueue) -> None:
    with pytest.raises(InvalidInput, match=r"^inputs\.1: takes a string"):
        intake.submit(call(intake, "one", 2), "acme", ["a", "b"])
    with pytest.raises(UnknownModel, match="there are server"):
        intake.read_parameters("nobody", {})
    assert queue.depth().waiting == 0


def test_a_model_without_a_worker_is_refused_unless_the_call_waits_for_one(redis: Redis, queue: RedisQueue) -> None:
    intake = new_intake(redis, queue)
    with pytest.raises(NoWorker, match="no worker has served"):
        intake.submit(call(intake, "hay"), "acme", ["a"])
    assert intake.submit(call(intake, "hay", waits=True), "celery", ["a"])[0].status == "queued"


def test_a_model_that_could_not_be_loaded_is_refused_even_if_the_call_waits(redis: Redis, queue: RedisQueue) -> None:
    report_load_failure(redis, MODEL, "worker@test/0", "no safetensors")
    intake = new_intake(redis, queue)
    with pytest.raises(NoWorker, match="no safetensors"):
        intake.submit(call(intake, "hay", waits=True), "celery", ["a"])


def test_a_dead_letter_is_resubmitted_with_its_cost_regardless_of_limits(
    intake: Intake, queue: RedisQueue, redis: Redis
) -> None:
    intake.submit(call(intake, "hay"), "acme", ["dead"])
    claim(queue, lease_s=NO_LEASE_S)
    queue.reap()
    intake.submit(call(intake, "one", "two"), "acme", ["a", "b"])
    with pytest.raises(QueueFull):
        intake.submit(call(intake, "three"), "acme", ["c"])
    letters = DeadLetters(redis, MODEL)
    renamed = retry_dead_letters(intake, letters, ["dead", "unknown"])
    assert list(renamed) == ["dead"]
    assert letters.newest() == []
    last = claim(queue)[-1]
    assert (last.id, last.flow, last.cost_tokens) == (renamed["dead"], "acme:normal", 6)
    assert last.call() == {"model": MODEL, "input": "hay", "parameters": {"max_tokens": 5}}


@pytest.mark.parametrize("text", ["바람에 마른 풀을 갈퀴로 모은다. " * 5, "การนำหญ้าแห้งมากองรวมกัน", "🌾🚜" * 20])
def test_a_celery_message_costs_the_tokens_of_its_input_as_an_http_request_does(redis: Redis, text: str) -> None:
    queue = RedisQueue(redis, "minilm")
    queue.heartbeat("worker@test/0", Heartbeat(), stale_s=60)
    intake = Intake(Settings.model_validate({"models": DEFAULT_MODELS}), redis, {"minilm": queue})
    submit_message(intake, "from-celery", {}, ([], {"model": "minilm", "input": text}, {}), None)
    parameters = intake.read_parameters("minilm", None)
    intake.submit(SubmitCall("minilm", [text], parameters), "default", ["from-http"])
    tokenizer = Tokenizer.from_file(str(resolve_source(DEFAULT_MODELS["minilm"]["source"]) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    expected = len(tokenizer.encode(text).ids)
    costs = {request.id: request.cost_tokens for request in claim(queue)}
    assert costs == {"from-celery": expected, "from-http": expected}
