"""API keys: made here, kept as their SHA-256, and looked up in constant time.

A key is 32 random bytes, so nobody guesses one, hashed or not; SHA-256 is enough for it and takes a microsecond. The
slow hashes that passwords need would only slow every request down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from windrow.errors import Unauthorized

if TYPE_CHECKING:
    from windrow.scheduler.config.tenant_settings import TenantSettings

PREFIX = "wr_"
RANDOM_BYTES = 32
HASH_PREFIX = "sha256:"
#: Keys of somebody else's making are taken from this length on: shorter ones may be words.
MIN_CHARACTERS = 32
#: RFC 6750: the scheme in any case, and one token.
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)


def make_key() -> str:
    """A new key: ``wr_`` and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def hash_key(key: str) -> str:
    """What stands in ``windrow.toml`` for ``key``: ``sha256:`` and 64 hex digits. Raises `ValueError`."""
    if len(key) < MIN_CHARACTERS or BEARER.fullmatch(f"bearer {key}") is None:
        raise ValueError(
            f"a key has at least {MIN_CHARACTERS} letters, digits or ._~+/- (`windrow key new` makes one); "
            f"this has {len(key)} characters"
        )
    return HASH_PREFIX + hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The keys of all tenants; the settings see to it that there is one where there are tenants."""

    def __init__(self, tenants: Mapping[str, TenantSettings]) -> None:
        self._owners = [
            (bytes.fromhex(key.removeprefix(HASH_PREFIX)), name)
            for name, tenant in tenants.items()
            for key in tenant.keys
        ]

    def __len__(self) -> int:
        return len(self._owners)

    def tenant_of(self, authorization: str | None) -> str:
        """The tenant whose key the ``Authorization`` header carries; raises `Unauthorized`."""
        if not authorization:
            raise Unauthorized("this server wants an API key; send it as Authorization: Bearer <key>")
        match = BEARER.fullmatch(authorization)
        if match is None:
            raise Unauthorized("Authorization takes Bearer and one API key")
        digest = hashlib.sha256(match[1].encode()).digest()
        tenant = None
        # Every one is looked at: the time says nothing about which one it was, or how nearly.
        for known, owner in self._owners:
            if hmac.compare_digest(known, digest):
                tenant = owner
        if tenant is None:
            raise Unauthorized("the API key is not one of this server's")
        return tenant
