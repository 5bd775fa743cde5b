"""The envelope of a chat completion: the request body, and the text and figures of what came back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import orjson

from segkit.core.models import STAGES, Parameters, Prompt, Usage
from segkit.core.prompts import END_OF_INSTRUCTIONS, split_instructions
from segkit.llm.meanings import meaning_of_finish
from segkit.llm.prices import read_usage
from segkit.llm.transports.choose import is_private

#: What trouble each meaning of a finish reason is; other meanings are none of the answer.
_TROUBLES = {
    "length": ("truncated", "the answer was cut at the limit of its length"),
    "too_long": ("truncated", "the answer was cut at the end of the context"),
    "filtered": ("filtered", "the answer was filtered"),
    "refused": ("refused", "the model refused"),
    "bad_answer": ("malformed", "the provider found the answer invalid"),
}
#: Where servers put the thoughts of a model, beside the answer.
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")


#: The names under which endpoints know the limit of an answer, the newer one first.
LIMIT_NAMES = ("max_completion_tokens", "max_tokens")
#: The largest limit that is ever derived.
LONGEST_ANSWER = 16_384
# Tokens of a category and of an item that answers hold at most, by stage; twice as much is allowed.
_OUTPUT_TOKENS = {
    "extract_taxonomy": (90, 30),
    "consolidate_taxonomy": (90, 20),
    "refine_assignments": (0, 35),
    "assign_products": (0, 30),
}
_GROWN = 4
_OPENAI_HOSTS = ("openai.com", "openai.azure.com", "cognitiveservices.azure.com", "services.ai.azure.com")
_NEW_NAME_HOSTS = ("groq.com", "x.ai", "cerebras.ai")
_NOT_AT_OPENAI = frozenset({"minLength", "maxLength"})
_THINKERS = re.compile(r"(?:^|/)o\d|gpt-5|gpt-oss|think|reason|deepseek-r|qwq|magistral|gemini-(?:2\.5|3)|grok-[34]")
_TOO_COMPLEX = re.compile(
    r"state|complex|too (?:large|many|deep|long|big)|enum|nest|limit|size|exceed", re.IGNORECASE
)
_SHORT_ENUM = 10
#: What hosts take of a schema, the first that fits: values of all enums, properties of all objects.
_SCHEMA_LIMITS = (("openai.azure.com", 1000, 100), ("", 1000, 5000))


@dataclass(frozen=True, slots=True)
class Completion:
    """The first choice of a completion: its text, why it ended, and the figures that came with it.

    `trouble` is empty, or one of `empty`, `truncated`, `filtered`, `refused`, `malformed`; `thought` says that the
    message holds thoughts of the model beside its text.
    """

    content: str = ""
    trouble: str = ""
    why: str = ""
    finish_reason: str | None = None
    model: str | None = None
    request_id: str | None = None
    usage: Usage = field(default_factory=Usage)
    thought: bool = False


@dataclass(frozen=True, slots=True)
class RequestShape:
    """How the requests of a run are worded for its endpoint; what the endpoint refuses by name is left out.

    `limits` are the names under which the limit of the output is sent, `ceiling` the largest limit that the endpoint
    takes, `without` the keywords of a schema that it does not know; `slim` drops long enums, and `grown` multiplies
    the derived limit, for models that think before they answer; `one_message` sends instructions as a part of the
    user's message, for models without a system message. `most_enum_values` and `most_properties` are what
    the provider takes of a schema.
    """

    limits: tuple[str, ...]
    ceiling: int | None = None
    most_enum_values: int = 1000
    most_properties: int = 5000
    without: frozenset[str] = frozenset()
    slim: bool = False
    stream: bool | None = False
    grown: int = 1
    one_message: bool = False

    def body(self, prompt: Prompt, stage: str, parameters: Parameters, items: int) -> dict[str, Any]:
        """Return the body of a request: the messages of the prompt, and how the answer is asked for."""
        messages = messages_of(prompt.text, one=self.one_message)
        body: dict[str, Any] = {"model": parameters.model, "messages": messages}
        if self.stream is not None:
            body["stream"] = self.stream
        if parameters.temperature is not None:
            body["temperature"] = parameters.temperature
        body |= dict.fromkeys(self.limits, self.output_limit(stage, parameters, items))
        body["response_format"] = {"type": parameters.response_format}
        if parameters.response_format == "json_schema" and self.has_too_many_properties(prompt, parameters):
            body["response_format"] = {"type": "json_object"}  # of a question that cannot be cut
        elif parameters.response_format == "json_schema":
            asked = {"name": stage, "strict": True, "schema": self._schema(prompt)}
            body["response_format"]["json_schema"] = asked
        return body

    def output_limit(self, stage: str, parameters: Parameters, items: int) -> int:
        """Return the most tokens that an answer may have: the user's limit, or one derived from the question."""
        if parameters.max_output_tokens:
            return parameters.max_output_tokens
        named, placed = _OUTPUT_TOKENS[stage]
        derived = (300 + 2 * (named * min(items, 25) + placed * items)) * self.grown
        return min(derived, LONGEST_ANSWER, self.ceiling or LONGEST_ANSWER)

    def adapted(self, parameter: str, text: str, keywords: tuple[str, ...], limit: int | None) -> RequestShape | None:
        """Return a shape without what an endpoint refused in these words; None where that is for the user to decide.

        `limit` is the derived limit of the request, None where the user has set it.
        """
        if parameter == "output_limit":
            return self._without_limit(text, limit)
        if parameter == "response_format" and set(keywords) - self.without:
            return replace(self, without=self.without | set(keywords))
        if parameter == "response_format" and _TOO_COMPLEX.search(text) and not self.slim:
            return replace(self, slim=True)
        if parameter == "system_message" and not self.one_message:
            return replace(self, one_message=True)
        if parameter == "stream" and self.stream is not None:
            return replace(self, stream=None)
        return None

    def as_facts(self) -> dict[str, Any]:
        """Return what was learned from refusals, as an event can hold it."""
        return {
            "limits": list(self.limits),
            "ceiling": self.ceiling,
            "without": sorted(self.without),
            "slim": self.slim,
            "stream": self.stream,
            "one_message": self.one_message,
        }

    def with_facts(self, facts: Mapping[str, Any]) -> RequestShape:
        """Return the shape with what an earlier stage of the run has learned."""
        learned = {**facts, "limits": tuple(facts["limits"]), "without": frozenset(facts["without"])}
        return replace(self, **learned)

    def grow(self) -> RequestShape | None:
        """Return a shape with a limit that leaves room for thoughts; None where it was grown already."""
        return replace(self, grown=_GROWN) if self.grown < _GROWN else None

    def _without_limit(self, text: str, limit: int | None) -> RequestShape | None:
        largest = max((n for n in map(int, re.findall(r"\d{3,7}", text)) if limit and 256 <= n < limit), default=None)
        if largest and re.search(r"most|maximum|large|exceed|less|range|greater|<|>", text):
            return replace(self, ceiling=largest)
        if limit is None and re.search(r"most|maximum|too large|exceed|less|range|greater", text):
            return None
        named = next((name for name in re.findall(r"max_(?:completion_)?tokens", text) if name in self.limits), "")
        refused = named or (self.limits[0] if self.limits else "")
        if not refused:
            return None
        if len(self.limits) > 1:
            return replace(self, limits=tuple(name for name in self.limits if name != refused))
        other = next(name for name in LIMIT_NAMES if name != refused)
        offered = re.search(rf"use \W?{other}", text, re.IGNORECASE) or refused == LIMIT_NAMES[0]
        return replace(self, limits=(other,) if offered else ())

    def has_too_many_properties(self, prompt: Prompt, parameters: Parameters) -> bool:
        """Report whether the provider would refuse the schema of a prompt: it takes a smaller question."""
        if parameters.response_format != "json_schema" or _ids(prompt) <= self.most_properties:
            return False
        return _count(prompt.schema)[1] > self.most_properties

    def _schema(self, prompt: Prompt) -> dict[str, Any]:
        """Return the schema of a prompt within the provider's limits: enums of categories are dropped first.

        Validation checks the ids whether the schema names them or not.
        """
        schema: dict[str, Any] = _trimmed(prompt.schema, self.without, _is_long if self.slim else None)
        if 2 * _ids(prompt) <= self.most_enum_values:
            return schema
        for dropped in (_is_of_categories, _is_long):
            if _count(schema)[0] > self.most_enum_values:
                schema = _trimmed(schema, frozenset(), dropped)
        return schema


def shape_for(model: str, endpoint: str, name: str = "") -> RequestShape:
    """Return the shape of requests to an endpoint, as far as its host tells; `name` is the user's for the limit."""
    host = urlsplit(endpoint).hostname or ""
    official = any(host == own or host.endswith(f".{own}") for own in _OPENAI_HOSTS)
    limits: tuple[str, ...] = LIMIT_NAMES[:1] if official or host.endswith(_NEW_NAME_HOSTS) else LIMIT_NAMES[1:]
    if is_private(host):
        limits = LIMIT_NAMES  # some servers know the one name only, and pass over the other
    grown = _GROWN if _THINKERS.search(model.lower()) else 1
    chosen = (name,) if name else limits
    _, values, properties = next(row for row in _SCHEMA_LIMITS if host.endswith(row[0]))
    without = _NOT_AT_OPENAI if official else frozenset()
    return RequestShape(chosen, without=without, grown=grown, most_enum_values=values, most_properties=properties)


def _trimmed(schema: Any, without: frozenset[str], dropped: Callable[[list[str]], bool] | None) -> Any:
    """Return a schema without some keywords, and without the enums that `dropped` marks."""
    if isinstance(schema, list):
        return [_trimmed(inner, without, dropped) for inner in schema]
    if not isinstance(schema, dict) or not (without or dropped):
        return schema
    kept = {n for n in schema if not (n in without or (dropped and n == "enum" and dropped(schema[n])))}
    return {
        name: {key: _trimmed(value, without, dropped) for key, value in inner.items()}
        if name in ("properties", "$defs")
        else _trimmed(inner, without, dropped)
        for name, inner in schema.items()
        if name in kept
    }


def _is_long(values: list[str]) -> bool:
    return len(values) > _SHORT_ENUM


def _is_of_categories(values: list[str]) -> bool:
    return _is_long(values) and not values[0].startswith("P_")


def _ids(prompt: Prompt) -> int:
    """Return a number of ids that the schema of a prompt does not exceed: quicker than to count them."""
    return prompt.text.count("\n[") + 20


def _count(schema: Any) -> tuple[int, int]:
    """Count the values of all enums and the properties of all objects in a schema."""
    if isinstance(schema, list):
        schema = dict(enumerate(schema))
    if not isinstance(schema, dict):
        return 0, 0
    enum, properties = schema.get("enum"), schema.get("properties")
    own = (
        len(enum) if isinstance(enum, list) else 0,
        len(properties) if isinstance(properties, dict) else 0,
    )
    inner = [_count(value) for value in schema.values()]
    return own[0] + sum(each[0] for each in inner), own[1] + sum(each[1] for each in inner)


def messages_of(prompt: str, *, one: bool = False) -> list[dict[str, str]]:
    """Return the messages of a prompt: its instructions as a system message, if it marks them, and the rest.

    As `one` message, the rest follows the instructions without the mark.
    """
    instructions, rest = split_instructions(prompt)
    if one or not instructions:
        return [{"role": "user", "content": instructions + rest}]
    return [{"role": "system", "content": instructions}, {"role": "user", "content": rest}]


def prompt_of(messages: Sequence[Mapping[str, str]]) -> str:
    """Return the prompt that was sent as some messages, with the mark behind its instructions."""
    return f"{END_OF_INSTRUCTIONS}\n".join(message["content"] for message in messages)


def read_completion(body: bytes) -> Completion:
    """Read a completion, whole or streamed; whatever the body holds, the result says it and nothing is raised."""
    try:
        envelope = read_envelope(body)
    except ValueError as error:
        return Completion(trouble="malformed", why=f"the response is not whole JSON: {error}")
    if not isinstance(envelope, dict):
        return Completion(trouble="malformed", why="the response is not a JSON object")
    facts: dict[str, Any] = {
        "model": _text(envelope.get("model")),
        "request_id": _text(envelope.get("id")),
        "usage": read_usage(envelope),
    }
    choice = first_choice(envelope)
    if choice is None:
        return Completion(trouble="empty", why="the response has no choices", **facts)
    return _chosen(choice, facts)


def read_envelope(body: bytes) -> Any:
    """Parse a body, or put the chunks of a streamed one together; raise ValueError where it is neither."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    if is_stream(body):
        return _joined_stream(body)
    # Half a surrogate pair or a huge number stops orjson, and yet the envelope may be sound.
    try:
        return json.loads(body.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_stream(body: bytes) -> bool:
    """Report whether a body is a stream of server-sent events, or of one JSON object a line."""
    start = body[:200].lstrip()
    return start.startswith((b"data:", b"event:", b"id:", b"retry:", b":")) or (
        start.startswith(b"{") and b"}\n{" in body.replace(b"\r\n", b"\n")[:100_000]
    )


def first_choice(envelope: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice with the lowest index, or None."""
    choices = envelope.get("choices")
    usable = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return min(usable, key=_index, default=None)


def _joined_stream(body: bytes) -> dict[str, Any]:
    """Join the chunks of a stream into the envelope that the same answer has without one."""
    envelope: dict[str, Any] = {}
    content: list[str] = []
    thoughts: list[str] = []
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant"}, "finish_reason": None}
    ended = False
    for line in body.decode("utf-8-sig", errors="replace").splitlines():
        text = line.strip().removeprefix("data:").strip() if not line.startswith("{") else line.strip()
        if text == "[DONE]":
            ended = True
        if not text.startswith("{"):
            continue
        chunk = json.loads(text)
        envelope |= {name: chunk[name] for name in ("id", "model", "usage", "error") if chunk.get(name)}
        ended |= chunk.get("done") is True  # the native stream of Ollama
        part = first_choice(chunk) or (chunk if isinstance(chunk.get("message"), dict) else {})
        delta = part.get("delta") or part.get("message") or {}
        if isinstance(delta, dict):
            content.append(_joined_parts(delta.get("content")))
            thoughts += [delta[name] for name in _THOUGHTS if isinstance(delta.get(name), str)]
        if reason := part.get("finish_reason") or part.get("done_reason"):
            choice["finish_reason"], ended = reason, True
        if isinstance(part.get("error"), dict):
            choice["error"] = part["error"]
    if not ended and "error" not in envelope and "error" not in choice:
        raise ValueError("the stream breaks off")
    choice["message"] |= {"content": "".join(content), "reasoning_content": "".join(thoughts)}
    return {**envelope, "choices": [choice]}


def _chosen(choice: dict[str, Any], facts: dict[str, Any]) -> Completion:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    reason = _text(choice.get("finish_reason"))
    content = _content(message)
    thought = any(message.get(name) for name in _THOUGHTS)
    facts |= {"finish_reason": reason, "content": content, "thought": thought}
    if refusal := _text(message.get("refusal")):
        return Completion(trouble="refused", why=f"the model refused: {refusal[:300]}", **facts)
    if trouble := _TROUBLES.get((reason and meaning_of_finish(reason)) or ""):
        return Completion(trouble=trouble[0], why=_cut_why(trouble[1], content, facts), **facts)
    if not content.strip():
        return Completion(trouble="empty", why=_empty_why(message), **facts)
    return Completion(**facts)


def _cut_why(why: str, content: str, facts: dict[str, Any]) -> str:
    """Say also where the tokens went, when the answer holds none of them."""
    if why.startswith("the answer was cut") and not content.strip():
        spent = facts["usage"].output
        return f"{why}: all {spent or 'of its'} tokens went into thoughts, none into the answer"
    return why


def _empty_why(message: dict[str, Any]) -> str:
    place = next((name for name in _THOUGHTS if message.get(name)), "")
    if not place:
        return "the answer is empty"
    return f"the answer is empty: all text stands in {place} (start the server without a reasoning parser)"


def _index(choice: dict[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _content(message: dict[str, Any]) -> str:
    """Return the text of a message; of calls of tools, only those named like a stage are an answer."""
    if content := _joined_parts(message.get("content")):
        return content
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict) and function.get("name") in STAGES:
            arguments = function.get("arguments")
            return arguments if isinstance(arguments, str) else ""
    parsed = message.get("parsed")
    return _as_text(parsed) if isinstance(parsed, dict) else ""


def _joined_parts(content: Any) -> str:
    """Return a content as text: a text, an object, a list of texts or of parts with a text."""
    if isinstance(content, str):
        return content
    if isinstance(content, dict):
        return _part(content) if content.get("type") in ("text", "output_text") else _as_text(content)
    if not isinstance(content, list):
        return ""
    texts = all(isinstance(part, str) for part in content)
    return "".join(content if texts else map(_part, content))


def _part(part: Any) -> str:
    if not isinstance(part, dict) or part.get("type") not in ("text", "output_text"):
        return ""
    text = part.get("text")
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def _as_text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text(value: Any) -> str | None:
    """Return a text that a log can hold, without half a surrogate pair."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
