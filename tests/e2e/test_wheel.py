"""The installed package beside a user's own packages named ``api``, ``worker`` and ``scheduler``."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import RAISES, build_sdist, build_wheel, copy_sources, run_installed, wheel_files
from tests.support.serving import START_S, STOP_S, Serving, clean_environ, wait_for
from windrow import Client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with packages of a user that raise when they are imported."""
    for name in ("api", "worker", "scheduler"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(RAISES)
    return tmp_path


@pytest.fixture
def serving(project: Path, installed_python: Path) -> Iterator[Serving]:
    stack = Serving(project, str(installed_python), PYTHONPATH="")
    yield stack
    stack.close()


def test_the_wheel_has_one_top_level_package(wheel: Path) -> None:
    top_level = {name.split("/")[0] for name in wheel_files(wheel)}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"windrow"}


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    sdist = build_sdist(copy_sources(tmp_path / "source"), tmp_path / "dist")
    from_sdist = wheel_files(build_wheel(sdist, tmp_path / "wheel"))
    assert from_sdist == wheel_files(wheel)
    assert {
        "windrow/api/app.py",
        "windrow/worker/celery/app.py",
        "windrow/scheduler/queue/lua/submit.lua",
        "windrow/scheduler/queue/lua/lib/held.lua",
        "windrow/py.typed",
    } <= from_sdist


@pytest.mark.parametrize(
    "arguments",
    [
        ["-c", "from windrow import Client; Client().close()"],
        ["-m", "windrow", "--help"],
        ["-c", "from windrow.worker import app; app.loader.import_default_modules(); app.tasks['windrow.predict']"],
        ["-m", "gunicorn", "--check-config", "-c", "python:windrow.api.gunicorn_conf", "windrow.api:create_app()"],
    ],
    ids=["client", "help", "celery", "gunicorn"],
)
def test_windrow_starts_beside_packages_of_the_same_names(
    project: Path, installed_python: Path, arguments: list[str]
) -> None:
    ran = run_installed(installed_python, *arguments, cwd=project)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr


def test_serve_becomes_ready_beside_packages_of_the_same_names(serving: Serving) -> None:
    serving.wait_until_ready()
    with Client(serving.url) as client:
        assert len(client.predict("minilm", "hay").result()["embedding"]) == 384
    serving.process.send_signal(signal.SIGTERM)
    _, errors = serving.process.communicate(timeout=STOP_S)
    assert serving.process.returncode == 0, errors


def test_a_celery_worker_starts_beside_a_module_named_worker(
    tmp_path: Path, installed_python: Path, redis_server: str
) -> None:
    for name in ("api", "worker", "scheduler"):
        (tmp_path / f"{name}.py").write_text(RAISES)
    log = tmp_path / "worker.log"
    command = [installed_python, "-m", "celery", "-A", "windrow.worker", "worker", "--concurrency", "1", "-l", "INFO"]
    environment = clean_environ(PYTHONPATH="", CELERY_BROKER_URL=redis_server)
    with log.open("wb") as output:
        worker = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    try:
        wait_for("the worker serves minilm", lambda: worker.poll() is not None or "serves" in log.read_text(), START_S)
        assert worker.poll() is None, log.read_text()
    finally:
        worker.terminate()
        worker.wait(STOP_S)
    assert "Traceback" not in log.read_text(), log.read_text()
