"""The table of faults: for each name, the function that turns a question into a wrong, slow or broken reply.

A fault takes a `Case` and its own keyword parameters and returns a `Reply`. Four families stand here: refusals with
a status, broken connections, replies whose envelope is odd, and answers that are spoiled. How a reply goes over the
wire (whole, cut, dripped, not at all) is only named here and done by the server.
"""

import inspect
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial, wraps
from http.client import responses
from random import Random
from typing import Any

import orjson
from endpoint_answers import (
    ASSIGN,
    CONSOLIDATE,
    EXTRACT,
    OUT_OF_SCOPE,
    REFINE,
    Question,
    answer_text,
    correct_answer,
    id_number,
)
from endpoint_decisions import decision, is_decision

MEGABYTE = 1 << 20
# Stands in an answer where raw text goes that no JSON writer would write, such as NaN.
RAW = "@raw@"


class NotApplicable(Exception):  # noqa: N818 (a signal to the server, not an error of the test)
    """The fault has no meaning for this question, such as a bad category name in a refine answer."""


@dataclass
class Reply:
    """What goes back over the wire; `delivery` names the way, `options` its numbers, `delay` seconds before it."""

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delivery: str = "whole"
    options: dict[str, Any] = field(default_factory=dict)
    delay: float = 0.0

    @cached_property
    def head(self) -> bytes:
        """The status line and the headers, with the length of the whole body even if less is sent."""
        reason = responses.get(self.status, "Unknown")
        fields = {"content-type": self.content_type, "content-length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} {reason}", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    @property
    def open_head(self) -> bytes:
        """The head of a body that never ends: it promises more than comes."""
        return replace(self, body=self.body + b" ").head

    @cached_property
    def wire(self) -> bytes:
        """Head and body, made once."""
        return self.head + self.body


@dataclass
class Case:
    """One request that a fault is applied to; `contains` is the text that chose it, `key` the key it came with."""

    question: Question
    n: int = 0
    port: int = 0
    contains: str | None = None
    key: str = ""
    request: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def answer(self) -> dict[str, Any]:
        """The right answer, this case's own to spoil."""
        answer = correct_answer(self.question)
        if answer is None:
            raise NotApplicable
        return answer

    @cached_property
    def text(self) -> str:
        """The right answer as the content of a message."""
        return answer_text(correct_answer(self.question))

    @property
    def target(self) -> str:
        """The id that a fault is about: the first whose title contains the chosen text, or the last one."""
        targets = self.question.targets(self.contains)
        if not targets:
            raise NotApplicable
        return targets[0]


Fault = Callable[..., Reply]
FAULTS: dict[str, Fault] = {}


def fault(name: str, **fixed: Any) -> Callable[[Fault], Fault]:
    """Put a function into the table under a name, with some of its parameters fixed."""

    def register(function: Fault) -> Fault:
        FAULTS[name] = partial(function, **fixed) if fixed else function
        return function

    return register


def make_trigger(
    name: str,
    *,
    stage: str | None = None,
    contains: str | None = None,
    times: int | None = 1,
    delay: float = 0.0,
    headers: dict[str, str] | None = None,
    **params: Any,
) -> dict[str, Any]:
    """Say which fault meets which requests: of a stage, with a text in the prompt, so many times (None: always).

    Raises ValueError for an unknown name and TypeError for a parameter that the fault does not have.
    """
    if name not in FAULTS:
        raise ValueError(f"no fault is named {name!r}; there are {', '.join(sorted(FAULTS))}")
    inspect.signature(FAULTS[name]).bind(None, **params)
    chosen = {"stage": stage, "contains": contains, "times": times, "delay": delay, "headers": headers or {}}
    return {"name": name, **chosen, "params": params}


# --- envelopes ----------------------------------------------------------------------------------------------


def envelope(case: Case, content: Any, finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A chat completion around a content, or the decision that says the same; further words go into the message."""
    if is_decision(case.request):
        return decision(case.question, case.request, content, message.get("refusal"))
    said = {"role": "assistant", "content": content, "refusal": None, **message}
    length = len(content) if isinstance(content, str) else 0
    return {
        "id": f"chatcmpl-fake-{case.n}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": case.question.model,
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish_reason}],
        "usage": usage(len(case.question.text), length),
        "system_fingerprint": "fp_fake",
    }


def usage(prompt_characters: int, completion_characters: int) -> dict[str, Any]:
    """Tokens at four characters each, rounded up; nothing is ever cached."""
    prompt, completion = -(-prompt_characters // 4), -(-completion_characters // 4)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def said(case: Case, content: Any, finish_reason: str = "stop", **message: Any) -> Reply:
    """A 200 reply with a chat completion."""
    return as_reply(envelope(case, content, finish_reason, **message))


def as_reply(body: Any, status: int = 200) -> Reply:
    """A JSON reply; json writes what orjson refuses (lone surrogates), but ten times slower."""
    try:
        return Reply(status, orjson.dumps(body))
    except TypeError:
        return Reply(status, json.dumps(body).encode())


@fault("ok")
def ok(case: Case) -> Reply:
    """The right answer, to let one request pass between two faults of the queue."""
    return said(case, case.text)


@fault("mistakes")
def mistakes(case: Case, share: float = 0.5) -> Reply:
    """A valid answer that puts a share of the products, drawn anew for each prompt, into another category."""
    answer, random = case.answer, Random(zlib.crc32(case.question.text.encode()))
    known = [local_id for local_id in case.question.lines if local_id.startswith("S_")]
    if case.question.stage == REFINE:
        answer["reassignments"] = [
            {
                "product": product,
                "category": random.choice([each for each in known if each != case.question.placed_in(product)]),
                "confidence": 0.9,
            }
            for product in case.question.ids
            if random.random() < share
        ]
        return said(case, answer_text(answer))
    if case.question.stage not in (EXTRACT, ASSIGN):
        raise NotApplicable
    ids = known or [each["id"] for each in answer["categories"]]
    for assignment in answer["assignments"].values():
        others = [local_id for local_id in ids if local_id != assignment["category"]]
        if random.random() < share and others:
            assignment["category"] = random.choice(others)
    return said(case, answer_text(answer))


@fault("content")
def content(case: Case, text: str) -> Reply:
    """Any content at all."""
    return said(case, text)


@fault("body")
def body(case: Case, text: str, status: int = 200, content_type: str = "application/json") -> Reply:
    """Any body with any status."""
    return Reply(status, text.encode("utf-8", "surrogatepass"), content_type)


# --- refusals -----------------------------------------------------------------------------------------------


@fault("reply")
def reply(
    case: Case, body: Any, status: int = 200, above: int = 0, where: str = "", headers: dict[str, str] | None = None
) -> Reply:
    """Send any JSON with any status, to questions of more than so many ids, and with this field in the request."""
    if len(case.question.ids) <= above or (where and where not in json.dumps(case.request)):
        raise NotApplicable
    answered = as_reply(body, status)
    answered.headers |= headers or {}
    return answered


@fault("dressed")
def dressed(
    case: Case,
    before: str = "",
    after: str = "",
    finish_reason: str = "stop",
    above: int = 0,
    fraction: float = 1.0,
    message: dict[str, Any] | None = None,
    **figures: Any,
) -> Reply:
    """The right answer (or a part of it) between two texts; in `message`, `$TEXT` and `$JSON` stand for it."""
    if len(case.question.ids) <= above:
        raise NotApplicable
    text = before + case.text[: int(len(case.text) * fraction)] + after
    values = {"$TEXT": case.text, "$JSON": case.answer}
    sent = envelope(case, text, finish_reason)
    for name, value in (message or {}).items():
        held = value[0] if isinstance(value, list) and value else value
        replaced = values.get(held, held) if isinstance(held, str) else held
        sent["choices"][0]["message"][name] = [replaced] if isinstance(value, list) and value else replaced
    return as_reply({**sent, **figures})


# name: status, type, code, message
REFUSALS: dict[str, tuple[int, str, str | None, str]] = {
    "400": (400, "invalid_request_error", "invalid_value", "Invalid value for 'temperature': must be at most 2."),
    "400_content_filter": (400, "invalid_request_error", "content_filter", "The prompt triggered a content filter."),
    "context_length": (
        400,
        "invalid_request_error",
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens. Please reduce the length of the messages.",
    ),
    "response_format": (
        400,
        "invalid_request_error",
        "unsupported_parameter",
        "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
    ),
    "401": (401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
    "403": (403, "invalid_request_error", "unsupported_country_region_territory", "Country or region not supported."),
    "404": (404, "invalid_request_error", "model_not_found", "The model does not exist or you have no access to it."),
    "408": (408, "timeout", None, "Request timed out."),
    "409": (409, "conflict", None, "The resource is locked by another request."),
    "413": (413, "invalid_request_error", "request_too_large", "Request body is too large."),
    "422": (422, "invalid_request_error", None, "Unprocessable entity."),
    "429": (429, "requests", "rate_limit_exceeded", "Rate limit reached for requests."),
    "insufficient_quota": (429, "insufficient_quota", None, "You exceeded your current quota."),
    "credit_balance_exhausted": (429, "insufficient_quota", "credit_balance_exhausted", "Your balance is too low."),
    "500": (500, "server_error", None, "The server had an error while processing your request."),
    "502": (502, "server_error", None, "Bad gateway."),
    "503": (503, "server_error", None, "The engine is currently overloaded."),
    "529": (529, "overloaded_error", None, "Overloaded."),
}


def refuse(
    case: Case,
    refusal: str,
    retry_after: str | None = None,
    retry_after_ms: str | None = None,
    type: str | None = None,
    code: str | None = None,
    message: str | None = None,
) -> Reply:
    """An error as OpenAI words it; `type`, `code` and `message` may be given, and any Retry-After text."""
    status, usual_type, usual_code, usual_message = REFUSALS[refusal]
    error = {
        "message": message or usual_message,
        "type": type or usual_type,
        "param": None,
        "code": code or usual_code,
    }
    reply = as_reply({"error": error}, status)
    wished = {"retry-after": retry_after, "retry-after-ms": retry_after_ms}
    reply.headers = {name: str(value) for name, value in wished.items() if value is not None}
    return reply


FAULTS.update({name: partial(refuse, refusal=name) for name in REFUSALS})


@fault("429_text", text="Too many requests, slow down.")
@fault("429_html", text="<html><body><h1>429 Too Many Requests</h1></body></html>", content_type="text/html")
def refuse_in_words(case: Case, text: str, content_type: str = "text/plain", retry_after: str | None = None) -> Reply:
    """A 429 of a gateway, whose body is no JSON."""
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return Reply(429, text.encode(), content_type, headers)


@fault("leak_key")
def leak_key(case: Case, status: int = 401) -> Reply:
    """A refusal that repeats the caller's key in its body and in a header."""
    reply = as_reply({"error": {"message": f"Incorrect API key provided: {case.key}.", "type": "auth"}}, status)
    reply.headers = {"x-debug-authorization": f"Bearer {case.key}"}
    return reply


# --- connections --------------------------------------------------------------------------------------------


def sent(case: Case, delivery: str, **options: Any) -> Reply:
    """The right answer, sent in a broken way."""
    reply = ok(case)
    reply.delivery, reply.options = delivery, options
    return reply


@fault("reset", delivery="reset")
@fault("hang", delivery="hang")
@fault("close", delivery="close")
def unanswered(case: Case, delivery: str) -> Reply:
    """Not one byte: a reset, silence until the client gives up, or an orderly close."""
    return sent(case, delivery)


@fault("cut")
def cut(case: Case, fraction: float = 0.5, reset: bool = False) -> Reply:
    """The connection ends in the middle of the body, after a fraction of it; with `reset` by RST."""
    return sent(case, "cut", fraction=fraction, reset=reset)


@fault("drip")
def drip(case: Case, interval: float = 0.1, step: int = 1) -> Reply:
    """The body comes slowly, `step` bytes each `interval` seconds."""
    return sent(case, "drip", interval=interval, step=step)


@fault("slow")
def slow(case: Case, seconds: float = 1.0) -> Reply:
    """The right answer, late."""
    reply = ok(case)
    reply.delay = seconds
    return reply


# --- streams ------------------------------------------------------------------------------------------------


def streamed(reply: Reply, request: dict[str, Any], pieces: int = 5) -> Reply:
    """The same reply as server-sent events, as a request with `stream` wants it; what is no completion stays."""
    chunks = chunks_of(reply, request, pieces)
    return replace(reply, body=b"".join(chunks), content_type="text/event-stream") if chunks else reply


def chunks_of(reply: Reply, request: dict[str, Any], pieces: int) -> list[bytes]:
    """The events of a reply, each a data line; none for a reply that is no completion."""
    try:
        whole = json.loads(reply.body)
        choices = [(choice, choice["message"]) for choice in whole["choices"]]
    except (ValueError, KeyError, TypeError):
        return []
    if reply.status != 200 or not choices or reply.headers:
        return []
    head = {**whole, "object": "chat.completion.chunk", "choices": []}
    usage = head.pop("usage", None)
    deltas = [(choice, delta) for choice, message in choices for delta in deltas_of(message, pieces)]
    chunks = [
        {**head, "choices": [{"index": c.get("index", 0), "delta": d, "finish_reason": None}]} for c, d in deltas
    ]
    chunks += [{**head, "choices": [{**choice, "message": None, "delta": {}}]} for choice, _ in choices]
    if usage is not None and (request.get("stream_options") or {}).get("include_usage"):
        chunks.append({**head, "usage": usage})
    return [event(chunk) for chunk in chunks] + [b"data: [DONE]\n\n"]


def deltas_of(message: dict[str, Any], pieces: int) -> list[dict[str, Any]]:
    """A message in deltas: its role, then its texts in pieces, and all else at once."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name, value in message.items():
        if name == "role" or value is None:
            continue
        if not isinstance(value, str):
            called = [{"index": i, **each} for i, each in enumerate(value)] if name == "tool_calls" else value
            deltas.append({name: called})
            continue
        step = max(1, -(-len(value) // pieces))
        deltas += [{name: value[at : at + step]} for at in range(0, len(value), step)]
    return deltas


def event(chunk: Any) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % json.dumps(chunk).encode()


@fault("stream_slow", interval=0.2)
@fault("stream_comments", comments=3, interval=0.2)
@fault("stream_silence", silent_after=0.5)
@fault("stream_error", error_after=0.5)
@fault("stream_ends", ends_after=0.5)
def stream(
    case: Case,
    interval: float = 0.0,
    comments: int = 0,
    silent_after: float | None = None,
    error_after: float | None = None,
    ends_after: float | None = None,
    pieces: int = 20,
    status: int = 503,
) -> Reply:
    """The right answer in pieces: slow, with keep-alive comments, silent or at its end in the middle, or an error."""
    if not case.request.get("stream"):
        raise NotApplicable
    events = chunks_of(ok(case), case.request, pieces)
    if comments:
        events = [each for chunk in events for each in [b": keep-alive\n\n"] * comments + [chunk]]
    share = next((each for each in (silent_after, error_after, ends_after) if each is not None), 1.0)
    events = events[: max(1, int(len(events) * share))]
    if error_after is not None:
        events.append(event({"error": {"message": "The engine was overloaded.", "code": status}}))
    reply = Reply(200, b"".join(events), "text/event-stream", delivery="events")
    reply.options = {"events": events, "interval": interval, "hangs": silent_after is not None}
    return reply


# --- odd replies with status 200 ----------------------------------------------------------------------------


@fault("choices_empty", choices=[])
@fault("choices_null", choices=None)
def choices(case: Case, choices: Any) -> Reply:
    """A completion whose choices are something else."""
    return as_reply({**envelope(case, ""), "choices": choices})


@fault("choices_missing")
def choices_missing(case: Case) -> Reply:
    """A completion that has no choices."""
    whole = envelope(case, "")
    del whole["choices"]
    return as_reply(whole)


@fault("choices_many")
def choices_many(case: Case) -> Reply:
    """Three choices out of order; only the one with index 0 holds the right answer."""
    whole = envelope(case, case.text)
    right = whole["choices"][0]
    wrong = [{**right, "index": i, "message": {"role": "assistant", "content": f"choice {i}"}} for i in (2, 1)]
    return as_reply({**whole, "choices": [wrong[0], right, wrong[1]]})


@fault("error_200")
def error_200(case: Case, code: Any = 502, message: str = "Upstream error.") -> Reply:
    """An error with status 200, as some routers send it."""
    return as_reply({"error": {"message": message, "code": code}})


@fault("html")
def html(case: Case, status: int = 200) -> Reply:
    """The page of a gateway."""
    return Reply(status, b"<!doctype html><html><title>Sign in</title><body>Welcome</body></html>", "text/html")


@fault("truncated_envelope")
def truncated_envelope(case: Case, fraction: float = 0.5) -> Reply:
    """Half of the JSON envelope, sent as if it were whole."""
    reply = ok(case)
    return Reply(200, reply.body[: int(len(reply.body) * fraction)])


@fault("content_empty", text="")
@fault("content_null", text=None)
def content_nothing(case: Case, text: str | None) -> Reply:
    """A completion that says nothing."""
    return said(case, text)


@fault("content_parts")
def content_parts(case: Case) -> Reply:
    """The right answer as a list of two text parts."""
    middle = len(case.text) // 2
    return said(case, [{"type": "text", "text": text} for text in (case.text[:middle], case.text[middle:])])


@fault("reasoning")
def reasoning(case: Case) -> Reply:
    """The right answer with thoughts in a field beside it."""
    return said(case, case.text, reasoning_content='First I thought of {"categories": []}, then not.')


@fault("think")
def think(case: Case) -> Reply:
    """The right answer with thoughts before it in the content, themselves with a brace."""
    return said(case, f"<think>\nLet me see {{so many products}}.\n</think>\n\n{case.text}")


@fault("refusal")
def refusal(case: Case, text: str = "I'm sorry, I can't help with that.") -> Reply:
    """The model refuses."""
    return said(case, None, refusal=text)


@fault("content_filter")
def content_filter(case: Case) -> Reply:
    """The provider's filter stops the answer."""
    return said(case, "", "content_filter")


@fault("length", finish_reason="length")
@fault("truncated", finish_reason="stop")
def truncated(case: Case, finish_reason: str, fraction: float = 0.5, at: int | None = None) -> Reply:
    """The content ends early, after a fraction of it or `at` so many characters."""
    end = int(len(case.text) * fraction) if at is None else at
    return said(case, case.text[:end], finish_reason)


@fault("tool_calls")
def tool_calls(case: Case, tool: str | None = None) -> Reply:
    """The right answer as the arguments of a tool, named as the stage unless told otherwise."""
    called = {"name": tool or case.question.stage, "arguments": case.text}
    return said(case, None, "tool_calls", tool_calls=[{"id": "call_0", "type": "function", "function": called}])


@fault("usage_missing", value="missing")
@fault("usage_null", value=None)
@fault("usage_negative", value={"prompt_tokens": -5, "completion_tokens": -7, "total_tokens": -12})
@fault("usage_string", value={"prompt_tokens": "many", "completion_tokens": "12", "total_tokens": "?"})
@fault("usage")
def odd_usage(case: Case, value: Any) -> Reply:
    """The right answer with another usage."""
    whole = {**envelope(case, case.text), "usage": value}
    if value == "missing":
        del whole["usage"]
    return as_reply(whole)


@fault("other_model")
def other_model(case: Case, model: str = "another-model-2031-01-01") -> Reply:
    """The right answer of a model that was not asked."""
    return as_reply({**envelope(case, case.text), "model": model})


@fault("redirect")
def redirect(case: Case, status: int = 307, location: str | None = None) -> Reply:
    """A redirect to another host: by default this server as `localhost`, so the ledger shows who followed."""
    target = location or f"http://localhost:{case.port}/v1/elsewhere/chat/completions"
    return Reply(status, b"", headers={"location": target})


@fault("huge")
def huge(case: Case, megabytes: int = 64) -> Reply:
    """A well-formed completion whose content ends in megabytes of blanks."""
    before, after = around_filler(case)
    return Reply(200, before + b" " * (megabytes * MEGABYTE) + after)


@fault("gzip_bomb")
def gzip_bomb(case: Case, megabytes: int = 200) -> Reply:
    """A small gzip body that unpacks to megabytes."""
    return Reply(200, bomb(*around_filler(case), megabytes), headers={"content-encoding": "gzip"})


def around_filler(case: Case) -> tuple[bytes, bytes]:
    """The body of a right completion in two pieces, between which the content may grow."""
    before, _, after = orjson.dumps(envelope(case, case.text + RAW)).partition(RAW.encode())
    return before, after


@lru_cache(maxsize=1)
def bomb(before: bytes, after: bytes, megabytes: int) -> bytes:
    """Compress blanks in pieces, so that this side needs one megabyte for them."""
    packer = zlib.compressobj(1, wbits=zlib.MAX_WBITS | 16)
    filler = b" " * MEGABYTE
    pieces = [packer.compress(before), *(packer.compress(filler) for _ in range(megabytes)), packer.compress(after)]
    return b"".join([*pieces, packer.flush()])


# --- bad answers --------------------------------------------------------------------------------------------


def bad_answer(name: str, **fixed: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table that takes a case and returns the content: text as it is, all else as JSON."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def reply(case: Case, **params: Any) -> Reply:
            spoiled = function(case, **params) if case.answer else ""
            return said(case, spoiled if isinstance(spoiled, str) else json.dumps(spoiled, ensure_ascii=False))

        fault(name, **fixed)(reply)
        return function

    return register


PLACES = {EXTRACT: "assignments", CONSOLIDATE: "members", REFINE: "reassignments", ASSIGN: "assignments"}
LETTERS = {EXTRACT: "C", CONSOLIDATE: "M", REFINE: "S", ASSIGN: "S"}


def place(case: Case, product: Any, category: Any) -> Any:
    """One placement as this stage writes it: the value of a key, or an entry of the refine list."""
    if case.question.stage == CONSOLIDATE:
        return category
    stated = {"category": category, "confidence": 0.9}
    return {"product": product, **stated} if case.question.stage == REFINE else stated


def put(case: Case, product: Any, category: Any) -> dict[str, Any]:
    """State a placement in the answer, in place of one for the same id."""
    where = case.answer[PLACES[case.question.stage]]
    if isinstance(where, list):
        where[:] = [entry for entry in where if entry["product"] != product]
        where.append(place(case, product, category))
    else:
        where[product] = place(case, product, category)
    return case.answer


def stated(case: Case, product: str) -> str:
    """The category that the right answer states for an id; for a refine prompt the one it shows, if none."""
    where = case.answer[PLACES[case.question.stage]]
    if isinstance(where, list):
        moved = {entry["product"]: entry["category"] for entry in where}
        return moved.get(product) or case.question.placed_in(product) or "S_0"
    return where[product] if case.question.stage == CONSOLIDATE else where[product]["category"]


def another(case: Case, product: str) -> str:
    """A category of the answer that is not the one stated for an id."""
    known = [i for i in case.question.lines if i.startswith("S_")]
    known = known or [category["id"] for category in case.answer.get("categories", [])]
    spare = "M_9999" if case.question.stage == CONSOLIDATE else OUT_OF_SCOPE
    return next((i for i in known if i != stated(case, product)), spare)


def named_categories(case: Case) -> list[dict[str, str]]:
    """The categories of the answer, if this stage names any."""
    categories = case.answer.get("categories")
    if not categories:
        raise NotApplicable
    return categories


@bad_answer("fence", before="```json\n", after="\n```")
@bad_answer("fence_open", before="```json\n")
@bad_answer("fence_two", before='```json\n{"categories": []}\n```\n\n```json\n', after="\n```")
@bad_answer("prose", before="Sure! Here is what you asked for:\n\n", after="\n\nTell me if I can do more.")
@bad_answer("bom", before="\ufeff")
@bad_answer("around")
def around(case: Case, before: str = "", after: str = "") -> str:
    """The right answer with text around it."""
    return before + case.text + after


@bad_answer("not_json", text="These products are all very nice, and hard to tell apart.")
@bad_answer("python_dict", text="{'categories': [], 'assignments': {}}")
def words(case: Case, text: str) -> str:
    """No JSON at all."""
    return text


@bad_answer("list")
def in_list(case: Case) -> list[Any]:
    """The right answer inside a list."""
    return [case.answer]


@bad_answer("wrapped")
def wrapped(case: Case, key: str = "result") -> dict[str, Any]:
    """The right answer inside an object."""
    return {key: case.answer}


@bad_answer("json_in_string")
def json_in_string(case: Case) -> str:
    """The right answer as JSON inside a JSON string."""
    return json.dumps(case.text)


@bad_answer("extra_field")
def extra_field(case: Case, characters: int = 1000) -> dict[str, Any]:
    """The right answer with a field that nobody asked for."""
    return {**case.answer, "reason": "because " * (characters // 8)}


@bad_answer("missing_field")
def missing_field(case: Case) -> dict[str, Any]:
    """The right answer without its placements."""
    return {key: value for key, value in case.answer.items() if key != PLACES[case.question.stage]}


@bad_answer("drop_id")
def drop_id(case: Case, share: float | None = None, count: int = 1) -> dict[str, Any]:
    """Leave out ids: those whose title contains the trigger's text, or the last `count`, or a share of all."""
    where = case.answer[PLACES[case.question.stage]]
    if isinstance(where, list):
        raise NotApplicable
    last = count if share is None else round(len(where) * share)
    dropped = case.question.targets(case.contains) if case.contains else list(where)[len(where) - last :]
    for local_id in dropped:
        where.pop(local_id, None)
    return case.answer


@bad_answer("repeat_id", same=True)
@bad_answer("duplicate_key", same=False)
def repeat_id(case: Case, same: bool) -> Any:
    """Place an id twice, in the same or in another category; as a key that an object has twice."""
    category = stated(case, case.target) if same else another(case, case.target)
    again = place(case, case.target, category)
    if case.question.stage == REFINE:
        put(case, case.target, stated(case, case.target))["reassignments"].append(again)
        return case.answer
    opening = f'"{PLACES[case.question.stage]}":{{'
    return case.text.replace(opening, f"{opening}{json.dumps(case.target)}:{json.dumps(again)},", 1)


@bad_answer("invent_id")
def invent_id(case: Case, local_id: Any = None) -> dict[str, Any]:
    """Place an id that the prompt does not have, in a category that exists."""
    invented = case.target.partition("_")[0] + "_9999" if local_id is None else local_id
    return put(case, invented, stated(case, case.target))


@bad_answer("rename_id")
def rename_id(case: Case, to: Any = "p_0") -> dict[str, Any]:
    """Spell an id otherwise than the prompt did."""
    category = stated(case, case.target)
    where = case.answer[PLACES[case.question.stage]]
    if isinstance(where, dict):
        where.pop(case.target)
    return put(case, to, category)


@bad_answer("unknown_category")
def unknown_category(case: Case, category: Any = None) -> dict[str, Any]:
    """Place an id in a category that the answer does not name."""
    unknown = f"{LETTERS[case.question.stage]}_9999" if category is None else category
    return put(case, case.target, unknown)


@bad_answer("empty_category")
def empty_category(case: Case) -> dict[str, Any]:
    """Name a category that has no member."""
    named_categories(case).append({"id": f"{LETTERS[case.question.stage]}_9999", "name": "Lonely", "definition": "x"})
    return case.answer


@bad_answer("duplicate_names")
def duplicate_names(case: Case) -> dict[str, Any]:
    """Name a second category as the first, in capitals and with other white space, and place an id in it."""
    categories = named_categories(case)
    twin = f"{LETTERS[case.question.stage]}_{1 + max(id_number(entry['id']) for entry in categories)}"
    categories.append({"id": twin, "name": f" {categories[0]['name'].upper()}\u00a0", "definition": "The same."})
    return put(case, case.target, twin)


@bad_answer("name_empty", text="")
@bad_answer("name_blank", text=" \u00a0 ")
@bad_answer("name_null", text=None)
@bad_answer("name_other", text="Other")
@bad_answer("name_long", text="n" * 300)
@bad_answer("name_nul", text="Rotary\x00Switches")
@bad_answer("name_bidi", text="Rotary \u202eSwitches")
@bad_answer("name")
def rename(case: Case, text: Any) -> dict[str, Any]:
    """Give the first category another name."""
    named_categories(case)[0]["name"] = text
    return case.answer


@bad_answer("definition_empty", text="")
@bad_answer("definition")
def redefine(case: Case, text: Any) -> dict[str, Any]:
    """Give the first category another definition."""
    named_categories(case)[0]["definition"] = text
    return case.answer


@bad_answer("confidence_high", value="high")
@bad_answer("confidence")
def confidence(case: Case, value: Any) -> dict[str, Any]:
    """State another confidence for one id."""
    if case.question.stage == CONSOLIDATE:
        raise NotApplicable
    put(case, case.target, stated(case, case.target))
    where = case.answer[PLACES[case.question.stage]]
    entry = where[-1] if isinstance(where, list) else where[case.target]
    entry["confidence"] = value
    return case.answer


@bad_answer("nan", text="NaN")
@bad_answer("infinity", text="-Infinity")
@bad_answer("float_overflow", text="1e400")
@bad_answer("big_int", text="9" * 5_000)
@bad_answer("deep_nesting", text="[" * 100_000 + "]" * 100_000)
@bad_answer("raw_value")
def raw_value(case: Case, text: str) -> str:
    """Write raw text where one value stands: a confidence, or the definition where there is none."""
    spoiled = redefine(case, RAW) if case.question.stage == CONSOLIDATE else confidence(case, RAW)
    return answer_text(spoiled).replace(f'"{RAW}"', text, 1)


@bad_answer("surrogate")
def surrogate(case: Case) -> str:
    r"""Write the escape `\ud800` of a lone surrogate into the first name, or else beside the answer."""
    if case.answer.get("categories"):
        return answer_text(rename(case, RAW)).replace(RAW, r"Switches \ud800", 1)
    return answer_text({**case.answer, "reason": RAW}).replace(RAW, r"\ud800", 1)


@fault("surrogate_envelope")
def surrogate_envelope(case: Case) -> Reply:
    """A lone surrogate in the content itself, so that the text of the message cannot be encoded."""
    return said(case, case.text + " \ud800")


@bad_answer("other_batch")
def other_batch(case: Case, shift: int = 1000) -> dict[str, Any]:
    """The answer to another batch: every id is shifted far."""
    put(case, case.target, stated(case, case.target))
    where = case.answer[PLACES[case.question.stage]]
    if isinstance(where, dict):
        case.answer[PLACES[case.question.stage]] = {shifted(i, shift): value for i, value in where.items()}
    else:
        where[:] = [{**entry, "product": shifted(entry["product"], shift)} for entry in where]
    return case.answer


def shifted(local_id: str, shift: int) -> str:
    """`P_3` as `P_1003`."""
    return f"{local_id.rpartition('_')[0]}_{id_number(local_id) + shift}"


@bad_answer("other_stage")
def other_stage(case: Case) -> dict[str, Any]:
    """The answer of another stage."""
    if case.question.stage == EXTRACT:
        return {"reassignments": []}
    return {"categories": [], "assignments": {i: place(case, i, OUT_OF_SCOPE) for i in case.question.ids}}


# --- decisions ----------------------------------------------------------------------------------------------


def odd_decision(name: str, **fixed: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Put a function into the table that spoils the answer to one question of a decision, or all of them."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def reply(case: Case, **params: Any) -> Reply:
            if not is_decision(case.request):
                raise NotApplicable
            whole = envelope(case, case.text)
            targets = case.question.targets(case.contains)
            for answer in [each for each in whole["answers"] if each["name"] in targets]:
                function(whole["answers"], answer, **params)
            return as_reply(whole)

        fault(name, **fixed)(reply)
        return function

    return register


@odd_decision("decision_refused")
def refuse_one(answers: list[Any], answer: dict[str, Any]) -> None:
    """The model declines one question."""
    answers[answers.index(answer)] = {"type": "refusal", "name": answer["name"]}


@odd_decision("decision_reversed")
def reverse(answers: list[Any], answer: dict[str, Any]) -> None:
    """The answers come in another order."""
    answers.reverse()


@odd_decision("decision_unnamed")
def unname(answers: list[Any], answer: dict[str, Any]) -> None:
    """One answer does not say which question it is for."""
    answer["name"] = None


@odd_decision("decision_sum")
def oversum(answers: list[Any], answer: dict[str, Any], total: float = 1.4) -> None:
    """The probabilities of one answer have another sum than 1."""
    for each in answer["probabilities"]:
        each["probability"] = round(min(1.0, each["probability"] * total), 6)
    answer["probabilities"][-1]["probability"] = 0.9


@odd_decision("decision_boolean")
def choose_boolean(answers: list[Any], answer: dict[str, Any]) -> None:
    """One choice is a boolean and not a text."""
    answer["choice"] = True


@odd_decision("decision_score")
def score(answers: list[Any], answer: dict[str, Any]) -> None:
    """One answer is of another type than its question."""
    scored = {"type": "score", "name": answer["name"], "score": 1.0, "confidence": 0.9, "probabilities": []}
    answers[answers.index(answer)] = scored


@odd_decision("decision_doubled")
def double(answers: list[Any], answer: dict[str, Any]) -> None:
    """Two answers to one question contradict each other."""
    answers.append({**answer, "choice": answer["probabilities"][-1]["value"]})
