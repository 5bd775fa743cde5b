"""A canary key comes back from the endpoint in five dresses, in every kind of answer: it must be nowhere then."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from canaries import ALL, CANARY, DRESSES, json_texts
from catalogues import catalogue
from endpoint import Endpoint

from segkit.errors import SegkitError
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.run import Run
from segkit.settings import load_settings

# Characters that each dress has to change: slash and plus, quote and backslash, ampersand and equals sign.
AUTHORIZATION = base64.b64encode(f"user:{CANARY}".encode()).decode()
# What base64 leaves of the canary behind `user:`, without the characters at its ends that belong to neighbours.
NEEDLES = {name: dress.encode() for name, dress in DRESSES.items()} | {
    "base64 in a header": AUTHORIZATION[8:-4].encode(),
    "JSON-escaped twice": json.dumps(json.dumps(CANARY)[1:-1])[1:-1].encode(),
    "plain, its beginning": CANARY[:16].encode(),
}

# Refusals: each status and wording, with every dress in its message.
REFUSALS = [
    *("400", "400_content_filter", "context_length", "response_format", "401", "403", "404", "408", "409", "413"),
    *("422", "429", "insufficient_quota", "credit_balance_exhausted", "500", "502", "503", "529"),
]
Fault = tuple[str, dict[str, Any]]
PATHS: dict[str, Fault] = {f"refusal {name}": (name, {"message": f"Bad key: {ALL}"}) for name in REFUSALS}
PATHS |= {f"leak {status}": ("leak_key", {"status": status}) for status in (400, 401, 403, 429, 500)}
PATHS |= {
    "text 401": ("body", {"status": 401, "text": ALL, "content_type": "text/plain"}),
    "text 429": ("429_text", {"text": ALL}),
    "text 500": ("body", {"status": 500, "text": ALL, "content_type": "text/plain"}),
    "html 200": ("body", {"text": f"<html>{ALL}</html>", "content_type": "text/html"}),
    "html 502": ("body", {"status": 502, "text": f"<html>{ALL}</html>", "content_type": "text/html"}),
    "error 200": ("error_200", {"message": ALL}),
    "error 200 for good": ("error_200", {"message": ALL, "code": 401}),
    "error in a list": ("body", {"status": 400, "text": json.dumps([{"error": {"message": ALL}}])}),
    "error as text": ("body", {"status": 400, "text": json.dumps({"error": ALL})}),
    "error code": ("body", {"status": 403, "text": json.dumps({"error": {"code": ALL, "message": ALL}})}),
    "half JSON": ("body", {"text": '{"choices": [{"message": {"content": ' + json.dumps(ALL)}),
    "no choices": ("body", {"text": json.dumps({"choices": [], "model": ALL, "id": ALL})}),
    "no choices, usage": ("body", {"text": json.dumps({"choices": [], "usage": {"prompt_tokens": ALL}})}),
    "control characters": ("body", {"text": f"\x00\x1b {ALL}"}),
    "content of words": ("content", {"text": ALL}),
    "content of JSON": ("content", {"text": json.dumps({"categories": ALL, "assignments": {ALL: ALL}})}),
    "content of names": (
        "content",
        {"text": json.dumps({"categories": [{"id": "C_0", "name": CANARY, "definition": ALL}], "assignments": {}})},
    ),
    "refused": ("refusal", {"text": ALL}),
    "model": ("other_model", {"model": ALL}),
    "redirect": ("redirect", {"location": f"https://elsewhere.invalid/?key={quote(CANARY, safe='')}"}),
    "redirect with a long way": (
        "redirect",
        {"location": "https://elsewhere.invalid/" + "x" * 150 + f"?key={quote(CANARY, safe='')}"},
    ),
    "header": ("500", {"headers": {"x-debug": ALL, "x-authorization": f"Basic {AUTHORIZATION}"}}),
    "header of a good answer": ("ok", {"headers": {"x-debug": ALL, "set-cookie": f"key={CANARY}"}}),
    "malformed header": ("ok", {"headers": {f"x {CANARY}": "1"}}),
    "malformed length": ("ok", {"headers": {"content-length": CANARY}}),
    "content type": ("ok", {"headers": {"content-type": f"text/html; key={CANARY}"}}),
    "wrong encoding": ("ok", {"headers": {"content-encoding": f"gzip; {CANARY}"}}),
    "retry after": ("429", {"retry_after": CANARY}),
    "cut": ("cut", {"headers": {"x-debug": ALL}}),
    "reset": ("reset", {}),
    "close": ("close", {}),
}


@pytest.fixture
def records() -> Iterator[list[logging.LogRecord]]:
    """Every record that any library logs, with the root logger at DEBUG."""
    caught: list[logging.LogRecord] = []

    class Catcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(record)

    root, catcher = logging.getLogger(), Catcher(logging.NOTSET)
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(catcher)
    yield caught
    root.removeHandler(catcher)
    root.setLevel(before)


def small_run() -> Run:
    return prepare_run(
        catalogue(4),
        "Kitchen Things",
        model="gpt-4o",
        products_per_prompt=2,
        products_per_refinement=4,
        max_retries=2,
    )


def worked(run: Run) -> list[BaseException]:
    """Do the first stage as far as it goes; give the error that ended them."""
    try:
        extract_taxonomy(run)
    except SegkitError as error:
        return [error]
    return []


def told(error: BaseException) -> str:
    """All that an error says, with those behind it and with the local names that a debugger would show."""
    seen, texts, waiting = set(), [], [error]
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        waiting += [other for other in (one.__cause__, one.__context__) if other]
    return "\n".join([*texts, *traceback.format_exception(error)])


def written(record: logging.LogRecord) -> str:
    """All that a handler could write of a record."""
    trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
    return f"{record.getMessage()} {record.msg!r} {record.args!r} {trace}"


def produced(place: Path, errors: list[BaseException], records: list[logging.LogRecord]) -> dict[str, bytes]:
    """Everything that a run has left: files, errors and log records, by where it is."""
    found = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    found |= {f"error {i}": told(error).encode(errors="replace") for i, error in enumerate(errors)}
    found |= {f"record {r.name} {i}": written(r).encode(errors="replace") for i, r in enumerate(records)}
    found |= {f"name of {name}": name.encode() for name in list(found)}
    return found


def leaks(found: dict[str, bytes]) -> list[str]:
    """Tell where a needle is, in the bytes and in the texts that JSON files hold."""
    places = []
    for where, data in found.items():
        texts = [data, *(text.encode(errors="replace") for text in json_texts(data))]
        places += [f"{name}: {where}" for name, needle in NEEDLES.items() if any(needle in text for text in texts)]
    return places


@pytest.fixture
def canary(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """The endpoint, asked with the canary as the key."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "0.001")
    monkeypatch.setenv("SEGKIT_MAX_WAIT_SECONDS", "0.1")
    return endpoint


# Through the SDK only what goes its own way; the rest with `-m long`.
BY_SDK = {"leak 401", "leak 429", "text 500", "half JSON", "redirect", "header", "malformed header", "cut", "reset"}


@pytest.mark.parametrize("path", PATHS)
def test_the_key_comes_back_and_is_nowhere(
    path: str, canary: Endpoint, place: Path, records: list[logging.LogRecord]
) -> None:
    """Five dresses of the key through one error path, in no byte that was produced."""
    search(path, canary, place, records)


@pytest.mark.parametrize(
    "path", [path if path in BY_SDK else pytest.param(path, marks=pytest.mark.long) for path in PATHS]
)
def test_nor_through_the_sdk(
    path: str, canary: Endpoint, place: Path, records: list[logging.LogRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same through the SDK, whose libraries log whole headers at DEBUG."""
    monkeypatch.setenv("SEGKIT_TRANSPORT", "sdk")
    search(path, canary, place, records)


def search(path: str, canary: Endpoint, place: Path, records: list[logging.LogRecord]) -> None:
    name, chosen = PATHS[path]
    canary.queue(name, times=3, **chosen)
    errors = worked(small_run())
    assert canary.count() >= 1
    assert leaks(produced(place, errors, records)) == []


def test_forty_paths_are_searched() -> None:
    """At least forty, all different."""
    assert len(PATHS) >= 40
    assert len({json.dumps(path) for path in PATHS.values()}) == len(PATHS)


@pytest.mark.parametrize("dress", NEEDLES)
def test_the_search_finds_what_it_looks_for(dress: str, place: Path) -> None:
    """The oracle itself: each dress is found in a file, inside JSON inside JSON, in an error and in a log record."""
    text = NEEDLES[dress].decode()
    (place / "file").write_text(f"x{text}y", encoding="utf-8")
    (place / "log").write_text(json.dumps({"body": json.dumps({"message": text})}), encoding="utf-8")
    record = logging.LogRecord("any", logging.DEBUG, "", 0, "%s", (text,), None)
    error = ValueError("outer")
    error.__context__ = KeyError(f"<{text}>")
    places = leaks(produced(place, [error], [record]))
    assert {where.partition(": ")[2] for where in places if where.startswith(dress)} >= {"file", "log"}
    assert any("error 0" in where for where in places) or "\\" in text
    assert any("record any 0" in where for where in places)


def test_nothing_that_holds_the_key_shows_it(canary: Endpoint, place: Path) -> None:
    """Settings and transports are silent about it in their repr, and so is a run."""
    settings = load_settings()
    shown = f"{settings!r} {settings} {settings.model_dump()!r} {settings.model_dump_json()} {small_run()!r}"
    assert leaks({"repr": shown.encode()}) == []


def test_a_key_that_cannot_be_sent(canary: Endpoint, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with a line break makes no header; the error does not show it, and nothing is sent."""
    monkeypatch.setenv("OPENAI_API_KEY", f"{CANARY}\nsecond: line")
    with pytest.raises(Exception) as caught:
        extract_taxonomy(small_run())
    assert canary.count() == 0
    assert leaks(produced(place, [caught.value], [])) == []
