"""Replaying a run: its results made again from its own logs, without network, and compared byte for byte."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.core.models import STAGES
from segkit.core.text import quantity
from segkit.errors import BudgetError, RunError, SegkitError
from segkit.pipeline.segment import STAGE_FUNCTIONS
from segkit.runs import mirror
from segkit.runs.integrity import changed_files
from segkit.runs.interactions import scan
from segkit.runs.run import Run, open_run
from segkit.settings import Settings, load_settings

_LEFT_BEHIND = ("results", "notebooks", "batches", "stop", "*.lock", "*.making")
_NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")


@dataclass(frozen=True, slots=True)
class Replay:
    """Whether the results of a run follow from its logs: `tables` and `answers` counted, or the first difference."""

    run_id: str
    identical: bool
    tables: int
    answers: int
    difference: str = ""
    log: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the outcome as other programs read it."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __str__(self) -> str:
        if self.identical:
            return f"identical: {quantity(self.tables, 'table')}, {quantity(self.answers, 'answer')}"
        return f"not identical: {self.difference}" + (f" ({self.log})" if self.log else "")


def replay(run: Run) -> Replay:
    """Make the results of a finished run again from its folder alone, and compare them byte for byte.

    The work is done on a copy, by a process that cannot open a connection. Raises RunError for a run without results,
    and for one that was made from other runs.
    """
    if run.parameters.consensus:
        raise RunError(f"{run.id} was made from other runs without asking", "replay one of those: segkit runs")
    run.result("ledger")
    mirror.fetch_all(run.folder)
    damaged = [path for stage in STAGES.values() for path in scan(run.folder / stage)[1]]
    if damaged:
        path = damaged[0].relative_to(run.folder).as_posix()
        return Replay(run.id, False, 0, 0, "a log is damaged: it does not match the checksum in it", path)
    if lost := _lost_logs(run):
        return Replay(run.id, False, 0, 0, "a log is missing", lost[0])
    with tempfile.TemporaryDirectory(prefix="segkit-replay-") as folder:
        copy = Path(folder) / run.id
        shutil.copytree(run.folder, copy, ignore=shutil.ignore_patterns(*_LEFT_BEHIND))
        (copy / "results").mkdir()
        failure = _in_a_process_without_network(copy)
        if failure:
            return Replay(run.id, False, 0, 0, failure)
        return _compared(run, open_run(run.id, folder))


def _lost_logs(run: Run) -> list[str]:
    """Name the logs that the checksums of a finished run list and the folder lacks."""
    logs = [each.file for each in changed_files(run) if each.file.split("/")[0] in STAGES.values()]
    return [name for name in logs if not (run.folder / name).exists()]


def _in_a_process_without_network(copy: Path) -> str:
    """Run the stages on a copy of a run, and return why they could not be made again, or nothing."""
    command = [sys.executable, "-m", "segkit.pipeline.replay", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return str(orjson.loads(done.stdout)["failure"])
    except (orjson.JSONDecodeError, KeyError):
        return f"the stages ended with an unexpected error: {done.stderr.strip().splitlines()[-1:]}"


def _compared(run: Run, again: Run) -> Replay:
    names = sorted(path.stem for path in (run.folder / "results").glob("*.parquet"))
    answers = sum(len(scan(run.folder / stage)[0]) for stage in STAGES.values())
    for name in (name for name in _in_order(names) if again.has_result(name)):
        old, new = ((each.folder / "results" / f"{name}.parquet").read_bytes() for each in (run, again))
        if old != new and not _has_more_columns(run.result(name), again.result(name)):
            difference, log = _first_difference(run, name, run.result(name), again.result(name))
            return Replay(run.id, False, len(names), answers, difference, log)
    missing = [name for name in names if not again.has_result(name)]
    if missing:
        return Replay(run.id, False, len(names), answers, f"results/{missing[0]}.parquet is made by no stage")
    return Replay(run.id, True, len(names), answers)


def _has_more_columns(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    """Return whether a table differs only by columns that a later release of segkit has added to it."""
    added = [name for name in new.columns if name not in old.columns]
    return bool(added) and new.drop(columns=added).equals(old)


def _in_order(names: list[str]) -> list[str]:
    """Put the tables of the first stages first: what differs there explains what differs later."""
    first = ["batch_categories", "batch_assignments", "merges", "taxonomy", "lineage"]
    return [*(name for name in first if name in names), *(name for name in names if name not in first)]


def _first_difference(run: Run, name: str, old: pd.DataFrame, new: pd.DataFrame) -> tuple[str, str]:
    """Describe the first row that differs, and name the log of the interaction that stated it."""
    table = f"results/{name}.parquet"
    if list(old.columns) != list(new.columns):
        return f"{table} has other columns", ""
    if len(old) != len(new):
        return f"{table} has {quantity(len(old), 'row')}, made again {len(new):,}", ""
    differs = (old != new) & ~(old.isna() & new.isna())
    if not differs.to_numpy().any():
        return f"{table} has the same rows in other bytes (another version of pyarrow?)", ""
    row = int(differs.any(axis=1).to_numpy().argmax())
    column = str(differs.columns[int(differs.iloc[row].to_numpy().argmax())])
    where = f"product {old.iloc[row]['product_id']}" if "product_id" in old else f"row {row + 1}"
    text = f"{table}, {where}: {column} is {old.iloc[row][column]}, made again {new.iloc[row][column]}"
    return text, _log_of(run, new.iloc[row])


def _log_of(run: Run, row: pd.Series) -> str:
    key, batch = row.get("refined_by") or row.get("cache_key") or "", row.get("batch")
    for stage in STAGES.values():
        for log in scan(run.folder / stage)[0]:
            facts = log.metadata
            if facts["cache_key"] == key or (not key and facts["batch_id"] == batch and stage == "segmentation"):
                return log.path.relative_to(run.folder).as_posix()
    return ""


def _stay_offline(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _NETWORK:
        raise PermissionError(f"a replay opens no connection ({event})")


def _work(folder: Path) -> str:
    """Run the stages on a copy of a run; return why they stopped, or nothing."""
    # No call is allowed, so that a question without a log stops the replay instead of failing at the network.
    alone = {"segkit_cache": False, "segkit_max_calls": 0, "database_url": None, "storage_backend": "local"}
    settings: Settings = load_settings().model_copy(update=alone)
    run = open_run(folder.name, folder.parent)
    for stage in run.parameters.stages:
        try:
            STAGE_FUNCTIONS[stage](run, settings)
        except BudgetError:
            return f"{stage} has a question that no log answers"
        except SegkitError as error:
            return f"{stage} cannot be made again: {error.message}"
    return ""


if __name__ == "__main__":
    sys.addaudithook(_stay_offline)
    sys.stdout.buffer.write(orjson.dumps({"failure": _work(Path(sys.argv[1]))}))
