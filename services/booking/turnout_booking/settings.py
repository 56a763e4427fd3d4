"""Settings of booking."""

from __future__ import annotations

from pydantic import Field

from turnout_common.settings import ServiceSettings


class BookingSettings(ServiceSettings):
    """What booking needs besides what every service does."""

    http_port: int = Field(8601, ge=0, le=65535, description="Port to listen on.")
    booking_pool_size: int = Field(6, ge=3, le=20, description="Postgres connections of booking.")
    booking_upkeep_seconds: float = Field(
        30.0, gt=0, description="How often parked items, changed settings and partitions are looked after."
    )
