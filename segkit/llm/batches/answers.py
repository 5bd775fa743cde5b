"""The answers of batches, in the files that were downloaded: each is found by its request."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from segkit.core.text import one_line, shortened
from segkit.llm.cache import cache_key
from segkit.llm.responses import classify_response
from segkit.llm.transports.base import NotSentError, Response

_ID = re.compile(r"b(\d{1,12})_a(\d{1,4})_([0-9a-f]{32})_(\d{1,9})", re.ASCII)


@dataclass(frozen=True, slots=True)
class FoundAnswer:
    """An answer that no question asked for: its place in the logs, its key, its body, and where it came from."""

    batch: int
    attempt: int
    key: str
    body: bytes
    origin: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a line stands, so that a large file need not be held."""

    path: Path
    start: int
    length: int
    batch_id: str
    custom_id: str
    good: bool


class Answers:
    """The answers in the files of some batches, as a transport: a request gets the next answer to it that is left.

    What a provider says of itself (it was too slow, it is overloaded, the batch was cancelled) is no answer: such a
    request stays open. `problems` counts these by what was said, and `brought` counts the answers of each batch.
    """

    def __init__(self, endpoint: str, model: str, repeat: int = 0) -> None:
        self._endpoint, self._model, self._repeat = endpoint, model, repeat
        self._lines: dict[tuple[str, str], _Place] = {}
        self._by_key: dict[str, list[tuple[str, str]]] = {}
        self.problems: Counter[str] = Counter()
        self.brought: Counter[str] = Counter()
        self.doubled = self.unread = 0

    def read(self, path: Path, batch_id: str) -> None:
        """Add the lines of an output file or an error file; a line that is none is counted and passed over."""
        start = 0
        with path.open("rb") as file:
            for line in file:
                if line.strip():
                    self._add(line, _Place(path, start, len(line), batch_id, "", False))
                start += len(line)

    def has(self, key: str) -> bool:
        """Report whether an answer to a request is left."""
        return bool(self._by_key.get(key))

    def origin_of(self, key: str) -> dict[str, str]:
        """Return where the next answer to a request came from: the id of its batch, and its own in that."""
        return _origin(self._lines[self._by_key[key][0]])

    def leave_out(self, origins: Collection[tuple[str, str]]) -> None:
        """Leave out the answers that are in the logs already, by batch and custom id."""
        for origin in self._lines.keys() & origins:
            del self._lines[origin]
        self._by_key = {key: [each for each in ids if each in self._lines] for key, ids in self._by_key.items()}

    def take(self, key: str) -> Response:
        """Return the next answer to a request, and leave it to nobody else."""
        status, body = _response(_read(self._lines.pop(self._by_key[key].pop(0))))
        return Response(status, {}, body)

    def left(self) -> Iterator[FoundAnswer]:
        """Yield the paid answers that nobody has taken."""
        for place in self._lines.values():
            match = _ID.fullmatch(place.custom_id)
            if match and place.good:
                _, body = _response(_read(place))
                yield FoundAnswer(int(match[1]), int(match[2]), match[3], body, _origin(place))

    async def send(self, body: bytes, heard: Callable[[int], None], *, fresh: bool = False) -> Response:
        """Answer a request as the transport of a client."""
        key = cache_key(self._endpoint, orjson.loads(body), self._repeat)
        if not self.has(key):
            raise NotSentError("no batch has answered this request", passing=False)
        return self.take(key)

    async def close(self) -> None:
        pass

    def _add(self, line: bytes, place: _Place) -> None:
        content = _parsed(line)
        match = _ID.fullmatch(str(content.get("custom_id", "")))
        if not match:
            self.unread += 1
            return
        status, body = _response(content)
        good = 200 <= status < 300
        if not good and not self._is_about_the_request(content, status, body):
            return
        origin = place.batch_id, match[0]
        before = self._lines.get(origin)
        self.doubled += before is not None
        if before is None:
            self.brought[place.batch_id] += 1
            self._by_key.setdefault(match[3], []).append(origin)
        if before is None or (good and not before.good):
            self._lines[origin] = replace(place, custom_id=match[0], good=good)

    def _is_about_the_request(self, content: dict[str, Any], status: int, body: bytes) -> bool:
        """Report whether a line says what is wrong with its request, and not with the provider or the batch."""
        error = content.get("error")
        if status:
            step = classify_response(Response(status, {}, body), self._model, self._endpoint)
            if step.step in ("cut", "invalid") or (step.step == "stop" and not step.unknown):
                return True
            self.problems[one_line(step.why, 200)] += 1
        elif isinstance(error, dict):
            self.problems[one_line(f"{error.get('code')}: {error.get('message')}", 200)] += 1
        else:
            self.problems["a line without a response"] += 1
        return False

    def problem(self) -> str:
        """Word why requests of the batches have no answer."""
        return shortened([f"{count:,} × {why}" for why, count in self.problems.most_common(3)], 3, "; ")


def _origin(place: _Place) -> dict[str, str]:
    return {"provider_batch": place.batch_id, "custom_id": place.custom_id}


def _read(place: _Place) -> dict[str, Any]:
    with place.path.open("rb") as file:
        file.seek(place.start)
        return _parsed(file.read(place.length))


def _parsed(line: bytes) -> dict[str, Any]:
    """Parse a line; half a surrogate pair stops orjson and is no fault of the line."""
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            return {}
    return content if isinstance(content, dict) else {}


def _response(content: dict[str, Any]) -> tuple[int, bytes]:
    """Return the status and the body of the response in a line; the status is 0 where there is none."""
    response = content.get("response")
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(status, int):
        return 0, b""
    body = response.get("body")
    try:
        return status, body.encode() if isinstance(body, str) else orjson.dumps(body)
    except (TypeError, UnicodeEncodeError):
        return status, json.dumps(body).encode()
