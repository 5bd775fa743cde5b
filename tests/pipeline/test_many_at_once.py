"""Many runs at once on one machine: they share the cache, the limits and the embedded database."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import pytest
from catalogues import catalogue, unmeasured
from endpoint import Endpoint

from segkit.database.embedded import embedded_url

pytestmark = pytest.mark.long
RUNS = 20
PRODUCTS_OF_RUNS = b"SELECT run_id, count(*), count(DISTINCT product_id) FROM run_products GROUP BY 1"


def started(*words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "segkit", *words],
        env=unmeasured(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_runs_at_once_ask_a_question_once(endpoint: Endpoint, place: Path) -> None:
    """Twenty runs of the same products pay for one, have the same results, and are in the database side by side."""
    endpoint.configure(latency=0.3)
    catalogue(60).to_csv("products.csv", index=False)
    words = ("run", "products.csv", "--category", "Kitchen Things", "--products-per-prompt", "6", "-y", "--json")
    running = [started(*words, "--products-per-refinement", "6", "--no-notebooks") for _ in range(RUNS)]
    ended = [(process.communicate(), process.returncode) for process in running]
    assert [code for _, code in ended] == [0] * RUNS, [errors for (_, errors), code in ended if code]
    summaries = [json.loads(output) for (output, _), _ in ended]
    asked = Counter(entry["sha256"] for entry in endpoint.ledger())
    assert set(asked.values()) == {1}
    assert sum(each["calls"] for each in summaries) == len(asked)
    assert {each["calls"] + each["cached"] for each in summaries} == {len(asked)}
    tables = [
        {path.name: path.read_bytes() for path in (Path(each["folder"]) / "results").iterdir() if named(path)}
        for each in summaries
    ]
    assert all(each == tables[0] for each in tables)
    syncing = [started("sync", each["run_id"]) for each in summaries]
    assert [process.wait() for process in syncing] == [0] * RUNS
    with psycopg.connect(embedded_url(place / "home")) as connection:
        rows = connection.execute(
            "SELECT run_id, count(*), count(DISTINCT product_id) FROM run_products GROUP BY 1"
        ).fetchall()
    assert len(rows) == RUNS
    assert {(count, different) for _, count, different in rows} == {(60, 60)}


def named(path: Path) -> bool:
    """Leave out what holds the time of an answer."""
    return path.suffix == ".parquet"


def test_runs_at_once_keep_one_limit(endpoint: Endpoint, place: Path) -> None:
    """Five runs of different products, each with the limit of the provider: together they send no more."""
    for number in range(5):
        products = catalogue(60)
        products["title"] = products["title"] + f" of shop {number}"
        products.to_csv(f"{number}.csv", index=False)
    words = ("--category", "Kitchen Things", "--products-per-prompt", "6", "-y", "--no-notebooks")
    limit = {"SEGKIT_REQUESTS_PER_MINUTE": "20"}
    running = [started("run", f"{number}.csv", *words, **limit) for number in range(5)]
    endpoint.wait(20)
    first = endpoint.ledger()[0]["monotonic"]
    try:
        endpoint.wait(21)
        assert endpoint.ledger()[20]["monotonic"] - first >= 60
    finally:
        for process in running:
            process.kill()
            process.communicate()
