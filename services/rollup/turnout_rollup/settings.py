"""Settings of rollup."""

from __future__ import annotations

from pydantic import Field

from turnout_common.settings import ServiceSettings


class RollupSettings(ServiceSettings):
    """What rollup needs to start."""

    rollup_pool_size: int = Field(5, ge=3, le=20, description="Postgres connections of rollup.")
