"""What the database is for: views for readers, partitions, the index rebuilt, a live run, on both servers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from pooler import pooler
from synced_runs import (
    NAMES,
    TABLES,
    changes,
    closed_port,
    execute,
    in_the_middle_of_copy,
    interactions,
    keep,
    make_run,
    story,
)

from segkit.database import compare
from segkit.database.connection import query
from segkit.database.embedded import embedded_url
from segkit.database.interaction_index import reindex
from segkit.database.live_status import publish_status
from segkit.database.load import load_run, lock_name
from segkit.database.overview import database_overview
from segkit.database.schema import migrate, migration_files
from segkit.errors import DatabaseError, RunError
from segkit.runs.events import read_events
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.settings import load_settings

RUN_ID = "RUN_20250618T120301Z_8d24"
_numbers = count(1)


@pytest.fixture(params=["postgres_url", "debian_url"])
def url(request: pytest.FixtureRequest) -> str:
    """A database with the tables and nothing in them, on the embedded server and on PostgreSQL 15."""
    server = str(request.getfixturevalue(request.param))
    name = f"shop_{next(_numbers)}"
    execute(server, f"CREATE DATABASE {name}")
    url = f"{server.rpartition('/')[0]}/{name}"
    migrate(url)
    return url


@pytest.fixture
def one_url(make_database: Callable[..., str]) -> str:
    """The same on the embedded server, and in the long suite on both."""
    url = make_database()
    migrate(url)
    return url


# Unchanged, changed by somebody, rebuilt


def versions(url: str) -> list[tuple[Any, ...]]:
    """Which transactions wrote the rows that the tables hold."""
    return [
        row
        for name in TABLES
        for row in execute(url, f"SELECT '{name}', xmin::text, count(*) FROM {name} GROUP BY 2 ORDER BY 2")
    ]


def test_a_sync_of_an_unchanged_run_writes_nothing(url: str, tmp_path: Path) -> None:
    """The marker in the run's own row tells, and the tables are asked whether it is still true."""
    load_run(make_run(tmp_path), url, interactions())
    before = versions(url)
    assert load_run(tmp_path, url, interactions())["product_segments"] == 59
    assert versions(url) == before
    assert compare.check(tmp_path, url, interactions()) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE product_segments SET confidence = confidence / 2 WHERE product_id = 3",
        "UPDATE product_segments SET confidence = NULL WHERE product_id = 3",
        "UPDATE product_segments SET taxonomy_id = (SELECT min(id) FROM product_taxonomies) WHERE product_id = 4",
        "UPDATE product_segments SET taxonomy_id = NULL WHERE product_id = 4",
        "DELETE FROM refined_product_segments WHERE product_id = 59",
        "DELETE FROM run_products WHERE product_id = 1",
        "UPDATE product_taxonomies SET definition = upper(definition) WHERE category_name = 'Dimmers'",
        "UPDATE llm_interaction_index SET cache_key = 'x' WHERE batch_id = 2",
        "DELETE FROM llm_interaction_index WHERE batch_id = 3",
        "UPDATE segmentation_runs SET status = 'running'",
        "UPDATE segmentation_runs SET result_summary = result_summary - 'share'",
    ],
)
def test_what_somebody_changed_is_found_and_mended(one_url: str, tmp_path: Path, change: str) -> None:
    """Also where the marker says that all is well."""
    load_run(make_run(tmp_path), one_url, interactions())
    before = story(one_url)
    execute(one_url, change)
    assert len(compare.check(tmp_path, one_url, interactions())) == 1
    load_run(tmp_path, one_url, interactions())
    assert story(one_url) == before
    assert compare.check(tmp_path, one_url, interactions()) == []


def test_the_index_is_rebuilt_and_nothing_else_is_touched(url: str, tmp_path: Path) -> None:
    load_run(make_run(tmp_path / "a"), url, interactions())
    load_run(make_run(tmp_path / "b", "RUN_B"), url, interactions())
    keep(url)
    execute(url, f"UPDATE llm_interaction_index SET file_path = 'lost' WHERE run_id = '{RUN_ID}' AND batch_id > 1")
    assert reindex(url, RUN_ID, interactions()) == 3
    for table in TABLES[:-1]:
        assert execute(url, f"TABLE {table} EXCEPT ALL TABLE kept_{table}") == []
    assert compare.check(tmp_path / "a", url, interactions()) == []
    before = versions(url)
    load_run(tmp_path / "a", url, interactions())
    assert versions(url) == before, "the marker knows the new index"
    assert reindex(url, "RUN_C", interactions()) is None


# Views


def refine_nothing(folder: Path, ids: list[int]) -> None:
    """Take some products out of the refined assignments of a run."""
    path = folder / "results/refined_segments.parquet"
    frame = pd.read_parquet(path)
    frame[~frame["product_id"].isin(ids)].to_parquet(path)


def test_the_current_segment_of_a_product_is_that_of_its_latest_completed_run(url: str, tmp_path: Path) -> None:
    old, new, failed = (tmp_path / name for name in ("old", "new", "failed"))
    load_run(make_run(old, "RUN_OLD", products=59), url, interactions())
    refine_nothing(make_run(new, "RUN_NEW", names=("Plates", "Covers"), products=20), [2, 3])
    first = pd.read_parquet(new / "results/segments.parquet")
    first.loc[first["product_id"] == 3, "taxonomy_id"] = None
    first.astype({"taxonomy_id": "Int64"}).to_parquet(new / "results/segments.parquet")
    load_run(new, url, interactions())
    load_run(make_run(failed, "RUN_ZZZ", names=()), url, interactions(0))
    execute(url, "UPDATE segmentation_runs SET created_at = created_at + '1 day' WHERE id <> 'RUN_OLD'")
    current = query(url, "SELECT * FROM current_product_segments ORDER BY product_id").set_index("product_id")
    assert len(current) == 59
    assert set(current.loc[1:20, "run_id"]) == {"RUN_NEW"}
    assert set(current.loc[21:, "run_id"]) == {"RUN_OLD"}
    assert current.loc[[1, 2, 21], "category_name"].tolist() == ["Plates", "Plates", "Dimmers"]
    assert current.loc[[1, 2, 21], "is_refined"].tolist() == [True, False, True]
    assert current.loc[2, "confidence"] == 2 / 97
    assert current.loc[1, ["confidence", "first_confidence"]].tolist() == [1 / 101, 1 / 97], "it was moved"
    assert current.loc[1, "first_category_name"] == "Covers"
    assert current.loc[4, ["confidence", "first_confidence"]].tolist() == [4 / 97, 4 / 97], "it was not"
    assert pd.isna(current.loc[3, "category_name"]), "a product without any assignment is there, without a category"


def with_keys(folder: Path, prefix: str = "SKU-") -> Path:
    """Give the products of a run ids that are texts, as products.parquet has them."""
    path = folder / "products.parquet"
    frame = pd.read_parquet(path)
    frame.assign(source_id=prefix + frame["product_id"].astype(str)).to_parquet(path)
    return folder


def test_ids_as_people_have_them_are_in_the_database(one_url: str, tmp_path: Path) -> None:
    """In the transaction of the run, found by the readers' view, and compared by the check."""
    folder = with_keys(make_run(tmp_path, products=9))
    load_run(folder, one_url, interactions())
    assert execute(one_url, "SELECT count(*), min(source_id) FROM product_keys") == [(9, "SKU-1")]
    found = query(one_url, "SELECT product_id, category_name FROM current_product_segments WHERE source_id = 'SKU-7'")
    assert found["product_id"].tolist() == [7]
    assert compare.check(folder, one_url, interactions()) == []
    execute(one_url, "DELETE FROM product_keys WHERE product_id = 7")
    (line,) = compare.check(folder, one_url, interactions())
    assert line == "product_keys: 1 id is missing or of another product: SKU-7"


def test_an_id_of_another_product_stops_the_sync(one_url: str, tmp_path: Path) -> None:
    load_run(with_keys(make_run(tmp_path / "a", products=9)), one_url, interactions())
    other = with_keys(make_run(tmp_path / "b", "RUN_B", products=9), "ASIN-")
    before = story(one_url)
    with pytest.raises(DatabaseError, match="9 ids belong to other products in product_keys: ASIN-1"):
        load_run(other, one_url, interactions())
    assert story(one_url) == before


def test_who_may_read_the_products_of_runs_may_read_their_keys(make_database: Any) -> None:
    """The view of before would fail for its readers otherwise."""
    url = make_database()
    for file in (file for file in migration_files() if file.name < "20250709100000_create_product_keys"):
        execute(url, file.read_text())
    execute(url, "DROP ROLE IF EXISTS analyst; CREATE ROLE analyst; GRANT SELECT ON run_products TO analyst")
    migrate(url)
    rights = "SELECT has_table_privilege('analyst', name, 'SELECT')"
    rights += " FROM unnest('{product_keys,product_moves}'::text[]) AS name"
    assert execute(url, rights) == [(True,), (True,)]


def with_category_keys(folder: Path, keys: Sequence[str]) -> Path:
    """Give the categories of a run keys, as results/taxonomies.parquet has them."""
    path = folder / "results/taxonomies.parquet"
    pd.read_parquet(path).assign(key=keys).to_parquet(path)
    return folder


def test_keys_of_categories_are_in_the_database(one_url: str, tmp_path: Path) -> None:
    """In a column of their own, in both views, compared by the check; a run of before keys has none."""
    old = make_run(tmp_path / "old", "RUN_1", products=9)
    run = with_category_keys(make_run(tmp_path / "new", products=9), ["C-7", "C-2", "C-9"])
    for folder in (old, run):
        load_run(folder, one_url, interactions())
    keys = "SELECT category_name, category_key FROM product_taxonomies WHERE run_id = '{}' ORDER BY id"
    named = [("Dimmers", "C-7"), ("Switches", "C-2"), ("OUT_OF_SCOPE", "C-9")]
    assert execute(one_url, keys.format(RUN_ID)) == named
    assert execute(one_url, keys.format("RUN_1")) == [(name, None) for name, _ in named]
    shares = f"SELECT category_name, category_key, products FROM category_shares WHERE run_id = '{RUN_ID}'"
    assert execute(one_url, shares) == [("Dimmers", "C-7", 9)]
    current = "SELECT DISTINCT run_id, category_key FROM current_product_segments"
    assert execute(one_url, current) == [(RUN_ID, "C-7")], "the id of a run decides between two of one moment"
    assert compare.check(run, one_url, interactions()) == []
    execute(one_url, "UPDATE product_taxonomies SET category_key = 'C-8' WHERE category_key = 'C-2'")
    (line,) = compare.check(run, one_url, interactions())
    assert line.startswith("product_taxonomies: 1 row differs"), line
    load_run(run, one_url, interactions())
    assert execute(one_url, keys.format(RUN_ID)) == named


def test_a_database_of_before_keys_gets_them_with_the_next_sync(make_database: Any, tmp_path: Path) -> None:
    """What it holds stays as it is; a sync fills in the keys, and every category keeps its id."""
    url = make_database()
    (tmp_path / "sql").mkdir()
    for file in (file for file in migration_files() if file.name < "20250716090000_create_category_keys"):
        shutil.copy(file, tmp_path / "sql")
    assert len(migrate(url, tmp_path / "sql")) == 4
    execute(url, "DROP ROLE IF EXISTS key_reader; CREATE ROLE key_reader")
    execute(url, "GRANT SELECT (id, run_id, category_name) ON product_taxonomies TO key_reader")
    run = make_run(tmp_path / "run", products=9)
    execute(url, f"INSERT INTO segmentation_runs (id) VALUES ('{RUN_ID}')")
    for name in NAMES:
        execute(url, f"INSERT INTO product_taxonomies (run_id, category_name) VALUES ('{RUN_ID}', '{name}')")
    before = execute(url, "SELECT id, category_name FROM product_taxonomies ORDER BY id")
    assert migrate(url) == ["20250716090000_create_category_keys.sql"]
    assert execute(
        url, "SELECT has_column_privilege('key_reader', 'product_taxonomies', 'category_key', 'SELECT')"
    ) == [(True,)]
    load_run(with_category_keys(run, ["C-1", "C-2", "C-3"]), url, interactions())
    assert execute(url, "SELECT id, category_name FROM product_taxonomies ORDER BY id") == before
    assert execute(url, "SELECT category_key FROM product_taxonomies ORDER BY id") == [("C-1",), ("C-2",), ("C-3",)]
    execute(url, "DROP OWNED BY key_reader; DROP ROLE key_reader")


def test_two_categories_of_one_name_keep_their_ids_by_their_keys(one_url: str, tmp_path: Path) -> None:
    """A name may be used again after its category was retired; the first pass still speaks of that one."""
    run = with_category_keys(
        make_run(tmp_path, names=("Covers", "Plates", "Covers"), products=9), ["C-1", "C-2", "C-3"]
    )
    load_run(run, one_url, interactions())
    ids = execute(one_url, "SELECT id, category_key FROM product_taxonomies ORDER BY id")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"summary": {"share": 0.2}}))
    load_run(run, one_url, interactions())
    assert execute(one_url, "SELECT id, category_key FROM product_taxonomies ORDER BY id") == ids
    assert [key for _, key in ids] == ["C-1", "C-2", "C-3"]


def test_shares_add_up_to_one_in_every_run(url: str, tmp_path: Path) -> None:
    load_run(make_run(tmp_path / "a", "RUN_A"), url, interactions())
    refine_nothing(make_run(tmp_path / "b", "RUN_B", products=20), list(range(1, 11)))
    load_run(tmp_path / "b", url, interactions())
    shares = query(url, "SELECT * FROM category_shares ORDER BY run_id, products DESC, category_name")
    assert shares.groupby("run_id")["share"].sum().astype(float).round(12).tolist() == [1, 1]
    assert shares[shares["run_id"] == "RUN_A"]["products"].tolist() == [59]
    told = shares[shares["run_id"] == "RUN_B"][["category_name", "products"]]
    assert told.to_numpy().tolist() == [["Dimmers", 13], ["Switches", 4], ["OUT_OF_SCOPE", 3]]


def test_a_view_shows_no_more_than_its_reader_may_see(one_url: str, tmp_path: Path) -> None:
    """A grant on the view is none on the tables below it."""
    load_run(make_run(tmp_path), one_url, interactions())
    execute(one_url, "DROP ROLE IF EXISTS reader; CREATE ROLE reader; GRANT SELECT ON category_shares TO reader")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        execute(one_url, "SET ROLE reader; SELECT * FROM category_shares")
    comments = "SELECT count(obj_description(oid)) FROM pg_class WHERE relname ~ 'current_product|category_shares'"
    assert execute(one_url, comments) == [(2,)]
    execute(one_url, "DROP OWNED BY reader; DROP ROLE reader")


# Partitions


def test_partitions_keep_rows_keys_rights_and_views(url: str, tmp_path: Path) -> None:
    make_run(tmp_path / "b", "RUN_B", products=500)
    load_run(make_run(tmp_path / "a"), url, interactions())
    execute(
        url,
        "DROP ROLE IF EXISTS clerk; CREATE ROLE clerk; GRANT SELECT ON product_segments, category_shares TO clerk",
    )
    keep(url)
    facts = [
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype <> 'n'"
        " AND conrelid IN ('product_segments'::regclass, 'refined_product_segments'::regclass) ORDER BY 1, 2",
        "SELECT tablename, indexname FROM pg_indexes"
        " WHERE tablename IN ('product_segments', 'refined_product_segments') ORDER BY 1, 2",
        "SELECT * FROM category_shares ORDER BY products",
        "SELECT * FROM current_product_segments",
        "SELECT has_table_privilege('clerk', 'product_segments', 'SELECT'),"
        " has_table_privilege('clerk', 'product_segments', 'INSERT'),"
        " has_table_privilege('clerk', 'category_shares', 'SELECT')",
    ]
    before = [execute(url, fact) for fact in facts]
    assert len(migrate(url, partitioned=True)) == 1
    assert changes(url) == 0
    assert [execute(url, fact) for fact in facts] == before
    assert database_overview(url, tmp_path)["partitioned"]
    assert migrate(url, partitioned=True) == []
    assert migrate(url) == []
    load_run(tmp_path / "b", url, interactions())
    load_run(make_run(tmp_path / "a", names=("Plates",)), url, interactions(2))
    for name, rows in (("a", interactions(2)), ("b", interactions())):
        assert compare.check(tmp_path / name, url, rows) == []
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        execute(url, "UPDATE product_segments SET product_id = 4711 WHERE product_id = 1")
    used = execute(url, "SELECT count(DISTINCT tableoid) FROM product_segments")
    assert used[0][0] in (1, 2), "a run lies in one partition"
    execute(url, "DROP OWNED BY clerk; DROP ROLE clerk")


@pytest.mark.parametrize(
    "own",
    [
        "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        "CREATE TRIGGER audit BEFORE INSERT ON product_segments FOR EACH ROW EXECUTE FUNCTION nothing()",
        "CREATE POLICY audit ON refined_product_segments USING (true)",
        "ALTER TABLE product_segments ADD COLUMN audit text",
        "CREATE INDEX audit ON product_segments (confidence)",
        "CREATE VIEW audit AS SELECT * FROM product_segments",
    ],
)
def test_partitioning_stops_before_it_would_lose_something(one_url: str, tmp_path: Path, own: str) -> None:
    load_run(make_run(tmp_path), one_url, interactions())
    execute(one_url, own)
    with pytest.raises(DatabaseError, match=r"audit"):
        migrate(one_url, partitioned=True)
    assert not database_overview(one_url, tmp_path)["partitioned"]
    assert compare.check(tmp_path, one_url, interactions()) == []


# The state of the database


def test_the_status_tells_migrations_rows_and_runs(url: str, tmp_path: Path) -> None:
    load_run(make_run(tmp_path / "runs" / RUN_ID), url, interactions())
    load_run(make_run(tmp_path / "gone", "RUN_20250618T120301Z_ffff"), url, interactions())
    make_run(tmp_path / "runs" / "RUN_20250618T120301Z_aaaa", "RUN_20250618T120301Z_aaaa")
    told = database_overview(url, tmp_path / "runs")
    assert told["server"].startswith("PostgreSQL 1")
    assert "segkit:" not in told["database"]
    assert list(told["migrations"].values()) == [True] * 5 + [False]
    assert told["rows"] == dict(
        zip(["amazon_products", "product_keys", *TABLES], [59, 0, 2, 118, 6, 118, 118, 80, 6], strict=True)
    )
    assert told["runs"] == {
        "in both": [RUN_ID],
        "only in the runs folder": ["RUN_20250618T120301Z_aaaa"],
        "only in the database": ["RUN_20250618T120301Z_ffff"],
    }


def test_the_status_of_an_empty_database_changes_nothing(one_url: str, tmp_path: Path) -> None:
    execute(one_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    told = database_overview(one_url, tmp_path)
    assert (told["rows"], set(told["migrations"].values())) == ({}, {False})
    assert execute(one_url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == [(0,)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("ALTER TABLE product_segments ALTER COLUMN product_id TYPE int", "TYPE bigint"),
        ("ALTER TABLE product_segments ALTER COLUMN confidence TYPE real", "TYPE double precision"),
        ("ALTER TABLE run_products ADD COLUMN tenant int NOT NULL", "ALTER COLUMN tenant DROP NOT NULL"),
        ("ALTER TABLE product_taxonomies DROP COLUMN definition", "has no column definition"),
        ("DROP TABLE llm_interaction_index", "segkit db migrate"),
    ],
)
def test_tables_that_cannot_hold_a_run_are_found_first(one_url: str, tmp_path: Path, change: str, told: str) -> None:
    """With the statement that helps."""
    execute(one_url, "DROP VIEW current_product_segments, category_shares")
    execute(one_url, change)
    with pytest.raises(DatabaseError, match=told) as error:
        load_run(make_run(tmp_path), one_url, interactions())
    assert execute(one_url, "SELECT count(*) FROM segmentation_runs") == [(0,)]
    if error.value.hint.startswith("ALTER"):
        execute(one_url, error.value.hint)
        load_run(tmp_path, one_url, interactions())
        assert compare.check(tmp_path, one_url, interactions()) == []


def test_a_lone_surrogate_is_refused_before_the_database(tmp_path: Path) -> None:
    """No encoding of it exists, so no row can hold it."""
    index = interactions(1).assign(prompt_file=pd.Series(["a\ud800"], dtype=object))
    with pytest.raises(RunError, match="surrogates"):
        load_run(make_run(tmp_path), "postgresql://nowhere", index)


@pytest.mark.parametrize("year", ["1999", "2999"])
def test_no_clock_decides_anything(one_url: str, tmp_path: Path, year: str) -> None:
    """A run from another time is loaded, known again and compared like any other."""
    document = (make_run(tmp_path) / "run.json").read_text().replace("2025-06-18T", f"{year}-06-18T")
    (tmp_path / "run.json").write_text(document)
    load_run(tmp_path, one_url, interactions())
    before = versions(one_url)
    load_run(tmp_path, one_url, interactions())
    assert versions(one_url) == before
    assert compare.check(tmp_path, one_url, interactions()) == []


# A run while it works


def told(url: str) -> list[tuple[Any, ...]]:
    return execute(url, "SELECT status, total_products, processed_products FROM segmentation_runs")


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_at_work_is_seen_in_the_database(
    url: str, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    run = new_run(12, "offline")
    with publish_status(run):
        wait_until(lambda: told(url) == [("running", 12, 0)])
        update_status(run.folder, stages={"segmentation": {"planned": 2, "done": 1}})
        wait_until(lambda: told(url) == [("running", 12, 3)])
        update_status(run.folder, state="failed", reason="stopped")
    assert told(url) == [("failed", 12, 3)]
    with publish_status(run, wanted=False):
        update_status(run.folder, state="running")
    assert told(url) == [("failed", 12, 3)], "--no-sync leaves Postgres alone"


def test_the_row_of_a_live_run_gives_way_to_a_sync(
    one_url: str, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds the lock of the run writes its row; the teller neither waits nor fails."""
    monkeypatch.setenv("DATABASE_URL", one_url)
    run = new_run(12, "offline")
    with psycopg.connect(one_url) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (lock_name(run.id),))
        with publish_status(run):
            pass
        assert told(one_url) == []
    assert [event for event in read_events(run.folder) if "live" in event["event"]] == []


@pytest.mark.parametrize("lacks", ["server", "tables"])
def test_a_database_that_cannot_be_told_is_named_once(
    one_url: str, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    """The run goes on, its events say why, and the password is not among them."""
    if lacks == "tables":
        execute(one_url, "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    else:
        one_url = f"postgresql://me:canary-4711@127.0.0.1:{closed_port()}/shop"
    monkeypatch.setenv("DATABASE_URL", one_url)
    run = new_run(12, "offline")
    with publish_status(run, settings=load_settings()):
        wait_until(lambda: any("live" in event["event"] for event in read_events(run.folder)))
        update_status(run.folder, stages={"segmentation": {"planned": 2, "done": 1}})
    events = [event for event in read_events(run.folder) if event["event"] == "live_progress_failed"]
    assert len(events) == 1
    assert "canary" not in str(events)


# Servers that are slow, pooled, replaced


@pytest.mark.parametrize("products", [59, pytest.param(12_000, marks=pytest.mark.long)])
def test_a_pooler_may_change_the_backend_between_transactions(
    debian_url: str, tmp_path: Path, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, products: int
) -> None:
    """Locks, temporary tables and limits live as long as a transaction, so no backend keeps any of them."""
    address = psycopg.conninfo.conninfo_to_dict(debian_url)
    port = pooler(("127.0.0.1", int(str(address["port"]))))
    pooled = f"{debian_url.partition('@')[0]}@127.0.0.1:{port}/pooled_{products}"
    execute(debian_url, f"CREATE DATABASE pooled_{products}")
    migrate(pooled)
    migrate(pooled, partitioned=True)
    for names in (("Plates",), ("Plates", "Covers")):
        load_run(make_run(tmp_path, names=names, products=products), pooled, interactions())
        assert compare.check(tmp_path, pooled, interactions()) == []
    assert reindex(pooled, RUN_ID, interactions()) == 3
    monkeypatch.setenv("DATABASE_URL", pooled)
    run = new_run(12, "offline")
    with publish_status(run):
        pass
    assert read_events(run.folder) == [], "nothing went wrong"
    question = "SELECT current_setting('lock_timeout'), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')"
    with psycopg.connect(pooled, autocommit=True) as connection:
        assert [connection.execute(question.encode()).fetchall() for _ in range(4)] == [[("0", 0)]] * 4


@pytest.mark.long
def test_a_report_that_holds_a_table_is_waited_for_and_then_named(url: str, tmp_path: Path) -> None:
    """A bounded wait, one clear line, nothing loaded; the next sync loads it."""
    make_run(tmp_path)
    with psycopg.connect(url) as report:
        report.execute("LOCK TABLE product_segments IN SHARE MODE")
        with pytest.raises(DatabaseError, match=r"lock timeout.*another sync or a report holds the tables"):
            load_run(tmp_path, url, interactions())
    assert execute(url, "SELECT count(*) FROM segmentation_runs") == [(0,)]
    load_run(tmp_path, url, interactions())
    assert compare.check(tmp_path, url, interactions()) == []


@pytest.mark.long
def test_a_server_that_dies_in_the_middle_comes_back_without_the_run(tmp_path: Path) -> None:
    """The whole server is gone in the middle of a COPY; once it is back there is no row, and sync loads all."""
    make_run(tmp_path / "run", products=60_000)
    url = embedded_url(tmp_path / "home")
    migrate(url)
    pid = int((tmp_path / "home/postgres/data/postmaster.pid").read_text().splitlines()[0])

    def strike() -> None:
        next(in_the_middle_of_copy(url))
        os.kill(pid, signal.SIGQUIT)  # at once, without a checkpoint

    killer = threading.Thread(target=strike)
    killer.start()
    with pytest.raises(DatabaseError, match="run `segkit sync RUN` again"):
        load_run(tmp_path / "run", url, interactions())
    killer.join()
    url = embedded_url(tmp_path / "home")
    assert execute(url, "SELECT count(*) FROM segmentation_runs") == [(0,)]
    load_run(tmp_path / "run", url, interactions())
    assert compare.check(tmp_path / "run", url, interactions()) == []
