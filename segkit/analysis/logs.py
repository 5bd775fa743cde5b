"""The interaction logs as tables: DuckDB over the logs of open runs and the Parquet files of finished ones.

The views are in `sql/duckdb`, one a file: `interactions`, `spend_by_stage`, `time_by_stage`, `retries`, `failures`;
and over runs and the service `categories`, `events`, `run_states`, `run_outcomes`, `run_times`, `token_use`. Those
stand on `run_documents`, a row a run (`run_id`, `run` and `status` as JSON), `event_lines`, a row an event (`run_id`,
empty for the service, and `line`), and `taxonomy_rows`, the result `taxonomies` of all runs; they are read only when
a query asks for them.
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

from segkit.analysis.frames import frame_of
from segkit.core.models import STAGES
from segkit.core.text import shortened
from segkit.errors import InputError
from segkit.runs import interactions
from segkit.runs.mirror import fetch, fetch_all, location, stored
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import Settings, load_settings, project_folder
from segkit.storage.disk import write_atomic

COMPACTED = "interactions.parquet"
_TAXONOMIES = "results/taxonomies.parquet"
_LAYOUT = "with context"  # changes with the columns of a compacted file
_BASES = ("interactions", "run_states")  # the views that the others stand on
_STAGES = tuple(f"{stage}/" for stage in STAGES.values())
_PROMPTS = {folder: f"{key}_prompt.txt" for key, folder in STAGES.items()}
_LOGS = """
CREATE TABLE logs AS SELECT file_path, bytes, context::JSON AS context, metadata::JSON AS metadata FROM sound_logs;
CREATE TABLE damaged_logs AS FROM damaged
"""
_DOCUMENTS = """
CREATE VIEW run_documents AS
WITH documents AS (
    SELECT parse_path(filename)[-2] AS run_id, parse_path(filename)[-1] AS name, content FROM read_text({files})
)
SELECT
    run_id,
    TRY_CAST(max(content) FILTER (WHERE name = 'run.json') AS JSON) AS run,
    TRY_CAST(max(content) FILTER (WHERE name = 'status.json') AS JSON) AS status
FROM documents
GROUP BY run_id
"""
_NO_DOCUMENTS = """
CREATE VIEW run_documents AS SELECT '' AS run_id, NULL::JSON AS run, NULL::JSON AS status WHERE false
"""
_EVENTS = """
CREATE VIEW event_lines AS
SELECT CASE parse_path(filename)[-2] WHEN 'service' THEN '' ELSE parse_path(filename)[-2] END AS run_id, line
FROM read_csv(
    {files}, columns = {{'line': 'VARCHAR'}}, auto_detect = false, header = false, delim = '\x01', quote = '',
    escape = '', filename = true, ignore_errors = true, max_line_size = 16777216, strict_mode = false
)
"""
_NO_EVENTS = "CREATE VIEW event_lines AS SELECT '' AS run_id, '' AS line WHERE false"
_CATEGORIES = """
CREATE VIEW taxonomy_rows AS
SELECT '' AS run_id, 0::BIGINT AS id, '' AS category_name, '' AS definition, 0::BIGINT AS product_count, '' AS key
WHERE false
"""
_OF_RESULTS = """
UNION ALL BY NAME
SELECT parse_path(filename)[-3] AS run_id, * EXCLUDE (filename)
FROM read_parquet({files}, union_by_name = true, filename = true)
"""
_COMPACTED = "CREATE VIEW compacted AS FROM read_parquet({files}, union_by_name = true)"
_NONE_COMPACTED = "CREATE VIEW compacted AS SELECT file_path FROM logs WHERE false"
_COMPACT = """
COPY (FROM logged ORDER BY file_path)
TO {path} (FORMAT parquet, COMPRESSION zstd, KV_METADATA {{logs: '{logs}', damaged: {damaged}}})
"""
_INDEX = """
SELECT interaction_type, batch_id, attempt, file_path, cache_key, created_at FROM interactions ORDER BY file_path
"""


def query(
    sql: str,
    runs_dir: str | Path = "runs",
    run: Run | str | None = None,
    settings: Settings | None = None,
) -> pd.DataFrame:
    """Return the rows of a query on the views, over all runs of a folder or one (a Run, its id, or `latest`).

    No value is changed on the way (see `analysis.frames.frame_of`); what is unknown is missing, never 0. A query can
    write nothing, and reads no files but those of the runs. Damaged logs are left out with a warning, and the table
    `damaged_logs` names them. Raises InputError for a query that is refused or fails.
    """
    settings = settings or load_settings()
    with _connection(_folders(Path(runs_dir), run), settings) as connection:
        _warn_of_damaged(connection)
        _restrict(connection, [Path(runs_dir), *([run.folder] if isinstance(run, Run) else [])], settings)
        try:
            _require_select(connection, sql)
            return frame_of(connection.sql(sql).to_arrow_table())
        except duckdb.Error as error:
            what = str(error).splitlines()[0]
            raise InputError(f"the query failed: {what}", f"the views are {', '.join(_views())}") from None


def _require_select(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    kinds = [statement.type for statement in connection.extract_statements(sql)]
    if kinds != [duckdb.StatementType.SELECT]:
        names = ", ".join(kind.name for kind in kinds) or "nothing"
        raise InputError(f"a query is one SELECT, not {names}", f"the views are {', '.join(_views())}")


def _restrict(connection: duckdb.DuckDBPyConnection, folders: Sequence[Path], settings: Settings) -> None:
    """Let a query read the folders of the runs and the events of the service, and nothing else."""
    folders = [*folders, _service_events(settings).parent]
    names = [name for folder in folders for name in (str(folder.resolve()), _escaped(folder))]
    connection.execute(f"SET allowed_directories = {_list(names)}; SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def compact(run: Run, settings: Settings | None = None) -> Path:
    """Write the interactions of a run to one Parquet file, which is read hundreds of times faster than the logs.

    The logs stay the truth: `query` ignores a file that was made from another number of logs than there are.
    """
    path = run.folder / COMPACTED
    temporary = path.with_name(f".{COMPACTED}.{os.getpid()}.making")
    logs = _description(run.folder)
    try:
        with _connection([run.folder], settings or load_settings(), compacted=False) as connection:
            damaged = _literal(orjson.dumps(_damaged(connection)).decode())
            connection.execute(_COMPACT.format(path=_literal(str(temporary)), logs=logs, damaged=damaged))
        write_atomic(path, temporary.read_bytes())
    finally:
        temporary.unlink(missing_ok=True)
    return path


def interaction_index(run: Run, settings: Settings | None = None, *, compacted: bool = True) -> pd.DataFrame:
    """Return the interactions of a run as `llm_interaction_index` holds them, sorted by `file_path`.

    Without `compacted`, they are read from the JSON files even if a Parquet file has them all. The columns are
    `interaction_type`, `batch_id`, `attempt`, `file_path` and `prompt_file` (relative to the folder that holds
    the runs, or addresses in S3), `cache_key` and `created_at` (UTC).
    """
    with _connection([run.folder], settings or load_settings(), compacted=compacted) as connection:
        index = frame_of(connection.sql(_INDEX).to_arrow_table())
    prompts = f"{run.folder.name}/prompts/" + index["interaction_type"].map(_PROMPTS).astype("str")
    index.insert(4, "prompt_file", prompts)
    root = location(run.folder).removesuffix(run.id)
    return index.assign(file_path=root + index["file_path"], prompt_file=root + index["prompt_file"])


@contextmanager
def _connection(
    folders: Sequence[Path], settings: Settings, *, compacted: bool = True
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open DuckDB in memory with the views over some runs; of those with a good Parquet file no log is read."""
    with duckdb.connect() as connection:
        for folder in folders:
            _fetch(folder, compacted)
        connection.execute("SET TimeZone = 'UTC'; SET autoinstall_known_extensions = false")
        finished = {folder: facts for folder in folders if compacted and (facts := _compacted(connection, folder))}
        logs, damaged = _sound_logs(folder for folder in folders if folder not in finished)
        damaged += [name for facts in finished.values() for name in orjson.loads(facts["damaged"])]
        files = [_escaped(folder / COMPACTED) for folder in finished]
        connection.register("sound_logs", logs)
        connection.register("damaged", pd.DataFrame({"file_path": damaged}, dtype="str"))
        connection.execute("BEGIN")  # one for all: each statement alone would take as long
        connection.execute(_LOGS)
        connection.execute(_COMPACTED.format(files=_list(files)) if files else _NONE_COMPACTED)
        _make_monitoring_sources(connection, folders, settings)
        for path in sorted(project_folder("sql").glob("duckdb/*.sql"), key=lambda path: path.stem not in _BASES):
            connection.execute(path.read_text(encoding="utf-8"))
        connection.execute("COMMIT")
        yield connection


def _fetch(folder: Path, compacted: bool) -> None:
    """Download what is read of a run in S3: events, categories, and one file of a finished run or all other logs."""
    fetch(folder, "events.jsonl", _TAXONOMIES, *([COMPACTED] if compacted else []))
    if not (compacted and (folder / COMPACTED).exists()):
        for stage in STAGES.values():
            fetch_all(folder, f"{stage}/")


def _make_monitoring_sources(
    connection: duckdb.DuckDBPyConnection, folders: Sequence[Path], settings: Settings
) -> None:
    """Make the views of documents, events and categories; the events of the service are of all runs of its home."""
    documents = _existing([folder / name for folder in folders for name in ("run.json", "status.json")])
    events = _existing([*(folder / "events.jsonl" for folder in folders), _service_events(settings)])
    connection.execute(_DOCUMENTS.format(files=_list(documents)) if documents else _NO_DOCUMENTS)
    connection.execute(_EVENTS.format(files=_list(events)) if events else _NO_EVENTS)
    taxonomies = _existing([folder / _TAXONOMIES for folder in folders])
    connection.execute(_CATEGORIES + (_OF_RESULTS.format(files=_list(taxonomies)) if taxonomies else ""))


def _service_events(settings: Settings) -> Path:
    return settings.segkit_home / "service" / "events.jsonl"


def _existing(paths: Sequence[Path]) -> list[str]:
    return [_escaped(path) for path in paths if path.exists() and path.stat().st_size]


def _views() -> list[str]:
    return sorted(path.stem for path in project_folder("sql").glob("duckdb/*.sql"))


def _folders(runs_dir: Path, run: Run | str | None) -> list[Path]:
    if isinstance(run, str):
        run = open_run(run, runs_dir)
    return [run.folder] if run else [runs_dir / run_id for run_id in run_ids(runs_dir)]


def _compacted(connection: duckdb.DuckDBPyConnection, folder: Path) -> dict[str, str]:
    """Return the facts in the Parquet file of a run, or nothing unless it was made from every log there is."""
    question = "SELECT decode(key), decode(value) FROM parquet_kv_metadata(?)"
    try:
        facts = dict(connection.execute(question, [_escaped(folder / COMPACTED)]).fetchall())
    except duckdb.Error:
        return {}
    return facts if facts.get("logs") == _description(folder) else {}


def _sound_logs(folders: Iterable[Path]) -> tuple[pd.DataFrame, list[str]]:
    """Return the logs of runs that match their checksums, and the names of the others.

    The columns are `file_path`, `bytes`, and as JSON `context` and `metadata`. DuckDB's `read_json` is not used: a
    truncated file makes it fail, and 20,000 files take it longer.
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


def _description(folder: Path) -> str:
    """Return what a compacted file must say of itself: how many logs there are (also in S3), and its layout."""
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
