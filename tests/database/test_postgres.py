"""The copy in Postgres, against a real server: repeated, interrupted, raced, refused."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from synced_runs import (
    NAMES,
    RUN_ID,
    SUPPORT,
    SYNC,
    TABLES,
    changes,
    closed_port,
    cut_at_commit,
    execute,
    in_the_middle_of_copy,
    interactions,
    keep,
    make_run,
    rows,
    story,
    wait_for_silence,
)

from segkit.core.catalogue.ids import number_of
from segkit.database import compare
from segkit.database.connection import connect, query
from segkit.database.interaction_index import reindex
from segkit.database.load import load_run
from segkit.database.products import load_products
from segkit.database.schema import migrate
from segkit.database.sync import products_from_postgres
from segkit.errors import DatabaseError, ProductsError, RunError
from segkit.settings import Settings


@pytest.fixture
def url(make_database: Callable[..., str]) -> str:
    """A database with the tables and nothing in them."""
    url = make_database()
    migrate(url)
    return url


# Migrations


def test_migrations_make_the_tables_of_the_seed(url: str) -> None:
    columns = execute(
        url,
        "SELECT relname, string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod),"
        " '= ' || pg_get_expr(adbin, adrelid)), ', ' ORDER BY attnum) FROM pg_attribute"
        " JOIN pg_class ON pg_class.oid = attrelid LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE relkind = 'r' AND attnum > 0 AND relnamespace = 'public'::regnamespace GROUP BY relname",
    )
    run, product = "run_id character varying(50)", "product_id bigint"
    assert dict(columns) == {
        "segmentation_runs": "id character varying(50), created_at timestamp with time zone = now(),"
        " status character varying(20) = 'running'::character varying, model_config jsonb, processing_params jsonb,"
        " total_products integer, processed_products integer = 0, result_summary jsonb",
        "run_products": f"{run}, {product}",
        "product_taxonomies": "id bigint = nextval('product_taxonomies_id_seq'::regclass), "
        f"{run}, category_name character varying(255), definition text, product_count integer = 0, category_key text",
        "product_segments": f"{run}, {product}, taxonomy_id bigint, confidence double precision",
        "refined_product_segments": f"{run}, {product}, taxonomy_id bigint",
        "product_moves": f"{run}, {product}, confidence double precision",
        "product_keys": f"{product}, source_id text",
        "llm_interaction_index": "id bigint = nextval('llm_interaction_index_id_seq'::regclass), "
        f"{run}, interaction_type character varying(50), batch_id integer, attempt integer, file_path text,"
        " prompt_file text, cache_key character varying(32), created_at timestamp with time zone = now()",
        "amazon_products": "id bigint, title text, brand text, price_usd numeric, category text",
        "segkit_migrations": "name text, sha256 text, applied_at timestamp with time zone",
    }
    constraints = "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f'"
    references = {(table, text.replace("FOREIGN KEY ", "")) for table, text in execute(url, constraints)}
    assert len(references) == 12
    assert ("run_products", "(run_id) REFERENCES segmentation_runs(id) ON DELETE CASCADE") in references
    assert ("product_segments", "(taxonomy_id) REFERENCES product_taxonomies(id)") in references


def test_migrations_are_applied_once_also_by_several_at_once(make_database: Callable[..., str]) -> None:
    url = make_database()
    with ThreadPoolExecutor(4) as pool:
        applied = [name for names in pool.map(migrate, [url] * 4) for name in names]
    assert len(applied) == len(set(applied)) == 5
    assert migrate(url) == []


def test_a_migration_that_was_changed_is_named(make_database: Callable[..., str], tmp_path: Path) -> None:
    url, file = make_database(), tmp_path / "20250101000000_a.sql"
    file.write_text("CREATE TABLE a (x int)")
    assert migrate(url, tmp_path) == [file.name]
    file.write_text("CREATE TABLE a (x text)")
    with pytest.raises(DatabaseError, match=r"20250101000000_a\.sql was changed"):
        migrate(url, tmp_path)


def test_a_migration_that_fails_leaves_nothing_of_itself(make_database: Callable[..., str], tmp_path: Path) -> None:
    url = make_database()
    (tmp_path / "1_a.sql").write_text("CREATE TABLE a (x int)")
    (tmp_path / "2_b.sql").write_text("CREATE TABLE b (x int); SELECT 1/0")
    with pytest.raises(DatabaseError, match=r"2_b.sql failed .* division by zero"):
        migrate(url, tmp_path)
    (tmp_path / "2_b.sql").write_text("CREATE TABLE b (x int)")
    assert migrate(url, tmp_path) == ["2_b.sql"]


# Sync


def test_a_run_is_in_the_tables_as_it_is_in_its_folder(url: str, tmp_path: Path) -> None:
    counts = load_run(make_run(tmp_path), url, interactions())
    assert counts == dict(zip(TABLES, [1, 59, 3, 59, 59, 40, 3], strict=True))
    run = query(url, "SELECT * FROM segmentation_runs").iloc[0]
    assert run["result_summary"].pop("segkit")
    assert run["model_config"] == {"model": "gpt-4o", "temperature": 0.2}
    assert run["processing_params"] == {"category": "Dimmer Switches", "seed": 7, "budget": None}
    assert (run["status"], run["total_products"], run["result_summary"]) == ("completed", 59, {"share": 0.1})
    assert str(run["created_at"]) == "2025-06-18 12:03:01+00:00"
    names = query(url, "SELECT category_name FROM product_taxonomies ORDER BY id")["category_name"]
    assert tuple(names) == NAMES
    segments = (
        "SELECT confidence, category_name FROM product_segments s JOIN product_taxonomies t ON t.id = taxonomy_id"
    )
    assert execute(url, f"{segments} WHERE product_id IN (4, 5) ORDER BY product_id") == [
        (4 / 97, "Switches"),
        (None, "OUT_OF_SCOPE"),
    ]
    assert compare.check(tmp_path, url, interactions()) == []


def test_a_second_sync_changes_nothing(url: str, tmp_path: Path) -> None:
    """EXCEPT both ways is empty, ids of serial columns included."""
    load_run(make_run(tmp_path), url, interactions())
    keep(url)
    assert load_run(tmp_path, url, interactions().iloc[::-1])["run_products"] == 59
    assert changes(url) == 0


def test_the_order_of_syncs_does_not_matter(make_database: Callable[..., str], tmp_path: Path) -> None:
    """Runs in any order, an unfinished run first or not, some runs first and then all: the same tables."""
    one, two, other = make_database(), make_database(), tmp_path / "other"
    migrate(one), migrate(two)
    make_run(other, "RUN_20250618T120301Z_ffff", products=12)
    load_run(make_run(tmp_path / "run", names=()), one, interactions(0))
    load_run(other, one, interactions(1))
    load_run(make_run(tmp_path / "run"), one, interactions())
    for folder, index in ((tmp_path / "run", interactions()), (other, interactions(1))):
        load_run(folder, two, index)
    assert story(one) == story(two)


def test_categories_keep_their_ids_as_far_as_their_order_allows(url: str, tmp_path: Path) -> None:
    """What stays the same in a changed run stays the same in the tables, in the order of the run."""
    question = "SELECT id, category_name FROM product_taxonomies ORDER BY id"
    load_run(make_run(tmp_path), url, interactions(1))
    before = execute(url, question)
    load_run(make_run(tmp_path, names=(*NAMES, "Plates")), url, interactions(2))
    after = execute(url, question)
    assert after[:3] == before
    assert after[3][1] == "Plates"
    load_run(make_run(tmp_path, names=("Plates", *NAMES)), url, interactions(2))
    assert [name for _, name in execute(url, question)] == ["Plates", *NAMES]
    assert compare.check(tmp_path, url, interactions(2)) == []


def test_a_run_without_results_is_loaded_as_far_as_it_got(url: str, tmp_path: Path) -> None:
    counts = load_run(make_run(tmp_path, names=()), url, pd.DataFrame())
    assert counts == dict(zip(TABLES, [1, 59, 0, 0, 0, 0, 0], strict=True))
    assert execute(url, "SELECT status, processed_products FROM segmentation_runs") == [("failed", 0)]


def test_two_runs_do_not_touch_each_other(url: str, tmp_path: Path) -> None:
    load_run(make_run(tmp_path / "a", "RUN_A"), url, interactions())
    keep(url)
    load_run(make_run(tmp_path / "b", "RUN_B", names=("Plates",)), url, interactions())
    assert execute(url, "SELECT count(*) FROM product_taxonomies") == [(4,)]
    for table in TABLES:
        assert execute(url, f"TABLE kept_{table} EXCEPT ALL TABLE {table}") == []


# Interruptions


def test_a_sync_that_is_killed_in_the_middle_leaves_no_row(url: str, tmp_path: Path) -> None:
    """`kill -9` of the client mid-COPY, then the backend terminated mid-COPY; a third sync completes."""
    make_run(tmp_path, products=15_000)
    client = subprocess.Popen([sys.executable, "-c", SYNC, tmp_path, url, SUPPORT])
    next(in_the_middle_of_copy(url))
    client.kill()
    client.wait()
    wait_for_silence(url)
    assert rows(url) == 0
    killer = threading.Thread(
        target=lambda: execute(url, f"SELECT pg_terminate_backend({next(in_the_middle_of_copy(url))})")
    )
    killer.start()
    with pytest.raises(DatabaseError, match="run `segkit sync RUN` again"):
        load_run(tmp_path, url, interactions())
    killer.join()
    assert rows(url) == 0
    load_run(tmp_path, url, interactions())
    assert compare.check(tmp_path, url, interactions()) == []


def test_a_line_that_is_cut_during_commit_is_settled_by_the_next_sync(url: str, tmp_path: Path) -> None:
    """The outcome is unknown to the client; the same call again gives each row once."""
    address = psycopg.conninfo.conninfo_to_dict(url)
    port = cut_at_commit(("127.0.0.1", int(str(address["port"]))))
    make_run(tmp_path)
    with pytest.raises(DatabaseError, match="run `segkit sync RUN` again"):
        load_run(tmp_path, url.replace(str(address["port"]), str(port)), interactions())
    wait_for_silence(url)
    assert rows(url) == 224
    keep(url)
    load_run(tmp_path, url, interactions())
    assert changes(url) == 0


def test_two_syncs_of_a_run_at_once_are_one(url: str, tmp_path: Path) -> None:
    """The second waits for the first, and then has nothing to do."""
    make_run(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        counts = list(pool.map(lambda _: load_run(tmp_path, url, interactions()), range(4)))
    assert counts == counts[:1] * 4
    assert rows(url) == 224
    assert compare.check(tmp_path, url, interactions()) == []


def test_syncs_of_several_runs_at_once(url: str, tmp_path: Path) -> None:
    """Runs with the same new products neither block nor disturb each other."""
    folders = [make_run(tmp_path / str(number), f"RUN_{number}", products=500) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda folder: load_run(folder, url, interactions()), folders))
    assert [compare.check(folder, url, interactions()) for folder in folders] == [[]] * 4


@pytest.mark.parametrize("code", ["40001", "40P01"])
def test_a_transaction_that_lost_is_tried_again(url: str, tmp_path: Path, code: str) -> None:
    """Serialization failure and deadlock are tried again as a whole, a bounded number of times."""
    execute(
        url,
        "CREATE SEQUENCE tries; CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('tries') < 3 THEN RAISE EXCEPTION 'lost' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER lose BEFORE INSERT ON segmentation_runs FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    load_run(make_run(tmp_path), url, interactions())
    assert execute(url, "SELECT last_value FROM tries") == [(3,)]
    assert rows(url) == 224


# Refusals


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_is_down_is_told_and_nothing_local_changes(tmp_path: Path, host: str) -> None:
    """Host and database are named, the password is not."""
    make_run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    url = f"postgresql://me:canary-4711@{host}:{closed_port()}/shop"
    for call in (load_run, compare.check):
        with pytest.raises(DatabaseError, match=f"shop at {host}") as error:
            call(tmp_path, url, interactions())
        assert "run `segkit sync RUN` again" in str(error.value)
        assert "canary" not in f"{error.value}{error.value.__cause__}"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:canary-4711@host:port/shop",
        "me:canary-4711@host",
        "postgresql://me:canary-4711@host/shop?canary=4711",
        "postgresql://me:canary%zz@host/shop",
    ],
)
def test_a_url_that_is_none_is_refused_without_being_quoted(url: str) -> None:
    """The parser's own message quotes the URL, and with it the password."""
    with pytest.raises(DatabaseError) as error:
        connect(url)
    assert "canary" not in f"{error.value}{error.value.__cause__}"


def test_a_wrong_password_is_not_repeated(url: str) -> None:
    """The message names the user's mistake and not the password."""
    password = str(psycopg.conninfo.conninfo_to_dict(url)["password"])
    if password == "trusted":
        pytest.skip("this server trusts everybody")
    with pytest.raises(DatabaseError, match="password authentication failed") as error:
        connect(url.replace(password, "canary-4711"))
    assert "canary" not in f"{error.value}{error.value.__cause__}"


def test_a_server_without_tls_is_told(url: str) -> None:
    """Who asks for TLS gets it or a clear line, never a connection without."""
    with pytest.raises(DatabaseError, match="SSL") as error:
        connect(f"{url}?sslmode=require")
    assert str(psycopg.conninfo.conninfo_to_dict(url)["password"]) not in str(error.value)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(make_database: Callable[..., str], encoding: str) -> None:
    """Such a database would lose names or mix them up."""
    url = make_database(f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(DatabaseError, match=f"encoding {encoding}, not UTF8"):
        migrate(url)


def test_products_missing_from_a_users_own_table_are_found_before_loading(
    make_database: Callable[..., str], tmp_path: Path
) -> None:
    """Count and first ids are told, nothing is loaded, the user's table is as it was."""
    url = make_database()
    execute(url, "CREATE TABLE amazon_products (id int PRIMARY KEY, title text NOT NULL, asin text NOT NULL)")
    execute(url, "INSERT INTO amazon_products SELECT n, 'mine', 'B0' FROM generate_series(1, 57) AS n")
    migrate(url)
    make_run(tmp_path)
    with pytest.raises(DatabaseError, match="the run has 2 products that amazon_products lacks: 58, 59"):
        load_run(tmp_path, url, interactions())
    assert rows(url) == 0
    execute(url, "INSERT INTO amazon_products VALUES (58, 'mine', 'B0'), (59, 'mine', 'B0')")
    load_run(tmp_path, url, interactions())
    assert execute(url, "SELECT DISTINCT title, asin FROM amazon_products") == [("mine", "B0")]
    assert rows(url) == 224


@pytest.fixture
def short_url(make_database: Callable[..., str]) -> str:
    """A database whose owner's amazon_products has the products 1 to 57 only."""
    url = make_database()
    execute(url, "CREATE TABLE amazon_products (id int PRIMARY KEY, title text NOT NULL)")
    execute(url, "INSERT INTO amazon_products SELECT n, 'mine' FROM generate_series(1, 57) AS n")
    migrate(url)
    return url


def test_missing_products_are_left_out_where_that_is_wished(short_url: str, tmp_path: Path) -> None:
    """Skip listed. The marker names them; they come with the first sync after the store has them."""
    make_run(tmp_path)
    assert load_run(tmp_path, short_url, interactions(), skip=True)["product_segments"] == 57
    assert compare.skipped(short_url, RUN_ID) == [58, 59]
    assert [len(execute(short_url, f"TABLE {table}")) for table in TABLES] == [1, 57, 3, 57, 57, 38, 3]
    assert execute(short_url, "SELECT total_products FROM segmentation_runs") == [(59,)], "the run is what it was"
    assert compare.check(tmp_path, short_url, interactions()) == []
    keep(short_url)
    before = execute(short_url, "SELECT xmin FROM segmentation_runs")
    assert load_run(tmp_path, short_url, interactions(), skip=True)["run_products"] == 57
    assert execute(short_url, "SELECT xmin FROM segmentation_runs") == before, "an unchanged run sends no row"
    with pytest.raises(DatabaseError, match="the run has 2 products that amazon_products lacks: 58, 59"):
        load_run(tmp_path, short_url, interactions())
    assert changes(short_url) == 0, "what was loaded without them stays"
    execute(short_url, "INSERT INTO amazon_products VALUES (58, 'mine')")
    assert compare.check(tmp_path, short_url, interactions()) == [
        "amazon_products: 1 product was left out of the last sync: 58"
    ]
    assert load_run(tmp_path, short_url, interactions(), skip=True)["run_products"] == 58
    assert compare.skipped(short_url, RUN_ID) == [59]
    execute(short_url, "INSERT INTO amazon_products VALUES (59, 'mine')")
    assert load_run(tmp_path, short_url, interactions())["run_products"] == 59
    assert (compare.skipped(short_url, RUN_ID), compare.check(tmp_path, short_url, interactions())) == ([], [])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE product_segments SET confidence = 0.5 WHERE product_id = 3",
        "DELETE FROM run_products WHERE product_id = 57",
        "INSERT INTO amazon_products VALUES (58, 'mine'); INSERT INTO run_products VALUES ('RUN_ID', 58)",
        "UPDATE segmentation_runs SET result_summary = result_summary #- '{segkit,skipped}'",
        "UPDATE segmentation_runs SET result_summary = result_summary || '{\"segkit\": 5}'",
        "UPDATE segmentation_runs SET result_summary = jsonb_set(result_summary, '{segkit,skipped}', '[\"x\"]')",
    ],
)
def test_what_was_changed_in_a_run_without_some_products_is_mended(
    short_url: str, tmp_path: Path, change: str
) -> None:
    """The tables are compared with what should be there, also after somebody touched the marker."""
    load_run(make_run(tmp_path), short_url, interactions(), skip=True)
    execute(short_url, change.replace("RUN_ID", RUN_ID))
    assert compare.check(tmp_path, short_url, interactions()) != []
    load_run(tmp_path, short_url, interactions(), skip=True)
    assert compare.check(tmp_path, short_url, interactions()) == []
    assert reindex(short_url, RUN_ID, interactions()) == 3
    assert {58, 59} >= set(compare.skipped(short_url, RUN_ID)) >= {59}, "a new index keeps them"


def test_rows_that_a_trigger_changed_are_found_without_some_products(short_url: str, tmp_path: Path) -> None:
    """Counts and checksums before COMMIT are those of the rows that should be there."""
    execute(
        short_url,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        " CREATE TRIGGER t BEFORE INSERT ON product_segments FOR EACH ROW WHEN (new.product_id = 7)"
        " EXECUTE FUNCTION f()",
    )
    with pytest.raises(DatabaseError, match=r"the tables do not hold what was sent: product_segments"):
        load_run(make_run(tmp_path), short_url, interactions(), skip=True)
    assert rows(short_url) == 0


def test_a_product_table_of_our_own_is_filled(url: str, tmp_path: Path) -> None:
    """The table that the migration made gets the products of the runs, each once."""
    load_run(make_run(tmp_path), url, interactions())
    load_run(make_run(tmp_path / "b", "RUN_B", products=60), url, interactions())
    products = load_products(url, [60, 2])
    assert products["product_id"].tolist() == [60, 2]
    assert products["title"].tolist() == ["title 60", "title 2"]
    assert products["price_usd"].tolist() == [15.0, 0.5]


def test_the_same_product_twice_is_found_before_the_database(tmp_path: Path) -> None:
    """Never first wins or last wins; no server is asked."""
    make_run(tmp_path)
    segments = pd.read_parquet(tmp_path / "results/segments.parquet")
    pd.concat([segments, segments[segments["product_id"] == 7]]).to_parquet(tmp_path / "results/segments.parquet")
    with pytest.raises(RunError, match=r"segments.parquet has ids more than once: \[7\]"):
        load_run(tmp_path, "postgresql://nowhere", interactions())


@pytest.mark.parametrize("column", ["product_id", "taxonomy_id"])
def test_an_assignment_of_what_the_run_does_not_have_is_refused(tmp_path: Path, column: str) -> None:
    make_run(tmp_path)
    segments = pd.read_parquet(tmp_path / "results/segments.parquet")
    segments.loc[3, column] = 4711
    segments.to_parquet(tmp_path / "results/segments.parquet")
    with pytest.raises(RunError, match=r"does not have: \[4711\]"):
        load_run(tmp_path, "postgresql://nowhere", interactions())


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=str(tmp_path)):
        load_run(tmp_path, "postgresql://nowhere", interactions())
    (make_run(tmp_path) / "results/segments.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunError, match=r"segments.parquet cannot be read"):
        compare.check(tmp_path, "postgresql://nowhere", interactions())


hard_names = st.lists(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=255),
    min_size=1,
    max_size=20,
    unique=True,
)
SQL_NAMES = ["'; DROP TABLE segmentation_runs; --", "$1", "%s", "%(x)s", '"', "''", "$$", "E'\\x00'", ":x", "{0}"]
COPY_NAMES = ["\\N", "\\.", "\\", "\t", "\n", "\r\n", "\\t", "a\\", "", " ", "NULL", "\ufeff", "\x7f\x01", "\u202e"]


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=hard_names)
@example(names=COPY_NAMES)
@example(names=SQL_NAMES)
@example(names=["\N{DROMEDARY CAMEL}" * 255, "ﬁ", "fi", "é", "é", "日本語", "a", "A", "𝕏"])
def test_any_name_comes_back_as_it_was(url: str, tmp_path: Path, names: list[str]) -> None:
    """Names reach the tables through the driver's row writer only."""
    load_run(make_run(tmp_path, names=names, products=20), url, interactions())
    stored = execute(url, "SELECT category_name, definition FROM product_taxonomies ORDER BY id")
    assert stored == [(name, f"about {name}") for name in names]
    moved = 20 - 20 // len(names)
    assert rows(url) == 1 + 3 * 20 + len(names) + moved + 3


@pytest.mark.parametrize("name", ["a\0b", "x" * 256])
def test_a_name_that_postgres_cannot_hold_is_refused(url: str, tmp_path: Path, name: str) -> None:
    """NUL and a 256th character are told, and the tables stay as they were."""
    load_run(make_run(tmp_path), url, interactions())
    keep(url)
    with pytest.raises(DatabaseError, match=r"NUL|too long"):
        load_run(make_run(tmp_path, names=("Dimmers", name)), url, interactions())
    assert changes(url) == 0


def test_a_title_with_nul_does_not_stop_a_run(url: str, tmp_path: Path) -> None:
    """Titles are not the model's words; in Postgres a NUL stands as U+FFFD."""
    products = pd.read_parquet(make_run(tmp_path) / "products.parquet")
    products.loc[products["product_id"] == 1, "title"] = "a\0\\N\tb"
    products.to_parquet(tmp_path / "products.parquet")
    load_run(tmp_path, url, interactions())
    assert load_products(url, [1])["title"].tolist() == ["a\ufffd\\N\tb"]


def test_prices_are_read_as_people_write_them(url: str, tmp_path: Path) -> None:
    """`1.299,00 €` is a number in Postgres; what is no price stays missing there."""
    products = pd.read_parquet(make_run(tmp_path) / "products.parquet")
    prices = ["12,99 €", "1.299,00", "on request"]
    products["price_usd"] = [prices[i % 3] for i in range(len(products))]
    products.to_parquet(tmp_path / "products.parquet")
    load_run(tmp_path, url, interactions())
    loaded = load_products(url, products["product_id"].head(3).tolist())["price_usd"]
    assert loaded.iloc[:2].astype(float).tolist() == [12.99, 1299.0]
    assert pd.isna(loaded.iloc[2])


def test_a_database_that_became_read_only_is_told(url: str, server: str, tmp_path: Path) -> None:
    """What a replica does, or a provider whose quota is used up; an unchanged run needs no writing."""
    alter = f"ALTER DATABASE {url.rpartition('/')[2]} {{}} default_transaction_read_only"
    execute(server, f"{alter.format('SET')} = on")
    with pytest.raises(DatabaseError, match="in a read-only transaction") as error:
        load_run(make_run(tmp_path), url, interactions())
    assert "?target_session_attrs=read-write; no run folder was changed; run `segkit sync RUN`" in error.value.hint
    assert rows(url) == 0
    execute(server, alter.format("RESET"))
    load_run(tmp_path, url, interactions())
    execute(server, f"{alter.format('SET')} = on")
    assert migrate(url) == []
    assert load_run(tmp_path, url, interactions())["product_segments"] == 59
    assert compare.check(tmp_path, url, interactions()) == []


def test_missing_tables_and_rights_are_told_with_what_helps(url: str, make_database: Any, tmp_path: Path) -> None:
    """`segkit db migrate` makes the tables; GRANT gives the rights."""
    with pytest.raises(DatabaseError, match=r"does not exist.*segkit db migrate"):
        load_run(make_run(tmp_path), make_database(), interactions())
    execute(url, "DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN PASSWORD 'canary'")
    head, _, tail = url.partition("@")
    with pytest.raises(DatabaseError, match=r"guest lacks rights on .*GRANT SELECT, INSERT, UPDATE, DELETE ON run"):
        load_run(tmp_path, f"{head.partition('://')[0]}://guest:canary@{tail}", interactions())


@pytest.mark.parametrize("does", ["RETURN NULL", "NEW.confidence = 1; RETURN NEW"])
def test_rows_that_a_trigger_changed_are_found_before_commit(url: str, tmp_path: Path, does: str) -> None:
    """Everything is read back and compared inside the transaction."""
    execute(
        url,
        f"CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {does}; END $$;"
        "CREATE TRIGGER meddle BEFORE INSERT ON product_segments FOR EACH ROW WHEN (NEW.product_id = 7)"
        " EXECUTE FUNCTION meddle()",
    )
    with pytest.raises(DatabaseError, match=r"do not hold what was sent: product_segments: \d+ rows? differs?"):
        load_run(make_run(tmp_path), url, interactions())
    assert rows(url) == 0


def test_check_names_the_tables_that_differ(url: str, tmp_path: Path) -> None:
    load_run(make_run(tmp_path), url, interactions())
    execute(url, "UPDATE product_segments SET confidence = 0.5 WHERE product_id = 3")
    execute(url, "DELETE FROM llm_interaction_index WHERE batch_id = 2")
    execute(url, "UPDATE segmentation_runs SET result_summary = '{}'")
    found = compare.check(tmp_path, url, interactions())
    assert [text.split(":")[0] for text in found] == [
        "segmentation_runs",
        "product_segments",
        "llm_interaction_index",
    ]
    assert "1 row differs" in found[1]
    load_run(tmp_path, url, interactions())
    assert compare.check(tmp_path, url, interactions()) == []


@pytest.mark.long
def test_a_million_products_need_little_memory(url: str, tmp_path: Path) -> None:
    """Rows are streamed; what a process needs above its imports is the numbers as Arrow arrays."""
    make_run(tmp_path, products=1_000_000)
    # Not ru_maxrss: a process that was spawned starts with that of the process that spawned it.
    code = f"{SYNC}\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    command = [sys.executable, "-c", code, str(tmp_path), url, SUPPORT]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 700_000
    moved = 1_000_000 - 1_000_000 // len(NAMES)
    assert rows(url) == 1 + 3 * 1_000_000 + len(NAMES) + moved + 3


# Frames out of the database


def test_products_come_in_the_order_asked_for_and_missing_ones_are_named(url: str) -> None:
    execute(url, "INSERT INTO amazon_products SELECT n, 'title ' || n FROM generate_series(1, 9) AS n")
    frame = load_products(url, [5, 1, 9])
    assert frame["product_id"].tolist() == [5, 1, 9]
    assert list(frame.columns) == ["product_id", "title", "brand", "price_usd", "category"]
    with pytest.raises(ProductsError, match="2 products are not in amazon_products: 10, 11"):
        load_products(url, [5, 11, 10])


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (
            "id bigint PRIMARY KEY, title text, until timestamptz",
            "(1, 'Red lamp', 'infinity'), (2, 'Blue lamp', NULL)",
        ),
        ("id bigint PRIMARY KEY, title text, picture bytea", r"(1, 'Red lamp', '\xff'), (2, 'Blue lamp', NULL)"),
        ("id numeric PRIMARY KEY, title text, tags text[]", "(1, 'Red lamp', '{a}'), (2, 'Blue lamp', NULL)"),
    ],
)
def test_only_the_columns_that_are_used_are_read(make_database: Callable[..., str], columns: str, rows: str) -> None:
    """A table of one's own may have columns that no file of a run can hold."""
    url = make_database()
    execute(url, f"CREATE TABLE amazon_products ({columns}, colour text); INSERT INTO amazon_products VALUES {rows}")
    frame = load_products(url, [2, 1])
    assert list(frame) == ["product_id", "title"]
    assert frame["product_id"].tolist() == [2, 1]
    assert str(frame["product_id"].dtype) == "int64"
    assert list(load_products(url, [1], "$title in ${colour}")) == ["product_id", "title", "colour"]


def test_ids_that_are_texts_are_computed_or_looked_up_in_a_column(make_database: Callable[..., str]) -> None:
    """Without a key their number is that of a file; with one it is the number that the table has for them."""
    url = make_database()
    rows = f"(1, 'Red lamp', 'B01'), ({number_of('SKU-7')}, 'Blue lamp', 'B07'), (9, 'Lamp', '007')"
    columns = "id bigint PRIMARY KEY, title text, asin text"
    execute(url, f"CREATE TABLE amazon_products ({columns}); INSERT INTO amazon_products VALUES {rows}")
    computed = load_products(url, ["SKU-7", 1])
    assert computed["product_id"].tolist() == [number_of("SKU-7"), 1]
    assert computed["source_id"].tolist() == ["SKU-7", "1"]
    by_key = load_products(url, ["B07", "007", 1], key="asin")
    assert by_key["product_id"].tolist() == [number_of("SKU-7"), 9, 1]
    assert by_key["source_id"].tolist() == ["B07", "007", "1"]
    execute(url, "UPDATE amazon_products SET asin = '4006381333931' WHERE id = 9")
    execute(url, "UPDATE amazon_products SET asin = '1' WHERE id > 9")
    for ean in (4006381333931, "4006381333931"):
        assert load_products(url, [ean, 1], key="asin")["product_id"].tolist() == [9, 1], "a number is an id first"
    assert load_products(url, ["1"], key="asin")["product_id"].tolist() == [number_of("SKU-7")], (
        "a text is a key first"
    )
    execute(url, "UPDATE amazon_products SET asin = '007' WHERE id = 9")
    settings = Settings(database_url=SecretStr(url), segkit_product_key="asin", _env_file=None)
    products = products_from_postgres(["007", "B01"], settings)
    assert products[["product_id", "source_id"]].values.tolist() == [[1, "B01"], [9, "007"]]


@pytest.mark.parametrize(
    ("ids", "key", "message"),
    [
        (["B99"], "asin", "1 product is not in amazon_products: B99"),
        (["SKU-8"], "", "1 product is not in amazon_products: SKU-8"),
        (["twice"], "asin", "several products have the same asin: twice"),
        (["B01", 1], "asin", "listed more than once"),
        (["B01"], "ean", "amazon_products has no column 'ean'"),
        (["B01\0"], "asin", "is not in amazon_products"),
    ],
)
def test_texts_that_name_no_product_or_several_are_refused(
    make_database: Callable[..., str], ids: list[int | str], key: str, message: str
) -> None:
    url = make_database()
    rows = "(1, 'Red lamp', 'B01'), (2, 'Blue lamp', 'twice'), (3, 'Lamp', 'twice')"
    columns = "id bigint PRIMARY KEY, title text, asin text"
    execute(url, f"CREATE TABLE amazon_products ({columns}); INSERT INTO amazon_products VALUES {rows}")
    with pytest.raises(ProductsError, match=message):
        load_products(url, ids, key=key)


def test_a_product_table_needs_a_title(make_database: Callable[..., str]) -> None:
    url = make_database()
    execute(url, "CREATE TABLE amazon_products (id bigint PRIMARY KEY); INSERT INTO amazon_products VALUES (1)")
    with pytest.raises(ProductsError, match="no column `title`"):
        load_products(url, [1])


def test_columns_of_the_same_name_are_told_apart(url: str) -> None:
    frame = query(url, "SELECT 1 AS id, 2 AS id_1, 3 AS id, 4 AS id")
    assert frame.to_dict("records") == [{"id": 1, "id_1": 2, "id_2": 3, "id_3": 4}]


def test_a_query_gives_a_frame_and_cannot_write(url: str) -> None:
    frame = query(url, "SELECT 'a%b:c' AS text, 1.5 AS number WHERE 'a%b' LIKE '%b'")
    assert frame.to_dict("records") == [{"text": "a%b:c", "number": 1.5}]
    with pytest.raises(DatabaseError, match="read-only transaction"):
        query(url, "DELETE FROM run_products")
    with pytest.raises(DatabaseError, match='syntax error at or near "SELEKT"'):
        query(url, "SELEKT 1")


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_the_usual_forms_of_a_url_will_do(url: str, scheme: str) -> None:
    assert query(f"{scheme}{url[len('postgresql') :]}", "SELECT 1 AS one")["one"].tolist() == [1]
