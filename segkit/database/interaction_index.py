"""The table `llm_interaction_index`: where the logs of all runs are."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from segkit.database.compare import held, make_marker, stored_run, table_differences, write_marker
from segkit.database.connection import connect, translated_errors
from segkit.database.load import lock_run, replace_rows, require_equal
from segkit.database.run_tables import digests, index_content

_EXISTS = "SELECT to_regclass('llm_interaction_index') IS NOT NULL"
_FIND = """
SELECT cache_key, file_path FROM llm_interaction_index
WHERE cache_key = ANY(%s) AND attempt = 1 ORDER BY cache_key, created_at DESC
"""
_TO_ROOT = """
UPDATE llm_interaction_index SET file_path = %(root)s || file_path, prompt_file = %(root)s || prompt_file
WHERE run_id = %(run_id)s AND NOT starts_with(file_path, %(root)s)
"""
_FROM_ROOT = """
UPDATE llm_interaction_index
SET file_path = substr(file_path, length(%(root)s) + 1), prompt_file = substr(prompt_file, length(%(root)s) + 1)
WHERE run_id = %(run_id)s AND starts_with(file_path, %(root)s)
"""


def find_logs(url: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """Return the logs of first attempts by their cache keys, the newest first: key → paths or addresses in S3."""
    found: dict[str, list[str]] = {}
    with translated_errors(url, "looking for answers"), connect(url) as connection:
        if connection.execute(_EXISTS).fetchone() == (True,):
            for key, path in connection.execute(_FIND, (list(keys),)):
                found.setdefault(key, []).append(path)
    return found


def move_paths(url: str, run_id: str, root: str, *, back: bool = False) -> int:
    """Put `root` (like `s3://bucket/`) before the paths of a run, or with `back` remove it; return the rows changed.

    One transaction: all paths of the run change, or none.
    """
    with translated_errors(url, f"moving the paths of {run_id}"), connect(url) as connection:
        if connection.execute(_EXISTS).fetchone() != (True,):
            return 0
        return connection.execute(_FROM_ROOT if back else _TO_ROOT, {"run_id": run_id, "root": root}).rowcount


def reindex(url: str, run_id: str, interactions: pd.DataFrame) -> int | None:
    """Rebuild the rows of a run in one transaction; return their number, or None if the run is not in the database.

    The other tables stay as they are. Raises DatabaseError.
    """
    content = {"llm_interaction_index": index_content(interactions)}
    with translated_errors(url, f"the index of {run_id}"), connect(url) as connection:
        lock_run(connection, run_id)
        stored, marker = stored_run(connection, run_id)
        if stored is None:
            return None
        replace_rows(connection, run_id, content)
        require_equal(table_differences(connection, run_id, content, every_row=True))
        if marker:
            part = make_marker(digests(content), held(connection, run_id, content))
            write_marker(connection, run_id, marker | part)
    return int(content["llm_interaction_index"].num_rows)
