"""Without API keys, the server listens only for this machine unless a setting allows more."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from windrow.api.auth.keys import hash_key, make_key
from windrow.api.bind import bind_address, check_bind
from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import Settings
from windrow.scheduler.config.values import DEFAULT_MODELS

KEYED = {"tenants": {"acme": {"keys": [hash_key(make_key())]}}}
OTHERS = ["0.0.0.0", "::", "10.0.0.1", "", "some-name", "127.0.0.1.example.org"]


def settings(host: str, **more: object) -> Settings:
    return Settings.model_validate({"models": DEFAULT_MODELS, "host": host} | more)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    check_bind(settings(host))


@pytest.mark.parametrize("host", OTHERS)
def test_another_address_without_keys_is_refused_and_both_remedies_are_named(host: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        check_bind(settings(host))
    detail = raised.value.detail
    assert detail.startswith(f"host: {host!r}")
    assert "windrow key new" in detail
    assert "WINDROW_ALLOW_NO_KEYS" in detail


@pytest.mark.parametrize("host", OTHERS)
def test_another_address_is_accepted_with_keys_or_with_allow_no_keys(host: str) -> None:
    check_bind(settings(host, **KEYED))
    check_bind(settings(host, allow_no_keys=True))


def test_tenants_without_any_key_are_refused() -> None:
    with pytest.raises(ValidationError, match="no tenant has a key"):
        settings("127.0.0.1", tenants={"acme": {}})


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1:8000"), ("::1", "[::1]:8000")])
def test_an_ipv6_address_is_in_brackets(host: str, address: str) -> None:
    assert bind_address(settings(host)) == address


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [([], {"WINDROW_HOST": "0.0.0.0"}), (["-b", "0.0.0.0:0"], {}), ([], {"GUNICORN_CMD_ARGS": "--bind=0.0.0.0:0"})],
)
def test_gunicorn_does_not_start_on_all_addresses_without_keys(arguments: list[str], environ: dict[str, str]) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WINDROW_")}
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        *arguments,
        "-c",
        "python:windrow.api.gunicorn_conf",
        "windrow.api:create_app()",
    ]
    run = subprocess.run(command, env=environment | environ, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode != 0
    assert "windrow: host: '0.0.0.0'" in run.stderr
    assert "Traceback" not in run.stderr
