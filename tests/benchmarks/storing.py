"""How fast logs are written, compacted, asked and moved to S3, and how fast runs are listed and opened.

    python tests/benchmarks/storing.py            # the table of this machine
    python tests/benchmarks/storing.py --quick    # a tenth of the files

Baselines, measured in the same run: DuckDB's own typed read of the same logs, and a bare boto3 thread pool that
uploads the same files to the same server without any check. The server is `rclone serve s3`, a process of its own.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import boto3
import duckdb
import pandas as pd
from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from s3_server import s3_environment
from servers import rclone_s3

from segkit.analysis import logs
from segkit.pipeline.migrate import migrate_to_s3
from segkit.pipeline.prepare import prepare_run
from segkit.runs import interactions
from segkit.runs.run import Run, open_run
from segkit.runs.status import update_status
from segkit.settings import load_settings

_TYPED = """
SELECT metadata.outcome, count(*), sum(metadata.usage.input), sum(len(prompt)), sum(len(response))
FROM read_json({files}, format = 'auto', columns = {{
    prompt: 'VARCHAR', response: 'VARCHAR', context: 'STRUCT(expected_ids VARCHAR[], product_ids BIGINT[])',
    metadata: 'STRUCT(run_id VARCHAR, batch_id BIGINT, attempt BIGINT, outcome VARCHAR, cost_usd VARCHAR,
        "timestamp" VARCHAR, duration_ms BIGINT, usage STRUCT(input BIGINT, output BIGINT))'
}}) GROUP BY ALL
"""


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def run_with_logs(place: Path, count: int) -> tuple[Run, float]:
    """Make a run with so many logs of 3 KB; give the seconds that writing each of them took."""
    run = prepare_run(pd.DataFrame({"product_id": [1], "title": ["x"]}), "Things", model="offline", runs_dir=place)
    folder, seconds = run.stage_folder("refine_assignments"), []
    for number in range(count):
        seconds.append(timed(lambda: interactions.write_whole(folder, number, 1, _log(run.id, number))))  # noqa: B023
    return run, median(seconds)


def _log(run_id: str, number: int) -> dict[str, object]:
    facts = {"run_id": run_id, "interaction_type": "refine_assignments", "batch_id": number, "attempt": 1}
    facts |= {"model": "m", "cache_key": f"{number:032x}", "timestamp": "2026-01-01T00:00:00Z", "duration_ms": 200}
    facts |= {"money": "paid", "cost_usd": "0.001", "outcome": "valid", "usage": {"input": 700, "output": 90}}
    context = {"expected_ids": [f"P_{i}" for i in range(40)], "product_ids": list(range(40))}
    return {"context": context, "prompt": "x" * 1700, "response": "{}", "metadata": facts}


def views(run: Run) -> dict[str, float]:
    """Time each view on a run, as a person would ask it, the median of five."""
    names = [path.stem for path in Path("sql/duckdb").glob("*.sql")]
    return {name: median(timed(lambda: _ask(run, name)) for _ in range(5)) for name in names}  # noqa: B023


def _ask(run: Run, view: str) -> None:
    logs.query(f"SELECT * FROM {view} LIMIT 1000", run=run)


def bare_upload(run: Run, prefix: str) -> None:
    """Upload every file of a run with boto3 and a thread pool, and check nothing."""
    client, bucket = boto3.client("s3"), load_settings().s3_bucket
    paths = [path for path in run.folder.rglob("*") if path.is_file()]

    def put(path: Path) -> None:
        client.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(run.folder)}", Body=path.read_bytes())

    with ThreadPoolExecutor(24) as threads:
        list(threads.map(put, paths))


def moving(run: Run) -> float:
    """Give the seconds of a bare upload, before and after, over those of a migration that checks everything."""
    before = timed(lambda: bare_upload(run, "before"))
    moved = timed(lambda: migrate_to_s3(run))
    after = timed(lambda: bare_upload(run, "after"))
    return (before + after) / 2 / moved


def listing(place: Path, like: Run, count: int) -> float:
    """Give the seconds of `segkit runs` over so many runs, the median of three."""
    update_status(like.folder, state="completed")
    for number in range(count):
        folder = place / f"RUN_20260101T{number // 3600:02}{number // 60 % 60:02}{number % 60:02}Z_{number:04x}"
        folder.mkdir(parents=True)
        for name in ("run.json", "status.json"):
            shutil.copyfile(like.folder / name, folder / name)
    command = [sys.executable, "-m", "segkit", "runs", "--runs-dir", str(place)]
    return median(timed(lambda: subprocess.run(command, check=True, capture_output=True)) for _ in range(3))


def opening(place: Path, count: int) -> float:
    frame = pd.DataFrame({"product_id": range(count), "title": [f"A product of number {i}" for i in range(count)]})
    run = prepare_run(frame, "Things", model="offline", runs_dir=place)
    return timed(lambda: len(open_run(run.id, place).products))


@contextmanager
def bucket(place: Path) -> Iterator[None]:
    with rclone_s3(place) as url:
        os.environ.update(s3_environment(url, "bucket"))
        yield


def table(place: Path, share: int) -> list[tuple[str, str, str]]:
    run, writing = run_with_logs(place / "runs", 20_000 // share)
    files = f"'{run.stage_folder('refine_assignments')}/*.json'"
    typed = timed(lambda: duckdb.sql(_TYPED.format(files=files)).fetchall())
    compacting = timed(lambda: logs.compact(run))
    slowest = max(views(run).items(), key=lambda item: item[1])
    opening_logs = median(timed(lambda: logs.query("SELECT 1", run=run)) for _ in range(5))
    few, _ = run_with_logs(place / "few", 10_000 // share)
    with bucket(place / "s3"):
        rate = moving(few)
    listed, opened = listing(place / "many", few, 1000 // share), opening(place / "large", 1_000_000 // share)
    return [
        ("writing a log, share of a 200 ms call", f"{writing / 0.2:.2%}", "≤ 2 %"),
        ("compacting 20,000 logs ÷ DuckDB's typed read", f"{compacting / typed:.2f}", "≤ 1.5"),
        (f"the slowest view on it ({slowest[0]})", f"{slowest[1] * 1000:.0f} ms", "< 100 ms"),
        ("… of which every query takes (`SELECT 1`)", f"{opening_logs * 1000:.0f} ms", ""),
        ("migration of 10,000 logs, rate ÷ bare boto3 pool", f"{rate:.2f}", "≥ 0.9"),
        ("`segkit runs` over 1,000 runs", f"{listed:.2f} s", "< 1 s"),
        ("opening a run of 1,000,000 products", f"{opened:.2f} s", "< 2 s"),
    ]


def main() -> None:
    """Print the table, and write it beside this file when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the files; nothing is written")
    quick = parser.parse_args().quick
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    try:
        rows = table(place, 10 if quick else 1)
    finally:
        shutil.rmtree(place)
    write_section("Storing", "20,000 logs of 3 KB", rows, keep=not quick)


if __name__ == "__main__":
    main()
