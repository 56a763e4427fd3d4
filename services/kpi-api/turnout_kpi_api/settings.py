"""Settings of kpi-api."""

from __future__ import annotations

import ipaddress

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from turnout_common.settings import ServiceSettings


class KpiApiSettings(ServiceSettings):
    """What kpi-api needs to start. Refuses to leave tokens out where strangers could reach it."""

    # A refused start prints its reason, and the DSN is part of the input.
    model_config = SettingsConfigDict(hide_input_in_errors=True)

    require_token: bool | None = Field(
        None,
        description="Ask for a token for the demo tenant too. Unset: yes, except in development on loopback.",
    )
    kpi_pool_size: int = Field(6, ge=2, le=20, description="Postgres connections of kpi-api.")

    @property
    def demo_is_open(self) -> bool:
        """Whether the demo tenant is answered without a token; no other tenant ever is."""
        return self._protected and self.require_token is not True

    @property
    def _protected(self) -> bool:
        return not self.production and is_loopback(self.http_host)

    @model_validator(mode="after")
    def _refuse_open_doors(self) -> KpiApiSettings:
        if self.require_token is False and not self._protected:
            raise ValueError(
                "TURNOUT_REQUIRE_TOKEN=false is for TURNOUT_ENV=development on a loopback address only; "
                "leave it unset, and use a token (`turnout tenant token create`)"
            )
        return self


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
