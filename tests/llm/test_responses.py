"""What a response means: an answer, another try, a wait, a smaller question, or the end of the run."""

import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.llm.responses import NextStep, classify_response, wished_wait
from segkit.llm.transports.base import Response

STEPS = ("answer", "again", "wait", "cut", "stop")


def meant(status: int, body: Any = b"", **headers: str) -> NextStep:
    """The meaning of a response; a body that is no bytes is sent as JSON, `_` in a header is `-`."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_response(
        Response(status, {k.replace("_", "-"): v for k, v in headers.items()}, data), "gpt-4o", "api.test"
    )


def error(message: str = "no", **facts: Any) -> dict[str, Any]:
    return {"error": {"message": message, **facts}}


QUOTA = {
    "type": error(type="insufficient_quota"),
    "code": error(code="insufficient_quota"),
    "other code": error(type="insufficient_quota", code="credit_balance_exhausted"),
    "the reverse": error(code="insufficient_quota", type="credit_balance_exhausted"),
    "billing": error(code="billing_hard_limit_reached", type="invalid_request_error"),
    "in a list": [error(type="insufficient_quota")],
}


@pytest.mark.parametrize("body", QUOTA.values(), ids=QUOTA)
@pytest.mark.parametrize("status", [429, 403, 400, 200])
def test_no_credit_ends_the_run(status: int, body: Any) -> None:
    """No credit is told as such, under any status, type or code, and never tried again."""
    meaning = meant(status, body, retry_after="7")
    assert meaning.step == "stop"
    assert "no credit at api.test" in meaning.why
    assert "nothing is lost; top up, then resume" in meaning.hint


def test_payment_required_ends_the_run() -> None:
    """402 says the same without a word."""
    assert "no credit" in meant(402).why


RATE_LIMITS = {
    "openai": error(type="requests", code="rate_limit_exceeded"),
    "empty": b"",
    "text": b"slow down",
    "html": b"<html>Too many</html>",
    "half JSON": b'{"error": {"mess',
    "null error": {"error": None},
    "text error": {"error": "slow down"},
    "number": 5,
    "odd types": {"error": {"message": [1], "code": {"a": 1}, "type": 5}},
}


@pytest.mark.parametrize("body", RATE_LIMITS.values(), ids=RATE_LIMITS)
def test_a_rate_limit_waits(body: Any) -> None:
    """A 429 is a rate limit, with or without a JSON body."""
    assert meant(429, body, retry_after="7") == NextStep("wait", meant(429, body).why, wait=7.0)
    assert meant(429, body).wait is None
    assert "HTTP 429" in meant(429, body).why


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7 "}, 7),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "600"}, 600),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "3"}, 3),
        ({"retry-after-ms": "0", "retry-after": "3"}, 3),
        ({"retry-after-ms": "4000", "retry-after": "3"}, 3),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "6m0s"}, 0.02),
        ({"x-ratelimit-reset-requests": "0s", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset-tokens": "1s", "retry-after": "7"}, 1),
        ({"x-ratelimit-reset-tokens": "soon", "retry-after": "7"}, 7),
    ],
)
def test_a_wish_in_seconds_or_milliseconds(headers: dict[str, str], seconds: float) -> None:
    """Seconds, fractions and milliseconds; the smallest wish is honoured."""
    assert wished_wait(headers) == seconds


@pytest.mark.parametrize("zone", [UTC, None])
def test_a_wish_as_a_date_is_read_as_gmt(zone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP date is GMT wherever the computer stands."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        moment = (datetime.now(UTC) + timedelta(seconds=90)).replace(tzinfo=zone)
        text = format_datetime(moment, usegmt=zone is UTC)
        wait = wished_wait({"retry-after": text})
    finally:
        monkeypatch.undo()
        time.tzset()
    assert wait is not None
    assert 85 < wait <= 90


ABSURD = ["", " ", "0", "-1", "-0", "NaN", "nan", "inf", "Infinity", "1e400", "1e3", "1_0", "٧", "７", "0x10", "soon"]
ABSURD += [
    "9" * 400,
    "99999999999",
    "7 s",
    "7,5",
    "--",
    "Fri, 31 Dec 100000 23:59:59 GMT",
    "Fri, 31 Dec 1999 23:59:59 GMT",
]
ABSURD += [
    "Wed, 21 Oct 2099 07:28:00 GMT",
    "Wed, 99 Oct 2026 07:28:00 GMT",
    "Wed, 21 Oct 2026 07:28:00 +99999999",
    "\0",
]


@pytest.mark.parametrize("name", ["retry-after", "retry-after-ms", "x-ratelimit-reset-requests"])
@pytest.mark.parametrize("value", ABSURD)
def test_an_absurd_wish_is_none(name: str, value: str) -> None:
    """Zero, negative, past, not finite, beyond a year or garbage: the own back-off decides."""
    if (name, value) == ("retry-after-ms", "99999999999"):
        value = "9999999999999"
    assert wished_wait({name: value}) is None
    if name.startswith("retry"):
        assert meant(429, **{name.replace("-", "_"): value}) == NextStep("wait", "HTTP 429: (no text)")


@given(st.text() | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,7} [0-9:]{1,12} ([+-]\d{1,9}|GMT)\Z"))
def test_any_wish_is_a_sane_number_or_none(value: str) -> None:
    """Whatever a header holds, there is no crash, no negative wait and no endless one."""
    for name in ("retry-after", "x-ratelimit-reset-tokens"):
        wait = wished_wait({name: value})
        assert wait is None or 0 < wait < 366 * 24 * 3600


@pytest.mark.parametrize("status", [500, 502, 503, 504, 529, 599, 408, 409])
@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", {"error": {"message": "overloaded"}}])
def test_passing_trouble_is_tried_again(status: int, body: Any) -> None:
    """A server error, a timeout or a conflict is tried again, after the wished wait if there is one."""
    meaning = meant(status, body, retry_after="3")
    assert meaning.step == "again"
    assert meaning.wait == 3
    assert f"HTTP {status}" in meaning.why


def test_a_refused_key_says_where_it_is_read() -> None:
    """401 stops at once and names the variable, never its value."""
    meaning = meant(401, error("Incorrect API key provided", code="invalid_api_key"))
    assert meaning.step == "stop"
    assert "api.test refuses the API key" in meaning.why
    assert "OPENAI_API_KEY" in meaning.hint


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, error("Country not supported", code="unsupported_country_region_territory")),
        (403, error("no access", code="model_not_allowed")),
        (404, error("The model does not exist", code="model_not_found")),
        (404, b"<html>404</html>"),
    ],
)
def test_a_model_that_is_not_given(status: int, body: Any) -> None:
    """Stop at once, with the model's name and the endpoint's host."""
    meaning = meant(status, body)
    assert meaning.step == "stop"
    assert "'gpt-4o'" in meaning.why
    assert "api.test" in meaning.why
    assert "--model" in meaning.hint


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, error("This model's maximum context length is 8192 tokens", code="context_length_exceeded")),
        (400, error(type="context_length_exceeded")),
        (400, error("This model's maximum context length is 4096 tokens", code=400, type="BadRequestError")),
        (400, {"object": "error", "message": "This model's maximum context length is 4096 tokens", "code": 400}),
        (400, error(code="string_above_max_length")),
        (413, b"<html>Request Entity Too Large</html>"),
        (413, b""),
        (200, error(code="context_length_exceeded")),
    ],
)
def test_what_is_too_long_is_cut(status: int, body: Any) -> None:
    """A question that is too long is made smaller, however the server says so."""
    meaning = meant(status, body)
    assert (meaning.step, meaning.trouble) == ("cut", "too_long")


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_filtered_question_is_cut(code: str) -> None:
    """A filter that answers with an error is isolated like one that answers with a finish reason."""
    assert (meant(400, error(code=code)).step, meant(400, error(code=code)).trouble) == ("cut", "filtered")


@pytest.mark.parametrize("body", [error("Unrecognized request argument: foo"), b"bad", error("temperature")])
@pytest.mark.parametrize("status", [400, 422, 405, 451])
def test_another_refusal_ends_the_run_with_the_message(status: int, body: Any) -> None:
    """Asking the same again would not help; what the provider says is shown."""
    meaning = meant(status, body)
    assert meaning.step == "stop"
    assert (body.decode() if isinstance(body, bytes) else body["error"]["message"]) in meaning.why
    assert "nothing was paid" in meaning.hint


@pytest.mark.parametrize(
    "message", ["Invalid parameter: 'response_format' of type 'json_schema' is not supported", "unknown json_schema"]
)
def test_a_refused_response_format_names_the_flag(message: str) -> None:
    """The schema is never dropped silently; the user is told which flag to use."""
    meaning = meant(400, error(message))
    assert meaning.step == "stop"
    assert "--response-format json_object" in meaning.hint


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_with_its_target(status: int) -> None:
    """The target is told, on one line, and nobody goes there."""
    meaning = meant(status, location="https://elsewhere.test/v1\n[P_0] x")
    assert meaning.step == "stop"
    assert "https://elsewhere.test/v1 [P_0] x" in meaning.why
    assert "(nowhere)" in meant(status).why


@pytest.mark.parametrize(
    ("code", "step"),
    [
        (None, "again"),
        (500, "again"),
        ("503", "again"),
        ("server_error", "again"),
        (429, "wait"),
        (401, "stop"),
        (402, "stop"),
        (404, "stop"),
        ("model_not_found", "again"),
        (200, "again"),
        (4000, "again"),
        ([], "again"),
    ],
)
def test_an_error_inside_a_good_response(code: Any, step: str) -> None:
    """It is the provider's error, tried again only if its code says that it passes."""
    meaning = meant(200, error("broken", code=code))
    assert meaning.step == step
    assert "broken" in meaning.why


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"<!DOCTYPE html><html></html>", {"content_type": "text/html; charset=utf-8"}),
        (b"\n <html></html>", {}),
        (b"{}", {"content_type": "text/html"}),
    ],
)
def test_a_page_is_no_answer(body: bytes, headers: dict[str, str]) -> None:
    """A gateway's page is tried again, and the question is asked what stands behind the address."""
    meaning = meant(200, body, **headers)
    assert meaning.step == "again"
    assert "OpenAI-compatible" in meaning.hint


GOOD = {"choices": [{"message": {"content": "x"}}]}


@pytest.mark.parametrize(
    "body", [GOOD, {**GOOD, "error": None}, {**GOOD, "error": ""}, {**GOOD, "error": {}}, b"", b'{"choices": [', {}]
)
def test_anything_else_is_an_answer_to_be_read(body: Any) -> None:
    """What a 2xx holds was paid for, so it is logged and read, not judged here."""
    assert meant(200, body) == NextStep("answer")


@pytest.mark.parametrize("depth", [400, 900, 1000, 1020, 100_000])
@pytest.mark.parametrize("status", [400, 200, 429])
def test_a_deep_error_breaks_nothing(depth: int, status: int) -> None:
    """A message that is nested is no message, and no RecursionError."""
    body = b'{"error": {"message": ' + b"[" * depth + b"]" * depth + b"}}"
    assert meant(status, body).step in STEPS


def test_a_long_message_is_one_short_line() -> None:
    """What a provider says is shown on one line, cut."""
    why = meant(400, error("bad\n" * 5000)).why
    assert len(why) < 500
    assert "\n" not in why


@given(
    st.integers(100, 599),
    st.binary(max_size=50)
    | st.recursive(
        st.none() | st.integers() | st.text(max_size=9),
        lambda i: st.lists(i, max_size=3) | st.dictionaries(st.sampled_from(["error", "code", "type", "message"]), i),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
def test_any_response_has_a_meaning(status: int, body: bytes) -> None:
    """No response raises, and only a 2xx is an answer."""
    meaning = meant(status, body)
    assert meaning.step in STEPS
    assert meaning.step != "answer" or 200 <= status < 300
