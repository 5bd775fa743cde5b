"""What is exported is tried against the real thing: a server of MLflow, and dbt over the tables in Postgres."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import outside_tools
import pytest
from catalogues import catalogue
from command_line import Segkit
from mlflow import MlflowClient
from synced_runs import execute

from segkit.pipeline.segment import segment
from segkit.runs.run import Run

pytestmark = pytest.mark.long


@pytest.fixture
def finished(place: Path) -> Run:
    return segment(catalogue(24), "Kitchen Things", model="offline", products_per_prompt=6)


def tool(name: str) -> None:
    """Skip a test whose program is not there."""
    if why := outside_tools.why_missing(name):
        pytest.skip(f"no {name}: {why}")


def test_a_server_of_mlflow_takes_runs_and_traces(
    finished: Run, place: Path, segkit: Segkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server receives traces over OTLP too, and reads tokens and models by their GenAI names."""
    tool("mlflow")
    with outside_tools.mlflow_server(place) as url:
        for _ in range(2):
            code, out, errors = segkit("export", "latest", "--to", "mlflow", "--url", url)
            assert code == 0, errors
        client = MlflowClient(tracking_uri=url)
        experiment = client.get_experiment_by_name("segkit").experiment_id
        runs = client.search_runs([experiment])
        assert len(runs) == 4
        whole = client.get_run(out.split()[-1])
        assert whole.data.metrics["calls"] == finished.status.calls
        assert len(client.get_metric_history(whole.info.run_id, "calls")) == 1
        report = Path(client.download_artifacts(whole.info.run_id, "report.html", str(place)))
        assert report.read_bytes() == (finished.folder / "report.html").read_bytes()

        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "120")  # seconds, on a busy machine
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"x-mlflow-experiment-id={experiment}")
        for _ in range(2):
            code, out, errors = segkit("export", "latest", "--to", "otlp", "--url", url)
            assert code == 0, errors
        assert out.split()[0] == str(1 + 3 + finished.status.calls)
        where = [{"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}]
        traces = post(f"{url}/api/3.0/mlflow/traces/search", {"locations": where})["traces"]
        assert [trace["state"] for trace in traces] == ["OK"]
        used = json.loads(traces[0]["trace_metadata"]["mlflow.trace.tokenUsage"])
        total = finished.status.total
        assert (used["input_tokens"], used["output_tokens"]) == (total.input_tokens, total.output_tokens)


def post(url: str, document: object) -> dict[str, object]:
    request = Request(url, json.dumps(document).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_dbt_builds_and_tests_the_project(
    finished: Run, segkit: Segkit, make_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool("dbt")
    url = make_database()
    monkeypatch.setenv("DATABASE_URL", url)
    assert segkit("export", "latest", "--to", "dbt")[0] == 0
    environment = outside_tools.quiet_environment(PGPASSWORD=urlsplit(url).password or "")

    def dbt(*command: str) -> tuple[int, str]:
        done = subprocess.run(
            [outside_tools.program("dbt"), *command], cwd="dbt", env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout

    code, out = dbt("parse", "--show-all-deprecations")
    assert code == 0, out
    assert "eprecat" not in out
    assert segkit("db", "migrate")[0] == 0
    code, out = dbt("build")
    assert code == 1  # the run is not loaded yet
    assert "Failure in test the_run_is_there" in out
    assert segkit("sync", "latest")[0] == 0
    code, out = dbt("build")
    assert code == 0, out
    assert "ERROR=0" in out
    shown = execute(url, "SELECT product_id, category_name FROM segkit_dbt.segments ORDER BY product_id")
    wanted = finished.assignments.sort_values("product_id")
    assert shown == list(zip(wanted["product_id"], wanted["category"], strict=True))
    execute(url, "UPDATE product_taxonomies SET product_count = product_count + 1")
    code, out = dbt("test")
    assert code == 1
    assert "Failure in test product_counts_agree" in out
