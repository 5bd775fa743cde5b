"""What a response means for the next step: an answer, another try, a smaller question, or the end of the run."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from segkit.core.text import one_line
from segkit.llm.transports.base import Response

Step = Literal["answer", "again", "wait", "cut", "stop"]

_QUOTA = {"insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached", "billing_not_active"}
_TOO_LONG = {"context_length_exceeded", "string_above_max_length", "request_too_large", "max_tokens_exceeded"}
_FILTERED = {"content_filter", "content_policy_violation", "responsible_ai_policy_violation"}
_YEAR = 366 * 24 * 3600
_WISHES = {"retry-after-ms": 0.001, "retry-after": 1.0}  # and their unit in seconds
_RESETS = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_SPAN = re.compile(r"(?=.)(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class NextStep:
    """The next step after a response, why, and how many seconds the server asks to wait (None: it does not say).

    `trouble` is `too_long` or `filtered` where the step is to cut.
    """

    step: Step
    why: str = ""
    hint: str = ""
    wait: float | None = None
    trouble: str = ""


def classify_response(response: Response, model: str, host: str) -> NextStep:
    """Sort a response by its status, and by the type and the code of its error."""
    error = _error(response.body)
    told = _told(error, response)
    names = {name for name in (error.get("code"), error.get("type")) if isinstance(name, str)}
    status = response.status
    if 200 <= status < 300:
        if not error:
            return _good(response)
        told, status = f"HTTP {status} with an error inside: {told}", _status_inside(error)
    if 300 <= status < 400:
        target = response.headers.get("location", "(nowhere)")
        return NextStep(
            "stop", f"{host} redirects to {one_line(target, 200)}", "set OPENAI_BASE_URL to the final address"
        )
    if names & _QUOTA or status == 402:
        return NextStep("stop", f"no credit at {host}: {told}", "nothing is lost; top up, then resume")
    if status == 429:
        return NextStep("wait", f"HTTP 429: {told}", wait=wished_wait(response.headers))
    if names & _TOO_LONG or status == 413 or "maximum context length" in told:
        return NextStep("cut", f"too long: {told}", trouble="too_long")
    if names & _FILTERED:
        return NextStep("cut", f"filtered: {told}", trouble="filtered")
    if status in (408, 409) or status >= 500:
        return NextStep("again", f"HTTP {status}: {told}", wait=wished_wait(response.headers))
    return NextStep("stop", *_refusal(status, told, names, model, host))


def wished_wait(headers: Mapping[str, str]) -> float | None:
    """Read how long the server wishes to be left alone; of several wishes the smallest.

    They are `retry-after-ms`, `Retry-After` in seconds or as a date, and the `x-ratelimit-reset-…` of requests and
    tokens (`6m0s`, `20ms`). What is absurd (negative, not finite, beyond a year, garbage) is no wish.
    """
    given = {name: headers.get(name, "").strip() for name in (*_WISHES, *_RESETS)}
    wishes = [_seconds(given[name], unit) for name, unit in _WISHES.items()]
    wishes += [_span(given[name]) for name in _RESETS]
    return min((seconds for seconds in wishes if seconds is not None and 0 < seconds < _YEAR), default=None)


def _good(response: Response) -> NextStep:
    if "html" in response.headers.get("content-type", "") or response.body.lstrip()[:1] == b"<":
        return NextStep("again", "HTTP 200 with a page instead of JSON", "is this an OpenAI-compatible endpoint?")
    return NextStep("answer")


def _refusal(status: int, told: str, names: set[str], model: str, host: str) -> tuple[str, str]:
    if status == 401:
        return f"{host} refuses the API key: {told}", "the key is read from OPENAI_API_KEY; set it, then resume"
    if status in (403, 404):
        return f"{host} does not give model {model!r} (HTTP {status}): {told}", "check --model and OPENAI_BASE_URL"
    if "response_format" in told or "json_schema" in told or "response_format" in names:
        return f"{host} refuses the response format: {told}", "start with --response-format json_object or text"
    return f"{host} refuses the request (HTTP {status}): {told}", "nothing was paid for it"


def _error(body: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(value, list) and value:  # some gateways wrap the object in a list
        value = value[0]
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, str) and error:
        return {"message": error}
    return error if isinstance(error, dict) else {}


def _status_inside(error: dict[str, Any]) -> int:
    """Give the status that an error inside a good response means: its code, or a passing trouble of the server."""
    code = str(error.get("code"))[:4]
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def _told(error: dict[str, Any], response: Response) -> str:
    text = error.get("message")
    text = text if isinstance(text, str) and text else response.body[:2000].decode(errors="replace")
    return one_line(text, 300) or "(no text)"


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
