"""`Settings`, and `load_settings`, which reads them once at an entry point into frozen objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from windrow.errors import InvalidSetting
from windrow.scheduler.config.base_url import parse_base_url
from windrow.scheduler.config.fields import FrozenSettings, NetworkField, WebhookSecret
from windrow.scheduler.config.model_settings import ModelSettings
from windrow.scheduler.config.tenant_settings import TenantSettings, check_tenants
from windrow.scheduler.config.values import explain, read_values
from windrow.scheduler.connection.redis_url import parse_redis_url
from windrow.scheduler.core.webhooks import secret_key

MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Second segments of Windrow's own Redis keys, such as ``windrow:events:<id>``. A model with such a name would collide.
RESERVED_MODEL_NAMES = frozenset({"events", "secret", "idempotency"})


class Settings(FrozenSettings):
    """All settings of an entry point; built by `load_settings`."""

    models: dict[str, ModelSettings]
    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    #: Listen on addresses other than loopback without API keys.
    allow_no_keys: bool = False
    #: Signs the webhooks of requests that carry no API key.
    webhook_secret: WebhookSecret | None = None
    #: Networks that webhooks may be sent to although they are not public.
    webhook_networks: tuple[NetworkField, ...] = ()
    #: Public address of the API. The ``urls`` in webhooks start with it; without it they are paths.
    public_url: Annotated[str, AfterValidator(parse_base_url)] | None = None
    #: See `windrow.scheduler.connection.redis_url`.
    redis_url: str = Field("redis://127.0.0.1:6379/0", repr=False)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    #: Pool processes per CUDA device, each with its own copy of the models.
    processes_per_device: int = Field(1, ge=1, le=16)
    #: API processes.
    web_concurrency: int = Field(1, ge=1, le=256)
    #: Seconds that the result of a finished prediction stays readable.
    result_ttl_s: int = Field(900, ge=1)
    lease_s: float = Field(15.0, ge=2)
    max_attempts: int = Field(3, ge=1)
    #: A pool process without progress for this many seconds is replaced. Must exceed the slowest forward pass.
    stall_s: float = Field(300.0, ge=5)
    #: The API answers 503 for a model that no worker has served for this many seconds.
    worker_grace_s: float = Field(60.0, gt=0)
    max_body_bytes: int = Field(8 << 20, ge=1024)
    max_batch_inputs: int = Field(1000, ge=1, le=1000)

    def webhook_key(self, tenant: str) -> bytes | None:
        """Return the key that signs the webhooks of ``tenant``; None if it has no secret and may send none."""
        table = self.tenants.get(tenant)
        secret = self.webhook_secret if table is None else table.webhook_secret
        return None if secret is None else secret_key(secret.get_secret_value())

    @model_validator(mode="after")
    def _check_names(self) -> Settings:
        if not self.models:
            raise ValueError("takes at least one [models.<name>] table")
        if self.tenants and not any(tenant.keys for tenant in self.tenants.values()):
            raise ValueError(
                "tenants: no tenant has a key, so every request would be refused; "
                "make a key with `windrow key new`, or remove the tables to serve without keys"
            )
        for name in self.models:
            if not MODEL_NAME.fullmatch(name) or name in RESERVED_MODEL_NAMES:
                raise ValueError(
                    f"model name {name!r}: takes letters, digits, '.', '_' and '-', at most 64, "
                    f"and none of {', '.join(sorted(RESERVED_MODEL_NAMES))}"
                )
        return self

    @field_validator("redis_url")
    @classmethod
    def _check_redis_url(cls, url: str) -> str:
        # At load time, because the error of the first connection would quote a part of the password.
        parse_redis_url(url)
        return url

    @field_validator("tenants")
    @classmethod
    def _check_tenants(cls, tenants: dict[str, TenantSettings]) -> dict[str, TenantSettings]:
        check_tenants(tenants)
        return tenants


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read ``windrow.toml`` and the environment (`os.environ` by default).

    Raises `InvalidSetting` with the name of the setting and the values that it takes.
    """
    values, variables = read_values(environ)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise InvalidSetting(explain(error, variables)) from None
