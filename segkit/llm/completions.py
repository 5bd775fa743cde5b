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
from segkit.llm.transports.decisions import read_decision
from segkit.llm.transports.stream import THOUGHTS, as_text, first_choice, is_stream, joined_parts, joined_stream

#: What trouble each meaning of a finish reason is; other meanings are none of the answer.
_TROUBLES = {
    "length": ("truncated", "the answer was cut at the limit of its length"),
    "too_long": ("truncated", "the answer was cut at the end of the context"),
    "filtered": ("filtered", "the answer was filtered"),
    "refused": ("refused", "the model refused"),
    "bad_answer": ("malformed", "the provider found the answer invalid"),
}

#: The fields of a request that hold the prompt: of chat completions, and of decisions.
PROMPT_FIELDS = ("messages", "input")
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
    the provider takes of a schema. With `stream` the answer comes in pieces; `no_field` names which of `stream`
    and `stream_options` the endpoint does not know.
    """

    limits: tuple[str, ...]
    ceiling: int | None = None
    most_enum_values: int = 1000
    most_properties: int = 5000
    without: frozenset[str] = frozenset()
    slim: bool = False
    stream: bool = False
    no_field: frozenset[str] = frozenset()
    grown: int = 1
    one_message: bool = False

    def body(self, prompt: Prompt, stage: str, parameters: Parameters, items: int) -> dict[str, Any]:
        """Return the body of a request: the messages of the prompt, and how the answer is asked for."""
        messages = messages_of(prompt.text, one=self.one_message)
        body: dict[str, Any] = {"model": parameters.model, "messages": messages}
        body |= self._streaming()
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
        if parameter == "stream" and (fields := self._streaming()):
            refused = "stream_options" if "stream_options" in text and "stream_options" in fields else "stream"
            return replace(self, no_field=self.no_field | {refused})
        return None

    def _streaming(self) -> dict[str, Any]:
        """Return the fields that ask for an answer in pieces, or in one; without one, servers send it in one."""
        if "stream" in self.no_field:
            return {}
        if not self.stream or "stream_options" in self.no_field:
            return {"stream": self.stream}
        return {"stream": True, "stream_options": {"include_usage": True}}

    def as_facts(self) -> dict[str, Any]:
        """Return what was learned from refusals, as an event can hold it."""
        return {
            "limits": list(self.limits),
            "ceiling": self.ceiling,
            "without": sorted(self.without),
            "slim": self.slim,
            "one_message": self.one_message,
            "no_field": sorted(self.no_field),
        }

    def with_facts(self, facts: Mapping[str, Any]) -> RequestShape:
        """Return the shape with what an earlier stage of the run has learned."""
        refused = facts.get("no_field") or (["stream"] if facts.get("stream", False) is None else [])
        return replace(
            self,
            limits=tuple(facts["limits"]),
            ceiling=facts["ceiling"],
            without=frozenset(facts["without"]),
            slim=facts["slim"],
            one_message=bool(facts.get("one_message")),
            no_field=frozenset(refused),
        )

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


def shape_for(model: str, endpoint: str, name: str = "", stream: bool | None = None) -> RequestShape:
    """Return the shape of requests to an endpoint, as far as its host tells; `name` is the user's for the limit.

    `stream` is whether answers are asked for in pieces: where it is None, from this machine and private networks.
    """
    host = urlsplit(endpoint).hostname or ""
    official = any(host == own or host.endswith(f".{own}") for own in _OPENAI_HOSTS)
    limits: tuple[str, ...] = LIMIT_NAMES[:1] if official or host.endswith(_NEW_NAME_HOSTS) else LIMIT_NAMES[1:]
    if is_private(host):
        limits = LIMIT_NAMES  # some servers know the one name only, and pass over the other
    grown = _GROWN if _THINKERS.search(model.lower()) else 1
    chosen = (name,) if name else limits
    _, values, properties = next(row for row in _SCHEMA_LIMITS if host.endswith(row[0]))
    without = _NOT_AT_OPENAI if official else frozenset()
    return RequestShape(
        chosen,
        without=without,
        grown=grown,
        most_enum_values=values,
        most_properties=properties,
        stream=is_private(host) if stream is None else stream,
    )


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
    """Read a completion, whole or streamed, or the answer of a decision endpoint, as if a chat model had given it.

    Whatever the body holds, the result says it and nothing is raised.
    """
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
    if choice is None and "answers" in envelope:
        content, trouble, why = read_decision(envelope["answers"])
        return Completion(content, trouble, why, **facts)
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
        return joined_stream(body)
    # Half a surrogate pair or a huge number stops orjson, and yet the envelope may be sound.
    try:
        return json.loads(body.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _chosen(choice: dict[str, Any], facts: dict[str, Any]) -> Completion:
    message = choice.get("message")
    message = message if isinstance(message, dict) else {"content": choice.get("text")}
    reason = _text(choice.get("finish_reason"))
    content = _content(message)
    thought = any(message.get(name) for name in THOUGHTS)
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
    place = next((name for name in THOUGHTS if message.get(name)), "")
    if not place:
        return "the answer is empty"
    return f"the answer is empty: all text stands in {place} (start the server without a reasoning parser)"


def _content(message: dict[str, Any]) -> str:
    """Return the text of a message; of calls of tools, only those named like a stage are an answer."""
    if content := joined_parts(message.get("content")):
        return content
    calls = message.get("tool_calls")
    calls = calls if isinstance(calls, list) else []
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    for function in (*functions, message.get("function_call")):
        if isinstance(function, dict) and function.get("name") in STAGES:
            arguments = function.get("arguments")
            return arguments if isinstance(arguments, str) else ""
    parsed = message.get("parsed")
    return as_text(parsed) if isinstance(parsed, dict) else ""


def _text(value: Any) -> str | None:
    """Return a text that a log can hold, without half a surrogate pair."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else None
