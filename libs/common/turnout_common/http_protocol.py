"""HTTP on the socket, with an end to what a stranger may send before anything of ours looks at it.

uvicorn's fast parser keeps headers, trailers and chunk extensions of any size for any time (measured: 50 MB of headers
without an end took 100 MB). Here what is no body may take HEAD_BYTES, and the head of a request HEAD_SECONDS.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 10.0
_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """For uvicorn's option `http`."""

    _in_head = True
    _no_body_bytes = 0
    _head_limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._no_body_bytes += len(data)
        if self._in_head and self._head_limit is None:
            self._expect_head()
        super().data_received(data)
        if self._no_body_bytes > HEAD_BYTES and not self.transport.is_closing():
            if self._in_head:
                self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer: nobody here reads one
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._no_body_bytes = 0
        self._head_has_come()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._no_body_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head = True
        self._no_body_bytes = 0
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._head_limit = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _head_has_come(self) -> None:
        limit, self._head_limit = self._head_limit, None
        if limit is not None:
            limit.cancel()

    def _too_slow(self) -> None:
        self._head_limit = None
        self.transport.close()


#: What every server of ours is started with.
HTTP_OPTIONS: dict[str, Any] = {
    "http": BoundedHttp,
    "log_config": None,
    "access_log": False,
    "lifespan": "off",
    "server_header": False,
}
