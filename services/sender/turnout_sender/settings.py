"""The sender's settings."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from turnout_common.settings import KeyedSettings


class SenderSettings(KeyedSettings):
    """What the sender needs besides what every service does."""

    # A refused setting is named in the log of the start, never shown: it may stand beside the master key.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    http_port: int = Field(8602, ge=0, le=65535, description="Port to listen on.")
    provider_base_url: str | None = Field(
        None,
        description="Put in place of every provider's own address (Telegram: https://api.telegram.org): mock providers.",
    )
    send_timeout_seconds: float = Field(
        10.0, gt=0, le=60, description="A provider that has not answered by then has lost the answer."
    )
    claim_seconds: float = Field(
        60.0, gt=0, description="A send without an outcome for this long is `unknown`: its sender died."
    )
    max_attempts: int = Field(8, ge=1, description="Failed attempts after which a message has failed.")
    retry_base_seconds: float = Field(
        2.0, gt=0, description="Wait after the first failure; doubles each time."
    )
    retry_most_seconds: float = Field(300.0, gt=0, description="Longest wait between two attempts.")
    circuit_failures: int = Field(
        5, ge=1, description="Failures in a row that open a tenant's circuit on a channel."
    )
    circuit_seconds: float = Field(30.0, gt=0, description="How long a provider that fails is left alone.")
    token_pause_seconds: float = Field(
        300.0, gt=0, description="How long a tenant whose token was refused is left alone."
    )
    day_limit_tx: int = Field(
        3000, ge=0, description="Messages about bookings a tenant sends in a local day."
    )
    day_limit_mk: int = Field(1500, ge=0, description="Promotions a tenant sends in a local day.")
    max_in_flight: int = Field(200, ge=1, description="Requests to providers at once.")
    max_in_flight_per_tenant: int = Field(
        40, ge=1, description="Of these for one tenant, so that a slow bot slows nobody else."
    )

    @field_validator("provider_base_url")
    @classmethod
    def _is_an_origin(cls, value: str | None) -> str | None:
        """Refuses what is not plainly `scheme://host[:port][/path]`."""
        if value is None or value == "":
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be http(s)://host[:port]")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must hold no user, password, query or fragment")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _is_safe(self) -> Self:
        if self.production and self.provider_base_url and not self.provider_base_url.startswith("https://"):
            raise ValueError("TURNOUT_PROVIDER_BASE_URL must be https:// with TURNOUT_ENV=production")
        if self.claim_seconds <= self.send_timeout_seconds:
            raise ValueError("TURNOUT_CLAIM_SECONDS must be longer than TURNOUT_SEND_TIMEOUT_SECONDS")
        return self

    def day_limit(self, queue: str) -> int:
        return self.day_limit_mk if queue == "mk" else self.day_limit_tx
