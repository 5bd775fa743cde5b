"""Finding the one JSON value in the text of a model: nothing is guessed, nothing is lost silently."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

# More than the 128,000 tokens that the most talkative models may write.
MOST_CHARACTERS = 300_000
_MOST_THOUGHT = 5_000_000
_MOST_STARTS = 50
# No answer is this deep; what is deeper would end in a RecursionError somewhere on its way.
_MOST_DEPTH = 32
_FENCE = re.compile(r"^```[A-Za-z0-9_-]*|```$")
# The marks at which the thoughts of a model end, whether or not an opening mark stands before them: chat templates
# write that one into the prompt. The answer begins after the last of them.
_TAGS = r"think|thinking|thoughts?|reasoning|reflection|analysis|scratchpad|inner_monologue|seed:think"
_THOUGHT_ENDS = re.compile(
    rf"</(?:{_TAGS})>|\[/(?:think|thinking|reasoning)\]|◁/think▷|<\|/think\|>|<\|?(?:end_of_thought|END_THINKING)\|?>"
    r"|<\|end_of_thinking\|>|(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final\b.{0,80}?<\|message\|>|<unused95>",
    re.IGNORECASE | re.DOTALL,
)
_MOST_DIGITS = 20
_NOTHING: Mapping[str, list[Any]] = MappingProxyType({})


class MalformedError(ValueError):
    """The text holds no usable JSON value; the message is the reason, `position` how far it was read."""

    position = 0


class _Invalid:
    """Stands where JSON has no value: NaN, Infinity, a number too large to be one."""

    def __repr__(self) -> str:
        return "an invalid number"


INVALID = _Invalid()


class Pairs(dict[str, Any]):
    """A JSON object that remembers which keys stood in it more than once, with all their values."""

    __slots__ = ("repeated",)
    repeated: Mapping[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Found:
    """A JSON object from a text; `closed` is false when the text broke off and only closed items are in it."""

    value: Pairs
    closed: bool = True
    why: str = ""


def find_object(text: str, keys: tuple[str, ...]) -> Found:
    """Find the one JSON object with `keys` in a model's text.

    Markdown fences, prose around it and thoughts before it are accepted, two different objects are not. A text that
    breaks off gives its closed items. Raises MalformedError, never anything else.
    """
    text = without_thoughts(text.lstrip("\ufeff")) if len(text) <= _MOST_THOUGHT else text
    if len(text) > MOST_CHARACTERS:
        raise MalformedError(f"the answer has {len(text)} characters, at most {MOST_CHARACTERS} are read")
    text = _FENCE.sub("", text.strip()).strip()
    if not text:
        raise MalformedError("the answer is empty")
    try:
        value = _loads(text)
    except MalformedError as error:
        return _embedded(text, keys, error)
    if not isinstance(value, Pairs):
        raise MalformedError(f"the answer is {_kind(value)}, not a JSON object")
    return Found(value)


def without_thoughts(text: str) -> str:
    """Return what stands after the last mark at which thoughts end; all of a text that is JSON from its start."""
    ends = [match.end() for match in _THOUGHT_ENDS.finditer(text)]
    if not ends or _is_json(text):
        return text
    return text[ends[-1] :]


def holds_invalid(value: Any) -> bool:
    """Report whether an item holds something JSON cannot: NaN, Infinity, a lone surrogate, a repeated key."""
    if value is INVALID:
        return True
    if isinstance(value, str):
        return not _encodable(value)
    if isinstance(value, dict):
        if getattr(value, "repeated", None):
            return True
        return any(not _encodable(key) or holds_invalid(inner) for key, inner in value.items())
    return isinstance(value, list) and any(map(holds_invalid, value))


def _embedded(text: str, keys: tuple[str, ...], error: MalformedError) -> Found:
    why = str(error)
    # An object at the very start that broke off need not be read again to know that.
    read = error.position if text[0] == "{" and not why.startswith("Extra data") else 0
    found = [value for value in _objects(text, read) if any(key in value for key in keys)]
    if found:
        if any(value != found[0] for value in found[1:]):
            raise MalformedError(f"the answer holds {len(found)} different JSON objects")
        return Found(found[0])
    broken = _closed_items(text)
    if broken is None:
        raise MalformedError(f"the answer is not JSON: {why}")
    return Found(broken, closed=False, why=why)


def _objects(text: str, wasted: int) -> Iterator[Pairs]:
    """Yield the complete objects in a text, outermost first, skipping what is inside of them.

    `wasted` is how much of an object at the start was read in vain before.
    """
    start, tries = text.find("{", 1 if wasted else 0), 0
    # What is read in vain is bounded, or the time would be quadratic.
    while start >= 0 and tries < _MOST_STARTS and wasted <= len(text) // 2:
        tries += 1
        try:
            value, end = _guarded(_DECODER.raw_decode, text, start)
        except MalformedError as error:
            end = start + 1
            wasted += max(error.position - start, 0)
        else:
            yield value
        start = text.find("{", end)


def _closed_items(text: str) -> Pairs | None:
    """Cut a broken text behind its last closed item (`{…}` inside a member of the outermost object)."""
    start = text.find("{")
    if start < 0:
        return None
    cut, closers = _last_item(text, start)
    if cut is None:
        return None
    try:
        value = _loads(text[start:cut] + closers)
    except MalformedError:
        return None
    return value if isinstance(value, Pairs) else None


_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]|"', re.DOTALL)


def _last_item(text: str, start: int) -> tuple[int | None, str]:
    stack: list[str] = []
    cut, closers = None, ""
    for match in _TOKEN.finditer(text, start):
        sign = match.group()
        if sign == '"':  # a string that never ends
            break
        if sign in "{[":
            stack.append("}" if sign == "{" else "]")
            if len(stack) > 8:  # no answer is this deep
                break
        elif sign in "}]":
            if not stack or stack.pop() != sign or not stack:
                break
            if len(stack) == 2:
                cut, closers = match.end(), stack[1] + stack[0]
    return cut, closers


def _is_json(text: str) -> bool:
    """Report whether a text is one JSON object: then a mark in it stands inside of a name or a definition."""
    if text.lstrip()[:1] != "{" or len(text) > MOST_CHARACTERS:
        return False
    try:
        _loads(text.strip())
    except MalformedError:
        return False
    return True


def _loads(text: str) -> Any:
    return _guarded(_DECODER.decode, text)


def _guarded(decode: Any, *arguments: Any) -> Any:
    try:
        value = decode(*arguments)
    except RecursionError:
        raise MalformedError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        malformed = MalformedError(f"{error.msg} at character {error.pos}")
        malformed.position = error.pos
        raise malformed from None
    if _too_deep(value):
        raise MalformedError("it is nested too deeply")
    return value


def _too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list | tuple) else []
    for _ in range(_MOST_DEPTH):
        containers = (inner.values() if isinstance(inner, dict) else inner for inner in level)
        level = [v for values in containers for v in values if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def _pairs(pairs: list[tuple[str, Any]]) -> Pairs:
    value = Pairs(pairs)
    value.repeated = _NOTHING
    if len(value) < len(pairs):
        values: dict[str, list[Any]] = {}
        for key, inner in pairs:
            values.setdefault(key, []).append(inner)
        value.repeated = {key: several for key, several in values.items() if len(several) > 1}
    return value


def _integer(digits: str) -> Any:
    return int(digits) if len(digits) <= _MOST_DIGITS else INVALID


def _number(digits: str) -> Any:
    number = float(digits)
    return number if abs(number) != float("inf") else INVALID


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}.get(type(value), "a number")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_pairs, parse_constant=lambda _: INVALID, parse_int=_integer, parse_float=_number
)
