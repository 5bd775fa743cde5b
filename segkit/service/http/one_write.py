"""uvicorn's HTTP protocol, with head and body sent together, and an end to connections that ask nothing.

Sending is half of what a small answer costs.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HEAD_SECONDS = 10.0  # that the head of a request may take


class OneWriteProtocol(H11Protocol):
    """Gives uvicorn a transport that joins what is written in one turn of the loop: the head and the body.

    A connection that twice in a row is found without a request at work is closed: uvicorn itself would wait for ever
    for the rest of a head, so that anybody could take all connections there are.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_Joining(transport))  # type: ignore[arg-type]
        self._idle_after: object = None  # the request that was answered last when it was looked; at first none
        self._watch = self.loop.call_later(_HEAD_SECONDS, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        """Close the connection if nothing was asked since it was last looked at."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.cycle is self._idle_after:
            self.transport.close()
            return
        self._idle_after = self.cycle if idle else self
        self._watch = self.loop.call_later(_HEAD_SECONDS, self._look)


class _Joining:
    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def _send(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self._transport.is_closing():
            self._transport.write(b"".join(pieces))
