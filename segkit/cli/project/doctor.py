"""`segkit doctor`: a line for each thing that a run needs, with what to do if it is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segkit.cli.options import CHECK
from segkit.errors import SegkitError, SettingsError

if TYPE_CHECKING:
    from segkit.settings import Settings

app = typer.Typer()
_PACKAGES = (
    "pandas",
    "pyarrow",
    "duckdb",
    "papermill",
    "ipykernel",
    "psycopg",
    "openai",
)
_NEXT = "segkit run sample --category 'Coffee Makers' --model offline"
_ENOUGH_BYTES = 500_000_000
# On these a rename is not atomic and a lock may hold on one machine only.
_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.rclone", "davfs"}

Finding = tuple[bool, str]


@app.command(rich_help_panel=CHECK)
def doctor(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Also ask the endpoint for this model: is it listed, and which settings fit it."
        ),
    ] = "",
) -> None:
    """Check Python, packages, the Jupyter kernel, Postgres, the key and the disk, and say what to do about each.

    With --model, OPENAI_BASE_URL is asked for its list of models and their contexts, which costs nothing.

    Example: segkit doctor --model qwen3-8b
    """
    from rich.console import Console
    from rich.markup import escape

    from segkit.settings import load_settings

    settings = load_settings()
    checks: dict[str, Callable[[Settings], Finding]] = {
        "python": _python,
        "packages": _packages,
        "kernel": _kernel,
        "Postgres": _postgres,
        "key": _key,
        "disk": _disk,
    }
    if model:
        checks |= {"model": partial(_model, model), "settings": partial(_fitting, model)}
    console, sound = Console(soft_wrap=True, highlight=False), True
    for name, check in checks.items():
        good, text = check(settings)
        sound &= good
        console.print(f"{'[green]ok  [/green]' if good else '[red]no  [/red]'}{name:<10}{escape(text)}")
    console.print(f"\nnext: {_NEXT if sound else 'mend what says no, then run segkit doctor again'}")
    raise typer.Exit(0 if sound else 1)


def _python(settings: Settings) -> Finding:
    good = sys.version_info >= (3, 11)
    return good, f"{platform.python_version()} at {sys.executable}" + ("" if good else "; segkit needs 3.11 or newer")


def _packages(settings: Settings) -> Finding:
    missing, found = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    return not missing, f"{', '.join(missing)} missing: run `make setup`" if missing else ", ".join(found)


def _kernel(settings: Settings) -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return False, "there is no kernel python3: run `make setup`"
    return True, f"python3 in {spec.resource_dir}"


def _postgres(settings: Settings) -> Finding:
    from segkit.database.connection import query
    from segkit.database.sync import database_name, database_url

    try:
        server = query(database_url(settings), "SELECT current_setting('server_version') AS version")
    except SegkitError as error:
        return False, str(error)
    return True, f"{server['version'][0]}, {database_name(settings)}"


def _key(settings: Settings) -> Finding:
    from segkit.llm.transports.choose import require_key

    try:
        key = require_key(settings.openai_base_url, settings)
    except SettingsError:
        key = ""
    if key:
        return True, f"OPENAI_API_KEY is set, for {settings.openai_base_url}"
    return True, "OPENAI_API_KEY is not set: only --model offline, and endpoints without a key, can be used"


def _model(model: str, settings: Settings) -> Finding:
    """Ask the endpoint whether it has a model; what it lists is kept, so that a run can warn of a misspelt name."""
    from segkit.llm.transports.models import ask_models, remember

    if model == "offline":
        return True, "offline is embedded in segkit"
    try:
        found = ask_models(settings.openai_base_url, model, settings)
    except SegkitError as error:
        return False, str(error)
    remember(found, settings.segkit_home)
    if missing := found.unlisted(model):
        return False, missing
    listed = found.find(model)
    if listed is None:
        return True, f"{settings.openai_base_url} answers, and lists no models"
    context = f"a context of {listed.context:,} tokens" if listed.context else "its context is not stated"
    slots = f", answers {found.slots} at once" if found.slots else ""
    return True, f"{settings.openai_base_url} lists {listed.name}: {context}{slots}"


def _fitting(model: str, settings: Settings) -> Finding:
    """Say which settings fit a model, by what its endpoint stated a moment ago."""
    from segkit.llm.transports.models import remembered
    from segkit.pipeline.plan.model_limits import fitting_options

    found = remembered(settings.openai_base_url, settings.segkit_home)
    listed = found.find(model) if found else None
    if model == "offline" or found is None or listed is None or not listed.context:
        return True, "the defaults (nothing is known of its limits)"
    return fitting_options(model, listed.context, listed.most_output, found.slots, settings)


def _disk(settings: Settings) -> Finding:
    root = settings.storage_root
    folder = next(parent for parent in (root, *root.resolve().parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if (kind := file_system(folder, mounts())) in _NETWORK:
        return False, f"{root} is on {kind}, a network file system: set STORAGE_ROOT to a local folder"
    if not os.access(folder, os.W_OK):
        return False, f"{folder} cannot be written: set STORAGE_ROOT to a folder of yours"
    if free < _ENOUGH_BYTES:
        return False, f"only {free / 1e9:.1f} GB free for {root}: make room, or set STORAGE_ROOT to another disk"
    return True, f"{free / 1e9:.1f} GB free for {root}"


def file_system(place: Path, mounts: str) -> str:
    """Return the kind of file system that a folder is on, from the lines of `/proc/self/mounts`; empty if unknown."""
    found: dict[Path, str] = {}
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split(" ")
        found[Path(where.replace("\\040", " "))] = kind  # a later mount covers an earlier one
    resolved = place.resolve()
    return next((found[folder] for folder in (resolved, *resolved.parents) if folder in found), "")


def mounts() -> str:
    """Return the lines of `/proc/self/mounts`; empty on systems without it."""
    path = Path("/proc/self/mounts")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
