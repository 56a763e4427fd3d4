"""The topics, read from `contracts/topics.yaml`, which is their one definition."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

INBOUND = "inbound_webhooks"
BOOKING_EVENTS = "booking_events"
OUTBOUND = "outbound_messages"
MESSAGE_EVENTS = "message_events"


@dataclass(frozen=True)
class TopicSpec:
    """One topic: who owns, writes and reads it, and how it is created."""

    name: str
    owner: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    key: str
    partitions: int
    description: str
    config: dict[str, str]
    event_types: tuple[str, ...] = field(default=())


def contracts_folder() -> Path:
    """The folder `contracts/`: inside the installed package, or at the repository's root in a checkout."""
    packaged = Path(str(files("turnout_common"))) / "contracts"
    return packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "contracts"


def load_topics() -> dict[str, TopicSpec]:
    """All topics by name. Raises KeyError naming what a topic lacks."""
    raw: dict[str, Any] = yaml.safe_load((contracts_folder() / "topics.yaml").read_text(encoding="utf-8"))
    return {
        name: TopicSpec(
            name=name,
            owner=spec["owner"],
            producers=tuple(spec["producers"]),
            consumers=tuple(spec["consumers"]),
            key=spec["key"],
            partitions=spec["partitions"],
            description=spec["description"],
            config={key: str(value) for key, value in spec["config"].items()},
            event_types=tuple(spec["event_types"]),
        )
        for name, spec in raw["topics"].items()
    }
