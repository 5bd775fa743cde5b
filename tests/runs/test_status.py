"""Reading `status.json`: what a run has done and taken, also where the file is damaged."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.models import Usage
from segkit.runs.status import StageFigures, as_status, known_status, read_status, total, update_status


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
    assert as_status({"products": 100, "processed": 0, "stages": stages}).processed_products == processed


def test_a_run_with_a_summary_has_processed_what_its_ledger_holds() -> None:
    done = {"segmentation": stage(4, 4), "refine_assignments": stage(2, 2)}
    decided = {"products": 100, "processed": 97, "stages": done, "summary": {"state": "failed"}}
    assert as_status(decided).processed_products == 97


def test_the_file_keeps_its_names_and_gives_the_figures_back(tmp_path: Path) -> None:
    figures = StageFigures(planned=3, done=2, problems=["b1: too long"])
    figures.add_call(Usage(input=10, cached=4, output=None), None)
    figures.add_call(Usage(input=1, cached=0, output=2), Decimal("0.10"))
    status = update_status(tmp_path, state="running", stages={"segmentation": figures}, life="ab", after="")
    written = orjson.loads((tmp_path / "status.json").read_bytes())
    assert written["stages"]["segmentation"] == {
        "planned": 3, "done": 2, "calls": 2, "cached": 0, "retries": 0, "failed": 0, "input_tokens": 11,
        "cached_tokens": 4, "output_tokens": 2, "unknown_usage": 1, "unknown_cost": 1, "cost_usd": "0.10",
        "saved_usd": "0", "saved_unpriced": 0, "seconds": 0.0, "problems": ["b1: too long"],
    }  # fmt: skip
    assert (written["change"], written["life"], written["after"]) == (1, "ab", "")
    assert status == read_status(tmp_path)
    assert status.stages == {"segmentation": figures}
    assert (status.calls, status.unpriced, status.cost_usd, status.session) == (2, 1, Decimal("0.10"), "ab")


def test_what_segkit_does_not_know_stays_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text('{"state": "running", "of_a_later_segkit": [1]}')
    update_status(tmp_path, state="failed")
    assert orjson.loads((tmp_path / "status.json").read_bytes())["of_a_later_segkit"] == [1]


def test_the_sum_of_stages() -> None:
    one, other = StageFigures(calls=1, cost_usd=Decimal("0.1"), problems=["a"]), StageFigures(calls=2, unpriced=1)
    assert total([one, other]) == StageFigures(calls=3, unpriced=1, cost_usd=Decimal("0.1"), problems=["a"])
    assert one.problems == ["a"], "the parts stay as they are"


@pytest.mark.parametrize(
    ("document", "damage"),
    [
        ({"state": 5}, ("state",)),
        ({"state": "running", "products": "many"}, ("products",)),
        ({"state": "running", "stages": [1]}, ("stages",)),
        ({"state": "running", "stages": {"a": 1}}, ("stages.a",)),
        ({"state": "running", "stages": {"a": {"unknown_cost": 0}}}, ("stages.a.cost_usd",)),
        ({"state": "running", "stages": {"a": {"cost_usd": "NaN", "unknown_cost": 0}}}, ("stages.a.cost_usd",)),
        ({"state": "running", "stages": None, "summary": None}, ()),
        ({}, ("state",)),
    ],
)
def test_what_cannot_be_read_is_named_and_hides_nothing_else(
    document: dict[str, Any], damage: tuple[str, ...]
) -> None:
    status = as_status({"reason": "it broke", **document})
    assert (status.damage, status.reason) == (damage, "it broke")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"updated_at": 5}', b'{"change": "x", "life": []}'])
def test_a_file_without_a_state_is_no_status(data: bytes, tmp_path: Path) -> None:
    assert known_status(data) is None
    (tmp_path / "status.json").write_bytes(data)
    assert update_status(tmp_path, reason="mended").reason == "mended"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(["state", "stage", "stages", "summary", "products", "processed", "change", "life", "seal"])
FIGURES = st.sampled_from(["planned", "done", "cost_usd", "unknown_cost", "problems", "seconds"])
STAGES = st.dictionaries(st.text(max_size=3), st.dictionaries(FIGURES, JSON) | JSON, max_size=2)


@given(st.dictionaries(NAMES, JSON), STAGES)
def test_any_json_is_read(document: dict[str, Any], stages: dict[str, Any]) -> None:
    for each in (document, {**document, "stages": stages}):
        status = as_status(each)
        assert status.cost_usd >= 0
        assert status.processed_products >= 0 or (status.products or 0) < 0 or status.processed < 0
