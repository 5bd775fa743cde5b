"""What a run cost, told again from the raw answers in its logs: as tokens and prices are read today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from segkit.core.models import STAGES, Usage
from segkit.errors import RunError
from segkit.llm.completions import read_completion
from segkit.llm.prices import call_cost_usd, has_own_price, stated_cost
from segkit.runs import mirror
from segkit.runs.events import log_event
from segkit.runs.interactions import Interaction, scan
from segkit.runs.ownership import is_owned
from segkit.runs.run import Run
from segkit.runs.status import StageFigures, total, update_status
from segkit.settings import Settings


@dataclass(frozen=True, slots=True)
class Recount:
    """The figures of the stages of a run as its `status.json` has them, and as its logs give them today."""

    run_id: str
    before: Mapping[str, StageFigures]
    after: Mapping[str, StageFigures]

    @property
    def changed_usd(self) -> Decimal:
        """How many dollars more (or less) the run cost than its status says."""
        return total(self.after.values()).cost_usd - total(self.before.values()).cost_usd

    def as_json(self) -> dict[str, Any]:
        """Return the sums as other programs read them."""
        old, new = total(self.before.values()), total(self.after.values())
        return {
            "run_id": self.run_id,
            "calls": new.calls,
            "recorded_usd": str(old.cost_usd),
            "recomputed_usd": str(new.cost_usd),
            "changed_usd": str(self.changed_usd),
            "unknown_cost": new.unpriced,
            "input_tokens": new.input_tokens,
            "output_tokens": new.output_tokens,
        }


def recount(run: Run, settings: Settings) -> Recount:
    """Read the tokens and the cost of every call again from its raw answer.

    A cost that the endpoint itself stated stays, and so does one whose price is not known today.
    """
    mirror.fetch_all(run.folder)
    before = run.status.stages
    after = {stage: _recounted(run, stage, figures, settings) for stage, figures in before.items()}
    return Recount(run.id, before, after)


def save(run: Run, found: Recount) -> None:
    """Put recounted figures into `status.json`, and the old and the new dollars into the events.

    The logs stay as they are. Raises RunError while somebody works on the run.
    """
    if is_owned(run.folder):
        raise RunError(f"a process works on {run.id}", "wait until it has ended")
    sums = total(found.after.values())
    summary = run.status.summary
    if summary:
        summary = {
            **summary,
            "cost_usd": None if sums.unpriced else str(sums.cost_usd),
            "input_tokens": sums.input_tokens,
            "cached_tokens": sums.cached_tokens,
            "output_tokens": sums.output_tokens,
            "unknown_usage": sums.unmetered,
        }
    update_status(run.folder, stages=dict(found.after), summary=summary)
    log_event(run.folder, "costs_recomputed", **found.as_json())
    mirror.upload_all(run.folder)


def _recounted(run: Run, stage: str, figures: StageFigures, settings: Settings) -> StageFigures:
    if stage not in STAGES.values():
        return figures
    counted = StageFigures()
    for log in scan(run.folder / stage)[0]:
        facts = log.metadata
        if "cached_from" not in facts and facts["money"] != "not_paid":
            counted.add_call(*_read_again(log, run, settings))
    names = ("calls", "input_tokens", "cached_tokens", "output_tokens", "unmetered", "unpriced", "cost_usd")
    return replace(figures, **{name: getattr(counted, name) for name in names})


def _read_again(log: Interaction, run: Run, settings: Settings) -> tuple[Usage, Decimal | None]:
    facts, request = log.metadata, log.log.get("request", {})
    usage = read_completion(log.body).usage
    model, endpoint = str(facts["model"]), str(request.get("endpoint", run.parameters.endpoint))
    logged = None if facts.get("cost_usd") is None else Decimal(facts["cost_usd"])
    stated = stated_cost(log.body, {})
    if stated is None and facts.get("cost_from") == "endpoint":
        stated = logged
    if stated is not None and not has_own_price(model, settings.segkit_prices):
        return usage, stated
    cost = call_cost_usd(usage, model, endpoint, settings, in_batch="provider_batch" in facts)
    return usage, logged if cost is None else cost
