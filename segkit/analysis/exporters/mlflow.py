"""A run as runs of MLflow: its parameters, metrics, tags and report, with a nested run for each stage."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from segkit.analysis.exporters.extras import missing_package
from segkit.analysis.frames import records
from segkit.analysis.logs import query
from segkit.analysis.report import REPORT
from segkit.errors import InputError, StorageError
from segkit.runs.events import read_events
from segkit.runs.run import Run, current_state
from segkit.runs.status import StageFigures

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: The experiment that runs are put into, where MLFLOW_EXPERIMENT_NAME names no other.
EXPERIMENT = "segkit"
#: The tag by which a run is found again, so that exporting it twice makes one MLflow run.
RUN_TAG, STAGE_TAG = "segkit.run_id", "segkit.stage"
_PARENT = "mlflow.parentRunId"
_FILES = (REPORT, "run.json")
_FAILED, _FINISHED, _RUNNING = "FAILED", "FINISHED", "RUNNING"
_TIMES = """
SELECT
    interaction_type AS stage,
    min(created_at) AS begun,
    max(created_at + to_milliseconds(coalesce(duration_ms, 0))) AS ended
FROM interactions
GROUP BY ALL
ORDER BY begun
"""
_PORTS = {"http": 80, "https": 443}
_LONGEST = 500  # characters of a parameter: what every release of MLflow takes
_COUNTED = ("products", "categories", "out_of_scope", "unassigned", "refused", "untitled", "seconds")


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What one MLflow run holds: a run of segkit, or a `stage` of it. Times are milliseconds of the Unix clock."""

    name: str
    start: int
    end: int
    state: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def export_to_mlflow(run: Run, url: str = "") -> str:
    """Write a run and its stages to an MLflow server, and return the id of its MLflow run.

    A run that was exported before is updated. Without a `url`, MLFLOW_TRACKING_URI names the server. Raises
    SettingsError without the package, InputError without a server, and StorageError where the server refuses.
    """
    try:
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise missing_package("mlflow-skinny", "mlflow") from None
    client = _client(url)
    try:
        # The client prints an address for each run and stage that it closes.
        with contextlib.redirect_stdout(io.StringIO()):
            return _export(client, run)
    except (MlflowException, OSError, ValueError) as error:
        what = " ".join(str(error).split())
        raise StorageError(
            f"MLflow did not take {run.id}: {what[:300]}", "export again: nothing is doubled"
        ) from None


def _export(client: MlflowClient, run: Run) -> str:
    experiment = _experiment(client)
    whole = _write(client, experiment, tracked_run(run))
    for stage in tracked_stages(run):
        _write(client, experiment, stage, whole)
    for path in run.files(*_FILES):
        if path.exists():
            client.log_artifact(whole, str(path))
    return whole


def tracked_run(run: Run) -> TrackedRun:
    """Return what MLflow holds of a whole run: parameters as it was made, and metrics as far as it has come."""
    status, document = run.status, run.document
    state = current_state(run.folder)
    given = {**document["parameters"], "products": document["input"]["products"], "prompt_set": run.prompt_set}
    hashes = {f"prompt_sha256.{key}": value for key, value in document["prompts"].items()}
    counted = {name: status.summary.get(name) for name in _COUNTED}
    asked_twice = status.document.get("asked_twice") or {}
    changed = {f"segkit.changed.{name}": value for name, value in run.changed_requests.items()}
    tags = {
        RUN_TAG: run.id,
        "segkit.state": state,
        "segkit.reason": status.reason,
        "segkit.version": document["segkit_version"],
        "segkit.input_sha256": document["input"]["sha256"],
        "mlflow.note.content": f"Market segments of {run.parameters.category}, made by segkit",
        "mlflow.source.name": "segkit",
        **changed,
    }
    return TrackedRun(
        name=run.id,
        start=_milliseconds(document["created_at"]),
        end=_end(run),
        state={"completed": _FINISHED, "failed": _FAILED}.get(state, _RUNNING),
        parameters=_texts({**given, **hashes}),
        metrics=_numbers({**_figures(status.total), **counted, "asked_twice_differently": asked_twice.get("share")}),
        tags=_texts(tags),
    )


def tracked_stages(run: Run) -> Iterator[TrackedRun]:
    """Return what MLflow holds of each stage that has begun, in their order."""
    times = {row["stage"]: row for row in records(query(_TIMES, run.folder.parent, run=run))}
    state = tracked_run(run).state
    for stage, figures in run.status.stages.items():
        if begun := times.get(stage):
            done = figures.done >= figures.planned and not figures.failed
            yield TrackedRun(
                name=stage,
                start=int(begun["begun"].timestamp() * 1000),
                end=int(begun["ended"].timestamp() * 1000),
                state=_FINISHED if done else state,
                metrics=_numbers({**_figures(figures), "seconds": figures.seconds}),
                tags=_texts({RUN_TAG: run.id, STAGE_TAG: stage}),
            )


def _figures(figures: StageFigures) -> dict[str, Any]:
    """Return the figures of a stage, or of all, that are known: an unknown cost is left out, not 0."""
    names = ("calls", "cached", "retries", "failed", "input_tokens", "cached_tokens", "output_tokens")
    money = {
        "cost_usd": None if figures.unpriced else figures.cost_usd,
        "saved_usd": None if figures.saved_unpriced else figures.saved_usd,
    }
    return {**{name: getattr(figures, name) for name in names}, **money}


def _client(url: str) -> MlflowClient:
    """Return a client of a server; the default of MLflow, a database beside the notebooks, is nobody's server."""
    from mlflow import MlflowClient

    _turn_off_telemetry()
    address = url or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        raise InputError("no MLflow server is named", "--url http://127.0.0.1:5000, or set MLFLOW_TRACKING_URI")
    _require_server(address)
    return MlflowClient(tracking_uri=address)


def _require_server(address: str) -> None:
    """Raise StorageError where nobody listens: MLflow's client would try again for four minutes, in silence."""
    parts = urlsplit(address)
    if parts.scheme not in _PORTS or getproxies():
        return
    try:
        socket.create_connection((parts.hostname or "", parts.port or _PORTS[parts.scheme]), timeout=10).close()
    except OSError as error:
        what = f"the MLflow server {parts.hostname}:{parts.port or _PORTS[parts.scheme]} cannot be reached"
        raise StorageError(f"{what}: {error.strerror or error}", "start it, or name another one with --url") from None


def _turn_off_telemetry() -> None:
    """Keep MLflow's client from reporting its use to its makers: segkit sends nothing that nobody asked for."""
    with contextlib.suppress(ImportError, AttributeError):  # releases before 3.2 have none
        from mlflow.telemetry import client

        client._set_telemetry_client(None)


def _experiment(client: MlflowClient) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _write(client: MlflowClient, experiment: str, tracked: TrackedRun, parent: str = "") -> str:
    """Write one run of MLflow, new or known, and return its id. Equal figures at an equal time are stored once."""
    from mlflow.entities import Metric, Param, RunTag

    tags = {**tracked.tags, "mlflow.runName": tracked.name, **({_PARENT: parent} if parent else {})}
    run_id = _find(client, experiment, tracked.tags)
    if not run_id:
        run_id = client.create_run(experiment, start_time=tracked.start, tags=tags).info.run_id
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, tracked.end, 0) for name, value in tracked.metrics.items()],
        params=[Param(name, value) for name, value in tracked.parameters.items()],
        tags=[RunTag(name, value) for name, value in tags.items()],
    )
    if tracked.state == _RUNNING:
        client.update_run(run_id, status=_RUNNING)
    else:
        client.set_terminated(run_id, tracked.state, tracked.end)
    return str(run_id)


def _find(client: MlflowClient, experiment: str, tags: Mapping[str, str]) -> str:
    """Return the id of the MLflow run of a run or a stage; empty where there is none."""
    found = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{tags[RUN_TAG]}'")
    alike = [each.info.run_id for each in found if each.data.tags.get(STAGE_TAG) == tags.get(STAGE_TAG)]
    return str(alike[0]) if alike else ""


def _end(run: Run) -> int:
    """Return when a run ended, or when it was last heard of."""
    ended = [event["time"] for event in read_events(run.folder) if event["event"] == "run_ended"]
    return _milliseconds(ended[-1] if ended else run.status.updated_at or run.document["created_at"])


def _milliseconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:_LONGEST] for name, value in values.items() if value not in (None, "")}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float | Decimal)}
