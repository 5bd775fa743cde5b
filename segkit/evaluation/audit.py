"""What is odd about a run: position in the prompt, size of batch, names, definitions, out of scope, cut titles."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from segkit.core.batching import batches_of as batch_lists
from segkit.core.catalogue.gate import first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.titles import untitled
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import fold_name, shortened
from segkit.evaluation import agreement, figures
from segkit.evaluation.pages import sections, write_page
from segkit.evaluation.statistics import Numbers, permute_within
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 10  # slots
ALPHA = 0.05
MOST_OUT_OF_SCOPE = 0.2  # a list of one product category has few others
SAME_DEFINITION = 0.75  # cosine of the words of two definitions
_VAGUE = {"other", "others", "misc", "miscellaneous", "various", "general", "unknown", "rest", "assorted"}
_CONJUNCTION = re.compile(r"\b(and|or)\b|[&/+]", re.IGNORECASE)
_CUT = re.compile(r"(?:\.\.\.|…)$")


@dataclass(frozen=True)
class Flag:
    """One check of a run: what was looked at, whether it is flagged, and what was found, in words."""

    check: str
    flagged: bool
    finding: str
    p_value: float | None = None
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class Audit:
    """All checks of a run; `outcome` is what the position was tested by, `slots` its rate in each slot."""

    run: Run
    flags: list[Flag]
    outcome: str
    slots: pd.DataFrame

    @property
    def flagged(self) -> bool:
        return any(flag.flagged for flag in self.flags)

    def as_json(self) -> dict[str, Any]:
        """Return the checks as other programs read them."""
        names = ("check", "p_value", "flagged", "finding")
        return {"run": self.run.id, "flags": [{name: getattr(flag, name) for name in names} for flag in self.flags]}

    def plot(self) -> Figure:
        """Draw how often the outcome was met in each slot of the prompt."""
        title = f"Share of products that {self.outcome}, by slot"
        return figures.outcomes_by_slot(self.slots["slot"].tolist(), self.slots["rate"].tolist(), title)

    def sentences(self) -> list[str]:
        """Say in plain words what each check found."""
        return [f"{'! ' if flag.flagged else ''}{flag.check}: {flag.finding}" for flag in self.flags]

    def write_html(self, path: str | Path) -> Path:
        """Write the audit as one page that needs nothing else."""
        parts: dict[str, Any] = {"In short": self.sentences(), "Position in the prompt": [self.plot()]}
        parts |= {flag.check: [flag.rows] for flag in self.flags if len(flag.rows)}
        return write_page(Path(path), "A run audited", [self.run.id], sections(parts))

    def __str__(self) -> str:
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        return sections({"In short": self.sentences()})


def audit(run: Run | str, *, runs_dir: str | Path = "") -> Audit:
    """Check a run for what should make one doubt it; nothing is asked of a model.

    Products in some part of the prompt that fare otherwise than the rest, sizes of batches that matter, names with
    brands, vague words, conjunctions or near doubles, definitions that overlap, many products out of scope, titles or
    prices that were cut. Where the run has repeats the outcome is "stands elsewhere than in most repeats", else "was
    moved by refinement".
    """
    run = run if isinstance(run, Run) else open_run(run, runs_dir or load_settings().storage_root)
    outcome, outcomes = _outcomes(run)
    slots, batches = _places(run, outcomes.index)
    flags = [_position(outcomes, slots, batches, outcome), _batch_sizes(outcomes, batches), _same_lines(run)]
    flags += [_brands(run), *_names(run), _definitions(run), _scope(run), _cut_titles(run)]
    return Audit(run, flags, outcome, _by_slot(outcomes, slots))


def _outcomes(run: Run) -> tuple[str, pd.Series]:
    """Return what the position is tested by, and 0 or 1 for each product that was extracted."""
    lineage = run.result("lineage").set_index("product_id").sort_index()
    extracted = (lineage["batch"] > 0) & (lineage["category"] != "")
    lineage = lineage[extracted & (not run.parameters.taxonomy)]  # a taxonomy that was given was not extracted
    repeats = agreement.repeats_of(run)
    if len(repeats) > 1:
        placed = [agreement.placements(each) for each in (run, *repeats)]
        moved = pd.concat([agreement.moved_products(placed[0], other) for other in placed[1:]], axis=1)
        return "stand elsewhere in most repeats", (moved.mean(axis=1) > 0.5).astype(float).reindex(lineage.index)
    return "were moved by refinement", (lineage["category"] != lineage["refined_category"]).astype(float)


def _places(run: Run, products: pd.Index) -> tuple[pd.Series, pd.Series]:
    """Return the slot and the batch that each product had in the prompt of extraction."""
    titled = run.products[~untitled(run.products)]
    lists = batch_lists(first_runs(titled), run.parameters.seed, run.parameters.products_per_prompt)
    places = {product: (slot, batch) for batch, ids in enumerate(lists, 1) for slot, product in enumerate(ids)}
    slots, batches = zip(*(places[int(product)] for product in products), strict=True) if len(products) else ((), ())
    return pd.Series(slots, index=products, dtype="int64"), pd.Series(batches, index=products, dtype="int64")


def _position(outcomes: pd.Series, slots: pd.Series, batches: pd.Series, outcome: str) -> Flag:
    if outcomes.empty or outcomes.nunique() < 2:
        return Flag("position", False, f"nothing to test: {'no' if not outcomes.any() else 'all'} products {outcome}")
    found = position_test(outcomes.to_numpy(), slots.to_numpy(), batches.to_numpy())
    could = f"an excess of {found.detectable * 100:.0f} points would have been found in four of five such runs"
    if found.p_value > ALPHA:
        return Flag(
            "position", False, f"no window of slots differs (p = {found.p_value:.2g}; {could})", found.p_value
        )
    where = f"products in slots {found.first} to {found.last} {outcome} {found.excess * 100:+.0f} points more often"
    return Flag("position", True, f"{where} (p = {found.p_value:.2g})", found.p_value)


def _batch_sizes(outcomes: pd.Series, batches: pd.Series) -> Flag:
    """Test whether the outcome goes with the size of the batch, by Spearman's rank correlation over batches."""
    frame = pd.DataFrame({"outcome": outcomes, "batch": batches}).groupby("batch")["outcome"].agg(["mean", "size"])
    if frame["size"].nunique() < 2 or frame["mean"].nunique() < 2:
        return Flag("batch size", False, "all batches have about the same size")
    if frame["size"].max() - frame["size"].min() <= 1:
        return Flag("batch size", False, "all batches have the same size but for one product")
    result = stats.spearmanr(frame["size"], frame["mean"])
    p_value = float(result.pvalue)
    rank = float(result.statistic)
    text = f"correlation of size and outcome {rank:+.2f} over {len(frame)} batches (p = {p_value:.2g})"
    return Flag("batch size", p_value <= ALPHA, text, p_value)


def _same_lines(run: Run) -> Flag:
    """Look at products that a model sees as the same: they should stand in the same category."""
    titled = run.products[~untitled(run.products)]
    frame = pd.DataFrame(
        {"product_id": titled["product_id"], "line": product_lines(titled, run.parameters.product_line)}
    )
    frame["category"] = frame["product_id"].map(agreement.placements(run))
    groups = frame[frame.duplicated("line", keep=False)].groupby("line")["category"]
    apart = groups.nunique()[lambda count: count > 1]
    text = f"{len(apart)} of {groups.ngroups} lines that stand more than once are in several categories"
    rows = frame[frame["line"].isin(apart.index)].sort_values("line")
    return Flag("duplicates", len(apart) > 0, text, None, rows)


def _brands(run: Run) -> Flag:
    """Look for brands, from the products' column `brand`, in the names of categories."""
    names = _category_names(run)
    if "brand" not in run.products:
        return Flag("brands in names", False, "the products have no column brand")
    brands = {fold_name(str(brand)) for brand in run.products["brand"].dropna() if len(str(brand).strip()) > 2}
    found = [
        name for name in names if any(re.search(rf"\b{re.escape(brand)}\b", fold_name(name)) for brand in brands)
    ]
    return _listed("brands in names", found, "no name holds a brand")


def _names(run: Run) -> list[Flag]:
    """Apply the rules on names: no vague words, no two things in one, no near doubles."""
    names = _category_names(run)
    words = {name: set(re.findall(r"\w+", fold_name(name))) for name in names}
    vague = [name for name in names if words[name] & _VAGUE]
    joined = [name for name in names if _CONJUNCTION.search(name)]
    doubles = [
        f"{one} / {two}"
        for one, two in combinations(names, 2)
        if _stems(words[one]) == _stems(words[two]) and words[one]
    ]
    return [
        _listed("vague names", vague, "no name is vague"),
        _listed("two things in one name", joined, "no name holds a conjunction"),
        _listed("near doubles", doubles, "no two names are the same but for their endings"),
    ]


def _stems(words: set[str]) -> set[str]:
    return {word.rstrip("es") for word in words}


def _definitions(run: Run) -> Flag:
    """Compare the words of the definitions pairwise, by the cosine of their TF-IDF vectors."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    taxonomies = run.result("taxonomies")
    named = taxonomies[taxonomies["category_name"] != OUT_OF_SCOPE]
    names, texts = named["category_name"].tolist(), named["definition"].tolist()
    if len(names) < 2 or not any(re.search(r"\w\w", text) for text in texts):
        return Flag("overlapping definitions", False, "no two definitions to compare")
    vectors = TfidfVectorizer().fit_transform(texts)
    similar = (vectors @ vectors.T).toarray()
    found = [
        f"{names[i]} / {names[j]}" for i, j in combinations(range(len(names)), 2) if similar[i, j] >= SAME_DEFINITION
    ]
    return _listed("overlapping definitions", found, "no two definitions share most of their words")


def _scope(run: Run) -> Flag:
    share = float((agreement.placements(run) == OUT_OF_SCOPE).mean())
    text = f"{share:.1%} of the products are out of scope (plausible: up to {MOST_OUT_OF_SCOPE:.0%})"
    return Flag("out of scope", share > MOST_OUT_OF_SCOPE, text)


def _cut_titles(run: Run) -> Flag:
    """Look for titles that were cut before segkit read them: an ellipsis at the end, or many of one length."""
    titles = run.products["title"].dropna().astype("str").str.strip()
    ellipsis = titles[titles.str.contains(_CUT)]
    longest = titles.str.len().max() if len(titles) else 0
    at_limit = titles[titles.str.len() == longest]
    cut = (
        ellipsis if len(at_limit) < max(5, 0.02 * len(titles)) else pd.concat([ellipsis, at_limit]).drop_duplicates()
    )
    return _listed("cut titles", cut.tolist(), "no title looks cut")


def _category_names(run: Run) -> list[str]:
    names = run.result("taxonomies")["category_name"]
    return [name for name in names if name != OUT_OF_SCOPE]


def _listed(check: str, found: list[str], otherwise: str) -> Flag:
    text = f"{len(found)}: {shortened(found, most=5)}" if found else otherwise
    return Flag(check, bool(found), text)


def _by_slot(outcomes: pd.Series, slots: pd.Series) -> pd.DataFrame:
    rates = outcomes.groupby(slots).agg(["mean", "size"])
    return rates.rename(columns={"mean": "rate", "size": "products"}).rename_axis("slot").reset_index()


@dataclass(frozen=True, slots=True)
class PositionTest:
    """Whether products in some part of the prompt fare otherwise than those elsewhere in their batch.

    `first` and `last` are the slots of the window that differs most, `excess` how much more often the outcome is met
    there than elsewhere in the same batches; `detectable` is the excess that four of five such runs would have shown.
    """

    p_value: float
    first: int
    last: int
    excess: float
    detectable: float


def position_test(
    outcomes: Numbers, slots: npt.NDArray[np.int64], batches: npt.NDArray[np.int64], times: int = 2000, seed: int = 0
) -> PositionTest:
    """Test all windows of ten slots (0 to 9, 10 to 19, …) at once, by permuting the outcomes within their batches.

    One p for a trend, a bad end, a bad middle; windows that overlap would cost power and find little more. The
    statistic is the largest absolute sum of outcomes, centred by batch, of any window; its reference is made by
    `permute_within`, so that easy and hard batches raise no alarm.
    """
    length = int(slots.max()) + 1
    starts = np.arange(0, length, WINDOW)
    ends = np.minimum(starts + WINDOW, length)

    def windows(values: Numbers) -> Numbers:
        running = np.concatenate([[0.0], np.cumsum(np.bincount(slots, weights=values, minlength=length))])
        return np.asarray(running[ends] - running[starts])

    centred = outcomes - _batch_means(outcomes, batches)
    p_value, reference = permute_within(
        centred, batches, lambda values: float(np.max(np.abs(windows(values)))), times, seed
    )
    seen = windows(centred)
    worst = int(np.argmax(np.abs(seen)))
    inside = (slots >= starts[worst]) & (slots < ends[worst])
    # A window's sum spreads about as the largest of them does; 0.84 deviations more are met in four of five runs.
    spread = float(np.sqrt(np.mean(centred**2) * inside.sum()))
    detectable = (float(np.quantile(reference, 0.95)) + 0.84 * spread) / max(1, inside.sum() * (1 - inside.mean()))
    elsewhere = float(outcomes[~inside].mean()) if (~inside).any() else float(outcomes.mean())
    excess = float(outcomes[inside].mean()) - elsewhere
    return PositionTest(p_value, int(starts[worst]), int(ends[worst]) - 1, excess, detectable)


def _batch_means(outcomes: Numbers, batches: npt.NDArray[np.int64]) -> Numbers:
    _, numbers = np.unique(batches, return_inverse=True)
    return np.asarray((np.bincount(numbers, weights=outcomes) / np.bincount(numbers))[numbers])
