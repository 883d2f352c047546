"""Settings of one tenant: a ``[tenants.<name>]`` table."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from windrow.scheduler.config.fields import FrozenSettings, WebhookSecret
from windrow.scheduler.core.admission import Quota
from windrow.scheduler.core.tenant_names import check_tenant_name


class TenantSettings(FrozenSettings):
    """One ``[tenants.<name>]`` table: API keys and limits. Each limit applies to each model separately."""

    #: ``sha256:<64 hex digits>`` of each API key of this tenant. Several keys let a tenant replace one at a time.
    keys: tuple[Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")], ...] = ()
    #: Share of the device relative to other tenants with a backlog.
    weight: float = Field(1.0, gt=0, le=1000)
    #: See `windrow.scheduler.core.admission.Quota`.
    max_in_flight: int | None = Field(None, ge=1)
    max_bytes: int | None = Field(None, ge=1)
    requests_per_s: float | None = Field(None, gt=0)
    burst: int | None = Field(None, ge=1)
    #: Signs this tenant's webhooks.
    webhook_secret: WebhookSecret | None = None

    @property
    def quota(self) -> Quota:
        """The limits in the form that the queue takes."""
        return Quota(self.max_in_flight, self.max_bytes, self.requests_per_s, self.burst)


def check_tenants(tenants: dict[str, TenantSettings]) -> None:
    """Validate the names, and that no API key is listed twice; raises `ValueError`."""
    owners: dict[str, str] = {}
    for name, tenant in tenants.items():
        check_tenant_name(name)
        for key in tenant.keys:
            if key in owners:
                both = f"tenants {owners[key]!r} and {name!r}" if owners[key] != name else f"tenant {name!r} twice"
                raise ValueError(f"the key {key[:15]}... is listed under {both}; each key belongs to one tenant")
            owners[key] = name
