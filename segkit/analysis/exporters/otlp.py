"""A run as one trace of OpenTelemetry: a span for the run, one a stage, and one an interaction.

Names and values follow the semantic conventions for generative AI of OpenTelemetry (status: development), as far as
they have names; the others begin with `segkit.`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pandas as pd

from segkit.analysis.exporters.extras import missing_package
from segkit.analysis.frames import records
from segkit.analysis.logs import query
from segkit.core.models import STAGES
from segkit.core.text import quantity
from segkit.display import json_text
from segkit.errors import StorageError
from segkit.runs import interactions
from segkit.runs.events import read_events
from segkit.runs.run import Run, current_state

if TYPE_CHECKING:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

_AT_ONCE = 500  # spans a request
_PATH = "/v1/traces"
# Outcomes of an interaction that are no error.
_GOOD = ("valid", "recovered")
# The names that the conventions give to providers, by the end of their hosts; others speak OpenAI's protocol.
_PROVIDERS = {
    "openai.azure.com": "azure.ai.openai",
    "anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "mistral.ai": "mistral_ai",
    "groq.com": "groq",
    "deepseek.com": "deepseek",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}
_QUERY = "SELECT * EXCLUDE (faults, warnings) FROM interactions ORDER BY created_at, file_path"


@dataclass(frozen=True, slots=True)
class Span:
    """One span. `key` makes its id, `parent` that of its parent; times are nanoseconds of the Unix clock.

    `error` is the kind of an error, empty where there is none, and `why` describes it.
    """

    key: str
    parent: str
    name: str
    start: int
    end: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    why: str = ""
    is_call: bool = False


def export_to_otlp(run: Run, url: str = "", *, with_text: bool = False) -> int:
    """Send a run as one trace over OTLP (HTTP, protobuf), and return the number of spans.

    The ids of trace and spans are made from the run, so that sending it twice makes the same trace. Without a `url`,
    the variables OTEL_EXPORTER_OTLP_… name the collector and what it needs, such as headers. Prompts and answers are
    left out unless `with_text`. Raises SettingsError without the package, and StorageError where the collector does
    not take the spans.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError:
        raise missing_package("opentelemetry-exporter-otlp-proto-http", "otlp") from None
    exporter = OTLPSpanExporter(endpoint=_address(url))
    try:
        return _send(exporter, run, spans_of(run, with_text=with_text))
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]


def _send(exporter: OTLPSpanExporter, run: Run, spans: Iterable[Span]) -> int:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExportResult

    resource = Resource.create({"service.name": "segkit", "service.version": run.document["segkit_version"]})
    sent = 0
    readable = (_readable(run, resource, span) for span in spans)
    while some := list(islice(readable, _AT_ONCE)):
        if exporter.export(some) is not SpanExportResult.SUCCESS:
            what = f"the collector at {exporter._endpoint} did not take the spans of {run.id}"
            raise StorageError(
                what, "--url http://127.0.0.1:4318 names another collector; sending again doubles nothing"
            )
        sent += len(some)
    return sent


def spans_of(run: Run, *, with_text: bool = False) -> Iterator[Span]:
    """Return the spans of a run: the run, its stages, and their interactions in the order they were asked."""
    frame = query(_QUERY, run.folder.parent, run=run)
    start, end = _moment(run.document["created_at"]), _end(run, frame)
    state, status = current_state(run.folder), run.status
    whole = {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "segkit",
        "gen_ai.request.model": run.parameters.model,
        **_segkit(run_id=run.id, category=run.parameters.category, prompts=run.prompt_set, state=state),
        **_segkit(products=run.document["input"]["products"], calls=status.calls),
        **({} if status.unpriced else _segkit(cost_usd=float(status.cost_usd))),
    }
    failed, why = (state, status.reason if with_text else "") if state == "failed" else ("", "")
    yield Span(run.id, "", "invoke_workflow segkit", start, end, whole, failed, why)
    for stage in STAGES.values():
        rows = frame[frame["interaction_type"] == stage]
        if len(rows):
            yield from _of_stage(run, stage, rows, with_text)


def _of_stage(run: Run, stage: str, rows: pd.DataFrame, with_text: bool) -> Iterator[Span]:
    key, figures = f"{run.id}/{stage}", run.status.stages.get(stage)
    unanswered = figures.failed if figures else 0
    why = quantity(unanswered, "question", "have") + " no answer" if unanswered else ""
    counted = (
        _segkit(stage=stage, calls=figures.calls, cached=figures.cached, retries=figures.retries) if figures else {}
    )
    error = "unanswered" if unanswered else ""
    yield Span(key, run.id, f"stage {stage}", *_bounds(rows), counted, error, why)
    common = _common(run)
    for row in records(rows.astype(object).where(rows.notna(), None)):
        text = _text_of(run, stage, row) if with_text else {}
        # What a server said of an error may repeat the prompt.
        yield _of_interaction(key, row, {**common, **text}, row["why"] or "" if with_text else "")


def _of_interaction(parent: str, row: Mapping[str, Any], common: Mapping[str, Any], why: str) -> Span:
    """Return the span of one interaction; an answer from the cache used no tokens, and names where it is from."""
    start = _moment(row["created_at"])
    is_call = row["cached_from"] is None
    used = {
        "gen_ai.usage.input_tokens": row["input_tokens"],
        "gen_ai.usage.output_tokens": row["output_tokens"],
        "gen_ai.usage.cache_read.input_tokens": row["cached_tokens"],
        "gen_ai.usage.reasoning.output_tokens": row["reasoning_tokens"],
        "segkit.cost_usd": None if row["cost_usd"] is None else float(row["cost_usd"]),
    }
    attributes = {
        **common,
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": row["model"],
        "gen_ai.request.temperature": row["temperature"],
        "gen_ai.response.model": row["response_model"],
        "gen_ai.response.id": row["request_id"],
        "gen_ai.response.finish_reasons": [row["finish_reason"]] if row["finish_reason"] else None,
        **(used if is_call else {}),
        **_segkit(batch_id=row["batch_id"], part=row["part"], attempt=row["attempt"], outcome=row["outcome"]),
        **_segkit(money=row["money"], cached_from=row["cached_from"], file=row["file_path"]),
    }
    error = "" if row["outcome"] in _GOOD else str(row["outcome"] or "unknown")
    name = f"chat {row['model']}" if is_call else "cached answer"
    end = start + 1_000_000 * int(row["duration_ms"] or 0)
    return Span(row["file_path"], parent, name, start, end, attributes, error, why, is_call)


def _common(run: Run) -> dict[str, Any]:
    """Return what the interactions of a run have in common: who is asked, and where."""
    parameters = run.parameters
    address = urlsplit(parameters.endpoint)
    host = address.hostname or ""
    provider = next((name for end, name in _PROVIDERS.items() if f".{host}".endswith(f".{end}")), "openai")
    return {
        "gen_ai.provider.name": "segkit" if parameters.model == "offline" else provider,
        "gen_ai.output.type": "text" if parameters.response_format == "text" else "json",
        "gen_ai.request.max_tokens": parameters.max_output_tokens,
        "server.address": host or None,
        "server.port": address.port or {"https": 443, "http": 80}.get(address.scheme),
    }


def _text_of(run: Run, stage: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompt and the answer of an interaction, as the conventions write messages."""
    name = PurePosixPath(row["file_path"]).name
    log = interactions.read(run.file(f"{stage}/{name}")).log
    asked = {"role": "user", "parts": [{"type": "text", "content": log["prompt"]}]}
    answer = [{"type": "text", "content": log["response"]}]
    answered = {"role": "assistant", "parts": answer, "finish_reason": row["finish_reason"] or ""}
    return {"gen_ai.input.messages": json_text([asked]), "gen_ai.output.messages": json_text([answered])}


def _readable(run: Run, resource: Resource, span: Span) -> ReadableSpan:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    trace = _id(run.id, 16)

    def context(key: str) -> SpanContext:
        return SpanContext(trace, _id(key, 8), is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    attributes = {name: value for name, value in span.attributes.items() if value not in (None, "")}
    return ReadableSpan(
        name=span.name,
        context=context(span.key),
        parent=context(span.parent) if span.parent else None,
        resource=resource,
        attributes={**attributes, "error.type": span.error} if span.error else attributes,
        kind=SpanKind.CLIENT if span.is_call else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.why or span.error) if span.error else Status(StatusCode.UNSET),
        start_time=span.start,
        end_time=span.end,
        instrumentation_scope=InstrumentationScope("segkit", run.document["segkit_version"]),
    )


def _address(url: str) -> str | None:
    """Return the address that spans are sent to; None leaves it to the variables of OpenTelemetry."""
    if not url:
        return None
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + _PATH


def _end(run: Run, frame: pd.DataFrame) -> int:
    """Return when a run ended: when it says so, or with its last interaction."""
    ended = [_moment(event["time"]) for event in read_events(run.folder) if event["event"] == "run_ended"]
    last = _bounds(frame)[1] if len(frame) else 0
    return max(_moment(run.document["created_at"]), last, *ended[-1:])


def _bounds(rows: pd.DataFrame) -> tuple[int, int]:
    ends = rows["created_at"] + pd.to_timedelta(rows["duration_ms"].fillna(0).astype("int64"), unit="ms")
    return _moment(rows["created_at"].min()), _moment(ends.max())


def _moment(value: str | datetime) -> int:
    """Return a moment in nanoseconds; logs state it in whole seconds."""
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return int(moment.timestamp() * 1000) * 1_000_000


def _id(key: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:size]) or 1


def _segkit(**facts: Any) -> dict[str, Any]:
    return {f"segkit.{name}": value for name, value in facts.items()}
