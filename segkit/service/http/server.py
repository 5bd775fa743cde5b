"""`segkit serve` and `segkit token`: the service as a process, and who may use it."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from segkit.errors import SegkitError, SettingsError
from segkit.service.http.app import make_app
from segkit.service.http.middleware import is_loopback
from segkit.service.service import Service, opened
from segkit.service.tokens import TokenStore
from segkit.settings import Settings

_GRACE = 3  # seconds that open answers have when the service is stopped
_HEAD_SECONDS = 10.0  # that the head of a request may take
_STALLED_SECONDS = 60.0  # that an answer is kept of which the client takes nothing
_UNSENT = 4096  # bytes of an answer that a connection holds, beside those in the kernel
_MOST_CONNECTIONS = 10_000
_MOST_AT_ONCE = 128  # connections that are accepted at once
_SWITCH = 0.001  # seconds for which a thread may keep the event loop waiting


def serve(
    settings: Settings, host: str, port: int, tokens: Path | None, no_token: bool, runs_dir: Path, announce: Any
) -> None:
    """Answer requests until SIGTERM or SIGINT; the runs it started go on. `announce` receives the address.

    Raises SettingsError when the address cannot be used, or nobody would need a token.
    """
    if no_token and not is_loopback(host):
        what = f"--no-token on {host} would let anybody spend your money"
        raise SettingsError(what, "use --host 127.0.0.1, or tokens")
    if not no_token and tokens is None:
        raise SettingsError(
            "the service has no tokens",
            "segkit token create NAME, then --tokens FILE or SEGKIT_TOKENS; or, on this machine alone, --no-token",
        )
    with (
        _listening(host, port) as door,
        opened(settings, runs_dir, TokenStore(None if no_token else tokens)) as service,
    ):
        host, port = door.getsockname()[:2]
        WatchedProtocol.most = _most_connections()
        announce(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        _run(service, door)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named, asyncio sends each piece at once, and no answer waits 40 ms for a receipt.
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(1024)
    except OSError as error:
        what = f"cannot listen on {host}:{port}: {error.strerror or error}"
        raise SettingsError(what, "use another --host or --port") from None
    return door


def _most_connections() -> int:
    """Raise the limit of open files as far as permitted, and return how many of them connections may take.

    Half of them are kept for the service itself: strangers must not take what its runs need.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return _MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else min(_MOST_CONNECTIONS, soft // 2)


def _at_once(most: int) -> int:
    """Return how many connections are accepted before one of them is looked at; some rounds come before it is closed.

    By default they are 2048, and strangers who come all at once would take every descriptor.
    """
    return max(1, min(_MOST_AT_ONCE, most // 8))


def _run(service: Service, door: socket.socket) -> None:
    config = uvicorn.Config(
        make_app(service),
        http=WatchedProtocol,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        backlog=_at_once(WatchedProtocol.most),
        timeout_graceful_shutdown=_GRACE,
    )
    sys.setswitchinterval(_SWITCH)
    gc.freeze()  # a collection keeps the event loop waiting: it need not look at what was imported
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn handles them, and raises them again when it is done
        signal.signal(number, lambda *_: None)
    _Server(config, service).run(sockets=[door])
    if service.failure:
        raise SegkitError(service.failure, "restart the service; its log is SEGKIT_HOME/service/events.jsonl")


class _Server(uvicorn.Server):
    """Ends the open streams when it is asked to stop, so that it can."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._service.stopping.set()
        super().handle_exit(sig, frame)


class WatchedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which also closes connections that are idle, unread or too many.

    A connection that is found twice in a row without a request at work is closed: uvicorn itself would wait for ever
    for the rest of a head, so that anybody could take all connections there are.
    """

    most = _MOST_CONNECTIONS

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT)
        self._idle_after: object = None  # the last finished request at the previous check
        self._paused_at: float | None = None  # since when the client has taken nothing of an answer
        self._watch = self.loop.call_later(_HEAD_SECONDS, self._look)
        if len(self.connections) > self.most:
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._watch.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused_at = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._paused_at = None
        super().resume_writing()

    def _look(self) -> None:
        """Close the connection if nothing was asked since the previous check, or its answer is not read."""
        if self._paused_at is not None and self.loop.time() - self._paused_at > _STALLED_SECONDS:
            self.transport.abort()  # closing would wait until the client has read what is written
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self.cycle is self._idle_after:
            self.transport.close()
            return
        self._idle_after = self.cycle if is_idle else self
        self._watch = self.loop.call_later(_HEAD_SECONDS, self._look)
