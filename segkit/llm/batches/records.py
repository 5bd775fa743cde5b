"""What is known of the batches that a run has sent: one small file each, written before and after every step.

    batches/segmentation-1-1-1.json          the record of a batch: its requests, their hash, its id, how far it is
    batches/segmentation-1-1-1.jsonl         the requests; it goes once their answers are logged
    batches/segmentation-1-1-1.output.jsonl  the answers as they were downloaded; it goes then, too
    batches/segmentation-1-1-1.error.jsonl   the same of requests that failed

The name holds the stage's folder, the number of the first question that was asked together with these, the round in
which they were sent, and the part of that round. A provider calls batch what is called a file of requests here; the
batches of segkit are some products in one prompt.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import orjson

from segkit.core.models import STAGES
from segkit.errors import RunError
from segkit.runs.run import Run
from segkit.storage.disk import write_atomic

FOLDER = "batches"
#: The states in which a provider has finished with a batch.
ENDED = ("completed", "expired", "cancelled", "failed")
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch of a run: from the intent to send it until its answers are logged.

    `creating_at` is when the provider was asked to create it, in seconds since 1970; `status` is the last one that
    the provider stated, `completed` and `failed` how many requests had an end then, `problem` why it refused.
    `capped` says that a cap kept requests back, `taken` that all answers are in the logs, `brought` how many.
    """

    name: str
    sha256: str = ""
    requests: int = 0
    file_id: str = ""
    creating_at: float = 0.0
    batch_id: str = ""
    status: str = ""
    completed: int = 0
    failed: int = 0
    output_file_id: str = ""
    error_file_id: str = ""
    problem: str = ""
    capped: bool = False
    brought: int = 0
    taken: bool = False

    @property
    def stage(self) -> str:
        """The folder of the stage that asks."""
        return self.name.rsplit("-", 3)[0]

    @property
    def group(self) -> str:
        """What is equal for all rounds and parts of the questions that are asked together."""
        return self.name.rsplit("-", 2)[0]

    @property
    def round(self) -> int:
        return int(self.name.rsplit("-", 2)[1])

    @property
    def ended(self) -> bool:
        return self.status in ENDED


def is_name(name: str) -> bool:
    """Report whether a name is that of a batch: it comes from a provider, and becomes the name of a file."""
    folder, *numbers = name.rsplit("-", 3)
    return folder in STAGES.values() and len(numbers) == 3 and all(map(_NUMBER.fullmatch, numbers))


def name_of(stage: str, first: int, round_: int, part: int) -> str:
    """Return the name of a batch."""
    return f"{STAGES[stage]}-{first}-{round_}-{part}"


def next_name(name: str) -> str:
    """Return the name of the next part of the same round."""
    front, part = name.rsplit("-", 1)
    return f"{front}-{int(part) + 1}"


def read_records(run: Run) -> list[BatchRecord]:
    """Return the records of a run by their names; raise RunError for one that cannot be read."""
    return [_read(path) for path in sorted((run.folder / FOLDER).glob("*.json"))]


def write_record(run: Run, record: BatchRecord, **changes: Any) -> BatchRecord:
    """Write a record with some changes, atomically, and return it."""
    record = replace(record, **changes)
    (run.folder / FOLDER).mkdir(mode=0o700, exist_ok=True)
    write_atomic(_path(run, record), orjson.dumps(asdict(record), option=orjson.OPT_INDENT_2))
    return record


def requests_file(run: Run, record: BatchRecord) -> Path:
    return run.folder / FOLDER / f"{record.name}.jsonl"


def answer_files(run: Run, record: BatchRecord) -> dict[Path, str]:
    """Return the files with the answers of a batch, each with the id under which the provider has it."""
    place = run.folder / FOLDER
    files = {
        place / f"{record.name}.output.jsonl": record.output_file_id,
        place / f"{record.name}.error.jsonl": record.error_file_id,
    }
    return {path: file_id for path, file_id in files.items() if file_id}


def mark_taken(run: Run, record: BatchRecord, brought: int) -> None:
    """Record that all answers of a batch are in the logs, which makes its files superfluous."""
    write_record(run, record, taken=True, brought=brought)
    for path in (requests_file(run, record), *answer_files(run, record)):
        path.unlink(missing_ok=True)


def sweep(run: Run) -> None:
    """Remove what a process that died has left: files whose content is logged, and half-written ones."""
    place = run.folder / FOLDER
    left = [place / f"{record.name}.jsonl" for record in read_records(run) if record.taken]
    left += [path for record in read_records(run) if record.taken for path in answer_files(run, record)]
    for path in (*left, *place.glob(".*.tmp")):
        path.unlink(missing_ok=True)


def forget(run: Run, record: BatchRecord) -> None:
    """Remove a batch that was never sent."""
    _path(run, record).unlink(missing_ok=True)
    requests_file(run, record).unlink(missing_ok=True)


def _path(run: Run, record: BatchRecord) -> Path:
    return run.folder / FOLDER / f"{record.name}.json"


def _read(path: Path) -> BatchRecord:
    known = {field.name for field in fields(BatchRecord)}
    try:
        content = orjson.loads(path.read_bytes())
        return BatchRecord(**{name: value for name, value in content.items() if name in known})
    except (orjson.JSONDecodeError, AttributeError, TypeError) as error:
        raise RunError(f"{path} cannot be read: {error}", "restore it from a copy") from None
