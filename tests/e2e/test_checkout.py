"""The folders of a checkout as Celery and gunicorn find them by their short names."""

import json
import subprocess
import sys

import pytest

from tests.support.serving import ROOT, clean_environ

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

#: Load what is loaded by ``celery -A worker`` and ``gunicorn 'api:create_app()'``, then list each file's module names.
LOAD = """
import json, os, sys
from celery.app.utils import find_app
import scheduler, api
find_app("worker").loader.import_default_modules()
api.create_app()
names = {}
for name, module in list(sys.modules.items()):
    file = getattr(module, "__file__", None)
    if file and os.path.realpath(file).startswith(os.getcwd() + os.sep) and ".venv" not in file:
        names.setdefault(os.path.realpath(file), []).append(name)
print(json.dumps(sorted(names.values())))
"""


def run_in_checkout(*arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *arguments]
    environment = clean_environ(**environ)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_no_module_is_loaded_under_two_names() -> None:
    ran = run_in_checkout("-c", LOAD)
    assert ran.returncode == 0, ran.stderr
    names = json.loads(ran.stdout)
    assert len(names) > 50
    # The three packages themselves are what Celery and gunicorn are asked for; no module below them is loaded twice.
    folders = sorted(sorted([name, f"windrow.{name}"]) for name in ("api", "scheduler", "worker"))
    assert sorted(sorted(several) for several in names if len(several) > 1) == folders


@pytest.mark.parametrize("name", ["api.app", "worker.celery", "scheduler.core"])
def test_a_submodule_cannot_be_imported_by_its_folder_name(name: str) -> None:
    ran = run_in_checkout("-c", f"import {name}")
    assert f"No module named '{name}'" in ran.stderr


def test_celery_finds_the_application_by_the_folder_name(redis_server: str) -> None:
    ran = run_in_checkout("-m", "celery", "-A", "worker", "report", CELERY_BROKER_URL=redis_server)
    assert ran.returncode == 0, ran.stderr
    assert redis_server in ran.stdout


def test_gunicorn_finds_the_application_by_the_folder_name() -> None:
    ran = run_in_checkout(
        "-m", "gunicorn", "--check-config", "-c", "python:windrow.api.gunicorn_conf", "api:create_app()"
    )
    assert ran.returncode == 0, ran.stderr
