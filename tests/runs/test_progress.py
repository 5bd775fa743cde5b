"""How far a run is, as its status tells it."""

from __future__ import annotations

from typing import Any

import pytest

from segkit.runs.progress import processed_products


def stage(done: int, planned: int) -> dict[str, int]:
    return {"done": done, "planned": planned}


@pytest.mark.parametrize(
    ("stages", "processed"),
    [
        ({}, 0),
        ({"segmentation": stage(0, 0)}, 0),
        ({"segmentation": stage(1, 4)}, 12),
        ({"segmentation": stage(4, 4), "consolidate_taxonomy": stage(1, 9)}, 50),
        ({"segmentation": stage(4, 4), "refine_assignments": stage(1, 2)}, 75),
        ({"segmentation": stage(5, 4), "refine_assignments": stage(2, 2)}, 100),
        ({"segmentation": {**stage(4, 4), "failed": 2}}, 25),
    ],
)
def test_a_product_counts_half_after_extraction_and_whole_after_refinement(
    stages: dict[str, Any], processed: int
) -> None:
    assert processed_products({"products": 100, "processed": 0, "stages": stages}) == processed


def test_a_settled_run_tells_what_its_ledger_says() -> None:
    done = {"segmentation": stage(4, 4), "refine_assignments": stage(2, 2)}
    settled = {"products": 100, "processed": 97, "stages": done, "summary": {"state": "failed"}}
    assert processed_products(settled) == 97
