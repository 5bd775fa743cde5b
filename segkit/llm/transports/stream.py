"""An answer on its way: its bytes, its deadline, and the whole of one that comes in pieces."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import orjson

from segkit.llm.transports.base import LostError

MOST_BYTES = 20_000_000
#: Where servers put the thoughts of a model, beside the answer.
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
# A stream of nothing but keep-alive comments is waited for so many times as long as a silent one.
_ONLY_COMMENTS = 10
# Fields of a chunk that belong to the chunk and not to the answer.
_OF_CHUNKS = frozenset({"choices", "message", "object", "done", "done_reason", "type", "obfuscation"})


class IncomingAnswer:
    """What has come of one answer, and when more of it has to come.

    A whole answer has to be there within the seconds of its transport. One that streams may take any time, as long as
    it is never silent for so many seconds.
    """

    def __init__(self, number: int, seconds: float, timeout: asyncio.Timeout, heard: Callable[[int], None]) -> None:
        self.number, self.received, self.pieces = number, bytearray(), 0
        self._seconds, self._timeout, self._heard = seconds, timeout, heard
        self._streams: bool | None = None
        self._last_piece = time.monotonic()

    @property
    def waits(self) -> bool:
        """Whether nothing has come yet."""
        return not self.received

    def add(self, data: bytes) -> bool:
        """Take in more bytes, and return whether they are of a stream; raise LostError when they are too many."""
        self.received += data
        if len(self.received) > MOST_BYTES:
            raise LostError(f"the body exceeds {MOST_BYTES} bytes", bytes(self.received[:100_000]))
        if self._streams is None:
            self._streams = is_stream(bytes(self.received[:200]))
        if self._streams:
            self._count(data.count(b"data:") or data.count(b"}\n"))
        return self._streams

    def extend(self) -> None:
        """Allow the full time again, counted from now."""
        self._timeout.reschedule(asyncio.get_running_loop().time() + self._seconds)

    def lost(self) -> LostError:
        """Return the error of an answer that was not there in time."""
        silent = f"the stream was silent for {self._seconds:g} s after {self.pieces:,} tokens"
        message = silent if self._streams else f"no whole answer within {self._seconds:g} s"
        return LostError(message, bytes(self.received), timed_out=True)

    def _count(self, pieces: int) -> None:
        now = time.monotonic()
        if pieces:
            self.pieces, self._last_piece = self.pieces + pieces, now
            self._heard(pieces)
        if now - self._last_piece < _ONLY_COMMENTS * self._seconds:
            self.extend()


class Deadlines:
    """The deadlines of all answers that one transport waits for.

    A server with few places works on the requests in the order in which they came: while pieces of earlier answers
    come, a later one of which nothing came yet waits for its turn, and its time does not run.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._open: dict[int, IncomingAnswer] = {}
        self._number = 0
        self._extended = 0.0

    @asynccontextmanager
    async def answer(self, heard: Callable[[int], None]) -> AsyncIterator[IncomingAnswer]:
        """Wait in the block for one answer, of which `heard` receives the number of new pieces.

        Raises LostError when it is not there in time.
        """
        self._number += 1
        number = self._number
        try:
            async with asyncio.timeout(self._seconds) as timeout:
                incoming = self._open[number] = IncomingAnswer(number, self._seconds, timeout, heard)
                yield incoming
        except TimeoutError as error:
            if not timeout.expired():  # that of a connection
                raise
            raise incoming.lost() from error
        finally:
            self._open.pop(number, None)

    def take(self, incoming: IncomingAnswer, data: bytes) -> None:
        """Add bytes to an answer; where it streams, those behind it in the queue of the server get more time."""
        if incoming.add(data) and (now := time.monotonic()) - self._extended > self._seconds / 20:
            self._extended = now
            for other in self._open.values():
                if other.waits and other.number > incoming.number:
                    other.extend()


def nobody(pieces: int) -> None:
    """Hear nothing of the pieces of an answer."""


def is_stream(body: bytes) -> bool:
    """Report whether a body is a stream of server-sent events, or of one JSON object a line."""
    start = body[:200].lstrip()
    return start.startswith((b"data:", b"event:", b"id:", b"retry:", b"error:", b":")) or (
        start.startswith(b"{") and b"}\n{" in body.replace(b"\r\n", b"\n")[:100_000]
    )


def whole_body(body: bytes, *, ended: bool = True) -> bytes:
    """Return a body as it is without a stream: the chunks of one are joined, all else stays as it came.

    With `ended` a stream that breaks off stays as it came too. Without, what came of it is joined.
    """
    if not is_stream(body):
        return body
    try:
        envelope = joined_stream(body, ended=ended)
    except ValueError:
        return body
    try:
        return orjson.dumps(envelope)
    except TypeError:  # half a surrogate pair
        return json.dumps(envelope).encode()


def joined_stream(body: bytes, *, ended: bool = True) -> dict[str, Any]:
    """Join the chunks of a stream into the envelope that the same answer has without one.

    Raises ValueError for a chunk that is no JSON, and with `ended` for a stream without an end.
    """
    answer = _Joined()
    for line in body.decode("utf-8-sig", errors="replace").splitlines():
        try:
            answer.add(line)
        except ValueError:
            if ended:
                raise
    if ended and not answer.has_ended:
        raise ValueError("the stream breaks off")
    return answer.envelope()


def first_choice(envelope: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice with the lowest index, or None."""
    choices = envelope.get("choices")
    usable = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return min(usable, key=_index, default=None)


def joined_parts(content: Any) -> str:
    """Return a content as text: a text, an object, a list of texts or of parts with a text."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _part(content) if content.get("type") in ("text", "output_text") else as_text(content)
    if not isinstance(content, list):
        return ""
    texts = all(isinstance(part, str) for part in content)
    return "".join(content if texts else map(_part, content))


def as_text(value: Any) -> str:
    """Return a value as JSON."""
    return json.dumps(value, ensure_ascii=False)


class _Joined:
    """The envelope of a streamed answer, as far as its chunks have come."""

    def __init__(self) -> None:
        self.has_ended = False
        self._envelope: dict[str, Any] = {}
        self._choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        self._texts: dict[str, list[str]] = {"content": []}
        self._calls: dict[int, dict[str, Any]] = {}

    def add(self, line: str) -> None:
        """Take in one line of the stream; comments and the names of events say nothing."""
        field, _, text = line.strip().partition(":") if not line.startswith("{") else ("data", "", line)
        if text.strip() == "[DONE]":
            self.has_ended = True
        if field not in ("data", "error") or not text.strip().startswith("{"):
            return
        chunk = _parsed(text)
        chunk = chunk if field == "data" or "error" in chunk else {"error": chunk}  # llama.cpp
        self._envelope |= {n: value for n, value in chunk.items() if n not in _OF_CHUNKS and value is not None}
        self.has_ended |= chunk.get("done") is True or bool(chunk.get("error"))  # the native stream of Ollama
        part = first_choice(chunk) or (chunk if isinstance(chunk.get("message"), dict) else {})
        if _index(part) == 0:
            self._add_part(part)

    def envelope(self) -> dict[str, Any]:
        """Return what the chunks hold together."""
        message: dict[str, Any] = {"role": "assistant"}
        message |= {name: "".join(texts) for name, texts in self._texts.items()}
        if self._calls:
            message["tool_calls"] = [self._calls[number] for number in sorted(self._calls)]
        return {**self._envelope, "object": "chat.completion", "choices": [{**self._choice, "message": message}]}

    def _add_part(self, part: dict[str, Any]) -> None:
        delta = part.get("delta") or part.get("message") or {}
        if not isinstance(delta, dict):
            delta = {}
        self._texts["content"].append(joined_parts(delta.get("content", part.get("text"))))
        for name in (*THOUGHTS, "refusal"):
            if isinstance(delta.get(name), str):
                self._texts.setdefault(name, []).append(delta[name])
        for call in _calls(delta):
            self._add_call(call)
        if reason := part.get("finish_reason") or part.get("done_reason"):
            self._choice["finish_reason"], self.has_ended = reason, True
        if part.get("error"):
            self._choice["error"], self.has_ended = part["error"], True

    def _add_call(self, call: dict[str, Any]) -> None:
        """Add to the call of a tool, of which the first chunk has the name and all of them some of the arguments."""
        function = {"name": "", "arguments": ""}
        kept = self._calls.setdefault(_index(call), {"id": call.get("id"), "type": "function", "function": function})
        added = call.get("function")
        for name, value in added.items() if isinstance(added, dict) else ():
            if isinstance(value, str):
                kept["function"][name] = kept["function"].get(name, "") + value


def _calls(delta: dict[str, Any]) -> Iterator[dict[str, Any]]:
    calls = delta.get("tool_calls")
    yield from (call for call in (calls if isinstance(calls, list) else []) if isinstance(call, dict))
    if isinstance(delta.get("function_call"), dict):
        yield {"function": delta["function_call"]}


def _parsed(text: str) -> dict[str, Any]:
    try:
        chunk = orjson.loads(text)
    except orjson.JSONDecodeError:  # half a surrogate pair, or a huge number
        chunk = json.loads(text)
    return chunk if isinstance(chunk, dict) else {}


def _index(part: dict[str, Any]) -> int:
    index = part.get("index")
    return index if isinstance(index, int) else 0


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""
