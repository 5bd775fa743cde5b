"""Where the logs of all runs are, as `llm_interaction_index` in Postgres tells it."""

from __future__ import annotations

from collections.abc import Sequence

from segkit.database import connection as postgres

_TOLD = "SELECT to_regclass('llm_interaction_index') IS NOT NULL"
_FOUND = """
SELECT cache_key, file_path FROM llm_interaction_index
WHERE cache_key = ANY(%s) AND attempt = 1 ORDER BY cache_key, created_at DESC
"""
_AWAY = """
UPDATE llm_interaction_index SET file_path = %(root)s || file_path, prompt_file = %(root)s || prompt_file
WHERE run_id = %(run_id)s AND NOT starts_with(file_path, %(root)s)
"""
_BACK = """
UPDATE llm_interaction_index
SET file_path = substr(file_path, length(%(root)s) + 1), prompt_file = substr(prompt_file, length(%(root)s) + 1)
WHERE run_id = %(run_id)s AND starts_with(file_path, %(root)s)
"""


def find_logs(url: str, keys: Sequence[str]) -> dict[str, list[str]]:
    """Find the logs of first attempts by their cache keys, the newest first: key → paths or addresses in S3."""
    found: dict[str, list[str]] = {}
    with postgres.mapped(url, "looking for answers"), postgres.connect(url) as connection:
        if connection.execute(_TOLD).fetchone() == (True,):
            for key, path in connection.execute(_FOUND, (list(keys),)):
                found.setdefault(key, []).append(path)
    return found


def move_paths(url: str, run_id: str, root: str, *, back: bool = False) -> int:
    """Let the index of a run point below `root` (like `s3://bucket/`), or back to the runs folder; gives the rows.

    One transaction: all paths of the run change, or none.
    """
    with postgres.mapped(url, f"moving the paths of {run_id}"), postgres.connect(url) as connection:
        if connection.execute(_TOLD).fetchone() != (True,):
            return 0
        return connection.execute(_BACK if back else _AWAY, {"run_id": run_id, "root": root}).rowcount
