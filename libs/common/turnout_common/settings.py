"""Settings that every service shares; each service subclasses `ServiceSettings` with its own few.

Source: environment variables with the prefix `TURNOUT_` (docs: `.env.example`, which is generated from these classes).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from turnout_common.client_address import Proxies
from turnout_common.security import MasterKeys, SecretError, is_guessable, read_master_key

LEAST_PASSWORD = 12
#: Long enough, and known to everybody.
KNOWN_PASSWORDS = ("changemechangeme", "passwordpassword", "postgrespostgres")
#: Seconds: `transaction_timeout` of our roles (migrations/roles.sql).
LONGEST_TRANSACTION = 30


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

    def start_faults(self) -> list[str]:
        """Why the service must not start, one line each and without a secret; empty when it may."""
        if not self._dsn_is_readable():
            return [
                "TURNOUT_POSTGRES_DSN: not a URL: what is special in its password must be percent-encoded"
            ]
        if not self.production:
            return []
        faults = [f"TURNOUT_POSTGRES_DSN: {weak}"] if (weak := self.weak_postgres_password()) else []
        if self.recovery_age_seconds <= LONGEST_TRANSACTION:
            faults.append(
                f"TURNOUT_RECOVERY_AGE_SECONDS: more than {LONGEST_TRANSACTION} is needed in production, since a "
                "transaction may last that long and recovery would pass over what it commits"
            )
        return faults

    def _dsn_is_readable(self) -> bool:
        """Whether the whole password stands where one is looked for: the driver's words on the rest would show it."""
        try:
            parts = urlsplit(self.postgres_dsn.get_secret_value())
            parse_qs(parts.query, strict_parsing=bool(parts.query))
        except ValueError:
            return False
        return "@" not in parts.path + parts.fragment

    def weak_postgres_password(self) -> str | None:
        """What production has against the password in the DSN, in words. None in a DSN is well: there are certificates
        and .pgpass."""
        parts = urlsplit(self.postgres_dsn.get_secret_value())
        password = unquote(parts.password or "") or parse_qs(parts.query).get("password", [""])[0]
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


class KeyedSettings(ServiceSettings):
    """Of a service that seals or opens: it needs the master key."""

    def master_keys(self) -> MasterKeys:
        """The master key, during a rotation two. Raises SecretError, in production for a guessable one too; OSError or
        ValueError for an unusable file."""
        given = self.master_key.get_secret_value() if self.master_key is not None else None
        keys = read_master_key(given, self.master_key_file)
        if self.production and is_guessable(keys.newest):
            raise SecretError(
                "a default or guessable key is refused in production; make one with `openssl rand -base64 32`"
            )
        return keys

    def start_faults(self) -> list[str]:
        faults = super().start_faults()
        try:
            self.master_keys()
        except (SecretError, OSError, ValueError) as error:
            faults.append(f"TURNOUT_MASTER_KEY: {error}")
        return faults


AnySettings = TypeVar("AnySettings", bound=ServiceSettings)


def load_settings(kind: type[AnySettings]) -> AnySettings | list[str]:
    """The settings of the environment, or why the service must not start, one line each and without any value."""
    try:
        settings = kind()
    except ValidationError as error:
        return [_said(fault["loc"], fault["msg"]) for fault in error.errors()]
    return settings.start_faults() or settings


def _said(place: tuple[int | str, ...], message: str) -> str:
    """A rule over several settings has no place, and names them itself."""
    words = message.removeprefix("Value error, ")
    return f"TURNOUT_{'_'.join(map(str, place)).upper()}: {words}" if place else words
