"""``windrow dead`` on a real Redis: list, show, retry and drop dead letters."""

import json
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from click.testing import Result
from redis import Redis
from typer.testing import CliRunner

from tests.support.acl import acl_server, role_url
from tests.support.queue_calls import NO_LEASE_S, PLENTY, claim, reap_until, status_of
from tests.support.redis_server import free_port
from windrow.cli.app import app
from windrow.scheduler.queue import RedisQueue, Submission
from windrow.scheduler.queue.ids import is_issued, shared_secret

pytestmark = pytest.mark.integration

CONFIG = """
[models.minilm]
task = "embed"
source = "s"
[models.toxic]
task = "classify"
source = "s"
"""
LONG = "a text of \x1b[31mmany words " + "and words " * 20

Run = Callable[..., Result]


@pytest.fixture
def run(redis_server: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs ``windrow dead`` with the given arguments on the test's Redis."""
    config = tmp_path_factory.mktemp("dead") / "windrow.toml"
    config.write_text(CONFIG)
    monkeypatch.setenv("WINDROW_CONFIG", str(config))
    monkeypatch.setenv("CELERY_BROKER_URL", redis_server)
    return lambda *words: CliRunner().invoke(app, ["dead", *words])


@pytest.fixture
def queue(redis_client: Redis) -> RedisQueue:
    return RedisQueue(redis_client, "minilm", max_attempts=1)


def make_dead_letters(queue: RedisQueue, *ids: str, text: object = "hay") -> None:
    """Submit requests one after another, and let each become a dead letter at once."""
    for id in ids:
        payload = orjson.dumps({"model": queue.model, "input": text, "parameters": {"truncate": True}})
        queue.submit([Submission(id, payload)], flow="acme:low", weight=1.0, max_depth=PLENTY, max_bytes=PLENTY)
        claim(queue, lease_s=NO_LEASE_S)
        reap_until(queue, lambda id=id: status_of(queue, id) == "failed")  # type: ignore[misc]


def listed_ids(run: Run, *words: str) -> list[str]:
    return [letter["id"] for letter in json.loads(run("list", "--json", *words).stdout)]


def error_of(result: Result) -> dict[str, str]:
    assert result.exit_code == 1, result.output
    error: dict[str, str] = json.loads(result.stderr)["error"]
    return error


def test_the_list_shows_id_time_tenant_reason_and_the_start_of_the_input(run: Run, queue: RedisQueue) -> None:
    make_dead_letters(queue, "a", text=LONG)
    output = run("list").stdout
    first, reason, start = output.splitlines()
    assert first.split("  ")[0] == "a"
    assert first.endswith("Z  minilm  acme  low")
    assert "attempts_exhausted" in reason
    assert "a text of \\u001b[31mmany words" in start
    assert start.endswith("...")
    assert "\x1b" not in output


def test_the_list_is_newest_first_for_all_models_or_one_model(run: Run, queue: RedisQueue, redis_client: Redis) -> None:
    toxic = RedisQueue(redis_client, "toxic", max_attempts=1)
    make_dead_letters(queue, "a")
    make_dead_letters(toxic, "b")
    make_dead_letters(queue, "c")
    assert listed_ids(run) == ["c", "b", "a"]
    assert listed_ids(run, "--limit", "2") == ["c", "b"]
    assert listed_ids(run, "--model", "toxic") == ["b"]


def test_an_empty_list_is_reported(run: Run) -> None:
    assert run("list").stdout == "no dead letters\n"
    assert run("list", "--json").stdout == "[]\n"


def test_show_prints_the_whole_input_and_the_reason(run: Run, queue: RedisQueue) -> None:
    make_dead_letters(queue, "a", text=LONG)
    output = run("show", "a").stdout
    assert LONG.strip().rpartition("many")[2] in output
    assert "attempts_exhausted" in output
    assert "\x1b" not in output
    letter = json.loads(run("show", "a", "--json").stdout)
    assert letter["input"] == LONG
    assert letter["parameters"] == {"truncate": True}
    assert (letter["model"], letter["tenant"], letter["priority"]) == ("minilm", "acme", "low")
    assert letter["error"]["code"] == "attempts_exhausted"


def test_retry_submits_the_request_with_a_new_id_and_keeps_the_old_result(
    run: Run, queue: RedisQueue, redis_client: Redis
) -> None:
    make_dead_letters(queue, "a", "b")
    old, arrow, new = run("retry", "a").stdout.splitlines()[0].split()
    assert (old, arrow) == ("a", "->")
    assert is_issued(shared_secret(redis_client), "acme", new)
    assert (status_of(queue, "a"), status_of(queue, new)) == ("failed", "queued")
    (again,) = claim(queue)
    assert (again.id, again.flow) == (new, "acme:low")
    assert again.call() == {"model": "minilm", "input": "hay", "parameters": {"truncate": True}}
    assert listed_ids(run) == ["b"]


def test_retry_all_retries_every_dead_letter_of_every_model(run: Run, queue: RedisQueue, redis_client: Redis) -> None:
    toxic = RedisQueue(redis_client, "toxic", max_attempts=1)
    ids = [f"id-{number}" for number in range(45)]
    make_dead_letters(queue, *ids)
    make_dead_letters(toxic, "other")
    retried = json.loads(run("retry", "--all", "--json").stdout)["retried"]
    assert set(retried) == {*ids, "other"}
    assert len(set(retried.values())) == 46
    assert listed_ids(run) == []
    assert queue.depth().waiting == 45


def test_drop_deletes_only_the_named_dead_letters(run: Run, queue: RedisQueue) -> None:
    make_dead_letters(queue, "a", "b", "c")
    assert run("drop", "a", "c").stdout == "2 dropped\n"
    assert listed_ids(run) == ["b"]
    assert status_of(queue, "a") == "failed"
    assert json.loads(run("drop", "--all", "--json").stdout) == {"dropped": 1}
    assert listed_ids(run) == []


@pytest.mark.parametrize("command", ["show", "retry", "drop"])
def test_an_unknown_id_is_refused_with_the_existing_ids_and_changes_nothing(
    run: Run, queue: RedisQueue, command: str
) -> None:
    make_dead_letters(queue, "a", "b")
    words = ["unknown"] if command == "show" else ["a", "unknown"]
    error = error_of(run(command, *words, "--json"))
    assert error["code"] == "unknown_dead_letter"
    assert error["detail"] == "no dead letter unknown; there are b, a"
    assert listed_ids(run) == ["b", "a"]


def test_an_unknown_id_is_refused_if_there_are_no_dead_letters(run: Run) -> None:
    assert error_of(run("show", "a", "--json"))["detail"] == "no dead letter a; there are none"


@pytest.mark.parametrize("words", [[], ["a", "--all"]])
@pytest.mark.parametrize("command", ["retry", "drop"])
def test_either_ids_or_all_is_required(run: Run, queue: RedisQueue, command: str, words: list[str]) -> None:
    make_dead_letters(queue, "a")
    result = run(command, *words)
    assert result.exit_code == 2
    assert "takes ids, or --all" in result.stderr
    assert listed_ids(run) == ["a"]


def test_the_acl_role_of_housekeeping_is_sufficient(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with acl_server(tmp_path) as server, server.client() as admin:
        make_dead_letters(RedisQueue(admin, "minilm", max_attempts=1), "a", "b")
        monkeypatch.setenv("CELERY_BROKER_URL", role_url(server, "windrow-housekeeping"))
        assert listed_ids(run) == ["b", "a"]
        assert run("show", "a").exit_code == 0
        assert run("retry", "a").exit_code == 0
        assert run("drop", "b").stdout == "1 dropped\n"


def test_an_unknown_model_is_refused_with_the_existing_models(run: Run) -> None:
    assert "there are minilm, toxic" in error_of(run("list", "--model", "mini", "--json"))["detail"]


def test_the_exit_code_is_3_if_redis_is_unavailable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", f"redis://:hunter2@127.0.0.1:{free_port()}/0")
    result = run("list")
    assert result.exit_code == 3
    assert "redis_unavailable" in result.stderr
    assert "hunter2" not in result.output
