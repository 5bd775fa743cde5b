"""The command line as a user types it: a process of its own, real notebooks, a real Postgres."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psycopg
import pytest
from catalogues import KEY, catalogue, data
from endpoint import Endpoint
from notebook_run import CATEGORY, HOSTILE_TITLES, NotebookRun

from segkit.cli.main import main
from segkit.cli.project.doctor import file_system, mounts
from segkit.database.embedded import embedded_url
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.run import LISTED, open_run
from segkit.runs.status import read_status
from segkit.storage.locks import owned

PRODUCTS = 266 + len(HOSTILE_TITLES)  # of `finished`
COMMAND = [sys.executable, "-m", "segkit"]
Done = subprocess.CompletedProcess[str]


def segkit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run segkit in `cwd` without settings of the machine."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env=clean_environment(**environment),
        capture_output=True,
        text=True,
        timeout=900,
    )


def clean_environment(**more: str) -> dict[str, str]:
    left_out = ("OPENAI_", "SEGKIT_", "DATABASE_URL", "DEFAULT_", "SEGMENTATION_", "STORAGE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    return kept | {"SEGKIT_ASK_TWICE": "0"} | more


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Run segkit in this process, where another would only import all anew."""
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)

    def run(*arguments: str, cwd: Path) -> Done:
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return subprocess.CompletedProcess(arguments, int(ended.value.code or 0), *capsys.readouterr())

    return run


def test_a_run_ends_completed_with_a_summary(finished: NotebookRun) -> None:
    place, summary, told = finished
    assert summary["state"] == "completed"
    assert (summary["products"], summary["unassigned"], summary["cost_usd"]) == (PRODUCTS, 0, "0")
    assert told.splitlines()[0] == summary["run_id"], "the run's id comes first"
    assert "Traceback" not in told
    assert (place / str(summary["report"])).stat().st_size > 10_000


def test_the_folder_of_a_run_is_whole(finished: NotebookRun) -> None:
    """Every file of a run is there, and `sha256sum -c` finds it unchanged."""
    place, summary, _ = finished
    folder = place / str(summary["folder"])
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    notebooks = {f"notebooks/{n}.ipynb" for n in ("00_prepare_run", "10_extract_taxonomy", "50_sync_postgres")}
    results = {f"results/{n}.parquet" for n in ("taxonomies", "segments", "refined_segments", "ledger")}
    files = {"run.json", "status.json", "events.jsonl", "products.parquet", "interactions.parquet", "report.html"}
    assert notebooks | results | files | {"prompts/extract_taxonomy_prompt.txt", "checksums.sha256"} <= names
    subprocess.run(["sha256sum", "--check", "--quiet", "checksums.sha256"], cwd=folder, check=True)


def test_results_have_the_columns_others_rely_on(finished: NotebookRun) -> None:
    place, summary, _ = finished
    run = open_run(str(summary["run_id"]), place / "runs")
    columns = {name: list(run.result(name)) for name in ("taxonomies", "segments", "refined_segments", "ledger")}
    assert columns == {
        "taxonomies": ["id", "category_name", "definition", "product_count", "key"],
        "segments": ["product_id", "taxonomy_id", "confidence"],
        "refined_segments": ["product_id", "taxonomy_id", "confidence"],
        "ledger": ["product_id", "state", "reason"],
    }
    taxonomies, refined = run.result("taxonomies"), run.result("refined_segments")
    assert list(taxonomies["id"]) == list(range(1, len(taxonomies) + 1))
    counted = refined["taxonomy_id"].value_counts().reindex(taxonomies["id"], fill_value=0)
    assert list(counted) == list(taxonomies["product_count"])
    assert set(run.result("segments")["taxonomy_id"]) <= set(taxonomies["id"])
    assert sorted(run.result("ledger")["product_id"]) == sorted(run.products["product_id"])


def test_the_database_holds_what_the_folder_holds(finished: NotebookRun) -> None:
    """The embedded server keeps the rows after the run; `segkit db query` reads them."""
    place, summary, _ = finished
    sql = (
        "SELECT product_id, category_name FROM refined_product_segments"
        " JOIN product_taxonomies t ON t.id = taxonomy_id ORDER BY product_id"
    )
    asked = segkit("db", "query", sql, "--json", cwd=place)
    run = open_run(str(summary["run_id"]), place / "runs")
    names = run.result("taxonomies").set_index("id")["category_name"]
    ours = run.result("refined_segments")
    assert [(row["product_id"], row["category_name"]) for row in json.loads(asked.stdout)] == list(
        zip(ours["product_id"], ours["taxonomy_id"].map(names), strict=True)
    )
    states = json.loads(segkit("db", "query", "SELECT status FROM segmentation_runs", "--json", cwd=place).stdout)
    assert states == [{"status": "completed"}]


@pytest.mark.long
def test_the_database_is_shown_compared_and_mended(finished: NotebookRun) -> None:
    """`segkit db status`, `check` and `reindex`: what somebody changed is named, one line a table, and mended."""
    place, summary, _ = finished
    run_id = str(summary["run_id"])
    status = json.loads(segkit("db", "status", "--json", cwd=place).stdout)
    assert status["runs"]["in both"] == [run_id]
    assert status["rows"]["product_segments"] == PRODUCTS
    url = embedded_url(place / ".segkit")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE llm_interaction_index SET file_path = 'lost'")
    done = segkit("db", "check", cwd=place)
    assert done.returncode == 1
    assert done.stdout.splitlines()[0].startswith(f"{run_id}: llm_interaction_index: ")
    assert json.loads(segkit("db", "reindex", "--json", cwd=place).stdout) == {
        run_id: status["rows"]["llm_interaction_index"]
    }
    assert segkit("db", "check", "all", cwd=place).returncode == 0


@pytest.mark.long
def test_products_that_a_store_lacks_are_left_out_and_named(
    finished: NotebookRun,
    make_database: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    at_once: Callable[..., Done],
) -> None:
    """Fail with the ids by default; `--missing skip` names what it leaves out, and `db check` knows."""
    place, summary, _ = finished
    run_id, url = str(summary["run_id"]), make_database()
    lacking = sorted(open_run(run_id, place / "runs").products["product_id"])[:2]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE amazon_products (id bigint PRIMARY KEY, title text)")
        ids = open_run(run_id, place / "runs").products["product_id"]
        connection.cursor().executemany("INSERT INTO amazon_products VALUES (%s)", [(int(i),) for i in ids])
        connection.execute("DELETE FROM amazon_products WHERE id = ANY(%s)", ([int(i) for i in lacking],))
    done = segkit("sync", cwd=place, DATABASE_URL=url)
    assert (done.returncode, "--missing skip" in done.stderr) == (1, True)
    named = f"2 products that amazon_products lacks: {lacking[0]}, {lacking[1]}"
    done = segkit("sync", "--missing", "skip", cwd=place, DATABASE_URL=url)
    assert (done.returncode, bool(re.search(f"left out +{named}", done.stdout))) == (0, True)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("SEGKIT_MISSING_PRODUCTS", "skip")
    assert json.loads(at_once("sync", run_id, "--json", cwd=place).stdout)["skipped_products"] == lacking
    checked = at_once("db", "check", run_id, cwd=place)
    assert (checked.returncode, f"what the folder says, except {named}" in checked.stdout) == (0, True)


@pytest.mark.long
def test_a_finished_run_is_left_alone(finished: NotebookRun) -> None:
    """0 requests, 0 writes, exit 0."""
    place, summary, _ = finished
    folder = place / str(summary["folder"])
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = segkit("resume", "latest", "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["calls"] == summary["calls"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_run_is_verified_exported_and_asked(finished: NotebookRun, at_once: Callable[..., Done]) -> None:
    place, summary, _ = finished
    verified = segkit("verify", cwd=place)
    assert verified.returncode == 0, verified.stdout
    written = at_once("export", "latest", "--out", "segments.jsonl", cwd=place)
    assert f"{PRODUCTS} products" in written.stdout
    assert len((place / "segments.jsonl").read_text().splitlines()) == PRODUCTS
    spent = at_once("logs", "SELECT interaction_type, calls FROM spend_by_stage", "--json", cwd=place)
    assert sum(row["calls"] for row in json.loads(spent.stdout)) == summary["calls"]
    shown = at_once("logs", "FROM spend_by_stage", "--run", "latest", cwd=place)
    assert "refine_assignments" in shown.stdout, shown.stderr
    wrong = at_once("logs", "FROM nothing", cwd=place)
    assert "the views are cache_hits, categories, events, failures, interactions" in wrong.stderr
    assert len(wrong.stderr.splitlines()) <= 2


def test_an_id_is_never_broken_in_a_terminal(finished: NotebookRun) -> None:
    place, summary, _ = finished
    terminal, stdout = os.openpty()
    environment = clean_environment(COLUMNS="60", TERM="dumb")
    subprocess.run([*COMMAND, "runs"], cwd=place, env=environment, stdout=stdout, check=True, timeout=300)
    assert f"{summary['run_id']}  completed" in os.read(terminal, 10_000).decode()


def test_runs_are_listed_shown_and_explained(finished: NotebookRun, at_once: Callable[..., Done]) -> None:
    place, summary, _ = finished
    (row,) = json.loads(at_once("runs", "--json", cwd=place).stdout)
    assert (row["id"], row["state"], row["products"]) == (summary["run_id"], "completed", PRODUCTS)
    shown = at_once("show", "latest", cwd=place)
    assert CATEGORY in shown.stdout
    product = open_run(str(summary["run_id"]), place / "runs").products["product_id"][0]
    explained = at_once("explain", "latest", str(product), cwd=place)
    assert explained.returncode == 0, explained.stderr
    assert f"product  {product}" in explained.stdout
    wrong = at_once("explain", "latest", "abc", cwd=place)
    assert "product abc is not in " in wrong.stderr
    missing = segkit("db", "query", "SELECT * FROM no_such", cwd=place)
    assert "the tables are amazon_products, " in missing.stderr
    assert str(summary["run_id"]) in segkit("sync", cwd=place).stdout


WRONG = {
    "no such file": (["run", "nowhere.csv", "-c", "X", "-m", "offline"], "no such file: nowhere.csv"),
    "a column": (["run", "p.csv", "-c", "X", "-m", "offline", "--title-column", "titel"], "no column 'titel'"),
    "an id": (
        ["run", "p.csv", "-c", "X", "-m", "offline", "--product-ids", "1,x"],
        "product ids are not among the products: x",
    ),
    "ids that are not there": (["run", "p.csv", "-c", "X", "-m", "offline", "--product-ids", "7"], "7"),
    "a condition": (["run", "p.csv", "-c", "X", "-m", "offline", "--where", "title"], "--where 'title'"),
    "a value": (["run", "p.csv", "-c", "X", "-m", "offline", "--where", "title=z"], "no row has title='z'"),
    "no category": (["run", "p.csv", "-m", "offline"], "--category"),
    "no key": (["run", "p.csv", "-c", "X"], "OPENAI_API_KEY"),
    "prompts": (["run", "p.csv", "-c", "X", "-m", "offline", "--prompts", "v9"], "'v9'"),
    "a path as prompts": (
        ["run", "p.csv", "-c", "X", "-m", "offline", "--prompts", "../../etc/passwd"],
        "plain name",
    ),
    "a line": (["run", "p.csv", "-c", "X", "-m", "offline", "--product-line", "$titel"], "$titel"),
    "a run": (["resume", "RUN_20250101T000000Z_abcd"], "no run RUN_20250101T000000Z_abcd"),
    "a path as a run": (["show", "../../etc"], "is no run id"),
    "no runs": (["show", "latest"], "segkit run"),
    "no products": (["run", "-c", "X", "-m", "offline"], "there are no products"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_bad_input_gets_one_clear_line(wrong: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is asked, nothing is made, and there is no traceback."""
    (place / "p.csv").write_text("product_id,title\n1,a kettle\n2,a toaster\n")
    arguments, told = WRONG[wrong]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = capsys.readouterr().err
    assert ended.value.code not in (0, None)
    assert said.startswith("error: ")
    assert told in said
    assert len(said.splitlines()) <= 2
    assert not list(place.glob("runs/RUN_*"))


def imported_by(*arguments: str, cwd: Path) -> tuple[str, set[str]]:
    """What a command prints, and the modules it imports."""
    command = [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd, env=clean_environment())
    return done.stdout, {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_help_is_quick_and_teaches(tmp_path: Path) -> None:
    """`segkit --help` in under 0.4 s on a quiet machine: nothing heavy may be imported for it."""
    told, imported = imported_by("--help", cwd=tmp_path)
    assert "segkit run sample" in told
    assert not imported & {"pandas", "numpy", "pyarrow", "duckdb", "papermill", "openai", "aiohttp", "pydantic"}


def test_listing_runs_is_quick(place: Path) -> None:
    """A thousand runs are listed in under a second: pandas alone would take more than half of it."""
    run = prepare_run(catalogue(6), "Kitchen Things", model="offline", runs_dir=place / "runs")
    told, imported = imported_by("runs", cwd=place)
    assert told.splitlines()[0].split() == list(LISTED)
    assert told.splitlines()[1].split()[:4] == [run.id, "waiting", "Kitchen", "Things"]
    assert not imported & {"pandas", "numpy", "pyarrow", "duckdb", "papermill", "openai", "aiohttp", "psycopg"}


@pytest.fixture
def unmeasured_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole runs whose lines other tests have measured: coverage would make them a third longer."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_")]:
        monkeypatch.delenv(name)


def start(cwd: Path, endpoint: Endpoint, *more: str, **environment: str) -> subprocess.Popen[str]:
    catalogue(120).to_csv(cwd / "products.csv", index=False)
    command = [*COMMAND, "run", "products.csv", "-c", "Kitchen Things", "--yes", "--no-sync", *more]
    told = {"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": KEY, "SEGMENTATION_PRODUCTS_PER_PROMPT": "4"}
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=clean_environment(**told, **environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.usefixtures("unmeasured_children")
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.long) for n in (signal.SIGINT, signal.SIGHUP))]
)
def test_the_first_signal_stops_in_an_orderly_way(number: signal.Signals, endpoint: Endpoint, place: Path) -> None:
    """No new question, the answers in flight are kept, the status names the signal, and `segkit resume` continues."""
    endpoint.configure(latency=1.0)
    process = start(place, endpoint, "--concurrency", "2")
    endpoint.wait(5)
    process.send_signal(number)
    _, told = process.communicate(timeout=300)
    asked = endpoint.count()
    assert process.returncode == 1
    assert f"was stopped by {number.name}; all answers so far are saved\n  → segkit resume RUN_" in told
    (run_id,) = (path.name for path in (place / "runs").glob("RUN_*"))
    folder = place / "runs" / run_id
    assert read_status(folder).state == "failed"
    assert f"stopped by {number.name}" in read_status(folder).reason
    assert not list(folder.rglob("*.intent")), "what was in flight was waited for"
    endpoint.configure(latency=0.0)
    extract_taxonomy(open_run(run_id, place / "runs"))
    assert len({entry["sha256"] for entry in endpoint.ledger()}) == endpoint.count(), "nothing was asked twice"
    assert endpoint.count() == 30 > asked


@pytest.mark.long
def test_a_killed_run_is_resumed_without_loss(endpoint: Endpoint, place: Path) -> None:
    """After kill -9 the rest is asked, at most what was in flight is repeated, no lock is left."""
    endpoint.configure(latency=0.3)
    process = start(place, endpoint, "--concurrency", "4")
    endpoint.wait(9)
    process.kill()
    process.communicate(timeout=300)
    (folder,) = (place / "runs").glob("RUN_*")
    rows = json.loads(segkit("runs", "--json", cwd=place).stdout)
    kept = {path.name: path.read_bytes() for path in folder.rglob("*.json")}
    endpoint.configure(latency=0.0)
    done = segkit("resume", "latest", "--no-sync", cwd=place, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    repeated = endpoint.count() - len({entry["sha256"] for entry in endpoint.ledger()})
    assert repeated <= 4 + 4, "at most those in flight at the kill, and those the orphaned kernel still had"
    assert len(rows) == 1
    logs = {path.name: path.read_bytes() for path in folder.rglob("*_b*_a*.json")}
    assert all(logs[name] == content for name, content in kept.items() if name in logs)


def children_of(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


@pytest.mark.long
def test_a_kernel_that_is_killed_while_it_asks(endpoint: Endpoint, place: Path) -> None:
    """The run fails and says why; resumed, it repeats at most what was in flight."""
    endpoint.configure(latency=0.3)
    process = start(place, endpoint, "--concurrency", "4")
    endpoint.wait(9)
    for child in children_of(process.pid):
        if "ipykernel" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(child, signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "10_extract_taxonomy: Kernel died" in told
    (folder,) = (place / "runs").glob("RUN_*")
    assert read_status(folder).state == "failed"
    kept = {path: path.read_bytes() for path in folder.glob("*/*_b*_a*.json")}
    endpoint.configure(latency=0.0)
    done = segkit("resume", "latest", "--no-sync", cwd=place, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    assert endpoint.count() - len({entry["sha256"] for entry in endpoint.ledger()}) <= 4
    assert {path: path.read_bytes() for path in kept} == kept


@pytest.mark.long
def test_two_processes_do_not_work_on_one_run(endpoint: Endpoint, place: Path) -> None:
    """The second one is told who is at work, and asks nothing."""
    endpoint.configure(latency=0.5)
    process = start(place, endpoint, "--concurrency", "2")
    endpoint.wait(3)
    second = segkit("resume", "latest", "--no-sync", cwd=place, OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY=KEY)
    assert second.returncode == 1
    assert f"pid {process.pid}" in second.stderr
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert len({entry["sha256"] for entry in endpoint.ledger()}) == endpoint.count()


def test_who_says_no_sends_nothing_and_makes_no_run(endpoint: Endpoint, place: Path) -> None:
    """In a terminal, nothing is sent before the number of titles, the host and the cost were agreed to."""
    catalogue(6).to_csv(place / "p.csv", index=False)
    terminal, stdin = os.openpty()
    os.write(terminal, b"n\n")
    command = [*COMMAND, "run", "p.csv", "-c", "Kitchen Things", "-m", "gpt-4o"]
    told = clean_environment(OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY=KEY)
    done = subprocess.run(command, cwd=place, env=told, stdin=stdin, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "Send 6 product titles to gpt-4o at http://127.0.0.1" in done.stderr
    assert "2 questions, 2 calls to make, $0.0" in done.stderr
    assert "nothing was sent, and no run was made" in done.stderr
    assert (endpoint.count(), list((place / "runs").iterdir())) == (0, [])


@pytest.mark.long
def test_a_run_that_is_owned_is_not_touched(place: Path) -> None:
    """Who comes second writes nothing into the folder, its status least of all."""
    run = prepare_run(catalogue(6), "Kitchen Things", model="offline", runs_dir=place / "runs")
    before = {path: path.read_bytes() for path in run.folder.rglob("*.json*")}
    with owned(run.folder / "run.lock"):
        second = segkit("resume", run.id, "--no-sync", cwd=place)
    assert second.returncode == 1
    assert f"pid {os.getpid()}" in second.stderr
    assert {path: path.read_bytes() for path in run.folder.rglob("*.json*")} == before


def test_a_failing_notebook_is_kept_and_named(endpoint: Endpoint, place: Path) -> None:
    """The run is failed, the message names the notebook, the cell and the command, the copy holds the error."""
    endpoint.rule("401")
    process = start(place, endpoint)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "10_extract_taxonomy, cell " in told
    assert "OPENAI_API_KEY" in told
    assert KEY not in told
    (folder,) = (place / "runs").glob("RUN_*")
    assert "RefusedError" in (folder / "notebooks" / "10_extract_taxonomy.ipynb").read_text()
    assert read_status(folder).state == "failed"
    assert KEY not in "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_many_untitled_products_ask_first(tmp_path: Path, at_once: Callable[..., Done]) -> None:
    """More than 5 % are refused before a run is made, where nobody can be asked; with consent they fail no run."""
    frame = catalogue(8)
    frame.loc[[2, 5], "title"] = ["", "  "]
    frame.to_csv(tmp_path / "p.csv", index=False)
    arguments = ["p.csv", "-c", "Kitchen Things", "-m", "offline", "--no-notebooks"]
    refused = at_once("run", *arguments, cwd=tmp_path)
    assert refused.returncode != 0
    assert "2 of 8 products have no title (102, 105)" in refused.stderr
    assert not list((tmp_path / "runs").glob("RUN_*"))
    agreed = at_once("run", *arguments, "--yes", cwd=tmp_path)
    assert agreed.returncode == 0, agreed.stderr
    assert "2 products without a title (102, 105): not sent, and unassigned" in agreed.stderr
    assert "2 (2 without a title)" in agreed.stdout
    ledger = open_run("latest", tmp_path / "runs").result("ledger").set_index("product_id")
    assert dict(ledger.loc[[102, 105], "reason"]) == {102: "no title", 105: "no title"}
    allowed = at_once("run", *arguments, "--max-unassigned", "2", cwd=tmp_path)
    assert allowed.returncode == 0, allowed.stderr


@pytest.mark.long
def test_products_from_postgres(finished: NotebookRun) -> None:
    """The products of the list are read from amazon_products, by id."""
    place, summary, _ = finished
    ids = open_run(str(summary["run_id"]), place / "runs").products["product_id"].head(30)
    (place / "ids.txt").write_text("\n".join(map(str, ids)))
    done = segkit(
        "run", "--from-postgres", "--ids-file", "ids.txt", "-c", "Coffee Makers", "-m", "offline", "--json", cwd=place
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["products"] == 30


def test_a_plan_sends_nothing_and_needs_no_key(tmp_path: Path) -> None:
    """Calls, tokens, cost and time are told before anything is asked; no run is made."""
    catalogue(100).to_csv(tmp_path / "p.csv", index=False)
    told = segkit("plan", "p.csv", "-c", "Kitchen Things", "-m", "gpt-4o", "--json", cwd=tmp_path)
    rows = {row["stage"]: row for row in json.loads(told.stdout)}
    assert (rows["segmentation"]["calls"], rows["consolidate_taxonomy"]["calls"], rows["all"]["calls"]) == (3, 1, 7)
    shown = segkit("plan", "p.csv", "-c", "Kitchen Things", "-m", "gpt-4o", "--product-line", "$title!", cwd=tmp_path)
    assert "nothing is sent yet" in shown.stdout
    assert "$" in shown.stdout
    assert not (tmp_path / "runs").exists()


def test_doctor_says_what_is_there(tmp_path: Path) -> None:
    """The packages and the kernel by name, a line each."""
    done = segkit("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    *checks, _, last = done.stdout.splitlines()
    assert last == "next: segkit run sample --category 'Coffee Makers' --model offline"
    assert [line.split()[1] for line in checks] == [
        "python",
        "packages",
        "kernel",
        "Postgres",
        "key",
        "disk",
    ]


def test_the_file_system_of_a_folder_is_known(tmp_path: Path) -> None:
    """A folder on a network file system is not supported, and `segkit doctor` says so."""
    mounted = f"disk / ext4 rw 0 0\nserver:/a {tmp_path}/with\\040space nfs4 rw 0 0\nx {tmp_path}/other tmpfs rw 0 0"
    (tmp_path / "with space" / "runs").mkdir(parents=True)
    assert file_system(tmp_path / "with space" / "runs", mounted) == "nfs4"
    assert file_system(tmp_path / "with", mounted) == "ext4"
    assert file_system(tmp_path / "other", mounted) == "tmpfs"
    assert file_system(Path("/proc"), mounts()) == "proc"


@pytest.mark.long
def test_a_thousand_products_make_the_planned_calls(endpoint: Endpoint, place: Path) -> None:
    """At the defaults 40 different titles a call, and three merges."""
    products = pd.read_csv(data("fashion_catalogue.csv")).head(1000)
    products[["product_id", "title"]].to_csv(place / "p.csv", index=False)
    told = {"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": KEY}
    done = segkit("run", "p.csv", "-c", "Fashion", "--yes", "--json", cwd=place, **told)
    assert done.returncode == 0, done.stderr
    batches = -(-products["title"].nunique() // 40)
    stages = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")
    assert [endpoint.count(stage) for stage in stages] == [batches, 3, batches]
