"""Settings of ingest, and what makes it refuse to start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import Field

from turnout_common.settings import KeyedSettings


class IngestSettings(KeyedSettings):
    """What ingest needs to start. The strict modes are explained in docs/STRICT_MODES.md."""

    strict_webhook_signature: bool = Field(
        True, description="Refuse a webhook whose signature or secret is missing or wrong."
    )
    strict_tenant_config: bool = Field(
        True, description="Answer 401 for an unknown tenant or channel, as for a bad signature; off: 404."
    )
    strict_inbound_schema: bool = Field(
        True, description="Refuse a business fact with a field that the catalogue does not have."
    )
    max_body_bytes: int = Field(
        1024 * 1024, ge=1024, le=16 * 1024 * 1024, description="Size limit of a webhook's body."
    )
    #: A body of more items goes in parts of so many, each a commit: below 20 the largest body, of Meta's 2,000, would need
    #: more of them than there is time for before the answer, and would never be taken in.
    inbox_queue_items: int = Field(
        10_000, ge=20, description="Items that may wait for a commit; over it the answer is 503."
    )

    tenant_requests_per_second: float = Field(
        200.0,
        ge=0,
        description="Verified requests a second of one tenant, in the long run; over it 429, save for Cal.com, which does not send again; 0 = no limit.",
    )
    tenant_request_burst: int = Field(
        1000, ge=1, description="Verified requests that one tenant may send at once after a rest."
    )
    refusals_per_minute: int = Field(
        30,
        ge=0,
        description="Refused requests a minute from one address to one tenant's channel; over it 429 before the body is read, save for Cal.com; 0 = no limit.",
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder on a disk of its own life where webhooks of Cal.com, which never come again, wait while Postgres is away; unset: they are answered 503.",
    )
    spool_max_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="How much one process may spool; over it 503."
    )
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that share the port, for more than one processor core; the first takes 5 connections to Postgres, each further one 4.",
    )

    def start_faults(self) -> list[str]:
        modes = _strict_modes_off(self) if self.production else []
        return modes + _spool_faults(self.spool_dir) + super().start_faults()


def _spool_faults(folder: Path | None) -> list[str]:
    if folder is None:
        return []
    if sys.platform == "win32":
        return [
            "TURNOUT_SPOOL_DIR: there is no spool on Windows, whose file locks are of another kind: leave it unset"
        ]
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    except OSError:
        usable = False
    return [] if usable else [f"TURNOUT_SPOOL_DIR: {folder} cannot be written: make it this user's"]


def _strict_modes_off(settings: IngestSettings) -> list[str]:
    return [
        f"TURNOUT_{name.upper()}=false is refused with TURNOUT_ENV=production: set it to true or leave it unset"
        for name in ("strict_webhook_signature", "strict_tenant_config", "strict_inbound_schema")
        if not getattr(settings, name)
    ]
