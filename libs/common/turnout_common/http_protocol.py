"""HTTP on the socket, with an end to what a stranger may send before anything of ours looks at it.

uvicorn's fast parser keeps headers, trailers and chunk extensions of any size for any time (measured: 50 MB of headers
without an end took 100 MB). Here what is no body may take HEAD_BYTES, and the head of a request HEAD_SECONDS; the rest of
a body that was answered before its end may take REST_BYTES and REST_SECONDS, so that its sender can still read the
answer; and connections are counted, in all and by address.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from turnout_common import metrics
from turnout_common.client_address import Proxies, is_near, sender_of

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
REST_BYTES = 4 * 1024 * 1024
REST_SECONDS = 10.0
#: Longer than the proxies in front keep an idle connection (60 s as a rule), so that they close it and never meet a closed one.
IDLE_SECONDS = 75
_OF_ONE_CONNECTION = (b"connection", b"upgrade", b"http2-settings")
_TOO_MANY = b"HTTP/1.1 %s\r\nretry-after: 5\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class ConnectionLimits:
    """Counts the connections of one server. Near addresses, where proxies and colleagues are, count in all only."""

    def __init__(self, total: int, per_address: int, proxies: Proxies) -> None:
        self._total = total
        self._per_address = per_address
        self._proxies = proxies
        self._of: Counter[str] = Counter()
        self._all = 0

    def enter(self, address: str) -> bytes | None:
        """None where the connection may come; else what it is told. `leave` must follow only if it may."""
        if self._all >= self._total:
            metrics.CONNECTIONS_REFUSED.labels("total").inc()
            return _TOO_MANY % b"503 Service Unavailable"
        if (
            self._per_address
            and self._of[sender_of(address)] >= self._per_address
            and not self._is_ours(address)
        ):
            metrics.CONNECTIONS_REFUSED.labels("address").inc()
            return _TOO_MANY % b"429 Too Many Requests"
        self._all += 1
        self._of[sender_of(address)] += 1
        return None

    def leave(self, address: str) -> None:
        self._all -= 1
        sender = sender_of(address)
        self._of[sender] -= 1
        if not self._of[sender]:
            del self._of[sender]

    def _is_ours(self, address: str) -> bool:
        return is_near(address) or self._proxies.trusts(address)


class BoundedHttp(HttpToolsProtocol):
    """For uvicorn's option `http`; see `limited`."""

    limits: ClassVar[ConnectionLimits | None] = None
    _counted_as: str | None = None
    _in_head = True
    _no_body_bytes = 0
    _rest_bytes = 0
    _head_limit: asyncio.TimerHandle | None = None
    _rest_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.limits is not None and self.client is not None:
            refusal = self.limits.enter(self.client[0])
            if refusal is not None:
                transport.write(refusal)
                transport.close()
                return
            self._counted_as = self.client[0]
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.limits is not None and self._counted_as is not None:
            self.limits.leave(self._counted_as)
            self._counted_as = None
        self._head_has_come()
        self._rest_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._no_body_bytes += len(data)
        if self._in_head and self._head_limit is None:
            self._expect_head()
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")
        if self._no_body_bytes > HEAD_BYTES and not self.transport.is_closing():
            if self._in_head:
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer: nobody here reads one
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = False
        self._no_body_bytes = 0
        self._head_has_come()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._no_body_bytes = 0
        if self._rest_limit is not None:
            self._rest_bytes += len(body)
            if self._rest_bytes > REST_BYTES:
                self.transport.close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._in_head = True
        self._no_body_bytes = 0
        if self._rest_limit is not None:
            self._rest_has_come()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._in_head and not self.transport.is_closing():
            self._rest_limit = self.loop.call_later(REST_SECONDS, self.transport.close)

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Reads the request again as if it did not ask for another protocol, as RFC 9110 has it for one that we do not
        speak: the parser ends it with its head, and the body of a client that always asks (Java's) would be lost."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self.send_400_response("No proxy.")
            return
        closes = any(name == b"connection" and b"close" in value.lower() for name, value in self.headers)
        lines = [b"%s %s HTTP/1.1" % (method, self.url)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] not in _OF_ONE_CONNECTION]
        lines += [b"connection: close"] if closes else []
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(b"\r\n".join(lines) + b"\r\n\r\n" + rest)

    def _expect_head(self) -> None:
        self._head_limit = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _head_has_come(self) -> None:
        limit, self._head_limit = self._head_limit, None
        if limit is not None:
            limit.cancel()

    def _rest_has_come(self) -> None:
        limit, self._rest_limit = self._rest_limit, None
        self._rest_bytes = 0
        if limit is not None:
            limit.cancel()

    def _too_slow(self) -> None:
        self._head_limit = None
        self.transport.close()


def limited(limits: ConnectionLimits) -> type[BoundedHttp]:
    """The protocol of one server, whose connections are counted together."""
    return type("LimitedHttp", (BoundedHttp,), {"limits": limits})


#: What every server of ours is started with.
HTTP_OPTIONS: dict[str, Any] = {
    "http": BoundedHttp,
    "ws": "none",
    "timeout_keep_alive": IDLE_SECONDS,
    "proxy_headers": False,
    "log_config": None,
    "access_log": False,
    "lifespan": "off",
    "server_header": False,
}
