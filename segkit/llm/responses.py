"""What a response means for the next step: an answer, another try, a smaller question, or the end of the run."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from segkit.core.text import one_line
from segkit.llm.completions import read_envelope
from segkit.llm.meanings import (
    Meaning,
    asks_for_too_much,
    keywords_in,
    meaning_of_finish,
    meaning_of_names,
    meaning_of_text,
    parameter_of,
)
from segkit.llm.transports.base import Response
from segkit.llm.transports.stream import first_choice, is_stream

Step = Literal["answer", "again", "wait", "cut", "invalid", "stop"]
Money = Literal["paid", "unknown", "not_paid"]

_YEAR = 366 * 24 * 3600
_WISHES = {"retry-after-ms": 0.001, "retry-after": 1.0}  # and their unit in seconds
_RESETS = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_SPAN = re.compile(r"(?=.)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?", re.ASCII)


_NAME_KEYS = {"code", "type", "status", "reason", "error_type", "error_code", "__type", "errortype", "exception"}
_TEXT_KEYS = {
    "message",
    "msg",
    "error",
    "detail",
    "details",
    "description",
    "title",
    "raw",
    "error_message",
    "errors",
}
_MOST_NODES, _MOST_DEPTH = 200, 8
# A server that has a status of its own for these does not need to be understood.
_STATUSES: dict[int, Meaning] = {
    401: "no_key",
    402: "no_credit",
    403: "no_access",
    404: "no_access",
    408: "passing",
    409: "passing",
    413: "too_long",
    424: "passing",
    425: "passing",
    429: "wait",
    503: "passing",
}
# What a status of the server's own (500 and above) may still mean, when the error says so.
_BELIEVED = ("too_long", "filtered", "no_credit")
#: The option that mends the refusal of a field of the request, and what to say about it.
_REMEDIES = {
    "temperature": ("--temperature none", "leave the temperature out: --temperature none"),
    "response_format": (
        "--response-format json_object",
        "ask without a JSON schema: --response-format json_object or text",
    ),
    "json_word": (
        "--response-format text",
        "the prompt must contain the word JSON: use a prompt set that does, or --response-format text",
    ),
    "output_limit": ("--max-output-tokens N", "set another limit: --max-output-tokens, SEGKIT_MAX_OUTPUT_TOKENS"),
    "stream": ("", "ask another endpoint: this one refuses the field stream"),
    "system_message": ("", "use a prompt set without a line === DATA ===, such as --prompts v0"),
}


@dataclass(frozen=True, slots=True)
class NextStep:
    """The next step after a response, why, and how many seconds the server asks to wait (None: it does not say).

    `trouble` is `too_long`, `filtered` or `timeout` where the step is to cut, `bad_answer` where it is to correct.
    `parameter` and `keywords` name what an endpoint does not take, `option` is the option of `segkit resume` that
    mends it, `text` what the endpoint said. `unknown` marks a refusal that nobody understands, `idle` a connection
    that the server had closed, `down` an endpoint that is not there, `patient` one that will be there again (a model
    that loads), `page` an answer for people; `money` says whether the call was paid.
    """

    step: Step
    why: str = ""
    hint: str = ""
    wait: float | None = None
    trouble: str = ""
    option: str = ""
    parameter: str = ""
    keywords: tuple[str, ...] = ()
    unknown: bool = False
    idle: bool = False
    down: bool = field(default=False, compare=False)
    patient: bool = field(default=False, compare=False)
    page: bool = field(default=False, compare=False)
    money: Money = field(default="not_paid", compare=False)
    text: str = field(default="", compare=False)


@dataclass(slots=True)
class _Error:
    """What an error says, wherever it says it: its codes, its texts, the fields that it names."""

    names: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def classify_response(response: Response, model: str, host: str) -> NextStep:
    """Return what a response means, by its status and by the names and texts of its error, however deep."""
    status = response.status
    if 300 <= status < 400:
        target = response.headers.get("location", "(nowhere)")
        hint = "set OPENAI_BASE_URL to the final address"
        return NextStep("stop", f"{host} redirects to {one_line(target, 200)}", hint)
    good = 200 <= status < 300
    content, finish = _error_part(response, good)
    if good and not content:
        return _finished(finish) or _good(response)
    error = _read_error(content)
    said = one_line(error.text, 300) or one_line(response.body[:2000].decode(errors="replace"), 300) or "(no text)"
    if good:
        said, status = f"{said} (an error inside of HTTP {status})", _status_inside(error)
    return _step(status, _meaning(status, error), error, said, response, model, host)


def without_decisions(step: NextStep, status: int, host: str) -> NextStep:
    """Return the step after a request for decisions, with the way on where the endpoint does not take them."""
    if step.step != "stop" or status not in (404, 405):
        return step
    why = f"{host} does not take requests for decisions (HTTP {status}): {step.text or step.why}"
    return replace(step, why=why, hint="ask it through chat completions", option="--no-decisions")


def wished_wait(headers: Mapping[str, str]) -> float | None:
    """Read how long the server wishes to be left alone; of several wishes the smallest.

    They are `retry-after-ms`, `Retry-After` in seconds or as a date, and the `x-ratelimit-reset-…` of requests and
    tokens (`6m0s`, `20ms`). What is absurd (negative, not finite, beyond a year, garbage) is no wish.
    """
    given = {name: headers.get(name, "").strip() for name in (*_WISHES, *_RESETS)}
    wishes = [_seconds(given[name], unit) for name, unit in _WISHES.items()]
    wishes += [_span(given[name]) for name in _RESETS]
    return min((seconds for seconds in wishes if seconds is not None and 0 < seconds < _YEAR), default=None)


def _meaning(status: int, error: _Error) -> Meaning | None:
    """Return what an error means: credit first, then the status that needs no word, then names, then phrases."""
    named, worded = meaning_of_names(error.names), meaning_of_text(error.text)
    if named == "no_credit" or status == 402:
        return "no_credit"
    if status == 429:
        return "too_long" if asks_for_too_much(error.text) or named == "too_long" else "wait"
    if asks_for_too_much(error.text) and named == "wait":
        return "too_long"
    if status == 500 and parameter_of((), error.text) == "system_message":
        return "bad_parameter"  # llama.cpp says so of a chat template without one
    if status >= 500 or status in (408, 409):
        found = named if named in _BELIEVED else worded if worded in _BELIEVED and status == 500 else None
        return found or _STATUSES.get(status, "passing")
    if status == 401:
        return "no_key"
    if named in ("wait", "passing") and status not in (400, 422):
        return _STATUSES.get(status, named)
    # A vague name (`not_found`, `error`) says less than a sentence.
    exact = named if named not in ("passing", "no_access", "wait", "length", "bad_parameter") else None
    if worded == "too_long" and exact is None:
        return "too_long"
    return exact or (named if named == "bad_parameter" else None) or worded or named or _STATUSES.get(status)


def _step(
    status: int, meaning: Meaning | None, error: _Error, said: str, response: Response, model: str, host: str
) -> NextStep:
    wait = wished_wait(response.headers)
    money: Money = "unknown" if status in (408, 409) or status >= 500 else "not_paid"
    match meaning:
        case "no_credit":
            return NextStep("stop", f"no credit at {host}: {said}", "nothing is lost; top up, then resume")
        case "wait":
            return NextStep("wait", f"HTTP {status}: {said}", wait=wait, money=money)
        case "too_long" | "length":
            return NextStep("cut", f"too long: {said}", trouble="too_long", text=said)
        case "filtered" | "refused":
            return NextStep("cut", f"filtered: {said}", trouble="filtered", text=said)
        case "bad_answer":
            why = f"the provider found the answer invalid: {said}"
            return NextStep("invalid", why, trouble="bad_answer", money="unknown")
        case "passing":
            patient = status == 503 or meaning_of_names(error.names) == "wait"
            return NextStep(
                "again", f"HTTP {status}: {said}", wait=wait, patient=patient, down=status != 500, money=money
            )
        case "no_key":
            hint = "the key is read from OPENAI_API_KEY; set it, then resume"
            return NextStep("stop", f"{host} refuses the API key: {said}", hint)
        case "no_access":
            why = f"{host} does not give model {model!r} (HTTP {status}): {said}"
            hint = "check --model and OPENAI_BASE_URL; another address: --endpoint URL"
            return NextStep("stop", why, hint, text=said)
    return _refused(status, meaning, error, said, host)


def _refused(status: int, meaning: Meaning | None, error: _Error, said: str, host: str) -> NextStep:
    """Return the step after a request was refused for a field of it, or for a reason that nobody knows."""
    parameter = parameter_of(error.fields, error.text) if meaning == "bad_parameter" or error.fields else ""
    if not parameter:
        why = f"{host} refuses the request (HTTP {status}): {said}"
        return NextStep("stop", why, "nothing was paid for it", unknown=status in (400, 422), text=said)
    option, hint = _REMEDIES[parameter]
    what = {"response_format": "response format", "json_word": "prompt"}.get(parameter, parameter.replace("_", " "))
    return NextStep(
        "stop",
        f"{host} refuses the request (HTTP {status}) for its {what}: {said}",
        f"nothing was paid; {hint}",
        option=option,
        parameter=parameter,
        keywords=keywords_in(error.text),
        text=error.text,
    )


def _finished(finish: str) -> NextStep | None:
    """Return the step after an answer that ended because of the endpoint; None for every other end."""
    meaning = meaning_of_finish(finish) if finish else None
    if meaning not in ("passing", "wait"):
        return None
    return NextStep("again", f"HTTP 200 with the finish reason {one_line(finish, 80)!r}", money="unknown")


def _good(response: Response) -> NextStep:
    if "html" in response.headers.get("content-type", "") or response.body.lstrip()[:1] == b"<":
        hint = "is this an OpenAI-compatible endpoint?"
        return NextStep("again", "HTTP 200 with a page instead of JSON", hint, money="paid", page=True)
    return NextStep("answer", money="paid")


def _error_part(response: Response, good: bool) -> tuple[Any, str]:
    """Return the part of a body that is an error, and the finish reason of its first choice."""
    value = _parsed(response.body)
    if isinstance(value, list) and value and not good:  # some gateways wrap the object in a list
        value = value[0]
    if isinstance(value, list) and value and isinstance(value[0], dict) and "error" in value[0]:
        value = value[0]
    if not isinstance(value, dict):
        return (value if isinstance(value, str) and not good else None), ""
    if not good:
        return value, ""
    choice = first_choice(value) or {}
    message = choice.get("message")
    inside = message.get("error") if isinstance(message, dict) else None
    for error in (value.get("error"), choice.get("error"), inside):
        if (isinstance(error, dict) and error) or (isinstance(error, str) and error):
            return {"error": error}, ""
    reason = choice.get("finish_reason")
    return None, reason if isinstance(reason, str) else ""


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return read_envelope(body) if is_stream(body) else None
    except ValueError:
        return None


def _read_error(value: Any) -> _Error:
    """Collect names, texts and fields from an error, the innermost first: that is who said it."""
    found = _Error()
    nodes = list(_walk(value))
    for _, key, content in sorted(nodes, key=lambda node: -node[0]):
        if key in _NAME_KEYS and content is not None and not isinstance(content, dict | list | bool):
            found.names.append(str(content))
        elif key in ("param", "loc") and isinstance(content, str):
            found.fields.append(content)
        elif key in ("filtered", "flagged_input", "flagged"):
            found.names += ["content_filter"] if content not in (False, None, "", 0) else []
    texts = [content for _, key, content in nodes if key in _TEXT_KEYS and isinstance(content, str)]
    found.texts = [text for text in dict.fromkeys(texts) if text and not text.lstrip().startswith(("{", "["))]
    return found


def _walk(value: Any) -> Iterator[tuple[int, str, Any]]:
    """Return each value of an error with its depth and its key, also out of JSON that stands in a text."""
    waiting: list[tuple[int, str, Any]] = [(0, "error", value)]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        depth, key, content = waiting.pop(0)
        yield depth, key, content
        if isinstance(content, str) and depth < _MOST_DEPTH and content.lstrip().startswith(("{", "[")):
            inner = _parsed(content.encode(errors="replace"))
            waiting += [(depth + 1, key, inner)] if isinstance(inner, dict | list) else []
        elif isinstance(content, dict) and depth < _MOST_DEPTH:
            waiting += [(depth + 1, str(name).lower(), inner) for name, inner in content.items()]
        elif isinstance(content, list) and depth < _MOST_DEPTH:
            waiting += [(depth + 1, key, inner) for inner in content[:20]]


def _status_inside(error: _Error) -> int:
    """Return the status that an error inside a good response means: its code, or a passing trouble of the server."""
    codes = (name[:4] for name in error.names if re.fullmatch("[45][0-9][0-9]", name[:4]))
    meant = meaning_of_names(error.names)
    # A router says that one of its upstreams lacks the model: the next try may reach another.
    return int(next(codes, "500" if meant in (None, "no_access") else "400"))


def _span(text: str) -> float | None:
    """Read a time like `1h2m3.5s` or `20ms` in seconds."""
    found = _SPAN.fullmatch(text)
    if not found:
        return None
    hours, minutes, seconds, milliseconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000


def _seconds(value: str, unit: float) -> float | None:
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,12})?", value):
        return float(value) * unit
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime.now(UTC)).total_seconds()
