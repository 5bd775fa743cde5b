"""The protocol of a transport: one request body in, one response or one of two errors out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Response:
    """What came back, whatever it is: the HTTP status, headers with names in lower case, the raw body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NotSentError(Exception):
    """The request surely did not reach a model: nothing was paid. `passing` says that waiting may help."""

    def __init__(self, message: str, *, passing: bool = True) -> None:
        super().__init__(message)
        self.passing = passing


class LostError(Exception):
    """The request was sent and no whole answer came back: it may have been paid. `partial` is what did come.

    `timed_out` says that the time was over, `idle` that the connection had been used before and that no byte came
    back: the server had closed it meanwhile.
    """

    def __init__(self, message: str, partial: bytes = b"", *, timed_out: bool = False, idle: bool = False) -> None:
        super().__init__(message)
        self.partial = partial
        self.timed_out = timed_out
        self.idle = idle


class Transport(Protocol):
    """Sends one request body to one path of one endpoint; it never retries and never redirects."""

    async def send(self, body: bytes, heard: Callable[[int], None], *, fresh: bool = False) -> Response:
        """Send a JSON body; raise NotSentError or LostError when there is no whole response.

        `heard` receives the number of pieces, about a token each, whenever more of a streamed answer came. A `fresh`
        connection is one that no request has used.
        """

    async def close(self) -> None:
        """Close connections."""
