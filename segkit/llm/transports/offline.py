"""The offline model as a transport."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson

from segkit.errors import SettingsError
from segkit.llm.transports.base import Response

# Raise it with every change that changes an answer: an endpoint is part of a cache key, so what an older version
# answered is never taken for an answer of this one.
VERSION = 5


def offline_endpoint() -> str:
    """Return the endpoint of the offline model, `offline@` and its version."""
    return f"offline@{VERSION}"


class OfflineTransport:
    """Answers requests with the offline model, in a thread so that progress goes on meanwhile.

    Raises SettingsError when the run was begun with another version of it: its batches would not agree.
    """

    def __init__(self, endpoint: str) -> None:
        if endpoint != offline_endpoint():
            raise SettingsError(
                f"the run was made with {endpoint}, this is {offline_endpoint()}, another version of it",
                "segkit run makes a new run",
            )

    async def send(self, body: bytes, heard: Callable[[int], None], *, fresh: bool = False) -> Response:
        return await asyncio.to_thread(_respond, body)

    async def close(self) -> None:
        pass


def _respond(body: bytes) -> Response:
    from segkit.llm.offline.model import answer

    prompt = "\n".join(message["content"] for message in orjson.loads(body)["messages"])
    content = answer(prompt)
    completion = {
        "id": "offline",
        "object": "chat.completion",
        "model": "offline",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": _tokens(prompt), "completion_tokens": _tokens(content)},
    }
    return Response(200, {"content-type": "application/json"}, orjson.dumps(completion))


def _tokens(text: str) -> int:
    """Estimate tokens as a quarter of the characters; the offline model reads words, not tokens."""
    return -(-len(text) // 4)
