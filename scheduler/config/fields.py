"""Building blocks of the settings models: the frozen base class and the types of single fields."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from windrow.scheduler.core.addresses import Network
from windrow.scheduler.core.webhooks import secret_key

#: Largest `max_wait_ms`, in milliseconds.
MAX_WAIT_MS = 60_000


class FrozenSettings(BaseModel):
    """Base of the settings tables: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_booleans(cls, value: Any, info: ValidationInfo) -> Any:
        # Environment variables are text, so pydantic runs in lax mode, which would read `true` as the number 1.
        is_switch = info.field_name is not None and cls.model_fields[info.field_name].annotation is bool
        if not is_switch and any(isinstance(item, bool) for item in (value if isinstance(value, list) else [value])):
            raise ValueError("takes neither true nor false")
        return value


def _require_increasing(buckets: tuple[int, ...]) -> tuple[int, ...]:
    if not buckets or any(bucket < 1 for bucket in buckets) or list(buckets) != sorted(set(buckets)):
        raise ValueError("takes increasing lengths in tokens, such as [32, 64, 128]")
    return buckets


def _read_wait_ms(value: object) -> object:
    if value == "auto":
        return value
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number <= MAX_WAIT_MS:
        raise ValueError(f"takes milliseconds from 0 to {MAX_WAIT_MS}, or auto")
    return number


def _require_webhook_secret(secret: SecretStr) -> SecretStr:
    secret_key(secret.get_secret_value())
    return secret


def _read_network(value: object) -> object:
    try:
        return ip_network(str(value))  # `ip_network` reads an int as an address
    except ValueError:
        raise ValueError("takes a network such as 10.0.0.0/8 or fd00::/8") from None


#: Padded lengths in tokens, increasing.
Buckets = Annotated[tuple[int, ...], AfterValidator(_require_increasing)]
#: Milliseconds, or ``auto`` for a window that is learned from the traffic.
WaitMs = Annotated[float | Literal["auto"], BeforeValidator(_read_wait_ms)]
#: ``whsec_`` and base64 of at least 24 bytes.
WebhookSecret = Annotated[SecretStr, AfterValidator(_require_webhook_secret)]
#: An IP network in CIDR notation.
NetworkField = Annotated[Network, BeforeValidator(_read_network)]
