"""What `status.json` says of a run: its state, how far its stages are, and what they took. Read in this one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import orjson
from pydantic import Field, TypeAdapter, ValidationError

from segkit.core.models import STAGES, Usage
from segkit.runs.events import timestamp
from segkit.storage.disk import disk_error, write_atomic


@dataclass(slots=True)
class StageFigures:
    """The figures of one stage, or the sum of several. Tokens and cost are those of paid calls.

    `planned` and `done` count questions; `unmetered` and `unpriced` count calls whose tokens or cost are not known.
    `saved_usd` is what the answers from the cache cost when they were paid for; `saved_unpriced` counts those of
    unknown cost.
    """

    planned: int = 0
    done: int = 0
    calls: int = 0
    cached: int = 0
    retries: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    unmetered: Annotated[int, Field(alias="unknown_usage")] = 0
    unpriced: Annotated[int, Field(alias="unknown_cost")] = 0
    cost_usd: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    saved_usd: Annotated[Decimal, Field(ge=0)] = Decimal(0)
    saved_unpriced: Annotated[int, Field(ge=0)] = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def add_call(self, usage: Usage, cost: Decimal | None) -> None:
        """Count one call that was paid, or may have been."""
        self.calls += 1
        self.input_tokens += usage.input or 0
        self.cached_tokens += usage.cached or 0
        self.output_tokens += usage.output or 0
        self.unmetered += usage.input is None or usage.output is None
        self.unpriced += cost is None
        self.cost_usd += cost or 0

    def add_reuse(self, saved: Decimal | None) -> None:
        """Count one answer from the cache, and what it cost when it was paid for."""
        self.cached += 1
        self.saved_unpriced += saved is None
        self.saved_usd += saved or 0

    @property
    def share_done(self) -> float:
        """The share of the planned questions that have an answer, from 0 to 1."""
        return min(1.0, max(0, self.done - self.failed) / self.planned) if self.planned else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the figures under the names they have in the file."""
        return dict(_FIGURES.dump_python(self, by_alias=True))


@dataclass(frozen=True, slots=True)
class Activity:
    """What a working stage waits for.

    `in_flight` counts requests, `answering` those of which pieces have come, `tokens` these pieces. `oldest` is the
    request that was sent first, at the moment `since` (seconds of the Unix clock). `retry` is why something was asked
    again last, `width` how many questions the endpoint answers at once, where that is fewer than it is asked.
    """

    in_flight: int = 0
    answering: int = 0
    oldest: str = ""
    since: float = 0.0
    tokens: int = 0
    retry: str = ""
    width: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it as the file holds it."""
        return asdict(self)

    def sentences(self, now: float) -> list[str]:
        """Return it in words, for the moment `now` of the Unix clock."""
        found = []
        if self.in_flight:
            told = f"{self.in_flight:,} in flight, {self.oldest} for {max(0.0, now - self.since):.0f} s"
            found.append(f"{told}; {self.tokens:,} tokens of {self.answering:,} so far" if self.tokens else told)
        if self.width:
            found.append(f"the endpoint answers about {self.width} at once (--concurrency)")
        if self.retry:
            found.append(f"last retry: {self.retry}")
        return found


@dataclass(frozen=True, slots=True)
class Status:
    """What `status.json` says of a run. A field that is missing or cannot be read has its default.

    `damage` names what cannot be read (and a state or the cost of a stage that is missing), `products` is None where
    the file does not say it, `error` is the class of the error that ended the run, and `document` holds the whole
    file. A session is one process's work on a run in S3.
    """

    state: str = ""
    stage: str = ""
    reason: str = ""
    error: str = ""
    notebook: str = ""
    products: int | None = None
    processed: int = 0
    stages: dict[str, StageFigures] = field(default_factory=dict)
    activity: Activity = field(default_factory=Activity)
    summary: dict[str, Any] = field(default_factory=dict)
    seal: str = ""
    change: int = 0
    updated_at: str = ""
    session: Annotated[str, Field(alias="life")] = ""
    previous_session: Annotated[str | None, Field(alias="after")] = None
    damage: tuple[str, ...] = ()
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> StageFigures:
        """The sum of all stages."""
        return total(self.stages.values())

    @property
    def calls(self) -> int:
        return self.total.calls

    @property
    def cost_usd(self) -> Decimal:
        """The dollars spent, as far as prices are known."""
        return self.total.cost_usd

    @property
    def unpriced(self) -> int:
        """The number of calls whose cost is not known."""
        return self.total.unpriced

    @property
    def processed_products(self) -> int:
        """The number of products that are worked off, also while the run works.

        A product is placed by extraction and judged again by refinement: each counts half. One that is put into a
        taxonomy which was given, or extracted from a sample, counts whole.
        """
        if self.summary:
            return self.processed
        assign = self.stages.get(STAGES["assign_products"])
        if assign or self.document.get("sample"):
            return int((self.products or 0) * (assign.share_done if assign else 0))
        halves = (self.stages.get(STAGES[name]) for name in ("extract_taxonomy", "refine_assignments"))
        return int((self.products or 0) * sum(stage.share_done for stage in halves if stage) / 2)


def total(stages: Iterable[StageFigures]) -> StageFigures:
    """Return the sum of the figures of several stages."""
    summed = StageFigures()
    for stage in stages:
        for each in fields(StageFigures):
            setattr(summed, each.name, getattr(summed, each.name) + getattr(stage, each.name))
    return summed


def read_status(folder: Path) -> Status:
    """Read the status of a run; one without a file, or with a broken one, has not got beyond its start."""
    document = _document(folder)
    return as_status(document) if document else Status(state="running", document=_begun(folder))


def known_status(data: bytes) -> Status | None:
    """Read the bytes of a `status.json`; return None where they do not name a state."""
    status = as_status(_parsed(data))
    return status if status.state else None


def as_status(document: Mapping[str, Any]) -> Status:
    """Read the content of a `status.json`, each field by itself, so that one damaged field hides no other."""
    content = _copied(document)
    stages = content.get("stages")
    named = stages if isinstance(stages, dict) else {}
    damage = [] if content.get("state") else ["state"]
    damage += [
        f"stages.{stage}.{name}"
        for stage, figures in named.items()
        for name in ("cost_usd", "unknown_cost")
        if isinstance(figures, dict) and name not in figures
    ]
    try:
        status = _READER.validate_python(content)
    except ValidationError as error:
        places = [each["loc"] for each in error.errors()]
        damage += [".".join(map(str, place)) for place in places]
        for place in places:
            _remove(content, place)
        status = _READER.validate_python(content)
    return replace(status, damage=tuple(damage), document=dict(document))


def _copied(document: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a status as deep as the figures of its stages, without the fields that are null."""
    content = {name: value for name, value in document.items() if value is not None}
    if isinstance(stages := content.get("stages"), dict):
        content["stages"] = {name: dict(each) if isinstance(each, dict) else each for name, each in stages.items()}
    return content


def _remove(content: Any, place: Sequence[int | str]) -> None:
    """Remove a value that cannot be read: of a list that holds one, the whole list."""
    for name in place[:-1]:
        inner = content.get(name)
        if not isinstance(inner, dict):
            content.pop(name, None)
            return
        content = inner
    content.pop(place[-1], None)


def update_status(folder: Path, **changes: Any) -> Status:
    """Replace some fields of `status.json`, atomically; raise StoppedError when the disk fails."""
    try:
        return write_status(folder, changes)
    except OSError as error:
        raise disk_error(folder, error) from None


def write_status(folder: Path, changes: Mapping[str, Any]) -> Status:
    """Replace some fields of `status.json`, and leave it to the caller what a failing disk means."""
    before = _document(folder) or _begun(folder)
    number = as_status(before).change + 1
    document = {**before, **changes, "change": number, "updated_at": timestamp()}
    data = orjson.dumps(document, default=_as_json, option=orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATACLASS)
    write_atomic(folder / "status.json", data)
    return as_status(_parsed(data))


def _as_json(value: Any) -> Any:
    return value.as_json() if isinstance(value, StageFigures) else str(value)


def _document(folder: Path) -> dict[str, Any]:
    with suppress(FileNotFoundError):
        return _parsed((folder / "status.json").read_bytes())
    return {}


def _begun(folder: Path) -> dict[str, Any]:
    return {"run_id": folder.name, "state": "running", "stage": "", "reason": "", "stages": {}, "summary": {}}


def _parsed(data: bytes) -> dict[str, Any]:
    with suppress(orjson.JSONDecodeError):
        document = orjson.loads(data)
        return document if isinstance(document, dict) else {}
    return {}


_READER = TypeAdapter(Status)
_FIGURES = TypeAdapter(StageFigures)
