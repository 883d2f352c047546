"""``windrow key``: a key is printed once, and its hash is for the settings."""

import json
import tomllib

import pytest
from typer.testing import CliRunner

from windrow.api.auth.keys import Keys, hash_key, make_key
from windrow.cli.app import app
from windrow.scheduler.config.tenant_settings import TenantSettings

runner = CliRunner()


def test_a_new_key_is_printed_alone_on_stdout_and_the_printed_settings_accept_it() -> None:
    result = runner.invoke(app, ["key", "new", "--tenant", "a.b-c"])
    assert result.exit_code == 0
    key = result.stdout.strip()
    assert key not in result.stderr
    lines = result.stderr[result.stderr.index("[tenants") : result.stderr.index("]\n\nA tenant") + 1]
    tables = tomllib.loads(lines)["tenants"]
    keys = Keys({name: TenantSettings.model_validate(table) for name, table in tables.items()})
    assert keys.tenant_of(f"Bearer {key}") == "a.b-c"


def test_json_output_is_one_document() -> None:
    made = json.loads(runner.invoke(app, ["key", "new", "--tenant", "acme", "--json"]).stdout)
    assert made == {"tenant": "acme", "key": made["key"], "hash": hash_key(made["key"])}


@pytest.mark.parametrize("name", ["default", "celery", "a:b", ""])
def test_an_invalid_tenant_name_gets_no_key(name: str) -> None:
    result = runner.invoke(app, ["key", "new", "--tenant", name])
    assert result.exit_code == 2
    assert "tenant name" in result.stderr
    assert result.stdout == ""


def test_a_key_on_stdin_is_hashed() -> None:
    key = make_key()
    for text in (key, f"{key}\n", f"{key}\r\n"):
        assert runner.invoke(app, ["key", "hash"], input=text).stdout == f"{hash_key(key)}\n"
    assert json.loads(runner.invoke(app, ["key", "hash", "--json"], input=key).stdout) == {"hash": hash_key(key)}


def test_an_invalid_key_is_refused_without_repeating_it() -> None:
    result = runner.invoke(app, ["key", "hash"], input="hunter2\n")
    assert result.exit_code == 2
    assert "hunter2" not in result.output
    assert "windrow key new" in result.stderr
