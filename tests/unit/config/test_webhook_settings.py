"""Webhook settings: signing secrets, allowed networks and the public URL of the API."""

from base64 import b64encode
from ipaddress import ip_network
from pathlib import Path

import pytest

from windrow.errors import InvalidSetting
from windrow.scheduler.config.settings import Settings, load_settings

OURS, THEIRS = (b64encode(letter * 32).decode() for letter in (b"o", b"t"))
FILE = f"""
webhook_secret = "whsec_{OURS}"
webhook_networks = ["10.0.0.0/8", "fd00::/8"]
[tenants.signed]
keys = ["sha256:{"0" * 64}"]
webhook_secret = "whsec_{THEIRS}"
[tenants.unsigned]
"""


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "windrow.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings({"WINDROW_CONFIG": str(path), **environ})


def test_each_tenant_uses_only_its_own_secret(tmp_path: Path) -> None:
    settings = load(tmp_path, FILE)
    assert settings.webhook_key("signed") == b"t" * 32
    assert settings.webhook_key("unsigned") is None
    assert settings.webhook_key("default") == b"o" * 32
    assert load(tmp_path, "").webhook_key("default") is None


def test_networks_are_read_from_the_file_or_from_a_variable(tmp_path: Path) -> None:
    inner = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert load(tmp_path, FILE).webhook_networks == inner
    assert load(tmp_path, "", WINDROW_WEBHOOK_NETWORKS="10.0.0.0/8, fd00::/8").webhook_networks == inner
    assert load(tmp_path, "").webhook_networks == ()


def test_the_trailing_slash_of_the_public_url_is_removed(tmp_path: Path) -> None:
    url = "https://example.org/windrow"
    assert load(tmp_path, "", WINDROW_PUBLIC_URL=url + "/").public_url == url


def test_the_repr_of_the_settings_contains_no_secret(tmp_path: Path) -> None:
    printed = repr(load(tmp_path, FILE))
    assert OURS not in printed
    assert THEIRS not in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('webhook_secret = "hunter2"', "webhook_secret: takes whsec_"),
        ('webhook_secret = "whsec_hunter2"', "webhook_secret: takes whsec_"),
        ('[tenants.a]\nwebhook_secret = "hunter2"', "tenants.a.webhook_secret: takes whsec_"),
        ('webhook_networks = ["10.0.0.1/8"]', "webhook_networks.0: takes a network such as 10.0.0.0/8"),
        ('webhook_networks = ["anywhere"]', "webhook_networks.0: takes a network"),
        ("webhook_networks = [10]", "webhook_networks.0: takes a network"),
        ('public_url = "example.org"', "public_url: takes http:// or https://"),
        ('public_url = "https://example.org/?a=b"', "public_url: takes http:// or https://"),
    ],
)
def test_an_invalid_value_is_refused_by_name_without_repeating_a_secret(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InvalidSetting) as raised:
        load(tmp_path, text)
    assert message in raised.value.detail
    assert "hunter2" not in raised.value.detail
