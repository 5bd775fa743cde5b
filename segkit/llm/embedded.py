"""The embedded offline model behind the same door as every other: a request body in, a completion out."""

from __future__ import annotations

import asyncio

import orjson

from segkit.llm import Response
from segkit.llm.offline import answer


class EmbeddedTransport:
    """Answers requests with the offline model, in a thread so that progress goes on meanwhile."""

    async def send(self, body: bytes) -> Response:
        return await asyncio.to_thread(_respond, body)

    async def close(self) -> None:
        pass


def _respond(body: bytes) -> Response:
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
