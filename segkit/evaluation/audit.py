"""What is odd about a run: position in the prompt, size of batch, names, definitions, scope, what was cut."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from segkit.core.batching import entry_batches
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.lines import cut_columns, product_lines
from segkit.core.catalogue.prices import unread_prices
from segkit.core.catalogue.titles import untitled
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import MAX_TITLE, fold_name, quantity, shortened
from segkit.evaluation import agreement, figures
from segkit.evaluation.pages import Parts, Readable, sections, write_page
from segkit.evaluation.statistics import Numbers, correlation_test, holm, permute_within
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WINDOW = 10  # slots
ALPHA = 0.05
MOST_OUT_OF_SCOPE = 0.2  # a list of one product category has few others
SMALLEST_BATCH = 10  # products: fewer say little about a rate
SHORTEST_LIMIT = 30  # characters: titles are not cut shorter, and short ones are often of one length
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


@dataclass(frozen=True, repr=False)
class Audit(Readable):
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

    def shown(self) -> Parts:
        """Return what Jupyter shows: the findings, and the outcome by position."""
        return {"": [*self.sentences(), self.plot()]}


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
    flags = [*_placement(outcomes, slots, batches, outcome), _same_lines(run), _brands(run), *_names(run)]
    flags += [_definitions(run), _scope(run), _cut_titles(run), _cut_lines(run), _prices(run)]
    return Audit(run, flags, outcome, _by_slot(outcomes, slots))


def _outcomes(run: Run) -> tuple[str, pd.Series]:
    """Return what the position is tested by, and 0 or 1 for each product that was extracted."""
    lineage = run.result("lineage").set_index("product_id").sort_index()
    shared = shared_entries(product_entries(run.products, run.parameters))  # they have no slot of their own
    extracted = (lineage["batch"] > 0) & (lineage["category"] != "") & ~lineage.index.isin(list(shared))
    # What was put into a taxonomy that was given, or found in a sample, was not extracted.
    lineage = lineage[extracted & ("refine_assignments" in run.parameters.stages)]
    repeats = agreement.repeats_of(run)
    if len(repeats) > 1:
        placed = [agreement.placements(each) for each in (run, *repeats)]
        moved = pd.concat([agreement.moved_products(placed[0], other) for other in placed[1:]], axis=1)
        return "stand elsewhere in most repeats", (moved.mean(axis=1) > 0.5).astype(float).reindex(lineage.index)
    return "were moved by refinement", (lineage["category"] != lineage["refined_category"]).astype(float)


def _places(run: Run, products: pd.Index) -> tuple[pd.Series, pd.Series]:
    """Return the slot and the batch that each product had in the prompt of extraction."""
    entries = product_entries(run.products, run.parameters)
    lists = entry_batches(entries, run.parameters.seed, run.parameters.products_per_prompt)
    places = {entry.products[0]: (slot, n) for n, batch in enumerate(lists, 1) for slot, entry in enumerate(batch)}
    slots, batches = zip(*(places[int(product)] for product in products), strict=True) if len(products) else ((), ())
    return pd.Series(slots, index=products, dtype="int64"), pd.Series(batches, index=products, dtype="int64")


def _placement(outcomes: pd.Series, slots: pd.Series, batches: pd.Series, outcome: str) -> list[Flag]:
    """Test the position in the prompt and the size of the batch, at 5 % for both together.

    The p values are corrected by Holm's method, so that a fair model is flagged in at most 5 of 100 runs.
    """
    if outcomes.nunique() < 2:
        nothing = f"nothing to test: {'all' if outcomes.any() else 'no'} products {outcome}"
        return [Flag("position", False, nothing), Flag("batch size", False, nothing)]
    position, size = placement_tests(outcomes.to_numpy(), slots.to_numpy(), batches.to_numpy())
    return [_position(position, outcome), _batch_size(size)]


def placement_tests(
    outcomes: Numbers, slots: npt.NDArray[np.int64], batches: npt.NDArray[np.int64], times: int = 2000, seed: int = 0
) -> tuple[PositionTest, SizeTest | None]:
    """Return both tests of where products stood, with p values that are corrected for their number."""
    position, size = (
        position_test(outcomes, slots, batches, times, seed),
        size_test(outcomes, batches, times, seed),
    )
    if size is None:
        return position, None
    corrected = holm([position.p_value, size.p_value])
    return replace(position, p_value=corrected[0]), replace(size, p_value=corrected[1])


def _position(found: PositionTest, outcome: str) -> Flag:
    could = f"an excess of {found.detectable * 100:.0f} points would have been found in four of five such runs"
    if found.p_value > ALPHA:
        return Flag(
            "position", False, f"no window of slots differs (p = {found.p_value:.2g}; {could})", found.p_value
        )
    where = f"products in slots {found.first} to {found.last} {outcome} {found.excess * 100:+.0f} points more often"
    return Flag("position", True, f"{where} (p = {found.p_value:.2g})", found.p_value)


def _batch_size(found: SizeTest | None) -> Flag:
    if found is None:
        return Flag("batch size", False, "all batches have about the same size")
    batches = quantity(found.batches, "batch")
    text = f"correlation of size and outcome {found.rank:+.2f} over {batches} (p = {found.p_value:.2g})"
    return Flag("batch size", found.p_value <= ALPHA, text, found.p_value)


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
    """Look for titles that were cut: an ellipsis at the end, many of one length, or more than a prompt takes."""
    titles = run.products["title"].dropna().astype("str").str.strip()
    lengths = titles.str.len()
    at_limit = lengths == (lengths.max() if len(titles) else 0)
    many = lengths.max() >= SHORTEST_LIMIT and titles[at_limit].nunique() >= max(5, 0.02 * len(titles))
    is_cut = titles.str.contains(_CUT) | (lengths > MAX_TITLE) | (at_limit & many)
    return _listed("cut titles", titles[is_cut].tolist(), "no title looks cut")


def _cut_lines(run: Run) -> Flag:
    """Count the products whose line was too long for a prompt, by the columns that lost text."""
    cut = cut_columns(run.products[~untitled(run.products)], run.parameters.product_line)
    left_out = run.document["input"].get("left_out") or []
    found = [f"{name} of {quantity(count, 'product')}" for name, count in cut.items() if name != "title"]
    found += [f"{name} was left out (no text)" for name in left_out]
    return _listed("cut columns", found, "no column of the product line was cut")


def _prices(run: Run) -> Flag:
    """Look for prices that cannot be read, such as those that were cut."""
    return _listed("prices", unread_prices(run.products), "every price can be read")


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
class SizeTest:
    """Whether the outcome goes with the size of the batch: `rank` is Spearman's correlation over `batches`."""

    p_value: float
    rank: float
    batches: int


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

    `outcomes` are 0 or 1. One p for a trend, a bad end, a bad middle; windows that overlap would cost power and find
    little more. The statistic is the largest absolute excess of outcomes in any window over what its batches have
    elsewhere, so that easy and hard batches raise no alarm; its reference is made by `permute_within`. The p value
    counts what was seen as one of the permutations, so that it is never too small.
    """
    _, numbers = np.unique(batches, return_inverse=True)
    sizes, found = (_by_window(numbers, slots, weights) for weights in (np.ones(len(slots)), outcomes))
    totals = found.sum(axis=1)
    expected = (sizes * (totals / sizes.sum(axis=1))[:, None]).sum(axis=0)
    excess = found.sum(axis=0) - expected
    reference = np.abs(permute_within(sizes, totals, times, seed) - expected).max(axis=1)
    worst = int(np.argmax(np.abs(excess)))
    p_value = float((1 + np.sum(reference >= np.abs(excess[worst]) - 1e-9)) / (times + 1))
    inside = slots // WINDOW == worst
    share = float(inside.mean())
    # A window's sum spreads about as the largest of them does; 0.84 deviations more are met in four of five runs.
    spread = float(np.sqrt(np.mean((outcomes - (totals / sizes.sum(axis=1))[numbers]) ** 2) * inside.sum()))
    detectable = (float(np.quantile(reference, 0.95)) + 0.84 * spread) / max(1, inside.sum() * (1 - share))
    elsewhere = float(outcomes[~inside].mean()) if (~inside).any() else float(outcomes.mean())
    last = min((worst + 1) * WINDOW - 1, int(slots.max()))
    return PositionTest(p_value, worst * WINDOW, last, float(outcomes[inside].mean()) - elsewhere, detectable)


def _by_window(numbers: npt.NDArray[np.int64], slots: npt.NDArray[np.int64], weights: Numbers) -> Numbers:
    """Sum weights by batch and window: a row a batch, a column a window."""
    windows = int(slots.max()) // WINDOW + 1
    cells = np.bincount(numbers * windows + slots // WINDOW, weights, (int(numbers.max()) + 1) * windows)
    return np.asarray(cells.reshape(-1, windows))


def size_test(outcomes: Numbers, batches: npt.NDArray[np.int64], times: int = 2000, seed: int = 0) -> SizeTest | None:
    """Test whether the outcome goes with the size of the batch, by Spearman's rank correlation over batches.

    Of each batch as many products count as the smallest has, drawn at random: rates of small batches spread more, and
    without this the p would be too small. Batches of fewer than ten products are left out. None where the sizes are
    equal but for one product, or the outcome is equally frequent in all batches.
    """
    sizes = np.bincount(batches)[batches]
    kept = sizes >= SMALLEST_BATCH
    if not kept.any() or np.ptp(sizes[kept]) <= 1:
        return None
    outcomes, batches, sizes = outcomes[kept], batches[kept], sizes[kept]
    order = np.lexsort((np.random.default_rng(seed).random(len(batches)), batches))
    starts = np.flatnonzero(np.diff(batches[order], prepend=-1))
    rates = np.array([outcomes[order[start : start + sizes.min()]].mean() for start in starts])
    if np.ptp(rates) == 0:
        return None
    rank, p_value = correlation_test(sizes[order[starts]].astype(float), rates, times, seed)
    return SizeTest(p_value, rank, len(rates))
