"""Settings that every service shares; each service subclasses `ServiceSettings` with its own few.

Source: environment variables with the prefix `TURNOUT_` (docs: `.env.example`, which is generated from these classes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from turnout_common.client_address import Proxies

LEAST_PASSWORD = 12
#: Long enough, and known to everybody.
KNOWN_PASSWORDS = ("changemechangeme", "passwordpassword", "postgrespostgres")


class ServiceSettings(BaseSettings):
    """What any service needs to start."""

    # A refused start must not print a DSN or a key.
    model_config = SettingsConfigDict(
        env_prefix="TURNOUT_", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    env: Literal["development", "production"] = Field(
        "production",
        description="`production` refuses weak settings at start; `development` is for loopback.",
    )
    postgres_dsn: SecretStr = Field(description="DSN of this service's own role.")
    kafka_bootstrap: str = Field(
        "127.0.0.1:9092", description="Bootstrap servers, host:port, comma-separated."
    )
    http_host: str = Field("127.0.0.1", description="Address to listen on.")
    http_port: int = Field(8600, ge=0, le=65535, description="Port to listen on.")
    max_connections: int = Field(4000, ge=1, description="HTTP connections at once; over it 503.")
    max_connections_per_address: int = Field(
        1000,
        ge=0,
        description="HTTP connections at once from one public address, which is no proxy named below; over it 429; 0 = no limit.",
    )
    trusted_proxies: str = Field(
        "",
        description="Proxies whose X-Forwarded-For is believed: addresses or networks, comma-separated.",
    )
    master_key: SecretStr | None = Field(
        None,
        description="Master key, 32 bytes in base64 (during a rotation the new one, a comma, the old one); or use the file.",
    )
    master_key_file: Path | None = Field(
        None, description="File with the master key in base64, read again when it was rotated."
    )
    topic_prefix: str = Field(
        "", description="Put before topic and group names, to share one Kafka in tests."
    )
    replica: str | None = Field(
        None,
        description="Name of this replica, the same after a restart and no other's: it takes its Kafka partitions back at once.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="Least level that is logged."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="`console` is for people, `json` for machines."
    )
    tenant_reload_seconds: float = Field(
        30.0,
        gt=0,
        description="How often tenant configuration is read again, for what Postgres did not tell: a change is told at once.",
    )
    recovery_age_seconds: float = Field(
        120.0, gt=0, description="Age from which a record without `applied` counts as missing."
    )
    recovery_interval_seconds: float = Field(60.0, gt=0, description="How often the recovery check runs.")
    recovery_republish_seconds: float = Field(
        600.0, gt=0, description="A missing record is published again at most this often."
    )
    stall_exit_seconds: float = Field(
        120.0, gt=0, description="Exit when lag grows and the position stands still for this long."
    )
    stop_seconds: float = Field(
        20.0, gt=0, description="A stop that has not ended by then is ended: nothing of ours needs it."
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _readable(cls, value: str) -> str:
        Proxies(value)
        return value

    @property
    def production(self) -> bool:
        return self.env == "production"

    def weak_postgres_password(self) -> str | None:
        """What production has against the password in the DSN, in words. None in a DSN is well: there are certificates
        and .pgpass."""
        parts = urlsplit(self.postgres_dsn.get_secret_value())
        password = unquote(parts.password or "")
        if not password:
            return None
        if password.lower() in (*KNOWN_PASSWORDS, (parts.username or "").lower()):
            return "a default password is refused in production"
        if len(password) < LEAST_PASSWORD:
            return f"a password of fewer than {LEAST_PASSWORD} characters is refused in production"
        return None

    def topic(self, name: str) -> str:
        """The topic's name on the broker."""
        return self.topic_prefix + name

    def group(self, name: str) -> str:
        """The consumer group's name on the broker."""
        return f"{self.topic_prefix}{name}"
