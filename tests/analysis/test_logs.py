"""The logs as tables: open runs and compacted ones alike, whatever is damaged, missing or unknown."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from catalogues import catalogue

from segkit.analysis.logs import COMPACTED, compact, interaction_index, query
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs import interactions
from segkit.runs.run import Run
from segkit.settings import Settings

VIEWS = ["interactions", "spend_by_stage", "time_by_stage", "retries", "failures"]
VIEWS += ["cache_hits", "storage_used", "prompt_slots"]
VALID = {
    "interaction_type": "segmentation",
    "batch_id": 1,
    "part": "",
    "attempt": 1,
    "model": "gpt-4o",
    "temperature": 0.2,
    "category": "Kitchen Things",
    "cache_key": "ab" * 16,
    "timestamp": "2025-06-18T12:03:05Z",
    "duration_ms": 2345,
    "money": "paid",
    "cost_usd": "0.0012345678",
    "outcome": "valid",
    "usage": {"input": 100, "cached": None, "output": 20, "reasoning": None},
    "faults": [],
    "warnings": [],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with all stages done by the offline model: 3 + 1 + 3 interactions."""
    place = tmp_path_factory.mktemp("finished")
    settings = Settings(segkit_home=place / "home", segmentation_products_per_prompt=6)
    sizes = {"runs_dir": place, "settings": settings, "products_per_refinement": 6}
    run = prepare_run(catalogue(16), "Kitchen Things", model="offline", **sizes)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of that run, to be spoilt."""
    folder = tmp_path / "runs" / finished.id
    shutil.copytree(finished.folder, folder)
    return Run(folder, finished.document)


@pytest.fixture
def open_run(new_run: Callable[..., Run]) -> Run:
    """A run that nothing was asked for yet."""
    return new_run(12, model="offline")


def write(run: Run, without: tuple[str, ...] = (), **facts: Any) -> Path:
    """Write a log of a run as `calls` does, with some facts changed or left out."""
    told = {name: value for name, value in {"run_id": run.id, **VALID, **facts}.items() if name not in without}
    folder = run.folder / told["interaction_type"]
    log = {"context": {}, "prompt": "?", "response": "!", "metadata": told}
    return interactions.write_whole(folder, told["batch_id"], told["attempt"], log)


def rows(view: str, run: Run) -> pd.DataFrame:
    return query(f"FROM {view} ORDER BY ALL", run=run)


def test_each_log_is_one_row_with_what_stands_in_it(run: Run) -> None:
    frame = rows("interactions", run).set_index("file_path")
    logs = [
        log for stage in ("segmentation", "consolidate_taxonomy") for log in interactions.scan(run.folder / stage)[0]
    ]
    assert len(frame) == len(list(run.folder.glob("*/*.json"))) == 7
    for log in logs:
        row, facts = frame.loc[f"{run.id}/{log.path.parent.name}/{log.path.name}"], log.log["metadata"]
        assert {name: row[name] for name in ("batch_id", "attempt", "cache_key", "outcome", "duration_ms")} == {
            name: facts[name] for name in ("batch_id", "attempt", "cache_key", "outcome", "duration_ms")
        }
        assert row["input_tokens"] == facts["usage"]["input"]
        assert row["created_at"] == pd.Timestamp(facts["timestamp"])


@pytest.mark.parametrize("view", VIEWS)
def test_an_open_run_and_a_compacted_one_give_equal_rows(run: Run, view: str) -> None:
    write(
        run, attempt=1, batch_id=9, outcome="invalid", faults=["format: no JSON", "completeness: P_1"], cost_usd=None
    )
    write(run, attempt=2, batch_id=9, cached_from="RUN_1/x", money="not_paid")
    before = rows(view, run)
    compact(run)
    for log in run.folder.glob("*/*.json"):
        log.write_bytes(b"")  # the names stay, so that nothing but the Parquet file can have been read
    pd.testing.assert_frame_equal(rows(view, run), before)
    assert len(before)


@pytest.mark.parametrize("view", VIEWS)
def test_a_run_without_logs_has_empty_views(open_run: Run, view: str) -> None:
    assert rows(view, open_run).empty
    compact(open_run)
    assert rows(view, open_run).empty


def test_all_runs_of_a_folder_are_asked_at_once(new_run: Callable[..., Run], place: Path) -> None:
    finished, at_work, fresh = (new_run(12, model="offline") for _ in range(3))
    extract_taxonomy(finished)
    compact(finished)
    extract_taxonomy(at_work)
    counts = query("SELECT run_id, count(*) AS logs FROM interactions GROUP BY ALL", place / "runs")
    assert dict(zip(counts["run_id"], counts["logs"], strict=True)) == {finished.id: 2, at_work.id: 2}
    assert query("FROM interactions", place / "runs", run=fresh.id).empty
    assert query("FROM interactions", place / "nowhere").empty


def test_logs_written_after_compaction_are_seen(run: Run) -> None:
    compact(run)
    write(run, batch_id=77)
    assert 77 in set(rows("interactions", run)["batch_id"])


def test_a_broken_parquet_file_is_passed_over(run: Run) -> None:
    before = rows("interactions", run)
    compact(run).write_bytes(b"PAR1 cut off")
    pd.testing.assert_frame_equal(rows("interactions", run), before)


def test_compacting_leaves_one_file_and_can_be_repeated(run: Run) -> None:
    first = compact(run).read_bytes()
    assert compact(run).read_bytes() == first
    assert [path.name for path in run.folder.iterdir() if COMPACTED in path.name] == [COMPACTED]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\0" * 4096, b'{"metadata": {"run_id": ', b"\xff\xfe{}", b"[]", b"null"]
)
def test_a_damaged_log_is_named_and_the_rest_is_read(run: Run, content: bytes) -> None:
    before = len(rows("interactions", run))
    bad = sorted((run.folder / "segmentation").glob("*.json"))[1]
    bad.write_bytes(content)
    for _ in range(2):  # open, and compacted
        with pytest.warns(UserWarning, match=f"passed over: {run.id}/segmentation/{bad.name}"):
            assert len(rows("interactions", run)) == before - 1
        with pytest.warns(UserWarning, match="passed over"):
            assert rows("damaged_logs", run)["file_path"].tolist() == [f"{run.id}/segmentation/{bad.name}"]
        compact(run)


def test_a_log_that_was_changed_is_named_too(run: Run) -> None:
    changed = next((run.folder / "refine_assignments").glob("*.json"))
    changed.write_bytes(changed.read_bytes().replace(b'"attempt": 1', b'"attempt": 2'))
    with pytest.warns(UserWarning, match="passed over"):
        assert rows("damaged_logs", run)["file_path"].tolist() == [f"{run.id}/refine_assignments/{changed.name}"]


def test_what_is_unknown_is_missing_and_never_0(open_run: Run) -> None:
    unknown = {"money": "unknown", "outcome": "no_answer", "why": "lost"}
    write(open_run, without=("usage", "cost_usd"), **unknown)
    row = rows("interactions", open_run).iloc[0]
    assert row[["input_tokens", "output_tokens", "cost_usd"]].isna().all()
    spent = rows("spend_by_stage", open_run).iloc[0]
    assert spent[["input_tokens", "output_tokens", "cost_usd"]].isna().all()
    assert (spent["calls"], spent["unknown_usage"], spent["unknown_cost"]) == (1, 1, 1)


def test_spending_is_exact_and_leaves_out_the_cache(open_run: Run) -> None:
    for batch in range(1, 4):
        write(open_run, batch_id=batch, cost_usd="0.1")
    write(open_run, batch_id=4, cost_usd="0", money="not_paid", cached_from="RUN_1/x", duration_ms=0)
    write(open_run, without=("usage", "cost_usd"), batch_id=5, money="not_paid", outcome="too_long", why="context")
    spent = query("SELECT *, cost_usd = 0.3 AS exact FROM spend_by_stage", run=open_run).iloc[0]
    assert spent["exact"]
    assert (spent["calls"], spent["cached"], spent["input_tokens"], spent["unknown_cost"]) == (3, 1, 300, 0)


def test_retries_tell_what_was_wrong_before(open_run: Run) -> None:
    write(open_run, outcome="invalid", faults=["format: no JSON", "completeness: P_1 is missing"])
    write(open_run, attempt=2, outcome="no_answer", money="unknown", why="the connection was lost")
    write(open_run, attempt=2)
    write(open_run, batch_id=2)
    retries = query("FROM retries ORDER BY attempt, outcome", run=open_run)
    assert retries["faults_before"].tolist() == [
        "format: no JSON; completeness: P_1 is missing",
        "the connection was lost",
    ]
    assert retries["outcome"].tolist() == ["no_answer", "valid"]
    failures = query("FROM failures ORDER BY attempt", run=open_run)
    assert failures["outcome"].tolist() == ["invalid", "no_answer"]


def test_durations_leave_out_the_cache(open_run: Run) -> None:
    for batch, milliseconds in enumerate((1000, 2000, 9000), start=1):
        write(open_run, batch_id=batch, duration_ms=milliseconds)
    write(open_run, batch_id=4, duration_ms=0, cached_from="RUN_1/x")
    row = rows("time_by_stage", open_run).iloc[0]
    assert (row["calls"], row["p50_seconds"], row["max_seconds"]) == (3, 2.0, 9.0)
    assert 2 < row["p95_seconds"] < 9


def test_each_slot_of_a_prompt_is_a_row(run: Run) -> None:
    slots = query("FROM prompt_slots WHERE interaction_type = 'segmentation'", run=run)
    assert sorted(slots["product_id"]) == list(range(100, 116)), "each product stood in one prompt"
    assert (slots["local_id"] == "P_" + slots["slot"].astype("str")).all()
    titles = dict(zip(run.products["product_id"], run.products["title"], strict=True))
    assert slots["text"].tolist() == [titles[product] for product in slots["product_id"]]


def test_the_cache_tells_what_it_saved(open_run: Run) -> None:
    write(open_run)
    write(open_run, batch_id=2, cached_from=f"{open_run.id}/a_log", money="not_paid", cost_usd="0")
    write(open_run, batch_id=3, cache_key="cd" * 16, cached_from="RUN_1/x", money="not_paid", cost_usd="0")
    hits = query("FROM cache_hits", run=open_run).iloc[0]
    assert (hits["answers"], hits["cached"], hits["unknown_saving"]) == (3, 2, 1)
    assert hits["saved_usd"] == pytest.approx(0.0012345678)


def test_the_space_that_logs_take(open_run: Run) -> None:
    sizes = [write(open_run, batch_id=number).stat().st_size for number in (1, 2)]
    used = query("FROM storage_used", run=open_run).iloc[0]
    assert (used["logs"], used["bytes"], used["unknown_bytes"]) == (2, sum(sizes), 0)


def test_the_index_names_files_below_the_folder_of_the_runs(run: Run) -> None:
    index = interaction_index(run)
    assert list(index.columns) == [
        "interaction_type", "batch_id", "attempt", "file_path", "prompt_file", "cache_key", "created_at",
    ]  # fmt: skip
    assert index["file_path"].is_monotonic_increasing
    runs_dir = run.folder.parent
    assert all((runs_dir / path).is_file() for path in [*index["file_path"], *index["prompt_file"]])
    assert str(index["created_at"].dtype) == "datetime64[us, UTC]"
    compact(run)
    pd.testing.assert_frame_equal(interaction_index(run), index)


def test_the_index_of_a_run_without_logs_is_empty(open_run: Run) -> None:
    assert interaction_index(open_run).shape == (0, 7)


@pytest.mark.parametrize("name", ["it's", "a [b] *?", "{x}", "ünï"])
def test_paths_mean_themselves(new_run: Callable[..., Run], place: Path, name: str) -> None:
    (place / name).mkdir()
    run = new_run(12, model="offline")
    moved = Run(run.folder.rename(place / name / run.id), run.document)
    extract_taxonomy(moved)
    assert len(query("FROM interactions", place / name)) == 2
    compact(moved)
    assert len(query("FROM interactions", place / name)) == 2
