"""API keys: how they are made, hashed and compared.

A key has 256 random bits and cannot be guessed, so its SHA-256, which takes a microsecond, is safe to store. Slow
password hashes would only slow every request down.
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
#: Shortest accepted key of another generator; shorter ones may be guessable words.
MIN_CHARACTERS = 32
#: RFC 6750: the scheme in upper or lower case, and one token.
BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*) *", re.IGNORECASE)


def make_key() -> str:
    """Return a new key: ``wr_`` and 256 random bits."""
    return PREFIX + secrets.token_urlsafe(RANDOM_BYTES)


def hash_key(key: str) -> str:
    """Return ``key`` as ``windrow.toml`` stores it: ``sha256:`` and 64 hex digits. Raises `ValueError`."""
    if len(key) < MIN_CHARACTERS or BEARER.fullmatch(f"bearer {key}") is None:
        raise ValueError(
            f"a key has at least {MIN_CHARACTERS} letters, digits or ._~+/- (`windrow key new` makes one); "
            f"this has {len(key)} characters"
        )
    return HASH_PREFIX + hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The API keys of all tenants; empty if the settings have no tenants."""

    def __init__(self, tenants: Mapping[str, TenantSettings]) -> None:
        self._owners = [
            (bytes.fromhex(key.removeprefix(HASH_PREFIX)), name)
            for name, tenant in tenants.items()
            for key in tenant.keys
        ]

    def __len__(self) -> int:
        return len(self._owners)

    def tenant_of(self, authorization: str | None) -> str:
        """Return the tenant whose key the ``Authorization`` header has; raises `Unauthorized`."""
        if not authorization:
            raise Unauthorized("this server requires an API key; send it as Authorization: Bearer <key>")
        match = BEARER.fullmatch(authorization)
        if match is None:
            raise Unauthorized("the Authorization header must be: Bearer <key>")
        digest = hashlib.sha256(match[1].encode()).digest()
        tenant = None
        # All keys are compared, so that the time reveals neither which key matched nor how much of one.
        for known, owner in self._owners:
            if hmac.compare_digest(known, digest):
                tenant = owner
        if tenant is None:
            raise Unauthorized("the API key is unknown to this server")
        return tenant
