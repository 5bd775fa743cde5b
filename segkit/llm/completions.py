"""The envelope of a chat completion: the request body, and the text and figures of what came back."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import orjson

from segkit.core.models import STAGES, Prompt, Usage


@dataclass(frozen=True, slots=True)
class Completion:
    """The first choice of a completion: its text, why it ended, and what the server told about it.

    `trouble` is empty, or one of `empty`, `truncated`, `filtered`, `refused`, `malformed`.
    """

    content: str = ""
    trouble: str = ""
    why: str = ""
    finish_reason: str | None = None
    model: str | None = None
    request_id: str | None = None
    usage: Usage = field(default_factory=Usage)


def request_body(
    asking: Prompt, stage: str, model: str, temperature: float | None, response_format: str, most_tokens: int | None
) -> dict[str, Any]:
    """Make the body of a request: the prompt as one user message, and how the answer is asked for."""
    body: dict[str, Any] = {"model": model, "messages": user_messages(asking.text)}
    if temperature is not None:
        body["temperature"] = temperature
    if most_tokens is not None:
        body["max_completion_tokens"] = most_tokens
    body["response_format"] = {"type": response_format}
    if response_format == "json_schema":
        body["response_format"]["json_schema"] = {"name": stage, "strict": True, "schema": asking.schema}
    return body


def user_messages(prompt: str) -> list[dict[str, str]]:
    """Put a prompt into the one message that a request has."""
    return [{"role": "user", "content": prompt}]


def read_completion(body: bytes) -> Completion:
    """Read a completion; whatever the body holds, the result says it and nothing is raised."""
    try:
        envelope = _envelope(body)
    except ValueError as error:
        return Completion(trouble="malformed", why=f"the response is not whole JSON: {error}")
    if not isinstance(envelope, dict):
        return Completion(trouble="malformed", why="the response is not a JSON object")
    told: dict[str, Any] = {
        "model": _text(envelope.get("model")),
        "request_id": _text(envelope.get("id")),
        "usage": _usage(envelope.get("usage")),
    }
    choice = _first_choice(envelope.get("choices"))
    if choice is None:
        return Completion(trouble="empty", why="the response has no choices", **told)
    return _chosen(choice, told)


def _envelope(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    # Half a surrogate pair or a huge number stops orjson, and yet the envelope may be sound.
    try:
        return json.loads(body.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _chosen(choice: dict[str, Any], told: dict[str, Any]) -> Completion:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    reason = _text(choice.get("finish_reason"))
    content = _content(message)
    told |= {"finish_reason": reason, "content": content}
    if refusal := _text(message.get("refusal")):
        return Completion(trouble="refused", why=f"the model refused: {refusal[:300]}", **told)
    if reason == "content_filter":
        return Completion(trouble="filtered", why="the answer was filtered", **told)
    if reason == "length":
        return Completion(trouble="truncated", why="the answer was cut at the limit of its length", **told)
    if not content.strip():
        return Completion(trouble="empty", why="the answer is empty", **told)
    return Completion(**told)


def _first_choice(choices: Any) -> dict[str, Any] | None:
    usable = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return min(usable, key=_index, default=None)


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _content(message: dict[str, Any]) -> str:
    """Join the text of a message; of tool calls, only those named like a stage are an answer."""
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text")]
        content = "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    if isinstance(content, str) and content:
        return content
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and function.get("name") in STAGES:
            arguments = function.get("arguments")
            return arguments if isinstance(arguments, str) else ""
    return ""


def _usage(told: Any) -> Usage:
    if not isinstance(told, dict):
        return Usage()
    prompt, answer = told.get("prompt_tokens_details"), told.get("completion_tokens_details")
    return Usage(
        input=_count(told.get("prompt_tokens")),
        cached=_count(prompt.get("cached_tokens")) if isinstance(prompt, dict) else None,
        output=_count(told.get("completion_tokens")),
        reasoning=_count(answer.get("reasoning_tokens")) if isinstance(answer, dict) else None,
    )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _text(value: Any) -> str | None:
    """Give a text that a log can hold, without half a surrogate pair."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
