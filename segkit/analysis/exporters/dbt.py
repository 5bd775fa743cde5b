"""A dbt project over the tables of segkit in Postgres: sources with tests, and models of one run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from segkit.display import json_text
from segkit.errors import InputError
from segkit.runs.run import Run
from segkit.storage.disk import write_atomic

_DEFAULTS = {"host": "127.0.0.1", "port": "5432", "user": "postgres", "dbname": "postgres", "sslmode": "prefer"}
_SCHEMA = re.compile(r"search_path=(\w+)")


def write_dbt_project(run: Run, folder: Path, server: Mapping[str, Any]) -> list[Path]:
    """Write the project into a folder, and return its files; models of your own that stand beside them stay.

    `server` holds the parameters of libpq. No password is written: dbt reads it from PGPASSWORD. Raises InputError
    where the folder cannot be written.
    """
    schema = _SCHEMA.search(str(server.get("options", "")))
    values = {
        "run_id": run.id,
        "schema": schema.group(1) if schema else "public",
        **{name: str(server.get(name) or default) for name, default in _DEFAULTS.items()},
    }
    written = []
    try:
        for name, text in _templates(files("segkit.analysis.exporters") / "dbt_project"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, _filled(text, values).encode())
            written.append(path)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from None
    return written


def _templates(folder: Traversable, above: str = "") -> list[tuple[str, str]]:
    found = []
    for each in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{above}{each.name}"
        found += _templates(each, f"{name}/") if each.is_dir() else [(name, each.read_text(encoding="utf-8"))]
    return found


def _filled(text: str, values: Mapping[str, str]) -> str:
    """Replace `@name@` by a value, which stands in a quoted string of YAML or Jinja and cannot end it."""
    return re.sub(r"@(\w+)@", lambda found: _quotable(values[found[1]]), text)


def _quotable(value: str) -> str:
    return json_text(value)[1:-1].replace("'", "").replace("{", "").replace("}", "")
