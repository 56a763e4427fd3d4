"""Out to the clients: one file a channel. A new one is written beside telegram.py and named in ADAPTERS."""

from collections.abc import Mapping

from turnout_common.events import Channel
from turnout_sender.channels.port import Adapter
from turnout_sender.channels.telegram import Telegram

#: In the order in which a client's channels are preferred.
ADAPTERS: Mapping[Channel, Adapter] = {adapter.channel: adapter for adapter in (Telegram(),)}
