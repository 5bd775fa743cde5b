"""The transport over the OpenAI SDK, for endpoints that need its ways; its own retries are off."""

from __future__ import annotations

import asyncio

import httpx2
import openai
import orjson

from segkit.llm import LostError, NotSentError, Response
from segkit.llm.http import described, require_key
from segkit.settings import Settings


class SdkTransport:
    """Posts through `AsyncOpenAI`, or through a client that the caller brings (Azure, a proxy of its own)."""

    def __init__(self, endpoint: str, settings: Settings, client: openai.AsyncOpenAI | None = None) -> None:
        self._deadline = settings.segkit_timeout_seconds
        self._client = client or _client(endpoint, settings)

    async def send(self, body: bytes) -> Response:
        try:
            async with asyncio.timeout(self._deadline):
                reply = await self._client.post(
                    "/chat/completions", cast_to=httpx2.Response, body=orjson.loads(body), options={"max_retries": 0}
                )
        except openai.APIStatusError as error:
            reply = error.response
        except TimeoutError:
            raise LostError(f"no whole answer within {self._deadline:g} s") from None
        except openai.APIConnectionError as error:
            raise _mapped(error) from None
        return Response(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, reply.content)

    async def close(self) -> None:
        await self._client.close()


def _client(endpoint: str, settings: Settings) -> openai.AsyncOpenAI:
    timeout = httpx2.Timeout(settings.segkit_timeout_seconds, connect=settings.segkit_connect_seconds)
    return openai.AsyncOpenAI(
        api_key=require_key(endpoint, settings) or "none",
        base_url=endpoint,
        organization=settings.openai_organization or None,
        project=settings.openai_project or None,
        max_retries=0,
        http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=timeout),
    )


def _mapped(error: openai.APIConnectionError) -> NotSentError | LostError:
    cause = error.__cause__ or error
    refused = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout | httpx2.ProxyError)
    return NotSentError(described(cause)) if refused else LostError(f"connection lost: {described(cause)}")
