"""Which names a tenant may have."""

from __future__ import annotations

import re

#: A tenant's name is part of flow names and of idempotency keys, which separate their parts by ':' and '|'.
TENANT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: The tenants of requests without an API key, and of requests sent through Celery.
RESERVED_TENANT_NAMES = frozenset({"default", "celery"})


def check_tenant_name(name: str) -> None:
    """Validate a tenant name; raises `ValueError`."""
    if not TENANT_NAME.fullmatch(name) or name in RESERVED_TENANT_NAMES:
        raise ValueError(
            f"tenant name {name[:80]!r}: takes letters, digits, '.', '_' and '-', at most 64, "
            f"and none of {', '.join(sorted(RESERVED_TENANT_NAMES))}"
        )
