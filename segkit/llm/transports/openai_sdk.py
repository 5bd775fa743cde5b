"""The transport over the OpenAI SDK, for endpoints that need its ways; its own retries are off."""

from __future__ import annotations

import socket
from collections.abc import Callable

import httpx2
import openai
import orjson

from segkit.llm.transports.base import LostError, NotSentError, Response
from segkit.llm.transports.decisions import CHAT
from segkit.llm.transports.http import KEEP_ALIVE_SECONDS, described
from segkit.llm.transports.stream import Deadlines, IncomingAnswer, nobody
from segkit.settings import Settings

# With this header the SDK gives a reply whose body has not been read, so that its size can be limited.
_OPTIONS: openai.RequestOptions = {"max_retries": 0, "headers": {"x-stainless-raw-response": "stream"}}


class SdkTransport:
    """Posts through `AsyncOpenAI`, or through a client that the caller brings (Azure, a proxy of its own)."""

    def __init__(
        self,
        endpoint: str,
        settings: Settings,
        key: str,
        client: openai.AsyncOpenAI | None = None,
        *,
        path: str = CHAT,
    ) -> None:
        self._path = path
        self._deadline = settings.segkit_timeout_seconds
        self._deadlines = Deadlines(self._deadline)
        self._used = False
        self._client = client or open_client(endpoint, settings, key)
        # A client that the caller brings looks after its connections itself.
        self._once = self._client if client else open_client(endpoint, settings, key, keeps=False)

    async def send(self, body: bytes, heard: Callable[[int], None] = nobody, *, fresh: bool = False) -> Response:
        received = bytearray()
        try:
            async with self._deadlines.answer(heard) as incoming:
                received = incoming.received
                client = self._once if fresh else self._client
                reply = await client.post(
                    self._path, cast_to=httpx2.Response, body=orjson.loads(body), options=_OPTIONS
                )
                await self._receive(reply, incoming)
        except openai.APIStatusError as error:
            reply, received = error.response, bytearray(error.response.content)
        except openai.APIConnectionError as error:
            raise mapped_error(error, self._deadline, used=self._used and not fresh) from None
        except httpx2.HTTPError as error:
            raise LostError(f"connection lost in the answer: {described(error)}", bytes(received)) from None
        self._used = True
        return Response(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, bytes(received))

    async def _receive(self, reply: httpx2.Response, incoming: IncomingAnswer) -> None:
        try:
            async for chunk in reply.aiter_bytes():
                self._deadlines.take(incoming, chunk)
        finally:
            await reply.aclose()

    async def close(self) -> None:
        await self._client.close()
        await self._once.close()


def open_client(
    endpoint: str, settings: Settings, key: str, *, seconds: float | None = None, keeps: bool = True
) -> openai.AsyncOpenAI:
    """Return a client of the SDK that never retries, never redirects, and has no limit of its own on connections.

    `seconds` limits the silence of the server; None leaves all deadlines to the caller. Without `keeps`
    each request has a connection of its own.
    """
    timeout = httpx2.Timeout(seconds, connect=settings.segkit_connect_seconds)
    most = None if keeps else 0
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=most, keepalive_expiry=KEEP_ALIVE_SECONDS)
    return openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=endpoint,
        organization=settings.openai_organization or None,
        project=settings.openai_project or None,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout, limits=limits),
    )


def mapped_error(error: openai.APIConnectionError, deadline: float, *, used: bool) -> NotSentError | LostError:
    """Map an error of the SDK; httpx does not say whether a connection was reused, so any but the first may be."""
    cause = error.__cause__ or error
    if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError):
        return NotSentError(described(cause), passing=not isinstance(_root(cause), socket.gaierror))
    if isinstance(cause, httpx2.TimeoutException):
        return LostError(f"no whole answer within {deadline:g} s", timed_out=True)
    idle = used and isinstance(cause, httpx2.RemoteProtocolError | httpx2.ReadError | httpx2.WriteError)
    return LostError(f"connection lost: {described(cause)}", idle=idle)


def _root(error: BaseException) -> BaseException:
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error
