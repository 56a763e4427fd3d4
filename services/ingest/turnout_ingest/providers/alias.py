"""`vkmax`, the old name of two channels: which of them a body is for is told by its shape.

In: the channel that a path names, and the body, not verified yet. Out: the channel whose provider and secrets are to
verify it, so that the alias lets nothing in that the channel itself would not.
"""

from __future__ import annotations

from turnout_common.events.values import Channel
from turnout_ingest.providers.provider import Refused, parse_json

VKMAX = "vkmax"


def resolve(channel: str, body: bytes) -> str:
    """The channel's own name. `vkmax` stays itself, which no provider has, where the body is neither's. Never raises."""
    if channel != VKMAX:
        return channel
    try:
        value = parse_json(body)
    except Refused:
        return channel
    if not isinstance(value, dict):
        return channel
    if "update_type" in value:
        return Channel.MAX.value
    return Channel.VK.value if "type" in value and "group_id" in value else channel
