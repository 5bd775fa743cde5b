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
from segkit.service.jobs import spent
from segkit.service.records import Caps, Record, Records

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
    with pytest.raises(RequestError, match=r"\$0.90 of \$1 are spent or set aside"):
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


def resumed(records: Records, by: str, budget: str, cost: str) -> Record:
    """Let a token take a run over that has cost so much, as the service does."""
    ended, paid = records.get("RUN_A"), Decimal(cost)
    assert ended is not None
    taken = ended if ended.payer == by else replace(ended, payer=by, paid_before=paid, spent=paid)
    return replace(taken, phase="queued", budget=Decimal(budget))


def test_who_resumes_a_run_pays_for_what_it_costs_then(records: Records) -> None:
    """The owner stays; each token has spent what its own part cost, and sets aside no more than the rest."""
    records.reserve(record("RUN_A", "0.5"), CAPS)
    records.end("RUN_A", Decimal("0.3"))
    records.requeue(resumed(records, "root", "5", "0.3"), replace(CAPS, total_usd=Decimal("4.7")))
    assert records.owners() == {"RUN_A": "ann"}
    records.reserve(record("RUN_B", "0.7"), CAPS)  # $0.30 of ann's $1 are spent, and no more
    with pytest.raises(RequestError, match=r"\$1.00 of \$1 are spent"):
        records.reserve(record("RUN_C", "0.01"), CAPS)
    with pytest.raises(RequestError, match=r"\$4.70 of \$5 are spent or set aside"):
        records.reserve(replace(record("RUN_C", "0.31"), owner="root"), replace(CAPS, total_usd=Decimal(5)))
    records.end("RUN_A", Decimal("0.8"))
    with pytest.raises(RequestError, match=r"\$0.50 of \$1 are spent"):
        records.reserve(replace(record("RUN_C", "0.51"), owner="root"), CAPS)
    with pytest.raises(RequestError, match="this run may take"):
        records.requeue(resumed(records, "ann", "0.81", "0.8"), CAPS)
    records.end("RUN_B", Decimal(0))
    records.requeue(resumed(records, "ann", "1.5", "0.8"), CAPS)
    records.end("RUN_A", Decimal(1))
    with pytest.raises(RequestError, match=r"\$0.50 of \$1 are spent"):
        records.reserve(record("RUN_C", "0.51"), CAPS)
    records.reserve(replace(record("RUN_C", "0.5"), owner="root"), CAPS)


def test_who_resumes_a_run_has_one_more_at_work(records: Records) -> None:
    """The runs at work of a token are those it pays for."""
    one = replace(CAPS, active_of_payer=1)
    records.reserve(record("RUN_A"), one)
    records.end("RUN_A", Decimal(0))
    records.requeue(resumed(records, "root", "5", "0"), replace(one, total_usd=None))
    records.reserve(record("RUN_B", "0.1"), one)
    with pytest.raises(RequestError, match="1 runs of this token"):
        records.reserve(replace(record("RUN_C"), owner="root"), one)


def test_records_of_an_earlier_segkit_are_understood(tmp_path: Path) -> None:
    """A table without payers: each run is its owner's to pay."""
    old = sqlite3.connect(tmp_path / "records.db")
    old.execute(
        "CREATE TABLE runs (turn INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,"
        " idempotency_key TEXT, body_sha256 TEXT NOT NULL, phase TEXT NOT NULL, products INTEGER NOT NULL,"
        " created_at TEXT NOT NULL, budget INTEGER, spent INTEGER NOT NULL DEFAULT 0, max_calls INTEGER,"
        " max_unassigned INTEGER, cancelled INTEGER NOT NULL DEFAULT 0, UNIQUE (owner, idempotency_key))"
    )
    old.execute(
        "INSERT INTO runs (run_id, owner, body_sha256, phase, products, created_at, spent)"
        " VALUES ('RUN_A', 'ann', '', 'ended', 3, '', 900000000)"
    )
    old.commit()
    old.close()
    records = Records(tmp_path / "records.db")
    told = records.get("RUN_A")
    assert told is not None
    assert (told.payer, told.spent, told.paid_before) == ("ann", Decimal("0.9"), 0)
    with pytest.raises(RequestError, match=r"\$0.90 of \$1"):
        records.reserve(record("RUN_B", "0.2"), CAPS)
    records.close()


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
