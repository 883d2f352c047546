"""Ids are signed: each proves that it was issued, and to which tenant."""

import string

from hypothesis import given
from hypothesis import strategies as st

from windrow.scheduler.queue.ids import is_issued, make_id

SECRET, OTHER_SECRET = b"s" * 32, b"o" * 32
TENANTS = st.text(max_size=30)
ID_CHARACTERS = string.ascii_letters + string.digits + "-_"


@given(TENANTS)
def test_an_id_is_issued_to_the_tenant_it_was_made_for(tenant: str) -> None:
    assert is_issued(SECRET, tenant, make_id(SECRET, tenant))


@given(TENANTS, TENANTS)
def test_an_id_is_not_issued_to_another_tenant(tenant: str, other: str) -> None:
    assert is_issued(SECRET, other, make_id(SECRET, tenant)) is (tenant == other)


def test_an_id_of_another_deployment_was_not_issued_here() -> None:
    assert not is_issued(OTHER_SECRET, "acme", make_id(SECRET, "acme"))


@given(st.integers(0, 31), st.sampled_from(ID_CHARACTERS))
def test_an_id_with_one_other_character_was_not_issued(position: int, character: str) -> None:
    id = make_id(SECRET, "acme")
    changed = id[:position] + character + id[position + 1 :]
    assert is_issued(SECRET, "acme", changed) is (changed == id)


@given(st.text(max_size=40) | st.text(alphabet=ID_CHARACTERS, min_size=32, max_size=32))
def test_any_other_text_was_not_issued_and_is_no_error(text: str) -> None:
    assert not is_issued(SECRET, "acme", text)


def test_an_id_has_one_spelling() -> None:
    ids = [make_id(SECRET, "acme") for _ in range(200)]
    respelled = [id.replace("-", "+").replace("_", "/") for id in ids]
    assert not any(is_issued(SECRET, "acme", new) for id, new in zip(ids, respelled, strict=True) if id != new)


def test_ids_are_of_one_length_and_fit_a_url_and_a_redis_key() -> None:
    for _ in range(200):
        id = make_id(SECRET, "acme")
        assert len(id) == 32
        assert set(id) <= set(ID_CHARACTERS)


def test_ids_differ() -> None:
    assert len({make_id(SECRET, "acme") for _ in range(1000)}) == 1000
