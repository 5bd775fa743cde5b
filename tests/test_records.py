"""What the service sets aside of a token's money, and what it takes a run to have cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from segkit.errors import RequestError
from segkit.jobs import spent
from segkit.records import Caps, Record, Records

CAPS = Caps(20, 20, Decimal(1))


def record(run_id: str, budget: str | None = "0.9", **more: Any) -> Record:
    return Record(run_id, "ann", None, "", "queued", 3, budget=None if budget is None else Decimal(budget), **more)


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    made = Records(tmp_path / "records.db")
    yield made
    made.close()


def test_a_resume_with_less_money_frees_none_that_was_spent(records: Records) -> None:
    """A6 ★: a run that spent $0.90 and is resumed with $0.01 leaves $0.10 of $1, not $0.99."""
    records.reserve(record("RUN_A"), CAPS)
    records.end("RUN_A", Decimal("0.9"))
    ended = records.get("RUN_A")
    assert ended is not None
    records.requeue(replace(ended, phase="queued", budget=Decimal("0.01")), CAPS)
    with pytest.raises(RequestError, match=r"\$0.90 of \$1 are spent or set aside"):
        records.reserve(record("RUN_B"), CAPS)
    records.reserve(record("RUN_C", "0.1"), CAPS)


def test_a_resume_with_less_money_than_was_spent_must_fit_too(records: Records) -> None:
    """A6 ★: what a run spent counts when it is resumed, whatever it is given now."""
    records.reserve(record("RUN_A"), CAPS)
    records.end("RUN_A", Decimal("0.9"))
    records.reserve(record("RUN_B", "0.1"), CAPS)
    ended = records.get("RUN_A")
    assert ended is not None
    with pytest.raises(RequestError, match="this run may take"):
        records.requeue(
            replace(ended, phase="queued", budget=Decimal("0.01")), replace(CAPS, total_usd=Decimal("0.5"))
        )


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
    ],
    ids=str,
)
def test_a_status_that_does_not_tell_makes_it_the_whole_budget(status: dict[str, Any], cost: str) -> None:
    """A6 ★: what a run cost is never taken to be less than it may have been."""
    assert spent(record("RUN_A"), status) == Decimal(cost)
