"""What the monitoring views stand on: the documents and the events of runs and of the service, as DuckDB reads them.

Nothing is read before a query asks for it. `run_documents` has a row a run (`run_id`, `run` and `status` as JSON);
`event_lines` a row an event (`run_id`, empty for the service, and `line`). A line that a crash cut off is no JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from segkit.settings import load_settings

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


def monitoring_sources(folders: Sequence[Path], listed: Callable[[Sequence[Path]], str]) -> Iterator[str]:
    """Give the statements that make the sources over some runs; `listed` writes paths as a list in SQL.

    The events of the service speak of all runs of its home, also where only one run is asked about.
    """
    service = load_settings().segkit_home / "service" / "events.jsonl"
    documents = _existing([folder / name for folder in folders for name in ("run.json", "status.json")])
    events = _existing([*(folder / "events.jsonl" for folder in folders), service])
    yield _DOCUMENTS.format(files=listed(documents)) if documents else _NO_DOCUMENTS
    yield _EVENTS.format(files=listed(events)) if events else _NO_EVENTS


def _existing(paths: Sequence[Path]) -> list[Path]:
    return [path for path in paths if path.exists() and path.stat().st_size]
