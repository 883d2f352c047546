"""The API imports no heavy libraries, and its import has no side effects."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
heavy = {"torch", "transformers", "sentence_transformers", "celery"}
import api
after_import = sorted((heavy | {"flask", "redis", "ssl", "gevent"}) & set(sys.modules))
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS
app = api.create_app(Settings(models=DEFAULT_MODELS, redis_url="redis://127.0.0.1:1/0"))
assert app.test_client().get("/healthz").status_code == 200
assert app.test_client().get("/openapi.json").status_code == 200
print(json.dumps([after_import, sorted(heavy & set(sys.modules))]))
"""


def test_the_application_imports_neither_torch_nor_transformers_nor_celery() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == [[], []]


def test_gunicorns_configuration_imports_nothing_that_uses_sockets_before_gevent_patches_them() -> None:
    program = (
        "import sys, windrow.api.gunicorn_conf; print(sorted({'ssl', 'redis', 'flask', 'gevent'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_invalid_setting_stops_gunicorn_with_its_name_and_no_traceback() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import windrow.api.gunicorn_conf"],
        capture_output=True,
        text=True,
        env={"WINDROW_PORTT": "1", "PYTHONPATH": "."},
        check=False,
    )
    assert run.returncode == 1
    assert "portt" in run.stderr
    assert "Traceback" not in run.stderr
