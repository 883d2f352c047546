"""API keys are made, hashed and compared."""

import hashlib
import itertools
import re

import pytest

from windrow.api.auth.keys import Keys, hash_key, make_key
from windrow.errors import Unauthorized
from windrow.scheduler.config.tenant_settings import TenantSettings


def tenants(**keys: list[str]) -> dict[str, TenantSettings]:
    return {name: TenantSettings.model_validate({"keys": [hash_key(key) for key in its]}) for name, its in keys.items()}


OLD, NEW, OTHER = make_key(), make_key(), make_key()
KEYS = Keys(tenants(acme=[OLD, NEW], other=[OTHER], without=[]))


def test_a_new_key_has_256_random_bits_after_its_prefix() -> None:
    keys = {make_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(re.fullmatch(r"wr_[A-Za-z0-9_-]{43}", key) for key in keys)


def test_the_hash_of_a_key_is_its_sha_256() -> None:
    assert hash_key(OLD) == "sha256:" + hashlib.sha256(OLD.encode()).hexdigest()


@pytest.mark.parametrize("key", ["", "hunter2", "x" * 31, "x" * 40 + "\n", "x y" * 20, "é" * 40, "x" * 40 + ","])
def test_a_short_key_or_one_invalid_in_a_header_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="at least 32") as raised:
        hash_key(key)
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "tenant"), [(OLD, "acme"), (NEW, "acme"), (OTHER, "other")], ids=["old", "new", "another"]
)
def test_every_key_of_a_tenant_identifies_the_tenant(key: str, tenant: str) -> None:
    for header in (f"Bearer {key}", f"bearer {key}", f"BEARER  {key} "):
        assert KEYS.tenant_of(header) == tenant


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        OLD,
        f"Basic {OLD}",
        f"Bearer{OLD}",
        f"Bearer {OLD[:-1]}",
        f"Bearer {OLD}x",
        f"Bearer {OLD.lower()}",
        f"Bearer {make_key()}",
        f"Bearer {hash_key(OLD)}",
        f"Bearer {hash_key(OLD).removeprefix('sha256:')}",
        f"Bearer {OLD},Bearer {OLD}",
        f"Bearer {OLD} {OTHER}",
        f"Bearer {OLD}\u00e9",
    ],
    ids=itertools.count(),  # test ids must be the same in every process, and these keys are random
)
def test_any_other_header_is_unauthorized_and_not_repeated(header: str | None) -> None:
    with pytest.raises(Unauthorized) as raised:
        KEYS.tenant_of(header)
    assert OLD[:8] not in raised.value.detail


def test_a_removed_key_is_unauthorized() -> None:
    with pytest.raises(Unauthorized):
        Keys(tenants(acme=[NEW])).tenant_of(f"Bearer {OLD}")


def test_without_tenants_there_are_no_keys() -> None:
    assert not Keys({})
