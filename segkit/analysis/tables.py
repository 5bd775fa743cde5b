"""A run as tables for people: what was planned, found, merged, moved and left out, and the path of one product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from segkit.analysis.frames import records
from segkit.analysis.jupyter import show as show
from segkit.analysis.lineage import merge_paths
from segkit.analysis.lineage import product_path as product_path
from segkit.core.batching import entry_batches, extraction_batches, planned_calls
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.titles import untitled
from segkit.core.models import OUT_OF_SCOPE, STAGES
from segkit.core.results import grouped_reasons
from segkit.core.taxonomy.unseen import sentence
from segkit.core.text import fold_name, quantity, shortened
from segkit.runs.run import Run
from segkit.runs.status import StageFigures
from segkit.runs.taxonomy import starting_point

OFFLINE = "offline (embedded; it groups by words and is no language model)"
_NAMED = 8  # how many names a cell lists before it counts the rest


def batch_plan(run: Run) -> pd.DataFrame:
    """Count the calls that each stage needs when every answer is valid at once (`stage`, `calls`, `each holds`).

    A sample that is read until it is enough needs these at most.
    """
    if run.parameters.taxonomy:
        return _assignment_plan(run)
    parameters, products = run.parameters, run.products
    entries, calls = product_entries(products, parameters), planned_calls(products, parameters)
    last = parameters.products_per_assignment if parameters.extract_sample else parameters.products_per_refinement
    holds = [
        _sizes(extraction_batches(products, parameters)),
        f"the categories of at most {parameters.taxonomies_per_consolidation} batches",
        _sizes(entry_batches(entries, parameters.seed, last)),
    ]
    return pd.DataFrame({"stage": list(calls), "calls": list(calls.values()), "each_holds": holds})


def _assignment_plan(run: Run) -> pd.DataFrame:
    """Count the calls that put products into a given taxonomy, and those that extract the parts of split ones."""
    start, parameters, new = starting_point(run), run.parameters, run.new_products
    entries = product_entries(start.asked(new), parameters)
    rows = [("assign_products", entry_batches(entries, parameters.seed, parameters.products_per_assignment))]
    if start.apart:
        parts = start.to_extract(new, pd.DataFrame({"product_id": [], "category": []}), 1)
        rows.append(("segmentation", extraction_batches(parts, parameters)))
    return pd.DataFrame(
        [(stage, len(batches), _sizes(batches)) for stage, batches in rows], columns=["stage", "calls", "each_holds"]
    )


def conflicts(run: Run) -> pd.DataFrame:
    """List proposed categories that edits of the taxonomy speak against: `conflict`, `note` and `run` of the edit.

    An edit holds until a person decides otherwise, by accepting the proposal or deleting it.
    """
    if not run.has_result("conflicts"):
        return pd.DataFrame({"conflict": [], "note": [], "run": []})
    return run.result("conflicts")[["conflict", "note", "run"]]


def inputs(run: Run) -> pd.DataFrame:
    """Return where the products came from and how many there are."""
    source = run.document["input"]
    where = ", ".join(f"{column} = {value}" for column, value in source["where"].items())
    facts = {"run": run.id, "category": run.parameters.category, "source": source["source"], "where": where}
    facts |= {"products": source["products"], "without a title": source["untitled"]}
    if shared := len(shared_entries(product_entries(run.new_products, run.parameters))):
        facts["with the line of another"] = shared
    return _facts({name: value for name, value in facts.items() if value != ""})


def prompts_used(run: Run) -> pd.DataFrame:
    """List the prompts of a run with their hashes (`prompt`, `lines`, `characters`, `sha256`)."""
    texts = run.prompts
    rows = [(key, text.count("\n"), len(text), run.document["prompts"][key]) for key, text in texts.items()]
    return pd.DataFrame(rows, columns=["prompt", "lines", "characters", "sha256"])


def environment(run: Run) -> pd.DataFrame:
    """Return the parameters of a run and the versions of Python, segkit and its packages."""
    document = run.document
    facts = {**document["parameters"], "segkit": document["segkit_version"], "python": document["python"]}
    facts |= {
        **document["packages"],
        "git_commit": document["git_commit"],
        "input_sha256": document["input"]["sha256"],
    }
    return _facts(facts)


def batch_categories(run: Run) -> pd.DataFrame:
    """Return for each batch how many products it held and which categories were found in it."""
    assignments = run.result("batch_assignments")
    asked = assignments[assignments["batch"] > 0]
    products = asked.groupby("batch").agg(products=("product_id", "size"))
    names = run.result("batch_categories").groupby("batch")["name"].agg(["size", _listed])
    table = products.join(names).reset_index()
    return table.rename(columns={"size": "categories", "_listed": "names"}).fillna({"categories": 0, "names": ""})


def sample_read(run: Run) -> pd.DataFrame:
    """Return how much of the catalogue the taxonomy was extracted from, and what of it may be unseen."""
    return _facts({"read": sample_sentence(run) or "every product is read"})


def sample_sentence(run: Run) -> str:
    """Say what was read of a run that extracts its taxonomy from a sample; nothing for any other run."""
    if not run.parameters.extract_sample or not run.has_result("readings"):
        return ""
    return sentence(run.result("readings"), int((~untitled(run.products)).sum()))


def cascade_sentence(run: Run) -> str:
    """Say what the classifier of a cascade placed, how surely, and what that saved; nothing for any other run."""
    if not run.has_result("cascade"):
        return ""
    (facts,) = records(run.result("cascade"))
    if facts["reason"]:
        return f"does not pay: 0 % by classifier, since {facts['reason']}"
    share = facts["products_by_classifier"] / max(1, len(run.result("assignments")))
    agreement = _percent(facts, "agreement")
    text = f"{share:.0%} of the products by classifier, which agrees with the model in {agreement} of"
    text += f" {facts['held_back']:,} held-back answers (promised {facts['promised']:.1%})"
    if facts["audited"]:
        text += f" and in {_percent(facts, 'audit_agreement')} of {facts['audited']:,} audited ones"
    stage = run.status.stages.get(STAGES["assign_products"])
    known = stage and stage.calls and not stage.unpriced
    dollars = f" (about ${stage.cost_usd / stage.calls * facts['calls_saved']:,.2f})" if stage and known else ""
    return f"{text}; {quantity(facts['calls_saved'], 'call')} saved{dollars}"


def _percent(facts: Mapping[str, Any], name: str) -> str:
    low, high = facts[f"{name}_low"], facts[f"{name}_high"]
    return f"{facts[name]:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def given_taxonomy(run: Run) -> pd.DataFrame:
    """List the categories that products are put into: those of the run it was made from, or of its own sample."""
    return run.archived("taxonomy") if run.parameters.taxonomy else final_taxonomy(run)


def first_assignments(run: Run) -> pd.DataFrame:
    """List what the batches state, batch by batch: `batch`, `product_id`, `title`, `category`, `confidence`."""
    stated = _titled(run, "batch_assignments").sort_values(["batch", "product_id"], ignore_index=True)
    return stated[["batch", "product_id", "title", "category", "confidence"]]


def merge_tree(run: Run) -> pd.DataFrame:
    """Return what consolidation merged: a row a category, with the categories of the batches that went into it.

    Returns `category`, `products` (before refinement), `merged` (how many went in) and `batch_categories` (their
    names, with the number of batches that named them so), the largest first.
    """
    paths = merge_paths(run)
    counts = paths.groupby(["category", "batch_category"], as_index=False).agg(
        batches=("batch", "nunique"), products=("products", "sum")
    )
    counts = counts.sort_values(["category", "batches", "products"], ascending=[True, False, False])
    counts["label"] = counts["batch_category"] + counts["batches"].map(lambda n: f" (×{n})" if n > 1 else "")
    tree = counts.groupby("category").agg(
        products=("products", "sum"), merged=("batches", "sum"), batch_categories=("label", _listed)
    )
    return tree.reset_index().sort_values(["products", "category"], ascending=[False, True], ignore_index=True)


def final_taxonomy(run: Run) -> pd.DataFrame:
    """List the categories that consolidation ended with (`category`, `definition`)."""
    return run.result("taxonomy").rename(columns={"name": "category"})


def segments(run: Run) -> pd.DataFrame:
    """List the categories with products before and after refinement, the largest first, and their definitions."""
    lineage, taxonomies = run.result("lineage"), run.result("taxonomies")
    before = taxonomies["category_name"].map(lineage["category"].value_counts()).fillna(0).astype("int64")
    table = pd.DataFrame({"category": taxonomies["category_name"], "before_refinement": before})
    return table.assign(products=taxonomies["product_count"], definition=taxonomies["definition"])


def moved_products(run: Run) -> pd.DataFrame:
    """List the products that refinement moved, with the `confidence` of each move.

    The columns are `from_category`, `to_category`, `product_id`, `title`, `first_confidence` and `confidence`.
    """
    table = run.assignments.rename(columns={"first_category": "from_category", "category": "to_category"})
    moved = table[(table["from_category"] != table["to_category"]) & table["from_category"].notna()]
    moved = moved.sort_values(["from_category", "to_category", "product_id"], ignore_index=True)
    return moved[["from_category", "to_category", "product_id", "title", "first_confidence", "confidence"]]


def unassigned(run: Run) -> pd.DataFrame:
    """List the products that stand in no category: `product_id`, `title`, `state`, and a `reason` if unassigned."""
    ledger = run.result("ledger").merge(run.products[["product_id", "title"]], on="product_id")
    left = ledger[ledger["state"] != "assigned"].sort_values(["state", "product_id"], ignore_index=True)
    columns = ["product_id", "title", "state", *(["reason"] if left["reason"].any() else [])]
    return left[columns]


def examples(run: Run, per_category: int = 3) -> pd.DataFrame:
    """Show some products of every category: `category`, `product_id`, `title`, `confidence`, the surest first."""
    table = run.assignments
    placed = table[table["category"].fillna("") != ""].sort_values(
        ["confidence", "product_id"], ascending=[False, True]
    )
    sizes = placed["category"].value_counts()
    picked = [_spread(rows, per_category) for _, rows in placed.groupby("category", sort=False)]
    table = pd.concat(picked) if picked else placed
    table = table.assign(_size=table["category"].map(sizes))
    table = table.sort_values(["_size", "category"], ascending=[False, True], kind="stable", ignore_index=True)
    return table[["category", "product_id", "title", "confidence"]]


def typical_products(assignments: pd.DataFrame, per_category: int = 2) -> dict[str, list[str]]:
    """Return the titles of some typical products of each category: their words are those of most others in it.

    `assignments` is that of a run. Products that say the same in other words are not repeated.
    """
    return {
        str(category): _typical(_surest_half(rows)["title"].fillna("").tolist(), per_category)
        for category, rows in assignments.groupby("category", sort=False)
    }


def _surest_half(rows: pd.DataFrame) -> pd.DataFrame:
    unsure = rows["confidence"] < rows["confidence"].median()
    return rows[~unsure]


def _typical(titles: list[str], count: int) -> list[str]:
    words = [set(fold_name(title).split()) for title in titles]
    frequency = Counter(word for each in words for word in each)
    pairs = zip(words, titles, strict=True)  # a title of more than a line is less typical
    scores = [
        sum(frequency[word] for word in each) / (len(each) + 3) / max(1, len(title) / 80) for each, title in pairs
    ]
    picked: list[int] = []
    for i in sorted(range(len(titles)), key=lambda i: (-scores[i], titles[i])):
        if titles[i] and all(len(words[i] & words[other]) <= 0.7 * len(words[i]) for other in picked):
            picked.append(i)
        if len(picked) == count:
            break
    return [titles[i] for i in picked]


def stage_figures(run: Run) -> pd.DataFrame:
    """Return what each stage took, and the sum: calls, answers from the cache, retries, tokens, dollars, seconds.

    `saved_usd` is what the answers from the cache cost when they were paid for.
    """
    stages = run.status.stages
    rows = [(name, stages[name]) for name in STAGES.values() if name in stages]
    rows += [("all", run.status.total)] if rows else []
    columns = [
        "stage",
        "calls",
        "from_the_cache",
        "retries",
        "failed",
        "input_tokens",
        "output_tokens",
        "cost_usd",
        "saved_usd",
    ]
    values = [
        (name, each.calls, each.cached, each.retries, each.failed, each.input_tokens, each.output_tokens,
         None if each.unpriced else float(each.cost_usd),
         None if each.saved_unpriced else float(each.saved_usd), each.seconds)
        for name, each in rows
    ]  # fmt: skip
    return pd.DataFrame(values, columns=[*columns, "seconds"])


def summary(run: Run) -> pd.DataFrame:
    """Return a run in one column: its parameters, its results, and what it took."""
    parameters, status = run.parameters, run.status
    states = run.result("ledger")["state"].value_counts()
    taxonomies = run.result("taxonomies")
    named = (taxonomies["category_name"] != OUT_OF_SCOPE) & (taxonomies["product_count"] > 0)
    facts = {
        "run": run.id,
        "category": parameters.category,
        "model": OFFLINE if parameters.model == "offline" else parameters.model,
        "prompts": parameters.prompts,
        "state": status.state,
        "reason": status.reason,
        "products": int(states.sum()),
        "categories": int(named.sum()),
        **{name.replace("_", " "): int(states.get(name, 0)) for name in ("assigned", "out_of_scope", "unassigned")},
        "refused rows": run.document["input"].get("refused") or "",
        "sample": sample_sentence(run),
        "cascade": cascade_sentence(run),
        "moved by refinement": len(moved_products(run)),
        "asked twice": repeatability(run),
        **spending(status.total),
    }
    return _facts({name: value for name, value in facts.items() if value != ""})


def repeatability(run: Run) -> str:
    """Describe how far a run repeats itself, by the products that were asked twice."""
    found = run.status.document.get("asked_twice")
    if not isinstance(found, dict):
        return "" if run.parameters.ask_twice else "not asked"
    low, high = found["share_low"], found["share_high"]
    counted = f"{found['differently']:,} of {found['products']:,} placed differently"
    return f"{counted}: {found['share']:.0%} (of all products {low:.0%} to {high:.0%}, with 95 % confidence)"


def repeatability_sentence(run: Run) -> str:
    """Say for people who know no statistics how far a run repeats itself; empty where nothing was asked twice."""
    found = run.status.document.get("asked_twice")
    if not isinstance(found, dict):
        return ""
    low, high = round(100 * found["share_low"]), round(100 * found["share_high"])
    return (
        f"{quantity(found['products'], 'product', 'were')} asked about a second time, among other products: "
        f"{found['differently']:,} of them ({found['share']:.0%}) came into another segment. Asked again, {low} to "
        f"{high} % of all products would; such a range is right in 95 of 100 cases."
    )


def not_as_asked(stages: Mapping[str, StageFigures]) -> str:
    """Say what a run did without an answer: categories merged by name, refinements that were given up, and why.

    Returns nothing for a run in which every question was answered.
    """
    found = [
        wording(stages[folder]) + _why(stages[folder])
        for folder, wording in _GIVEN_UP.items()
        if folder in stages and stages[folder].failed
    ]
    return "; ".join(found)


_GIVEN_UP: Mapping[str, Callable[[StageFigures], str]] = {
    STAGES["extract_taxonomy"]: lambda stage: f"{quantity(stage.failed, 'question')} of the extraction unanswered",
    STAGES["consolidate_taxonomy"]: lambda stage: f"{quantity(stage.failed, 'merge')} by name",
    STAGES["refine_assignments"]: lambda stage: (
        f"{stage.failed:,} of {stage.planned:,} refinements left as they were"
    ),
    STAGES["assign_products"]: lambda stage: f"{quantity(stage.failed, 'question')} of the assignment unanswered",
}


def _why(stage: StageFigures) -> str:
    """Return the kinds of the problems of a stage; a problem is a label, a kind and a text."""
    reasons = [str(problem).partition(": ")[2] for problem in stage.problems]
    return f" ({grouped_reasons(reasons)})" if any(reasons) else ""


def spending(total: StageFigures) -> dict[str, Any]:
    """Describe the calls, tokens and money of all stages, and where a server did not report them."""
    unmetered = f" (not reported for {quantity(total.unmetered, 'call')})" if total.unmetered else ""
    unpriced = f" (unknown for {quantity(total.unpriced, 'call')})" if total.unpriced else ""
    return {
        "calls": total.calls,
        "answers from the cache": total.cached,
        "retries": total.retries,
        "failed questions": total.failed,
        "tokens": f"{total.input_tokens:,} in, {total.output_tokens:,} out{unmetered}",
        "cost": f"${total.cost_usd:,.4f}{unpriced}{saved_money(total)}",
        "seconds": round(total.seconds, 1),
    }


def saved_money(total: StageFigures) -> str:
    """Describe what the answers from the cache cost when they were paid for; empty where there are none."""
    if total.cached == total.saved_unpriced:
        return ""
    least = "at least " if total.saved_unpriced else ""
    return f" (and {least}${total.saved_usd:,.4f} for the answers from the cache, paid earlier)"


def _titled(run: Run, result: str = "lineage") -> pd.DataFrame:
    return run.result(result).merge(run.products[["product_id", "title"]], on="product_id")


def _spread(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """Pick some rows evenly, the first and the last among them."""
    last, steps = len(rows) - 1, max(1, count - 1)
    return rows.iloc[sorted({round(i * last / steps) for i in range(count)})]


def _sizes(batches: Sequence[Sequence[object]]) -> str:
    sizes = sorted({len(batch) for batch in batches})
    return f"{' or '.join(map(str, sizes)) or 'no'} products"


def _facts(facts: dict[str, Any]) -> pd.DataFrame:
    values = [f"{value:,}" if isinstance(value, int) else str(value) for value in facts.values()]
    return pd.DataFrame({"fact": [name.replace("_", " ") for name in facts], "value": values})


def _listed(names: Iterable[str]) -> str:
    return shortened(names, _NAMED)
