"""Whose request it is, when proxies of ours stand in front: in a connection's address and the headers, out an address.

Only a proxy that is named is believed, and of what it says only what it added itself: the last address of
`X-Forwarded-For` that is no proxy of ours. What stands before it the sender may have written.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

#: What a proxy adds; a request with one of them has come by a proxy.
FORWARDED = (
    b"x-forwarded-for",
    b"forwarded",
    b"x-real-ip",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"via",
)
UNKNOWN = "unknown"
LONGEST_CHAIN = 32


class Proxies:
    """The proxies whose word counts."""

    def __init__(self, networks: str) -> None:
        """`networks`: addresses or networks, comma-separated. Raises ValueError."""
        parts = [part.strip() for part in networks.split(",") if part.strip()]
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(part) for part in parts]
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    def _trusts(self, address: str) -> bool:
        """Whether `address` is a proxy of ours."""
        plain = _plain(address)
        if plain is None:
            return False
        return any(plain in network for network in self._networks if network.version == plain.version)

    def client(self, peer: str | None, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The address of whoever sent a request that came from `peer`."""
        if peer is None:
            return UNKNOWN
        if not self._networks or not self.trusts(peer):
            return peer
        chain = b",".join(value for name, value in headers if name == b"x-forwarded-for").split(b",")
        for part in reversed(chain[-LONGEST_CHAIN:]):
            address = part.strip().decode("latin-1")
            if _plain(address) is None:
                break
            if not self.trusts(address):
                return address
        return peer


@lru_cache(maxsize=4096)
def sender_of(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the 64 bits of an IPv6 one: under them each may take any address."""
    plain = _plain(address)
    return str(IPv6Network((plain, 64), strict=False)) if isinstance(plain, IPv6Address) else address


@lru_cache(maxsize=4096)
def is_near(address: str) -> bool:
    """Whether an address is of this machine or of a private network."""
    plain = _plain(address)
    return plain is not None and plain.is_private


def _plain(address: str) -> IPv4Address | IPv6Address | None:
    """An IPv4 address also where it comes as an IPv6 one, as on a socket that listens for both."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return parsed.ipv4_mapped or parsed if isinstance(parsed, IPv6Address) else parsed
