"""Every question that segkit and its readers ask often is answered by an index, also among many runs."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from segkit.database.schema import migrate

RUN = "RUN_7"
BY_RUN = (
    "run_products",
    "product_taxonomies",
    "product_segments",
    "refined_product_segments",
    "product_moves",
    "llm_interaction_index",
)
QUESTIONS = [
    *(f"DELETE FROM {name} WHERE run_id = '{RUN}'" for name in BY_RUN),
    *(f"SELECT * FROM {name} WHERE run_id = '{RUN}' ORDER BY 1" for name in BY_RUN),
    f"SELECT * FROM product_segments WHERE run_id = '{RUN}' AND product_id = 5",
    "SELECT * FROM product_segments WHERE product_id = 5",
    "SELECT * FROM refined_product_segments WHERE product_id = 5",
    "SELECT * FROM product_segments WHERE taxonomy_id = 70",
    "SELECT * FROM refined_product_segments WHERE taxonomy_id = 70",
    "SELECT * FROM llm_interaction_index WHERE cache_key = md5('70')",
    "SELECT * FROM current_product_segments WHERE product_id = 5",
    "SELECT * FROM product_keys WHERE source_id = 'SKU-7'",
    f"SELECT * FROM category_shares WHERE run_id = '{RUN}'",
    f"SELECT taxonomy_id, count(*) FROM product_segments WHERE run_id = '{RUN}' GROUP BY 1",
]


@pytest.fixture(scope="module")
def many_runs(postgres_url: str) -> psycopg.Connection[Any]:
    """A database with 20 runs of the same 1,000 products; the planner knows how they lie."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE many_runs")
    url = f"{postgres_url.rpartition('/')[0]}/many_runs"
    migrate(url)
    pairs = "FROM generate_series(1, 20) AS r, generate_series(1, 1000) AS p"
    connection = psycopg.connect(url, autocommit=True)
    for statement in [
        "INSERT INTO amazon_products (id) SELECT generate_series(1, 1000)",
        "INSERT INTO segmentation_runs (id, status) SELECT 'RUN_' || generate_series(1, 20), 'completed'",
        "INSERT INTO product_taxonomies (id, run_id, category_name) SELECT r * 100 + c, 'RUN_' || r, 'name ' || c"
        " FROM generate_series(1, 20) AS r, generate_series(0, 99) AS c",
        f"INSERT INTO run_products SELECT 'RUN_' || r, p {pairs}",
        f"INSERT INTO product_segments SELECT 'RUN_' || r, p, r * 100 + p % 100, 0.5 {pairs}",
        f"INSERT INTO refined_product_segments SELECT 'RUN_' || r, p, r * 100 + p % 100 {pairs}",
        f"INSERT INTO product_moves SELECT 'RUN_' || r, p, 0.5 {pairs}",
        "INSERT INTO product_keys SELECT p, 'SKU-' || p FROM generate_series(1, 20000) AS p",
        "INSERT INTO llm_interaction_index (run_id, cache_key) SELECT 'RUN_' || r, md5((r * 1000 + p)::text) "
        + pairs,
        "ANALYZE",
    ]:
        connection.execute(statement.encode())
    return connection


def scans(plan: dict[str, Any]) -> list[tuple[str, float]]:
    """The tables that a plan reads from end to end, with the rows it expects of each."""
    below = [found for part in plan.get("Plans", []) for found in scans(part)]
    is_scan = plan["Node Type"] == "Seq Scan"
    return [*below, *([(plan["Relation Name"], plan["Plan Rows"])] if is_scan else [])]


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_a_large_table_from_end_to_end(many_runs: psycopg.Connection[Any], question: str) -> None:
    (told,) = many_runs.execute(f"EXPLAIN (FORMAT json) {question}".encode()).fetchone() or ([],)
    plan = told if isinstance(told, list) else json.loads(told)
    small = {"segmentation_runs"} | ({"product_taxonomies"} if "FROM product_taxonomies" not in question else set())
    assert [name for name, _ in scans(plan[0]["Plan"]) if name not in small] == []


def test_a_foreign_key_finds_its_rows_by_an_index(many_runs: psycopg.Connection[Any]) -> None:
    """Every reference has an index on its side too, so that what is referred to can be changed or deleted quickly."""
    lacking = many_runs.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint WHERE contype = 'f' AND NOT EXISTS"
        " (SELECT FROM pg_index WHERE indrelid = conrelid AND indkey[0] = conkey[1])"
    ).fetchall()
    assert lacking == []
