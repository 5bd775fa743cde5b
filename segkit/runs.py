"""Run folders: the one place where a run lives, and the only hand-over between its stages."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import secrets
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.claiming import is_owned_elsewhere
from segkit.errors import RunError
from segkit.events import timestamp
from segkit.mirror import LOCKS, adopt, adopt_all, attach, change_of, fetch, probe, reopen
from segkit.models import STAGES
from segkit.prompts import prompt_hash
from segkit.settings import load_settings
from segkit.storage.local import disk_error, is_held, write_atomic

SCHEMA_VERSION = 1
_RUN_ID = re.compile(r"RUN_\d{8}T\d{6}Z_[0-9a-f]{4,8}")
_TOLD_PACKAGES = ("pandas", "pyarrow", "duckdb", "papermill", "scikit-learn", "aiohttp", "openai", "psycopg")


@dataclass(frozen=True, slots=True)
class Parameters:
    """Whatever shapes the result of a run; stored in `run.json` and in `segmentation_runs`."""

    category: str
    model: str
    temperature: float | None
    endpoint: str
    prompts: str = "v0"
    seed: int = 0
    product_line: str = "$title"
    products_per_prompt: int = 40
    taxonomies_per_consolidation: int = 20
    products_per_refinement: int = 40
    max_retries: int = 3
    response_format: str = "json_schema"
    max_output_tokens: int | None = None
    max_unassigned: int = 0
    extends: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk: its folder and its `run.json`."""

    folder: Path
    document: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["run_id"])

    @property
    def parameters(self) -> Parameters:
        return Parameters(**self.document["parameters"])

    @property
    def products(self) -> pd.DataFrame:
        """The products of the run; raises RunError when they are not those it was made with."""
        fetch(self.folder, "products.parquet")
        data = (self.folder / "products.parquet").read_bytes()
        if hashlib.sha256(data).hexdigest() != self.document["input"]["sha256"]:
            raise self._changed("products.parquet")
        return pd.read_parquet(io.BytesIO(data))

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the run by stage; raises RunError when they are not those it was made with."""
        fetch(self.folder, *(f"prompts/{_prompt_path(self.folder, key).name}" for key in self.document["prompts"]))
        texts = {key: _prompt_path(self.folder, key).read_text(encoding="utf-8") for key in self.document["prompts"]}
        for key, text in texts.items():
            if prompt_hash(text) != self.document["prompts"][key]:
                raise self._changed(f"prompts/{_prompt_path(self.folder, key).name}")
        return texts

    @property
    def status(self) -> dict[str, Any]:
        return read_status(self.folder)

    def _changed(self, name: str) -> RunError:
        what = f"{self.folder / name} was changed since the run began"
        return RunError(what, "put it back, or make a new run: what did not change comes from the cache")

    def stage_folder(self, stage: str) -> Path:
        return self.folder / STAGES[stage]

    def result(self, name: str) -> pd.DataFrame:
        """Read a result, like `taxonomies`; raise RunError when its stage has not finished."""
        if not self.has_result(name):
            raise RunError(f"{self.id} has no results/{name}.parquet yet", f"segkit resume {self.id}")
        return pd.read_parquet(self.folder / "results" / f"{name}.parquet")

    def has_result(self, name: str) -> bool:
        fetch(self.folder, f"results/{name}.parquet")
        return (self.folder / "results" / f"{name}.parquet").exists()

    def save_result(self, name: str, frame: pd.DataFrame) -> None:
        """Write a result as Parquet; equal frames give equal bytes."""
        try:
            write_atomic(self.folder / "results" / f"{name}.parquet", frame.to_parquet(index=False))
        except OSError as error:
            raise disk_error(self.folder, error) from None


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
) -> Run:
    """Make the folder of a run in one piece: it is there whole or not at all. Then S3 gets it, where it is to."""
    final, settings = runs_dir / run_id, load_settings()
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id[:80]!r} is no run id", "run ids look like RUN_20250618T120301Z_8d24")
    if settings.storage_backend == "s3":
        probe(settings)
    making = runs_dir / f".{run_id}.{os.getpid()}.making"
    try:
        _sweep(runs_dir)
        making.mkdir(parents=True, mode=0o700)
        _fill(making, run_id, parameters, products, prompts, source)
        making.rename(final)
    except OSError as error:
        shutil.rmtree(making, ignore_errors=True)
        raise RunError(f"{final} cannot be made: {error.strerror or error}", "choose another --runs-dir") from None
    if settings.storage_backend == "s3":
        attach(final, settings)
    return Run(final, _document(final))


def _sweep(runs_dir: Path) -> None:
    """Remove what is left of runs whose process died while it made them; nothing was asked in them."""
    for path in runs_dir.glob(".RUN_*.making"):
        try:
            os.kill(int(path.name.split(".")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(path, ignore_errors=True)
        except (PermissionError, ValueError):
            pass  # it is alive, or none of ours


def open_run(name: str, runs_dir: str | Path = "runs") -> Run:
    """Open a run by its id, by the path of its folder, or the newest one by `latest`."""
    place, run_id = Path(runs_dir), name
    if "/" in name and Path(name).is_dir():
        place, run_id = Path(name).parent, Path(name).resolve().name
    if run_id == "latest":
        run_id = _latest(place)
    if not _RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id[:80]!r} is no run id", "they look like RUN_20250618T120301Z_8d24; see `segkit runs`")
    adopt(place, run_id, load_settings())
    return Run(place / run_id, _document(place / run_id))


def _latest(runs_dir: Path) -> str:
    ids = run_ids(runs_dir)
    if not ids:
        raise RunError(f"there are no runs in {runs_dir}", "start one with `segkit run`")
    return ids[-1]


def run_ids(runs_dir: Path) -> list[str]:
    """List the ids of the runs in a folder, oldest first; with STORAGE_BACKEND=s3 those in the bucket too."""
    adopt_all(runs_dir, load_settings(), _RUN_ID.fullmatch)
    if not runs_dir.is_dir():
        return []
    found = [
        name for name in os.listdir(runs_dir) if _RUN_ID.fullmatch(name) and (runs_dir / name / "run.json").exists()
    ]
    return sorted(found, key=lambda name: (name[:20], (runs_dir / name / "run.json").stat().st_mtime_ns))


def list_runs(runs_dir: Path) -> pd.DataFrame:
    """List the runs of a folder, oldest first: a row each, with id, state, model, prompts, products and more."""
    rows = [_row(runs_dir / run_id) for run_id in run_ids(runs_dir)]
    columns = ["id", "state", "category", "model", "prompts", "products", "categories", "cost_usd", "seconds"]
    return pd.DataFrame(rows, columns=columns).astype({"products": "Int64", "categories": "Int64"})


def current_state(folder: Path) -> str:
    """Give the state of a run; one that says it is running while nobody works on it has failed."""
    return _state(folder, read_status(folder))


def _state(folder: Path, status: Mapping[str, Any]) -> str:
    state = str(status["state"])
    return "failed" if state == "running" and not is_owned(folder) else state


def is_finished(run: Run) -> bool:
    """Tell whether a run is completed and sealed, so that nothing is left to do."""
    fetch(run.folder, "checksums.sha256")
    return bool(run.status["state"] == "completed" and (run.folder / "checksums.sha256").exists())


def is_owned(folder: Path) -> bool:
    """Tell whether a process works on a run."""
    return any(is_held(folder / name) for name in LOCKS) or is_owned_elsewhere(folder)


def read_status(folder: Path) -> dict[str, Any]:
    """Read `status.json`; a run without one, or with a broken one, has not got beyond its start."""
    try:
        status: dict[str, Any] = orjson.loads((folder / "status.json").read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        status = {}
    if isinstance(status, dict) and status:
        return status
    return {"run_id": folder.name, "state": "running", "stage": "", "reason": "", "stages": {}, "summary": {}}


def reopen_run(run: Run) -> None:
    """Bring all of a run here and begin a new life of it, where it is in S3.

    The life has a name, and tells after which one it came: so states of machines with different clocks have an order.
    """
    before = reopen(run.folder)
    if before is not None:
        update_status(run.folder, life=secrets.token_hex(8), after=before)


def update_status(folder: Path, **changes: Any) -> dict[str, Any]:
    """Replace some of `status.json`, atomically; raise StoppedError when the disk fails."""
    try:
        return _change_status(folder, changes)
    except OSError as error:
        raise disk_error(folder, error) from None


def _change_status(folder: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    before = read_status(folder)
    status = {**before, **changes, "change": change_of(before) + 1, "updated_at": timestamp()}
    write_atomic(folder / "status.json", orjson.dumps(status, default=str, option=orjson.OPT_INDENT_2))
    return status


def _fill(
    folder: Path,
    run_id: str,
    parameters: Parameters,
    products: pd.DataFrame,
    prompts: Mapping[str, str],
    source: Mapping[str, Any],
) -> None:
    data = _texts(products).to_parquet(index=False)
    document = {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "created_at": timestamp(),
        "parameters": asdict(parameters),
        "input": {**source, "products": len(products), "sha256": hashlib.sha256(data).hexdigest()},
        "prompts": {key: prompt_hash(text) for key, text in prompts.items()},
        **_environment(),
    }
    (folder / "run.json").write_bytes(orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2))
    for name in ("prompts", "results", "notebooks", *STAGES.values()):
        (folder / name).mkdir(mode=0o700)
    for key, text in prompts.items():
        _prompt_path(folder, key).write_text(text, encoding="utf-8")
    (folder / "products.parquet").write_bytes(data)
    told = {"run_id": run_id, "state": "running", "stage": "prepare", "products": len(products), "processed": 0}
    _change_status(folder, told)


def _row(folder: Path) -> dict[str, Any]:
    document, status = _document(folder), read_status(folder)
    summary = status.get("summary", {})
    told = {name: document["parameters"][name] for name in ("category", "model", "prompts")}
    figures = {name: summary.get(name) for name in ("categories", "cost_usd", "seconds")}
    products = document["input"]["products"]
    return {"id": folder.name, "state": _state(folder, status), "products": products, **told, **figures}


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        raise RunError(f"there is no run {folder.name} in {folder.parent}", "see `segkit runs`") from None
    except orjson.JSONDecodeError as error:
        raise RunError(f"{folder / 'run.json'} is damaged: {error}", "restore it from a copy") from None
    if document.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(
            f"{folder.name} was made by segkit {document.get('segkit_version')}", "upgrade segkit to read it"
        )
    return document


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


def _prompt_path(folder: Path, key: str) -> Path:
    return folder / "prompts" / f"{key}_prompt.txt"
