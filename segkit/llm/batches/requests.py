"""The requests of a stage that have no answer yet: collected, cut into files that a provider takes, read again."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal

import orjson

from segkit.llm.send import ModelRequest

#: The address of a request within a batch.
CHAT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
#: What a provider takes in one file.
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000


class OpenRequests:
    """Requests without an answer, as lines of a file without a name: those of a million products take a gigabyte.

    With `once`, equal requests are one, since the cache answers the second. `sizes` holds of each the bytes of its
    body and the most tokens of its answer.
    """

    def __init__(self, folder: Path, *, once: bool) -> None:
        self._folder, self._once = folder, once
        self._file: IO[bytes] | None = None
        self._seen: Counter[str] = Counter()
        self.sizes: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, request: ModelRequest) -> None:
        """Add a request; equal ones are told apart by a number."""
        key = str(request.facts["cache_key"])
        if self._once and self._seen[key]:
            return
        self._seen[key] += 1
        custom_id = f"b{request.batch}_a{request.attempt}_{key}_{self._seen[key]}"
        body = {name: value for name, value in orjson.loads(request.data).items() if name != "stream"}
        line = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body}
        self._opened().write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        self.sizes.append((len(request.data), request.output_limit))

    def lines(self, count: int) -> Iterator[bytes]:
        """Yield the lines of the first requests."""
        file = self._opened()
        file.seek(0)
        for _ in range(count):
            yield file.readline()

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 (it lives as long as this)
        return self._file


def parted(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut lines into files that a provider takes."""
    part: list[bytes] = []
    size = 0
    for line in lines:
        if len(part) >= MOST_REQUESTS or (part and size + len(line) > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def bodies_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return the bodies of a file of requests by their custom ids; none where the file is on another machine."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        lines = [orjson.loads(line) for line in file]
    return {str(line["custom_id"]): line["body"] for line in lines}
