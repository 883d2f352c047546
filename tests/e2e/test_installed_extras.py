"""The base install and each extra, in environments that have nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from tests.support.installed import run_installed
from tests.support.queue_calls import MODEL, claim, finish, submit
from windrow.errors import InvalidInput
from windrow.scheduler.core.outcomes import Failed
from windrow.scheduler.queue import RedisQueue
from windrow.stack.embedded_redis import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PythonWith = Callable[[str], Path]
#: Packages that the base install does not have; newer releases of typer bring pydantic.
HEAVY = ("celery", "flask", "gunicorn", "numpy", "redis", "tokenizers", "torch", "transformers")
COMMANDS = [
    [], ["serve"], ["demo"], ["predict"], ["get"], ["cancel"], ["models"], ["tune"], ["simulate"], ["plan"],
    ["bench"], ["bench", "compare"], ["bench", "serve"], ["bench", "sweep"], ["bench", "record"],
    ["key"], ["key", "new"], ["key", "hash"],
    ["dead"], ["dead", "list"], ["dead", "show"], ["dead", "retry"], ["dead", "drop"],
]  # fmt: skip
#: Commands that need an extra, and the extra that they name.
NEEDING = {
    "serve": "server,worker",
    "demo": "server,worker",
    "bench compare --engine fixed": "server,worker",
    "bench record out.jsonl": "server,worker",
    "bench serve --rate 1": "lab",
    "bench sweep": "lab",
    "simulate": "lab",
    "plan --p99 1s": "lab",
    "tune": "lab,worker",
    "dead list": "server",
    "dead show ID": "server",
    "dead retry --all": "server",
    "dead drop --all": "server",
}


def test_the_base_install_has_no_heavy_package(python_with: PythonWith, tmp_path: Path) -> None:
    code = f"import importlib.util; print([name for name in {HEAVY} if importlib.util.find_spec(name)])"
    assert run_installed(python_with(""), "-c", code, cwd=tmp_path).stdout == "[]\n"


def test_the_base_install_has_the_clients_and_the_errors(python_with: PythonWith, tmp_path: Path) -> None:
    code = (
        "import sys; from windrow import AsyncClient, Client, Prediction, StreamEvent, errors\n"
        "Client().close(); AsyncClient(); assert 'pydantic' not in sys.modules and 'typer' not in sys.modules"
    )
    ran = run_installed(python_with(""), "-W", "error", "-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


def test_the_base_install_describes_every_command(python_with: PythonWith, tmp_path: Path) -> None:
    code = (
        "import json, sys; from typer.testing import CliRunner; from windrow.cli.app import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    result = CliRunner().invoke(app, [*words, '--help'])\n"
        "    assert result.exit_code == 0 and 'Usage' in result.output, (words, result.output)"
    )
    ran = run_installed(python_with(""), "-c", code, json.dumps(COMMANDS), cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", ["predict minilm hay", "get ID", "cancel ID", "models"])
def test_a_client_command_needs_the_base_install_only(python_with: PythonWith, tmp_path: Path, command: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ran = run_installed(python_with(""), "-m", "windrow", *command.split(), "--url", url, cwd=tmp_path)
    assert ran.returncode == 3, ran.stderr
    assert f"no server answers at {url}" in ran.stderr


def test_api_keys_need_the_base_install_only(python_with: PythonWith, tmp_path: Path) -> None:
    made = run_installed(python_with(""), "-m", "windrow", "key", "new", "--tenant", "acme", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("wr_")


@pytest.mark.parametrize(("command", "extra"), NEEDING.items())
def test_a_command_names_the_extra_that_is_missing(
    python_with: PythonWith, tmp_path: Path, command: str, extra: str
) -> None:
    ran = run_installed(python_with(""), "-m", "windrow", *command.split(), cwd=tmp_path)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr
    assert ran.stderr.startswith("windrow: this command needs the package '")
    assert f"pip install 'windrow-inference[{extra}]'" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["serve", "demo"])
def test_a_stack_is_not_started_without_the_packages_of_its_programs(
    python_with: PythonWith, tmp_path: Path, command: str
) -> None:
    ran = run_installed(python_with("lab,celery"), "-m", "windrow", command, "--json", cwd=tmp_path)
    assert ran.returncode == 2
    error = json.loads(ran.stderr)["error"]
    assert error["code"] == "missing_package"
    assert "the package 'gunicorn'" in error["detail"]
    assert list(tmp_path.iterdir()) == []


def test_serve_without_a_redis_server_names_what_to_install(python_with: PythonWith, tmp_path: Path) -> None:
    ran = run_installed(
        python_with("server,worker"), "-m", "windrow", "serve", cwd=tmp_path, PATH=str(tmp_path), PORT="0"
    )
    assert ran.returncode == 2, ran.stderr
    assert "pip install 'windrow-inference[redis]'" in ran.stderr
    assert "CELERY_BROKER_URL" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("extras", "code"),
    [
        ("server", "from windrow.api import create_app; create_app()"),
        ("worker", "from windrow.worker import app; app.loader.import_default_modules()"),
        ("worker", "import windrow.gateway; from windrow.worker.engines import loading"),
        ("server", "import windrow.stack.serve, windrow.cli.app"),
    ],
    ids=["api", "celery-worker", "gateway", "stack"],
)
def test_an_extra_has_what_its_programs_import(python_with: PythonWith, tmp_path: Path, extras: str, code: str) -> None:
    ran = run_installed(python_with(extras), "-c", code, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("command", ["simulate --rate 40 --requests 100", "plan --p99 2s --rate 40 --requests 100"])
def test_the_laboratory_needs_its_own_extra_only(python_with: PythonWith, tmp_path: Path, command: str) -> None:
    ran = run_installed(python_with("lab"), "-m", "windrow", *command.split(), "--report", "out", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "out" / "report.png").stat().st_size > 0


#: A caller with an application of its own. The last lines compare the classes of two results.
CALLER = """
import sys
from celery import Celery
from windrow import errors

app = Celery("caller", broker=sys.argv[1], backend=sys.argv[1])
caught = []
for id in ("a", "b"):
    try:
        app.AsyncResult(id).get(timeout=10)
    except errors.InvalidInput as error:
        caught.append(error)
assert [str(error) for error in caught] == ["no"] * 2, caught
assert {type(error) for error in caught} == {errors.InvalidInput}
assert caught[0].code == "invalid_input"
assert isinstance(caught[0], errors.WindrowError)
"""


def test_a_celery_caller_catches_the_error_classes(
    python_with: PythonWith, tmp_path: Path, redis_server: str, redis_client: Redis
) -> None:
    queue = RedisQueue(redis_client, MODEL)
    submit(queue, "a", "b")
    finish(queue, claim(queue), Failed(InvalidInput("no")))
    ran = run_installed(python_with("celery"), "-c", CALLER, redis_server, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
