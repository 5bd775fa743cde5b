"""A run in other tools holds what its folder holds: MLflow, OpenTelemetry and dbt."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from catalogues import catalogue
from command_line import Segkit
from endpoint import Endpoint
from mlflow import MlflowClient
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.trace import StatusCode
from otlp_collector import Collector, attributes
from synced_runs import execute

from segkit.analysis.exporters.mlflow import RUN_TAG, STAGE_TAG, export_to_mlflow
from segkit.analysis.exporters.otlp import export_to_otlp
from segkit.errors import InputError, SettingsError, StorageError
from segkit.pipeline.segment import segment
from segkit.runs.interactions import scan
from segkit.runs.run import Run
from segkit.settings import Settings

STAGES = ["segmentation", "consolidate_taxonomy", "refine_assignments"]
GEN_AI = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the offline model with 24 products, in the folder `runs`."""
    place = tmp_path_factory.mktemp("exported")
    settings = Settings(segkit_home=place / "home", segmentation_products_per_prompt=6)
    return segment(catalogue(24), "Kitchen Things", model="offline", runs_dir=place / "runs", settings=settings)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


def logs(run: Run) -> list[dict[str, Any]]:
    return [log.log for stage in FOLDERS for log in scan(run.stage_folder(stage))[0]]


FOLDERS = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")


def test_a_trace_has_a_span_for_the_run_each_stage_and_each_interaction(finished: Run, collector: Collector) -> None:
    sent = export_to_otlp(finished, collector.url)
    spans, total = collector.spans, finished.status.total
    assert sent == len(spans) == 1 + len(STAGES) + total.calls
    assert len({span.trace_id for span in spans}) == 1
    assert len({span.span_id for span in spans}) == len(spans)
    assert collector.services == {"segkit"}
    whole, by_id = spans[0], {span.span_id: span for span in spans}
    stages = [span for span in spans if span.parent_span_id == whole.span_id]
    assert not whole.parent_span_id
    assert [attributes(span)["segkit.stage"] for span in stages] == STAGES
    for span in spans[1:]:
        above = by_id[span.parent_span_id]
        assert above.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= above.end_time_unix_nano
    calls = [span for span in spans if span.name == "chat offline"]
    assert sorted(_milliseconds(span) for span in calls) == sorted(
        log["metadata"]["duration_ms"] for log in logs(finished)
    )
    found = [attributes(span) for span in calls]
    assert sum(each["gen_ai.usage.input_tokens"] for each in found) == total.input_tokens
    assert sum(each["gen_ai.usage.output_tokens"] for each in found) == total.output_tokens
    assert {each["gen_ai.response.finish_reasons"][0] for each in found} == {"stop"}
    names = {name for span in spans for name in attributes(span) if not name.startswith("segkit.")}
    assert names - GEN_AI <= {"server.address", "server.port"}


def test_a_trace_holds_no_text_unless_asked(finished: Run, collector: Collector) -> None:
    export_to_otlp(finished, collector.url)
    assert b"Solid number" not in b"".join(collector.bodies)
    without = {span.span_id for span in collector.spans}
    collector.spans.clear()
    export_to_otlp(finished, collector.url, with_text=True)
    assert {span.span_id for span in collector.spans} == without  # the same trace again
    found = [attributes(span) for span in collector.spans if span.name == "chat offline"]
    asked = sorted(json.loads(each["gen_ai.input.messages"])[0]["parts"][0]["content"] for each in found)
    assert asked == sorted(log["prompt"] for log in logs(finished))
    answered = sorted(json.loads(each["gen_ai.output.messages"])[0]["parts"][0]["content"] for each in found)
    assert answered == sorted(log["response"] for log in logs(finished))


def test_what_failed_and_what_came_from_the_cache_is_said(
    endpoint: Endpoint, place: Path, collector: Collector
) -> None:
    endpoint.queue("drop_id", stage="extract_taxonomy")
    options = {"model": "gpt-4o", "runs_dir": place / "runs", "products_per_prompt": 6}
    export_to_otlp(segment(catalogue(12), "Kitchen Things", **options), collector.url)
    failed = [span for span in collector.spans if span.status.code == StatusCode.ERROR.value]
    assert [attributes(span)["error.type"] for span in failed] == ["invalid"]
    facts = attributes(failed[0])
    assert (facts["gen_ai.provider.name"], facts["server.address"]) == ("openai", "127.0.0.1")
    assert facts["server.port"] == endpoint.port
    assert facts["segkit.attempt"] == 1
    collector.spans.clear()
    again = segment(catalogue(12), "Kitchen Things", **options)
    export_to_otlp(again, collector.url)
    reused = [attributes(span) for span in collector.spans if span.name == "cached answer"]
    assert len(reused) == again.status.total.cached > 0
    assert not any(name.startswith("gen_ai.usage") for each in reused for name in each)
    assert all(each["segkit.cached_from"].startswith("RUN_") for each in reused)


def test_a_collector_that_refuses_is_an_error(finished: Run, collector: Collector) -> None:
    collector.refuse = 400
    with pytest.raises(StorageError, match=r"did not take the spans of RUN_"):
        export_to_otlp(finished, collector.url)


def _milliseconds(span: Any) -> int:
    return (span.end_time_unix_nano - span.start_time_unix_nano) // 1_000_000


def test_two_exports_are_one_run_in_mlflow(finished: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tried with MLflow's own store of files; the long suite has its server."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    address = f"file://{place}/mlflow"
    first, second = export_to_mlflow(finished, address), export_to_mlflow(finished, address)
    assert first == second
    client = MlflowClient(tracking_uri=address)
    runs = client.search_runs([client.get_experiment_by_name("segkit").experiment_id])
    nested = {run.data.tags[STAGE_TAG]: run for run in runs if run.info.run_id != first}
    whole, total = client.get_run(first), finished.status.total
    assert set(nested) == set(STAGES)
    assert len(runs) == 1 + len(STAGES)
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {first}
    assert {run.data.tags[RUN_TAG] for run in runs} == {finished.id}
    assert whole.info.status == "FINISHED"
    metrics = whole.data.metrics
    assert (metrics["calls"], metrics["input_tokens"]) == (total.calls, total.input_tokens)
    assert (metrics["products"], metrics["cost_usd"]) == (24, 0)
    assert sum(run.data.metrics["calls"] for run in nested.values()) == total.calls
    given = finished.document["parameters"]
    assert whole.data.params["model"] == "offline"
    assert whole.data.params["products_per_prompt"] == str(given["products_per_prompt"])
    assert {file.path for file in client.list_artifacts(first)} == {"report.html", "run.json"}


def test_mlflow_needs_a_server_that_listens(finished: Run) -> None:
    with pytest.raises(InputError, match="no MLflow server is named"):
        export_to_mlflow(finished)
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 cannot be reached"):
        export_to_mlflow(finished, "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("module", "export", "extra"),
    [
        ("mlflow.exceptions", export_to_mlflow, "mlflow"),
        ("opentelemetry.exporter.otlp.proto.http.trace_exporter", export_to_otlp, "otlp"),
    ],
)
def test_a_missing_package_names_its_extra(
    module: str, export: Callable[..., object], extra: str, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingsError) as raised:
        export(finished)
    assert f"pip install '.[{extra}]'" in raised.value.hint


def test_the_dbt_project_names_the_tables_as_they_are(
    finished: Run, postgres_url: str, segkit: Segkit, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = "hunter2-of-the-database"
    monkeypatch.setenv("DATABASE_URL", f"postgresql://reader:{password}@db.example:6543/shop?schema=market")
    code, out, _ = segkit(
        "export", finished.id, "--to", "dbt", "--out", "mine", "--runs-dir", str(finished.folder.parent)
    )
    assert code == 0
    assert f"next: segkit sync {finished.id}" in " ".join(out.split())
    texts = {path.relative_to("mine").as_posix(): path.read_text() for path in Path("mine").rglob("*.*")}
    assert not [name for name, text in texts.items() if password in text or "@" in text.replace("@run", "")]
    read = {name: yaml.safe_load(text) for name, text in texts.items() if name.endswith(".yml")}
    assert read["dbt_project.yml"]["vars"] == {"run_id": finished.id, "segkit_schema": "market"}
    target = read["profiles.yml"]["segkit"]["outputs"]["postgres"]
    assert "'db.example'" in target["host"]
    assert "'6543'" in target["port"]
    named = {
        (table["name"], column["name"])
        for table in read["models/sources.yml"]["sources"][0]["tables"]
        for column in table["columns"]
    }
    select = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
    there = set(execute(postgres_url, select))
    tables = {table for table, _ in named}
    assert named <= there
    own = {pair for pair in there if pair[0] in tables} - named
    assert own == {("amazon_products", name) for name in ("brand", "price_usd", "category")}  # yours may lack them


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "dbt", "--raw"], "--raw does nothing with --to dbt"),
        (["--to", "mlflow", "--out", "x"], "--out does nothing with --to mlflow"),
        (["--url", "http://127.0.0.1"], "--url does nothing without --to"),
    ],
)
def test_an_option_that_does_nothing_is_refused(
    options: list[str], message: str, finished: Run, segkit: Segkit
) -> None:
    code, _, errors = segkit("export", finished.id, "--runs-dir", str(finished.folder.parent), *options)
    assert code == 2
    assert message in errors
