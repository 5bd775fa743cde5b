"""The end of a run: its state, decided from its ledger, its summary, and its checksums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segkit.analysis import logs
from segkit.analysis.report import REPORT, write_report
from segkit.analysis.tables import cascade_sentence, not_as_asked, sample_sentence
from segkit.core.extract import NO_TITLE
from segkit.core.models import NO_ANSWER, NONE_FITS, OUT_OF_SCOPE
from segkit.core.results import grouped_reasons
from segkit.core.text import quantity
from segkit.errors import RunError
from segkit.evaluation.agreement import repeats_of
from segkit.evaluation.stability import stability_of
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.integrity import CHECKSUMS, changed_files, write_checksums
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.storage.locks import is_held
from segkit.storage.memory import release_memory


def decide_state(run: Run, max_unassigned: int | None = None) -> dict[str, Any]:
    """Decide from the ledger what state the run is in, and write its summary."""
    ledger = run.result("ledger")
    # That a product fits no category is an answer of the model, and without a title there is nothing to ask.
    is_known = ledger["reason"].str.startswith(NONE_FITS) | (ledger["reason"] == NO_TITLE)
    left = ledger[(ledger["state"] == "unassigned") & ~is_known]
    unassigned = len(left)
    allowed = run.parameters.max_unassigned if max_unassigned is None else max_unassigned
    whole = len(ledger) == run.document["input"]["products"] and ledger["product_id"].is_unique
    reason = "" if whole else "the ledger does not hold every product once"
    if unassigned > allowed:
        what = f"{quantity(unassigned, 'product', 'are')} unassigned, {allowed:,} allowed"
        reason = f"{what}: {grouped_reasons(left['reason'])}"
    state = "failed" if reason else "completed"
    summary = summarise(run, state, reason)
    changes = {"state": state, "reason": reason, "error": "Unassigned" if reason else "", "summary": summary}
    update_status(run.folder, processed=len(ledger) - unassigned, **changes)
    return summary


def has_open_questions(run: Run) -> bool:
    """Report whether products are unassigned since their question has no answer yet, so that another try may help."""
    ledger = run.result("ledger")
    return bool(ledger.loc[ledger["state"] == "unassigned", "reason"].str.startswith(NO_ANSWER).any())


def summarise(run: Run, state: str, reason: str) -> dict[str, Any]:
    """Sum up a run: products by state, categories, calls, tokens, cost and seconds, as JSON can hold them."""
    ledger = run.result("ledger")
    counts = ledger["state"].value_counts()
    taxonomies = run.result("taxonomies")
    status = run.status
    total = status.total
    named = taxonomies["category_name"] != OUT_OF_SCOPE
    return {
        "run_id": run.id,
        "state": state,
        "reason": reason,
        "model": run.parameters.model,
        "prompts": run.prompt_set,
        "products": int(counts.sum()),
        "categories": int((named & (taxonomies["product_count"] > 0)).sum()),
        "out_of_scope": int(counts.get("out_of_scope", 0)),
        "unassigned": int(counts.get("unassigned", 0)),
        "refused": int(run.document["input"].get("refused", 0)),
        "untitled": int((ledger["reason"] == NO_TITLE).sum()),
        "calls": total.calls,
        "cached": total.cached,
        "retries": total.retries,
        "workers": len(status.document.get("workers") or []),
        "input_tokens": total.input_tokens,
        "cached_tokens": total.cached_tokens,
        "output_tokens": total.output_tokens,
        "unknown_usage": total.unmetered,
        "cost_usd": None if total.unpriced else str(total.cost_usd),
        "saved_usd": None if total.saved_unpriced else str(total.saved_usd),
        "stage_seconds": {name: stage.seconds for name, stage in status.stages.items()},
        "problems": total.problems,
        "not_as_asked": not_as_asked(status.stages),
        "sample": sample_sentence(run),
        "cascade": cascade_sentence(run),
        "asked_twice": status.document.get("asked_twice"),
    }


def finish_run(run: Run) -> dict[str, Any]:
    """Close a run whose stages are done: decide its state, write its report and its checksums; return its summary.

    The last stage's notebook calls it, so a run is whole wherever its notebooks were executed. While `segkit run`
    works through the notebooks, all of this is left to that process.
    """
    if is_held(run.folder / "run.lock"):
        return run.status.summary
    decide_state(run)
    write_report(run)
    return finish(run, run.status.total.seconds)


def renew_report(run: Run) -> None:
    """Write the report of a run, and its checksums with it; raise RunError where other files of it have changed.

    Where the run has been repeated since, the report says how far the repeats agree.
    """
    changed = [each for each in changed_files(run) if each.file != REPORT]
    if changed:
        raise RunError(f"{run.id}: {changed[0]}", f"see `segkit verify {run.id}`")
    write_report(run, _measured(run))
    if run.file(CHECKSUMS).exists():
        write_checksums(run)
    mirror.upload_all(run.folder)


def _measured(run: Run) -> Sequence[str]:
    """Say how far a run and its repeats agree; one with the same seed and number is the same answers again."""
    different = {(each.parameters.seed, each.parameters.repeat): each for each in [*repeats_of(run), run]}
    return stability_of(list(different.values())).sentences()[:3] if len(different) > 1 else ()


def finish(run: Run, seconds: float) -> dict[str, Any]:
    """Close a run: its logs become one Parquet file, and every file gets a checksum."""
    release_memory()
    logs.compact(run)
    summary = {**run.status.summary, "seconds": round(seconds, 1)}
    status = update_status(run.folder, stage="finished", notebook="", summary=summary)
    log_event(run.folder, "run_ended", state=status.state, seconds=summary["seconds"])
    write_checksums(run)
    mirror.upload_all(run.folder)
    return summary
