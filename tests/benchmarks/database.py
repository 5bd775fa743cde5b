"""How fast a run comes into Postgres, against psql's `\\copy` of the same rows into the same tables.

    python tests/benchmarks/database.py            # the table of this machine
    python tests/benchmarks/database.py --quick    # a tenth of the products

Both go into databases made from one template with all indexes, keys and references of the migrations, by turns on one
server. `\\copy` reads CSV files in the order of the keys, in one transaction, and checks nothing.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from synced_runs import interactions, make_run

from segkit.database import compare
from segkit.database.embedded import embedded_url, server_programs
from segkit.database.load import load_run
from segkit.database.schema import migrate

TABLES = {
    "segmentation_runs": "id",
    "product_taxonomies": "id",
    "run_products": "product_id",
    "product_segments": "product_id",
    "refined_product_segments": "product_id",
    "llm_interaction_index": "id",
}
TURNS = 2


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def template(server: str, products: int) -> None:
    """Make a database with the tables, and with the products of the store in them."""
    execute(server, "CREATE DATABASE template")
    url = f"{server.rpartition('/')[0]}/template"
    migrate(url)
    rows = f"SELECT n, 'title ' || n FROM generate_series(1, {products}) AS n"
    execute(url, f"INSERT INTO amazon_products (id, title) {rows}", "VACUUM ANALYZE")


def fresh(server: str, name: str) -> str:
    execute(server, f"CREATE DATABASE {name} TEMPLATE template", "CHECKPOINT")
    return f"{server.rpartition('/')[0]}/{name}"


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def psql(url: str, script: str) -> None:
    command = [str(server_programs() / "psql"), "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", url]
    subprocess.run(command, input=script, text=True, check=True)


def write_files(url: str, place: Path) -> str:
    """Write what the tables hold as CSV, and give the script that copies it back."""
    out = [
        f"\\copy (SELECT * FROM {name} ORDER BY {key}) TO '{place}/{name}.csv' CSV" for name, key in TABLES.items()
    ]
    psql(url, "\n".join(out))
    return "\n".join(f"\\copy {name} FROM '{place}/{name}.csv' CSV" for name in TABLES)


def sync_alone(run: Path, url: str) -> float:
    """Load the run in a process of its own; give the MB it needed at most."""
    done = subprocess.run(
        [sys.executable, __file__, "--sync", str(run), url], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def print_memory(run: Path, url: str) -> None:
    load_run(run, url, interactions())
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")))


def table(place: Path, products: int) -> list[tuple[str, str, str]]:
    """Measure all rows: what was done, the figure, and what it must reach."""
    server = embedded_url(place / "home")
    template(server, products)
    run = make_run(place / "run", products=products)
    memory = sync_alone(run, first := fresh(server, "first"))
    script = write_files(first, place)
    ours, copies, again, checks = [], [], [], []
    for turn in range(TURNS):
        url, other = fresh(server, f"ours_{turn}"), f"copy_{turn}"
        ours.append(timed(lambda: load_run(run, url, interactions())))  # noqa: B023
        again += [timed(lambda: load_run(run, url, interactions())) for _ in range(3)]  # noqa: B023
        checks.append(timed(lambda: compare.check(run, url, interactions())))  # noqa: B023
        url_of_copy = fresh(server, other)
        copies.append(timed(lambda: psql(url_of_copy, script)))  # noqa: B023
        assert compare.check(run, url_of_copy, interactions()) == [], "the baseline loads the same rows"
        execute(server, f"DROP DATABASE ours_{turn}", f"DROP DATABASE {other}")
    turns = ", ".join(f"{mine:.0f} s and {copy:.0f} s" for mine, copy in zip(ours, copies, strict=True))
    return [
        (f"first sync ÷ `\\copy`, the best of {TURNS} turns ({turns})", f"{min(ours) / min(copies):.3f}", "≤ 1.15"),
        ("memory of the process", f"{memory:.0f} MB", "≤ 1,000 MB"),
        ("sync of the unchanged run, the median", f"{sorted(again)[len(again) // 2]:.2f} s", "≤ 1 s"),
        ("… right after the first sync", f"{again[0]:.2f} s", "≤ 1 s"),
        ("every row compared (`segkit db check`)", f"{min(checks):.1f} s", ""),
    ]


def main() -> None:
    """Print the table, and write it beside this file when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the products; nothing is written")
    parser.add_argument("--sync", nargs=2, metavar=("RUN", "URL"), help="load a run and print the MB it took")
    given = parser.parse_args()
    if given.sync:
        print_memory(Path(given.sync[0]), given.sync[1])
        return
    products = 100_000 if given.quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="segkit-bench-") as place:
        rows = table(Path(place), products)
    head = f"{products:,} first-pass and as many refined assignments, all keys and references kept"
    write_section("Database", head, rows, keep=not given.quick)


if __name__ == "__main__":
    main()
