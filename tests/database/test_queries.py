"""What a query on Postgres or on the logs returns is what is stored: ids, counts, amounts, lists and times."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from synced_runs import execute
from typer.testing import CliRunner

from segkit.analysis.logs import query as query_logs
from segkit.cli.main import app
from segkit.database.connection import query
from segkit.errors import DatabaseError, InputError
from segkit.runs.run import Run

LARGE = 2**53 + 1
VIEWS = sorted(path.stem for path in (Path(__file__).parents[2] / "sql" / "duckdb").glob("*.sql"))


@pytest.mark.parametrize("kind", ["bigint", "numeric"])
def test_an_id_beside_null_is_exact(postgres_url: str, kind: str) -> None:
    frame = query(postgres_url, f"SELECT * FROM (VALUES ({LARGE}::{kind}), (NULL)) AS t (x)")
    assert frame["x"].tolist() == [LARGE, pd.NA]
    assert str(frame["x"].dtype) == "Int64"


def test_sums_counts_and_amounts_keep_their_value(postgres_url: str) -> None:
    row = query(
        postgres_url,
        f"SELECT sum(x) AS total, count(*) AS n, 12.99 AS price, 1 / 3.0 AS share, 12345678901234567.89 AS exact,"
        f" 2::numeric ^ 70 AS huge, 'NaN'::numeric AS nan FROM (VALUES ({LARGE}::bigint), (1)) AS t (x)",
    ).iloc[0]
    assert (row["total"], row["n"], row["price"]) == (LARGE + 1, 2, 12.99)
    assert row["share"] == pytest.approx(1 / 3, abs=1e-10)
    assert row["exact"] == Decimal("12345678901234567.89")
    assert row["huge"] == 2**70
    assert pd.isna(row["nan"])


def test_arrays_documents_and_times_come_as_they_are(postgres_url: str) -> None:
    frame = query(
        postgres_url,
        "SELECT ARRAY[1, NULL, 3] AS list, '{\"a\": [1]}'::jsonb AS document, '\\x01ff'::bytea AS bytes,"
        " 'infinity'::timestamptz AS at, '4714-11-24 BC'::date AS day, true AS flag",
    )
    assert frame.iloc[0].tolist() == [[1, None, 3], {"a": [1]}, b"\x01\xff", "infinity", "4714-11-24 BC", True]


def test_a_query_is_one_statement_that_changes_nothing(postgres_url: str) -> None:
    for sql in ("SELECT 1; COMMIT; CREATE TABLE x (a int)", "CREATE TABLE x (a int)", "SET search_path = x"):
        with pytest.raises(DatabaseError, match=r"cannot|returns no rows"):
            query(postgres_url, sql)
    assert execute(postgres_url, "SELECT to_regclass('x')") == [(None,)]
    assert query(postgres_url, "SELECT '100%' AS x WHERE 'abc' LIKE '%b%'")["x"].tolist() == ["100%"]


def test_the_logs_keep_large_sums_decimals_and_lists(new_run: Callable[..., Run]) -> None:
    run = new_run(3, "offline")
    frame = query_logs(
        f"SELECT {LARGE}::HUGEINT AS total, NULL::BIGINT AS none, 0.1334750000::DECIMAL(20, 10) AS cost,"
        " ['a', 'b'] AS list, 'infinity'::TIMESTAMP AS at, {'a': 1} AS struct",
        run=run,
    )
    assert frame.drop(columns="none").iloc[0].tolist() == [LARGE, 0.133475, ["a", "b"], "infinity", {"a": 1}]
    assert pd.isna(frame.loc[0, "none"])


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO 'stolen.csv'",
        "SELECT 1; COPY (SELECT 1) TO 'stolen.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
        "FROM read_text('/etc/hostname')",
        "FROM read_csv('../*.csv')",
        "ATTACH 'stolen.duckdb'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
    ],
)
def test_a_query_on_the_logs_writes_nothing_and_reads_only_runs(new_run: Callable[..., Run], sql: str) -> None:
    new_run(3, "offline")
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(InputError):
        query_logs(sql)
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.fixture
def logged(new_run: Callable[..., Run]) -> Run:
    """A run of twelve products whose stages are done."""
    from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments

    run = new_run(12, "offline")
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


@pytest.mark.long
@pytest.mark.usefixtures("logged")
def test_every_view_prints_as_a_table_and_as_csv() -> None:
    for view in (*VIEWS, "damaged_logs"):
        for form in ([], ["--csv"]):
            result = CliRunner().invoke(app, ["logs", f"FROM {view}", *form])
            assert result.exit_code == 0, (view, form, result.output)


@pytest.mark.usefixtures("logged")
def test_every_view_prints_all_of_its_rows() -> None:
    for view in (*VIEWS, "damaged_logs"):
        rows = json.loads(CliRunner().invoke(app, ["logs", f"FROM {view}", "--json"]).stdout)
        assert len(rows) == len(query_logs(f"FROM {view}"))
