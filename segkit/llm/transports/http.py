"""The default transport: aiohttp to any OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from segkit.llm.transports.base import LostError, NotSentError, Response
from segkit.llm.transports.decisions import CHAT
from segkit.llm.transports.stream import Deadlines, nobody
from segkit.settings import Settings

#: Less than servers keep an idle connection: uvicorn and node close it after 5 seconds.
KEEP_ALIVE_SECONDS = 4.0
# No wait helps against these: an address that is none, a name that nobody knows, a certificate that is not trusted.
_HOPELESS = (aiohttp.InvalidURL, aiohttp.ClientConnectorDNSError, aiohttp.ClientConnectorCertificateError)


class HttpTransport:
    """Posts to a path of an endpoint, with a deadline for each answer and a cap on its size."""

    def __init__(self, endpoint: str, settings: Settings, key: str, path: str = CHAT) -> None:
        self._url = endpoint + path
        self._headers = _headers(key, settings)
        self._deadlines = Deadlines(settings.segkit_timeout_seconds)
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=settings.segkit_connect_seconds)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    async def send(self, body: bytes, heard: Callable[[int], None] = nobody, *, fresh: bool = False) -> Response:
        received = bytearray()
        status: int | None = None
        used: dict[str, bool] = {}
        try:
            async with self._deadlines.answer(heard) as incoming:
                received = incoming.received
                async with self._open(fresh).post(
                    self._url, data=body, headers=self._headers, allow_redirects=False, trace_request_ctx=used
                ) as reply:
                    status = reply.status
                    async for chunk in reply.content.iter_any():
                        self._deadlines.take(incoming, chunk)
                    return Response(status, {k.lower(): v for k, v in reply.headers.items()}, bytes(received))
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise NotSentError(described(error), passing=not isinstance(error, _HOPELESS)) from None
        except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
            where = "before the answer" if status is None else "in the middle of the answer"
            idle = status is None and used.get("reused", False)
            raise LostError(f"connection lost {where}: {described(error)}", bytes(received), idle=idle) from None

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _open(self, fresh: bool) -> aiohttp.ClientSession:
        # A session belongs to the loop it is made in, so it is made at the first question.
        if fresh not in self._sessions:
            kept: dict[str, Any] = {"force_close": True} if fresh else {"keepalive_timeout": KEEP_ALIVE_SECONDS}
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_note_reuse)
            self._sessions[fresh] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(), **kept),
                timeout=self._timeout,
                proxy=_proxy(self._url),
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
            )
        return self._sessions[fresh]


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
    context.trace_request_ctx["reused"] = True


def _proxy(url: str) -> str | None:
    """Find the proxy that the environment names; aiohttp would look for it, and into `.netrc`, at every request."""
    target = urlsplit(url)
    proxies = getproxies()
    named = proxies.get(target.scheme) or proxies.get("all")
    return None if proxy_bypass(target.hostname or "") else named


def described(error: BaseException) -> str:
    """Word an error of a library: its type, and its text where it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _headers(key: str, settings: Settings) -> dict[str, str]:
    optional = {
        "authorization": f"Bearer {key}" if key else "",
        "openai-organization": settings.openai_organization,
        "openai-project": settings.openai_project,
    }
    headers = {"content-type": "application/json", "accept": "application/json", "user-agent": "segkit"}
    return headers | {name: value for name, value in optional.items() if value}
