"""The settings of webhooks: which secret signs, which networks are open, where the API is."""

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
[tenants.loud]
keys = ["sha256:{"0" * 64}"]
webhook_secret = "whsec_{THEIRS}"
[tenants.mute]
"""


def load(tmp_path: Path, text: str, **environ: str) -> Settings:
    path = tmp_path / "windrow.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings({"WINDROW_CONFIG": str(path), **environ})


def test_each_tenant_has_its_own_secret_and_nobody_borrows_one(tmp_path: Path) -> None:
    settings = load(tmp_path, FILE)
    assert settings.webhook_key("loud") == b"t" * 32
    assert settings.webhook_key("mute") is None
    assert settings.webhook_key("default") == b"o" * 32
    assert load(tmp_path, "").webhook_key("default") is None


def test_networks_come_from_the_file_or_from_a_variable(tmp_path: Path) -> None:
    inner = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    assert load(tmp_path, FILE).webhook_networks == inner
    assert load(tmp_path, "", WINDROW_WEBHOOK_NETWORKS="10.0.0.0/8, fd00::/8").webhook_networks == inner
    assert load(tmp_path, "").webhook_networks == ()


def test_the_public_url_is_kept_without_its_last_slash(tmp_path: Path) -> None:
    url = "https://example.org/windrow"
    assert load(tmp_path, "", WINDROW_PUBLIC_URL=url + "/").public_url == url


def test_a_secret_is_in_no_print_of_the_settings(tmp_path: Path) -> None:
    printed = repr(load(tmp_path, FILE))
    assert OURS not in printed
    assert THEIRS not in printed


@pytest.mark.parametrize(
    ("text", "says"),
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
def test_a_malformed_value_is_refused_by_name_and_no_secret_is_repeated(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        load(tmp_path, text)
    assert says in raised.value.detail
    assert "hunter2" not in raised.value.detail
