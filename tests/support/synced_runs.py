"""Runs made for loading into Postgres, and questions to the server that they are loaded into."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg

TABLES = [
    "segmentation_runs",
    "run_products",
    "product_taxonomies",
    "product_segments",
    "refined_product_segments",
    "product_moves",
    "llm_interaction_index",
]

NOON = "2025-06-18T12:0"
NAMES = ("Dimmers", "Switches", "OUT_OF_SCOPE")
SUPPORT = str(Path(__file__).parent)
RUN_ID = "RUN_20250618T120301Z_8d24"


def execute(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def make_run(
    folder: Path, run_id: str = "RUN_20250618T120301Z_8d24", names: Sequence[str] = NAMES, products: int = 59
) -> Path:
    """Write the parts of a run folder that sync reads: a completed run, or with no names one that failed early."""
    results = folder / "results"
    results.mkdir(parents=True, exist_ok=True)
    parameters = {"model": "gpt-4o", "temperature": 0.2, "category": "Dimmer Switches", "seed": 7, "budget": None}
    run = {"run_id": run_id, "created_at": "2025-06-18T12:03:01Z", "parameters": parameters}
    state, done = ("completed", products) if names else ("failed", 0)
    status = {"state": state, "summary": {"share": 0.1}, "products": products, "processed": done}
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "status.json").write_text(json.dumps(status))
    ids = pd.Series(range(products, 0, -1), dtype="int64")
    frame = pd.DataFrame({"product_id": ids, "title": "title " + ids.astype(str), "price_usd": ids / 4})
    frame.to_parquet(folder / "products.parquet")
    if names:
        write_results(results, ids, names)
    return folder


def write_results(results: Path, ids: pd.Series, names: Sequence[str]) -> None:
    rows = [(number, name, f"about {name}", 1) for number, name in enumerate(names, 1)]
    taxonomies = pd.DataFrame(rows, columns=["id", "category_name", "definition", "product_count"])
    taxonomies.to_parquet(results / "taxonomies.parquet")
    first = pd.DataFrame({"product_id": ids, "taxonomy_id": ids % len(names) + 1})
    first.assign(confidence=(ids / 97).where(ids % 5 > 0)).to_parquet(results / "segments.parquet")
    confidence = (ids / 101).where(ids % 7 > 0)
    first.assign(taxonomy_id=1, confidence=confidence).to_parquet(results / "refined_segments.parquet")


def interactions(rows: int = 3) -> pd.DataFrame:
    columns = ["interaction_type", "batch_id", "attempt", "file_path", "prompt_file", "cache_key", "created_at"]
    values = [
        ("segmentation", batch, 1, f"segmentation/b{batch}_a1.json", "prompts/x.txt", "ab" * 16, f"{NOON}{batch}:00Z")
        for batch in range(1, rows + 1)
    ]
    return pd.DataFrame(values, columns=columns)


def keep(url: str) -> None:
    """Copy all tables into kept_<table>."""
    for table in TABLES:
        execute(url, f"DROP TABLE IF EXISTS kept_{table}; CREATE TABLE kept_{table} AS TABLE {table}")


def changes(url: str) -> int:
    """The rows by which the tables differ from their copies: EXCEPT both ways."""
    both = "((TABLE {0} EXCEPT ALL TABLE kept_{0}) UNION ALL (TABLE kept_{0} EXCEPT ALL TABLE {0}))"
    return sum(len(execute(url, both.format(table))) for table in TABLES)


def story(url: str) -> list[list[tuple[Any, ...]]]:
    """What the tables say, without the ids that a sequence gave."""
    joined = (
        "SELECT s.run_id, s.product_id, confidence, category_name, definition FROM {} AS s"
        " JOIN product_taxonomies t ON t.id = taxonomy_id ORDER BY 1, 2"
    )
    moves = "SELECT run_id, product_id, confidence FROM product_moves ORDER BY 1, 2"
    index = "SELECT run_id, interaction_type, batch_id, attempt, file_path, cache_key, created_at"
    questions = [
        "SELECT * FROM segmentation_runs ORDER BY id",
        "SELECT * FROM run_products ORDER BY 1, 2",
        "SELECT run_id, category_name, definition, product_count FROM product_taxonomies ORDER BY run_id, id",
        joined.format("product_segments"),
        joined.replace("confidence, ", "").format("refined_product_segments"),
        moves,
        f"{index} FROM llm_interaction_index ORDER BY run_id, id",
    ]
    return [execute(url, question) for question in questions]


def rows(url: str) -> int:
    return sum(execute(url, f"SELECT count(*) FROM {table}")[0][0] for table in TABLES)


NOON = "2025-06-18T12:0"
SYNC = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from synced_runs import interactions
from segkit.database.load import load_run
load_run(Path(sys.argv[1]), sys.argv[2], interactions())
"""


def in_the_middle_of_copy(url: str) -> Iterator[int]:
    """The processes of the server that are in the middle of a COPY into product_segments."""
    question = (
        "SELECT pid FROM pg_stat_progress_copy WHERE datname = current_database() AND tuples_processed > 100"
        " AND relid = 'product_segments'::regclass AND command = 'COPY FROM'"
    )
    with psycopg.connect(url, autocommit=True) as connection:
        while True:
            yield from (pid for (pid,) in connection.execute(question))


def wait_for_silence(url: str) -> None:
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"
    )
    end = time.monotonic() + 120
    while execute(url, others) != [(0,)]:
        assert time.monotonic() < end
        time.sleep(0.05)


def cut_at_commit(server: tuple[str, int]) -> int:
    """A proxy before a server that passes on a COMMIT and then cuts the line; returns its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket, last: bytes) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if last and last in data:
                    source.shutdown(socket.SHUT_RDWR)  # the answer will find nobody
                    sink.sendall(data)
                    time.sleep(0.5)  # the server commits
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            client, upstream = listener.accept()[0], socket.create_connection(server)
            threading.Thread(target=pump, args=(upstream, client, b""), daemon=True).start()
            threading.Thread(target=pump, args=(client, upstream, b"Q\0\0\0\x0bCOMMIT\0"), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
