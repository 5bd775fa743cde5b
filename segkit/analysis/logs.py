"""The interaction logs as tables: DuckDB over the logs of open runs and the Parquet files of finished ones.

The views stand in `sql/duckdb`, one a file: `interactions`, `spend_by_stage`, `time_by_stage`, `retries`, `failures`;
and over runs and the service `events`, `run_states`, `run_outcomes`, `run_times`, `token_use`.
This is the only module that knows DuckDB.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import orjson
import pandas as pd

from segkit.analysis.sources import monitoring_sources
from segkit.core.models import STAGES
from segkit.core.text import shortened
from segkit.errors import InputError
from segkit.runs import interactions
from segkit.runs.mirror import fetch, fetch_all, location, stored
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import project_folder
from segkit.storage.disk import write_atomic

COMPACTED = "interactions.parquet"
_LAYOUT = "with context"  # changes with the columns of a compacted file
_BASES = ("interactions", "run_states")  # the views that the others stand on
_STAGES = tuple(f"{stage}/" for stage in STAGES.values())
_PROMPTS = {folder: f"{key}_prompt.txt" for key, folder in STAGES.items()}
_LOGS = """
CREATE TABLE logs AS SELECT file_path, bytes, context::JSON AS context, metadata::JSON AS metadata FROM sound_logs;
CREATE TABLE damaged_logs AS FROM damaged
"""
_COMPACTED = "CREATE VIEW compacted AS FROM read_parquet({files}, union_by_name = true)"
_NONE_COMPACTED = "CREATE VIEW compacted AS SELECT file_path FROM logs WHERE false"
_COMPACT = """
COPY (FROM logged ORDER BY file_path)
TO {path} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{logs: '{told}', damaged: {damaged}}})
"""
_INDEX = """
SELECT interaction_type, batch_id, attempt, file_path, cache_key, created_at FROM interactions ORDER BY file_path
"""


def query(sql: str, runs_dir: str | Path = "runs", run: Run | str | None = None) -> pd.DataFrame:
    """Ask the views in SQL, over all runs of a folder or over one (a Run, its id, or `latest`); gives the rows.

    Money is exact inside DuckDB and a float in the frame; what is unknown is missing, never 0. Damaged logs are
    passed over with a warning, and the table `damaged_logs` names them. Raises InputError for what DuckDB refuses.
    """
    with _connection(_folders(Path(runs_dir), run)) as connection:
        _warn_of_damaged(connection)
        try:
            return _frame(connection.sql(sql))
        except (duckdb.Error, AttributeError) as error:  # what gives no rows gives None
            what = str(error).splitlines()[0] if isinstance(error, duckdb.Error) else "it gives no rows"
            raise InputError(f"the query failed: {what}", f"the views are {', '.join(_views())}") from None


def compact(run: Run) -> Path:
    """Write the interactions of a run to one Parquet file, which is read hundreds of times faster than the logs.

    The logs stay the truth: a file that does not speak of as many logs as there are is passed over by `query`.
    """
    path = run.folder / COMPACTED
    temporary = path.with_name(f".{COMPACTED}.{os.getpid()}.making")
    told = _told_of(run.folder)
    try:
        with _connection([run.folder], compacted=False) as connection:
            damaged = _literal(orjson.dumps(_damaged(connection)).decode())
            connection.execute(_COMPACT.format(path=_literal(str(temporary)), told=told, damaged=damaged))
        write_atomic(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return path


def interaction_index(run: Run, *, compacted: bool = True) -> pd.DataFrame:
    """List the interactions of a run as `llm_interaction_index` holds them, sorted by `file_path`.

    Without `compacted`, from the JSON files even where a Parquet file speaks of them all.

    Gives `interaction_type`, `batch_id`, `attempt`, `file_path` and `prompt_file` (relative to the folder that holds
    the runs, or addresses in S3), `cache_key` and `created_at` (UTC).
    """
    with _connection([run.folder], compacted=compacted) as connection:
        index = _frame(connection.sql(_INDEX))
    prompts = f"{run.folder.name}/prompts/" + index["interaction_type"].map(_PROMPTS).astype("str")
    index.insert(4, "prompt_file", prompts)
    root = location(run.folder).removesuffix(run.id)
    return index.assign(file_path=root + index["file_path"], prompt_file=root + index["prompt_file"])


@contextmanager
def _connection(folders: Sequence[Path], *, compacted: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in memory with the views over some runs; of those with a good Parquet file no log is read."""
    with duckdb.connect() as connection:
        for folder in folders:
            _fetch(folder, compacted)
        connection.execute("SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
        finished = {folder: told for folder in folders if compacted and (told := _compacted(connection, folder))}
        logs, damaged = _sound_logs(folder for folder in folders if folder not in finished)
        damaged += [name for told in finished.values() for name in orjson.loads(told["damaged"])]
        files = [_escaped(folder / COMPACTED) for folder in finished]
        connection.register("sound_logs", logs)
        connection.register("damaged", pd.DataFrame({"file_path": damaged}, dtype="str"))
        connection.execute("BEGIN")  # one for all: each statement alone would take as long
        connection.execute(_LOGS)
        connection.execute(_COMPACTED.format(files=_list(files)) if files else _NONE_COMPACTED)
        _make_monitoring_sources(connection, folders)
        for path in sorted(project_folder("sql").glob("duckdb/*.sql"), key=lambda path: path.stem not in _BASES):
            connection.execute(path.read_text(encoding="utf-8"))
        connection.execute("COMMIT")
        yield connection


def _fetch(folder: Path, compacted: bool) -> None:
    """Bring what is looked at of a run in S3: its events, and one file of a finished run, every log of another."""
    fetch(folder, "events.jsonl", *([COMPACTED] if compacted else []))
    if not (compacted and (folder / COMPACTED).exists()):
        for stage in STAGES.values():
            fetch_all(folder, f"{stage}/")


def _make_monitoring_sources(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path]) -> None:
    for statement in monitoring_sources(folders, lambda paths: _list([_escaped(path) for path in paths])):
        connection.execute(statement)


def _views() -> list[str]:
    return sorted(path.stem for path in project_folder("sql").glob("duckdb/*.sql"))


def _frame(rows: duckdb.DuckDBPyRelation) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # DuckDB calls pandas in a way that pandas 4 will not know
        return rows.df()


def _folders(runs_dir: Path, run: Run | str | None) -> list[Path]:
    if isinstance(run, str):
        run = open_run(run, runs_dir)
    return [run.folder] if run else [runs_dir / run_id for run_id in run_ids(runs_dir)]


def _compacted(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, str]:
    """Give what the Parquet file of a run tells of itself, or nothing unless it speaks of every log there is."""
    told = "SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)"
    try:
        facts = dict(connection.execute(told, [_escaped(folder / COMPACTED)]).fetchall())
    except duckdb.Error:
        return {}
    return facts if facts.get("logs") == _told_of(folder) else {}


def _sound_logs(folders: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Read the logs of runs that hold what their checksum says; name the others.

    Gives `file_path`, `bytes`, and as JSON `context` and `metadata`. Not by DuckDB's `read_json`: one file that is
    cut off makes it fail, and 20,000 take it longer.
    """
    rows, damaged = [], []
    for path in (path for folder in folders for path in _paths(folder)):
        name = "/".join(path.parts[-3:])
        try:
            log = interactions.read(path).log
            texts = (orjson.dumps(log.get(part)).decode() for part in ("context", "metadata"))
            rows.append((name, path.stat().st_size, *texts))
        except (interactions.DamagedError, ValueError):
            damaged.append(name)
    columns = {"file_path": "str", "bytes": "int64", "context": "str", "metadata": "str"}
    return pd.DataFrame(rows, columns=list(columns)).astype(columns), damaged


def _damaged(connection: duckdb.DuckDBPyConnection) -> list[str]:
    return [name for (name,) in connection.execute("FROM damaged_logs ORDER BY ALL").fetchall()]


def _warn_of_damaged(connection: duckdb.DuckDBPyConnection) -> None:
    if damaged := _damaged(connection):
        more = " (FROM damaged_logs)" if len(damaged) > 5 else ""
        warnings.warn(f"damaged logs are passed over: {shortened(damaged, 5)}{more}", stacklevel=3)


def _paths(folder: Path) -> list[Path]:
    stages = [folder / name for name in STAGES.values() if (folder / name).is_dir()]
    return [
        stage / name for stage in stages for name in sorted(os.listdir(stage)) if name.endswith(interactions.ENDINGS)
    ]


def _told_of(folder: Path) -> str:
    """Say what a compacted file must tell: how many logs there are (also in S3 only), and what it says of each."""
    stages = [stage for stage in STAGES.values() if (folder / stage).is_dir()]
    names = [name for stage in stages for name in os.listdir(folder / stage)]
    if location(folder):
        names = list({name.rpartition("/")[2] for name in stored(folder) if name.startswith(_STAGES)} | {*names})
    return f"{sum(name.endswith(interactions.ENDINGS) for name in names)} logs, {_LAYOUT}"


def _escaped(path: Path) -> str:
    """Make a path mean itself where DuckDB would see a pattern."""
    return re.sub(r"[\[*?]", r"[\g<0>]", str(path.resolve()))


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_literal, texts))}]"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
