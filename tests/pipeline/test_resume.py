"""Work that is done again: under other settings, in another process, at the same time, after stricter checks."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
from catalogues import KEY, catalogue
from endpoint import Endpoint

from segkit.errors import RefusedError, RunError
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state
from segkit.runs.interactions import scan, write_whole
from segkit.runs.run import Run, open_run
from segkit.runs.status import read_status
from segkit.settings import project_folder
from segkit.storage.locks import is_held, owned

NewRun = Callable[..., Run]
STAGES = (extract_taxonomy, consolidate_taxonomy, refine_assignments)
FORK = multiprocessing.get_context("fork")


def work(run: Run) -> None:
    for stage in STAGES:
        stage(run)


def asked(endpoint: Endpoint) -> Counter[str]:
    """How often each request was sent."""
    return Counter(entry["sha256"] for entry in endpoint.ledger())


def test_a_result_is_checked_anew_from_its_raw_answer(endpoint: Endpoint, new_run: NewRun) -> None:
    """A log calls valid what today's checks refuse; the raw answer decides, and only what is missing is asked."""
    run = new_run(6)
    extract_taxonomy(run)
    before = run.result("batch_assignments")
    (logged,) = scan(run.stage_folder("extract_taxonomy"))[0]
    log = {name: value for name, value in logged.log.items() if name != "sha256"}
    answer = orjson.loads(log["body"])
    content = orjson.loads(answer["choices"][0]["message"]["content"])
    content["assignments"].pop("P_3")
    answer["choices"][0]["message"]["content"] = orjson.dumps(content).decode()
    logged.path.unlink()
    write_whole(run.stage_folder("extract_taxonomy"), 1, 1, {**log, "body": orjson.dumps(answer).decode()})
    assert log["metadata"]["outcome"] == "valid"
    extract_taxonomy(run)
    assert [entry["asked"] for entry in endpoint.ledger()][1:] == [["P_3"]]
    assert run.result("batch_assignments")[["product_id", "category"]].equals(before[["product_id", "category"]])


def test_other_settings_change_no_run_that_has_begun(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes of batches are the run's own; others in the settings, and one worker, change nothing."""
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    run = new_run(24)
    extract_taxonomy(run)
    sizes = [len(entry["ids"]) for entry in endpoint.ledger()]
    monkeypatch.setenv("SEGMENTATION_PRODUCTS_PER_PROMPT", "5")
    monkeypatch.setenv("SEGMENTATION_PRODUCTS_PER_REFINEMENT", "24")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "1")
    work(run)
    assert sizes == [6, 6, 6, 6]
    assert [endpoint.count(stage.__name__) for stage in STAGES] == [4, 1, 4]
    assert set(asked(endpoint).values()) == {1}


def test_a_run_whose_key_was_wrong_goes_on(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is withdrawn after the first answer; with the right one only the rest is asked."""
    run = new_run(24)
    endpoint.queue("ok")
    endpoint.rule("401")
    monkeypatch.setenv("SEGKIT_CONCURRENCY", "1")
    with pytest.raises(RefusedError, match="OPENAI_API_KEY"):
        extract_taxonomy(run)
    assert [entry["status"] for entry in endpoint.ledger()] == [200, 401]
    endpoint.reset()
    endpoint.configure(api_key="sk-another-key-that-is-right")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-key-that-is-right")
    extract_taxonomy(run)
    assert endpoint.count() == 3
    assert set(run.result("batch_assignments")["reason"]) == {""}


def test_two_runs_that_need_the_same_at_once(endpoint: Endpoint, new_run: NewRun) -> None:
    """Each question is paid for twice at most, and every payment stands in the figures of a run."""
    runs = [new_run(24), new_run(24)]
    endpoint.configure(latency=[0.0, 0.2])
    processes = [FORK.Process(target=work, args=(run,)) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert max(asked(endpoint).values()) <= len(runs)
    assert sum(decide_state(run)["calls"] for run in runs) == endpoint.count()
    one, two = (run.result("lineage")["refined_category"] for run in runs)
    assert one.equals(two)


def test_a_cell_that_is_run_again_while_its_threads_live(endpoint: Endpoint, new_run: NewRun) -> None:
    """The lock refuses it, also within one process, and says who is at work; the first one ends undisturbed."""
    run = new_run(12)
    endpoint.configure(latency=4.0)
    first = threading.Thread(target=extract_taxonomy, args=(run,))
    first.start()
    endpoint.wait(1)
    with pytest.raises(RunError, match="at work in another process: pid"):
        extract_taxonomy(run)
    first.join()
    assert endpoint.count() == 2
    assert set(run.result("batch_assignments")["reason"]) == {""}


def test_a_process_that_is_forked_shares_no_connection(endpoint: Endpoint, new_run: NewRun) -> None:
    """A child goes on where its parent, which has asked, was forked; while the parent asks for another run."""
    run, other = new_run(12), new_run(18)
    extract_taxonomy(run)
    child = FORK.Process(target=work, args=(run,))
    child.start()
    extract_taxonomy(other)
    child.join(120)
    assert child.exitcode == 0
    work(run)
    assert set(asked(endpoint).values()) == {1}
    assert {entry["status"] for entry in endpoint.ledger()} == {200}


def test_a_lock_ends_with_its_block_and_not_with_the_children(place: Path) -> None:
    """A child that was forked meanwhile has the file open too, and must not keep the run for itself."""
    go = FORK.Event()
    with owned(place / "run.lock"):
        child = FORK.Process(target=go.wait)
        child.start()
    try:
        assert not is_held(place / "run.lock")
    finally:
        go.set()
        child.join(60)


def test_a_loop_that_runs_already_is_no_hindrance(endpoint: Endpoint, new_run: NewRun) -> None:
    """A notebook's thread runs a loop, and so do callers of the library."""
    run = new_run(12)

    async def in_a_loop() -> int:
        return len(extract_taxonomy(run))

    assert asyncio.run(in_a_loop()) == len(run.result("batch_categories"))
    assert endpoint.count() == 2


_listed: list[str] | None = None


def _hear(event: str, arguments: tuple[object, ...]) -> None:
    if _listed is not None and event in ("os.listdir", "os.scandir"):
        _listed.append(str(arguments[0]))


@contextmanager
def folders_listed() -> Iterator[list[str]]:
    """The folders that are listed within the block, by whatever code."""
    global _listed
    if not getattr(sys, "_segkit_hears", False):
        sys.addaudithook(_hear)
        sys._segkit_hears = True  # type: ignore[attr-defined]
    _listed = heard = []
    try:
        yield heard
    finally:
        _listed = None


def test_nothing_is_looked_for_by_listing_what_grows(endpoint: Endpoint, new_run: NewRun, place: Path) -> None:
    """Neither the cache nor the folder of the runs is listed, whatever is in it; entries are in shards."""
    work(new_run(12))
    run = new_run(12)
    with folders_listed() as listed:
        work(open_run(run.id, place / "runs"))
        assert str(run.folder.resolve()) in {str(Path(name).resolve().parent) for name in listed}, "it does hear"
    assert read_status(run.folder).stages["segmentation"].cached == 2
    places = {Path(name).resolve() for name in listed}
    assert not [
        folder for folder in places if folder == place / "runs" or place / "home" in [folder, *folder.parents]
    ]
    entries = list((place / "home" / "cache").rglob("*.json"))
    assert entries
    assert all(entry.parent.name == entry.name[:2] for entry in entries)


def test_what_a_model_is_sent_holds_nothing_secret(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No title makes a model tell what it was never told: keys, addresses, paths, runs, other products."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:canary-password@127.0.0.1:1/canary-database")
    new_run(6)
    run = new_run(catalogue(12).iloc[6:])
    work(run)
    sent = orjson.dumps(endpoint.bodies()).decode()
    secrets = (KEY, "canary", "127.0.0.1", str(run.folder.parent.resolve()), run.id, "OPENAI", "number 5 ")
    assert not [secret for secret in secrets if secret in sent]
    assert "number 6 ladle" in sent
    assert not [product for product in run.products["product_id"] if f"{product}" in sent]


@pytest.mark.long
@pytest.mark.parametrize("fault", ["gzip_bomb", "huge"])
@pytest.mark.parametrize("transport", ["http", "sdk"])
def test_a_body_without_end_is_cut_off(
    fault: str, transport: str, endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 MB at most are taken in; the log says so and that it may have been paid; it is asked again."""
    monkeypatch.setenv("SEGKIT_TRANSPORT", transport)
    endpoint.queue(fault)
    run = new_run(6)
    extract_taxonomy(run)
    assert set(run.result("batch_assignments")["reason"]) == {""}
    facts = sorted(
        (log.log["metadata"] for log in scan(run.stage_folder("extract_taxonomy"))[0]), key=lambda f: f["money"]
    )
    assert [(fact["money"], fact["outcome"]) for fact in facts] == [("paid", "valid"), ("unknown", "no_answer")]
    assert "the body exceeds 20000000 bytes" in facts[1]["why"]
    assert sum(path.stat().st_size for path in run.stage_folder("extract_taxonomy").iterdir()) < 1_000_000


@pytest.mark.long
def test_cells_in_any_order_pay_nothing_twice(
    endpoint: Endpoint, new_run: NewRun, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All cells again, one cell twice, the stages out of order."""
    monkeypatch.setenv("SEGKIT_CACHE", "false")
    monkeypatch.setenv("MPLBACKEND", "agg")
    run = new_run(12)
    names = ("00_prepare_run", "10_extract_taxonomy", "20_consolidate_taxonomy", "30_refine_assignments")
    order = (*names, *names, names[2], names[1], names[3])
    for name in order:
        document = orjson.loads((project_folder("notebooks") / f"{name}.ipynb").read_bytes())
        cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
        scope: dict[str, object] = {"display": lambda shown: shown}
        for cell in [cells[0], f"run = run_id = {run.id!r}", cells[1], *cells[1:]]:
            exec(cell, scope)
    assert [endpoint.count(stage.__name__) for stage in STAGES] == [2, 1, 2]


def many(place: Path, seed: int, runs: int) -> None:
    """Do many small runs, one after another."""
    for number in range(runs):
        frame = catalogue(40).iloc[(seed + number) % 20 :].head(6)
        work(prepare_run(frame, "Kitchen Things", model="gpt-4o", runs_dir=place / f"runs{seed}"))


@pytest.mark.long
def test_eight_processes_with_one_cache(endpoint: Endpoint, place: Path) -> None:
    """8 × 25 runs over 20 lists of products; all that was sent, and no more, stands in the runs."""
    processes = [FORK.Process(target=many, args=(place, seed, 25)) for seed in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
        assert process.exitcode == 0
    runs = [open_run(path.name, path.parent) for path in place.glob("runs*/RUN_*")]
    assert len(runs) == 200
    assert sum(decide_state(run)["calls"] for run in runs) == endpoint.count()
    sent = asked(endpoint)
    assert max(sent.values()) <= len(processes)
    assert (
        sum(decide_state(run)["cached"] for run in runs)
        == sum(len(scan(run.stage_folder(stage.__name__))[0]) for run in runs for stage in STAGES) - endpoint.count()
    )
