"""Signed ids: a client cannot guess one, and an expired id is distinguished from one that was never issued."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

from redis import Redis

SECRET_KEY = "windrow:secret"
RANDOM_BYTES = 16
TAG_BYTES = 8


def shared_secret(redis: Redis) -> bytes:
    """Return the deployment's signing secret from Redis; the first caller creates it."""
    secret = redis.get(SECRET_KEY)
    if secret is None:  # a full Redis refuses SET even for a key that exists
        redis.set(SECRET_KEY, secrets.token_bytes(32), nx=True)
        secret = redis.get(SECRET_KEY)
    assert isinstance(secret, bytes)
    return secret


def make_id(secret: bytes, tenant: str) -> str:
    """Return a new id of 32 URL-safe characters: 128 random bits, and a 64-bit tag over them and the tenant."""
    random = secrets.token_bytes(RANDOM_BYTES)
    return base64.urlsafe_b64encode(random + _tag(secret, tenant, random)).decode()


def is_issued(secret: bytes, tenant: str, id: str) -> bool:
    """Return whether `make_id` made ``id`` for this tenant."""
    try:
        raw = base64.b64decode(id, altchars=b"-_", validate=True)
    except ValueError:
        return False
    if len(raw) != RANDOM_BYTES + TAG_BYTES or base64.urlsafe_b64encode(raw) != id.encode():
        return False  # b64decode also accepts '+' and '/', so one id would have several spellings
    random, tag = raw[:RANDOM_BYTES], raw[RANDOM_BYTES:]
    return hmac.compare_digest(tag, _tag(secret, tenant, random))


def _tag(secret: bytes, tenant: str, random: bytes) -> bytes:
    return hmac.new(secret, tenant.encode() + b"\0" + random, hashlib.sha256).digest()[:TAG_BYTES]
