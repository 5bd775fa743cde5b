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
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import orjson
import pandas as pd

from segkit import interactions
from segkit.errors import InputError
from segkit.models import STAGES
from segkit.run_sources import monitoring_sources
from segkit.runs import Run, open_run, run_ids
from segkit.settings import project_folder
from segkit.storage.local import write_atomic

COMPACTED = "interactions.parquet"
_BASES = ("interactions", "run_states")  # the views that the others stand on
_PROMPTS = {folder: f"{key}_prompt.txt" for key, folder in STAGES.items()}
_LOGS = "CREATE TABLE logs AS SELECT file_path, metadata::JSON AS metadata FROM sound_logs"
_COMPACTED = "CREATE VIEW compacted AS FROM read_parquet({files}, union_by_name = true)"
_NONE_COMPACTED = "CREATE VIEW compacted AS SELECT file_path FROM logs WHERE false"
_COMPACT = """
COPY (FROM interactions ORDER BY file_path)
TO {path} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{logs: '{count}'}})
"""
_INDEX = """
SELECT interaction_type, batch_id, attempt, file_path, cache_key, created_at FROM interactions ORDER BY file_path
"""


def query(sql: str, runs_dir: str | Path = "runs", run: Run | str | None = None) -> pd.DataFrame:
    """Ask the views in SQL, over all runs of a folder or over one (a Run, its id, or `latest`); gives the rows.

    Money is exact inside DuckDB and a float in the frame; what is unknown is missing, never 0. Damaged logs are
    passed over; `damaged_logs` names them. Raises InputError for a query that DuckDB refuses.
    """
    with _connection(_folders(Path(runs_dir), run)) as connection:
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
    count = _count(run.folder)
    try:
        with _connection([run.folder], compacted=False) as connection:
            connection.execute(_COMPACT.format(path=_literal(str(temporary)), count=count))
        write_atomic(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return path


def interaction_index(run: Run) -> pd.DataFrame:
    """List the interactions of a run as `llm_interaction_index` holds them, sorted by `file_path`.

    Gives `interaction_type`, `batch_id`, `attempt`, `file_path` and `prompt_file` (relative to the folder that holds
    the runs), `cache_key` and `created_at` (UTC).
    """
    index = query(_INDEX, run=run)
    prompts = f"{run.folder.name}/prompts/" + index["interaction_type"].map(_PROMPTS).astype("str")
    index.insert(4, "prompt_file", prompts)
    return index


def damaged_logs(run: Run) -> list[str]:
    """Name the logs of a run that do not hold what their checksum says, like `segmentation/….json`, sorted."""
    return [f"{path.parent.name}/{path.name}" for path in _paths(run.folder) if _is_damaged(path)]


@contextmanager
def _connection(folders: Sequence[Path], *, compacted: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in memory with the views over some runs; of those with a good Parquet file no log is read."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
        finished = [folder for folder in folders if compacted and _is_compacted(connection, folder)]
        connection.register("sound_logs", _sound_logs(folder for folder in folders if folder not in finished))
        files = [_escaped(folder / COMPACTED) for folder in finished]
        connection.execute(_LOGS)
        connection.execute(_COMPACTED.format(files=_list(files)) if files else _NONE_COMPACTED)
        _make_monitoring_sources(connection, folders)
        for path in sorted(project_folder("sql").glob("duckdb/*.sql"), key=lambda path: path.stem not in _BASES):
            connection.execute(path.read_text(encoding="utf-8"))
        yield connection


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


def _is_compacted(connection: duckdb.DuckDBPyConnection, folder: Path) -> bool:
    """Tell whether the Parquet file of a run is readable and speaks of every log there is."""
    told = "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE key = 'logs'"
    try:
        row = connection.execute(told, [_escaped(folder / COMPACTED)]).fetchone()
    except duckdb.Error:
        return False
    return row is not None and row[0] == str(_count(folder))


def _sound_logs(folders: Iterable[Path]) -> pd.DataFrame:
    """Read the logs of runs that hold what their checksum says: `file_path`, and `metadata` as JSON.

    Not by DuckDB's `read_json`: that takes three times as long, and one file that is cut off makes it fail.
    """
    rows = []
    for path in (path for folder in folders for path in _paths(folder)):
        with suppress(interactions.DamagedError, ValueError):
            metadata = orjson.dumps(interactions.read(path).metadata).decode()
            rows.append(("/".join(path.parts[-3:]), metadata))
    return pd.DataFrame(rows, columns=["file_path", "metadata"], dtype="str")


def _paths(folder: Path) -> list[Path]:
    stages = [folder / name for name in STAGES.values() if (folder / name).is_dir()]
    return [stage / name for stage in stages for name in sorted(os.listdir(stage)) if name.endswith(".json")]


def _count(folder: Path) -> int:
    return len(_paths(folder))


def _is_damaged(path: Path) -> bool:
    try:
        interactions.read(path)
    except (interactions.DamagedError, ValueError):
        return True
    return False


def _escaped(path: Path) -> str:
    """Make a path mean itself where DuckDB would see a pattern."""
    return re.sub(r"[\[*?]", r"[\g<0>]", str(path.resolve()))


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(_literal, texts))}]"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
