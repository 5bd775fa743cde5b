"""What the service sets aside of a token's money, and what it takes a run to have cost."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import RequestError
from segkit.runs.status import as_status
from segkit.service.jobs import fair_order, spent
from segkit.service.records import Filters, Listed, Record, Records
from segkit.service.starts.admission import Caps

CAPS = Caps(20, 20, Decimal(1))


def record(run_id: str, budget: str | None = "0.9", **more: Any) -> Record:
    return Record(run_id, "ann", None, "", "queued", 3, budget=None if budget is None else Decimal(budget), **more)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path / "records.db")
    yield made
    made.close()


def test_a_resume_with_less_money_frees_none_that_was_spent(records: Records) -> None:
    """A run that spent $0.90 and is resumed with $0.01 leaves $0.10 of $1, not $0.99."""
    records.reserve(record("RUN_A"), CAPS)
    records.end("RUN_A", Decimal("0.9"))
    ended = records.get("RUN_A")
    assert ended is not None
    records.requeue(replace(ended, phase="queued", budget=Decimal("0.01")), CAPS)
    with pytest.raises(RequestError, match=r"\$0.90 of \$1 are spent or reserved"):
        records.reserve(record("RUN_B"), CAPS)
    records.reserve(record("RUN_C", "0.1"), CAPS)


def test_a_resume_with_less_money_than_was_spent_must_fit_too(records: Records) -> None:
    """What a run spent counts when it is resumed, whatever it is given now."""
    records.reserve(record("RUN_A"), CAPS)
    records.end("RUN_A", Decimal("0.9"))
    records.reserve(record("RUN_B", "0.1"), CAPS)
    ended = records.get("RUN_A")
    assert ended is not None
    with pytest.raises(RequestError, match="this run may take"):
        records.requeue(
            replace(ended, phase="queued", budget=Decimal("0.01")), replace(CAPS, total_usd=Decimal("0.5"))
        )


def test_records_of_an_earlier_segkit_are_understood(tmp_path: Path) -> None:
    """A table in which another token paid for a run: the run is its owner's to pay."""
    old = sqlite3.connect(tmp_path / "records.db")
    old.execute(
        "CREATE TABLE runs (turn INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
        " idempotency_key TEXT, body_sha256 TEXT NOT NULL, phase TEXT NOT NULL, products INTEGER NOT NULL,"
        " created_at TEXT NOT NULL, budget INTEGER, spent INTEGER NOT NULL DEFAULT 0, max_calls INTEGER,"
        " max_unassigned INTEGER, cancelled INTEGER NOT NULL DEFAULT 0, payer TEXT NOT NULL DEFAULT '',"
        " paid_before INTEGER NOT NULL DEFAULT 0, UNIQUE (owner, idempotency_key))"
    )
    old.execute(
        "INSERT INTO runs (run_id, owner, body_sha256, phase, products, created_at, spent, payer)"
        " VALUES ('RUN_A', 'ann', '', 'ended', 3, '', 900000000, 'root')"
    )
    old.commit()
    old.close()
    records = Records(tmp_path / "records.db")
    found = records.get("RUN_A")
    assert found is not None
    assert (found.owner, found.spent) == ("ann", Decimal("0.9"))
    with pytest.raises(RequestError, match=r"\$0.90 of \$1"):
        records.reserve(record("RUN_B", "0.2"), CAPS)
    records.close()


def named(owner: str, run_id: str) -> Record:
    return Record(run_id, owner, None, "", "queued", 3)


def test_tokens_take_turns_in_the_queue() -> None:
    """A token with many waiting runs does not hold up another one's first; its own runs keep their order."""
    waiting = [named("ann", f"RUN_A{number}") for number in range(3)] + [
        named("ben", "RUN_B0"),
        named("cem", "RUN_C0"),
    ]
    assert [each.run_id for each in fair_order(waiting, [])] == ["RUN_A0", "RUN_B0", "RUN_C0", "RUN_A1", "RUN_A2"]
    working = [named("ann", "RUN_A9"), named("cem", "RUN_C9")]
    assert [each.run_id for each in fair_order(waiting, working)][:3] == ["RUN_B0", "RUN_A0", "RUN_C0"]


STAGE = {"cost_usd": "0.2", "unknown_cost": 0}


@pytest.mark.parametrize(
    ("status", "cost"),
    [
        ({"products": 3, "stages": {"a": STAGE, "b": STAGE}}, "0.4"),
        ({"products": 3, "stages": {}}, "0"),
        ({"products": 3, "stages": {"a": STAGE | {"unknown_cost": 1}}}, "0.9"),
        ({"products": 3, "state": "failed", "stages": {"a": STAGE, "b": STAGE}}, "0.4"),
        ({"products": 3, "state": "running", "stages": {"a": STAGE, "b": STAGE}}, "0.9"),
        ({"stages": {}}, "0.9"),
        ({}, "0.9"),
        ({"products": 3, "stages": [1]}, "0.9"),
        ({"products": 3, "stages": {"a": {}}}, "0.9"),
        ({"products": 3, "stages": {"a": STAGE | {"cost_usd": "much"}}}, "0.9"),
        *(({"products": 3, "stages": {"a": STAGE | {"cost_usd": cost}}}, "0.9") for cost in ("NaN", "-1", "1E+30")),
        ({"products": 3, "stages": {"a": STAGE | {"cost_usd": "Infinity"}}}, "0.9"),
    ],
    ids=str,
)
def test_a_status_that_does_not_tell_makes_it_the_whole_budget(status: dict[str, Any], cost: str) -> None:
    """What a run cost is never taken to be less than it may have been."""
    assert spent(record("RUN_A"), as_status({"state": "completed", **status})) == Decimal(cost)


def test_runs_are_listed_in_the_order_of_their_starts(records: Records) -> None:
    """The clock may go back between two starts: the list and its pages do not follow it."""
    names = ["RUN_20260101T120000Z_0002", "RUN_20260101T100000Z_0001", "RUN_20260101T110000Z_0003"]
    for name in names:
        records.reserve(record(name, None), replace(CAPS, total_usd=None))
        records.enlist(Listed(name, "Kettles", "offline", name[4:20]))
    records.enlist(Listed(names[0], "Kettles", "offline", "later"))
    everything = Filters()
    assert [run.run_id for run in records.listed(None, everything, None)] == names[::-1]
    assert [run.run_id for run in records.listed("ann", everything, names[2])] == names[1::-1]
    assert records.listed("ben", everything, None) == records.listed("ann", everything, names[0]) == []
    records.enlist(Listed("RUN_OF_THE_COMMAND_LINE", "Ladles", "offline", ""))
    assert len(records.listed("ann", everything, None)) == 3
    assert [run.run_id for run in records.listed(None, Filters(category="Ladles"), None)] == [
        "RUN_OF_THE_COMMAND_LINE"
    ]
