"""A new run: its id, and its folder, made in one piece."""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.core.models import STAGES, Parameters
from segkit.core.prompts import prompt_hash
from segkit.errors import RunError
from segkit.runs.events import timestamp
from segkit.runs.mirror import probe, start_in_s3
from segkit.runs.run import RUN_ID, SCHEMA_VERSION, Run, open_run, prompt_path
from segkit.runs.status import write_status
from segkit.settings import Settings
from segkit.storage.locks import is_left_behind

_TOLD_PACKAGES = ("pandas", "pyarrow", "duckdb", "papermill", "scikit-learn", "aiohttp", "openai", "psycopg")


def new_run_id() -> str:
    """Name a new run after this moment, like RUN_20250618T120301Z_8d24."""
    return f"RUN_{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{secrets.token_hex(2)}"


def create_run(
    runs_dir: Path,
    run_id: str,
    parameters: Parameters,
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    source: Mapping[str, Any],
    settings: Settings,
    caps: Mapping[str, Any] | None = None,
    archived: Mapping[str, pd.DataFrame] | None = None,
) -> Run:
    """Make the folder of a run in one piece, whole or not at all; where runs live in S3, it is uploaded.

    `archived` are tables that the run starts from, by name: its taxonomy, and the rows of an earlier run.
    """
    final = runs_dir / run_id
    if not RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id[:80]!r} is no run id", "run ids look like RUN_20250618T120301Z_8d24")
    if settings.storage_backend == "s3":
        probe(settings)
    making = runs_dir / f".{run_id}.{os.getpid()}.making"
    try:
        _sweep(runs_dir)
        making.mkdir(parents=True, mode=0o700)
        _fill(making, run_id, parameters, products, prompts, source, _kept(settings, caps or {}))
        for name, table in (archived or {}).items():
            (making / f"{name}.parquet").write_bytes(table.to_parquet(index=False))
        making.rename(final)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise RunError(f"{final} cannot be made: {error.strerror or error}", "choose another --runs-dir") from None
    if settings.storage_backend == "s3":
        start_in_s3(final, settings)
    return open_run(run_id, runs_dir, settings)


def _sweep(runs_dir: Path) -> None:
    """Remove what is left of runs whose process died while it made them; nothing was asked in them."""
    for path in runs_dir.glob(".RUN_*.making"):
        if is_left_behind(path):
            shutil.rmtree(path, ignore_errors=True)


def _fill(
    folder: Path,
    run_id: str,
    parameters: Parameters,
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    source: Mapping[str, Any],
    kept: Mapping[str, Any],
) -> None:
    data = _parquet(products)
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created_at": timestamp(),
        "parameters": asdict(parameters),
        "input": {**source, "products": len(products), "sha256": hashlib.sha256(data).hexdigest()},
        "prompts": {key: prompt_hash(text) for key, text in prompts.items()},
        **kept,
        **_environment(),
    }
    (folder / "run.json").write_bytes(orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2))
    for name in ("prompts", "results", "notebooks", *STAGES.values()):
        (folder / name).mkdir(mode=0o700)
    for key, text in prompts.items():
        prompt_path(folder, key).write_text(text, encoding="utf-8")
    (folder / "products.parquet").write_bytes(data)
    told = {"run_id": run_id, "state": "running", "stage": "prepare", "products": len(products), "processed": 0}
    write_status(folder, told)


def _kept(settings: Settings, caps: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the run is made with beside its parameters: its caps, its batches, its streams, its executor."""
    caps = {**({"batch": True} if settings.segkit_batch else {}), **caps}
    given = {"caps": caps or None, "stream": settings.segkit_stream, "executor": settings.segkit_executor or None}
    return {name: value for name, value in given.items() if value is not None}


def products_hash(products: pd.DataFrame) -> str:
    """Hash products as `run.json` records them: equal products have equal hashes."""
    return hashlib.sha256(_parquet(products)).hexdigest()


def _parquet(products: pd.DataFrame) -> bytes:
    return bytes(_texts(products).to_parquet(index=False))


def _environment() -> dict[str, Any]:
    return {
        "segkit_version": version("segkit"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _TOLD_PACKAGES},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    try:
        told = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip()


def _texts(products: pd.DataFrame) -> pd.DataFrame:
    """Turn columns of mixed values, which Parquet cannot hold, into text."""
    mixed = [name for name in products.columns if products[name].dtype == object]
    return products.assign(**{name: products[name].astype("str") for name in mixed})
