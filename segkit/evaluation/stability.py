"""How far repeats of a run agree: over all, for each category, for each product; and what they agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segkit.core.models import OUT_OF_SCOPE, Category
from segkit.core.text import fold_name, quantity
from segkit.errors import RunError
from segkit.evaluation import agreement
from segkit.evaluation.pages import Parts, Readable, sections, write_page
from segkit.evaluation.statistics import Estimate, Numbers, mean_pairwise
from segkit.runs.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOLDS = 0.7  # the Jaccard from which a category is said to hold
VARIED = ("seed", "temperature", "prompts", "model", "repeat")


@dataclass(frozen=True, repr=False)
class Stability(Readable):
    """How far runs agree that differ in nothing that should matter.

    `ami` is the mean agreement of two runs, `flip_rate` the share of products that stand elsewhere in another run.
    `categories` has the mean Jaccard of the best match for each category of the run in the middle (`medoid`),
    `products` the agreement of each product: use it to rank products, not as a promise about one of them. `sources`
    has the mean agreement of pairs of runs by the parameters they differ in.
    """

    runs: list[Run]
    similarity: Numbers
    ami: Estimate
    flip_rate: float
    categories: pd.DataFrame
    products: pd.DataFrame
    medoid: Run
    sources: pd.DataFrame

    def as_json(self) -> dict[str, Any]:
        """Return the figures that other programs rely on."""
        return {
            "ami": self.ami.value,
            "ami_low": self.ami.low,
            "ami_high": self.ami.high,
            "flip_rate": self.flip_rate,
            "repeats": len(self.runs),
            "categories": len(self.categories),
            "categories_that_hold": self.holding,
            "medoid": self.medoid.id,
            "runs": [run.id for run in self.runs],
        }

    @property
    def holding(self) -> int:
        return int((self.categories["jaccard"] >= HOLDS).sum())

    def sentences(self) -> list[str]:
        """Say in plain words how far a run repeats itself."""
        word = "strong" if self.ami.value >= 0.8 else "fair" if self.ami.value >= 0.6 else "weak"
        interval = ""
        if self.ami.low is not None and self.ami.high is not None:
            interval = f" ± {(self.ami.high - self.ami.low) / 2:.2f}"
        lines = [
            f"AMI between runs {self.ami.value:.2f}{interval} ({quantity(len(self.runs), 'run')}): {word}.",
            f"{self.flip_rate:.0%} of products change category from one run to another.",
            f"{self.holding} of {quantity(len(self.categories), 'category')} hold (Jaccard of {HOLDS} or more).",
        ]
        if len(self.runs) < 5:
            lines.append("Fewer than five runs give a wide interval or none: --repeats 5, or 8 for a decision.")
        return lines

    def categories_figure(self) -> Figure:
        """Draw how well each category is found again."""
        from segkit.evaluation import figures  # matplotlib takes a second to import

        return figures.jaccards(self.categories, "Which categories hold")

    def write_html(self, path: str | Path) -> Path:
        """Write the stability as one page that needs nothing else."""
        facts = [quantity(len(self.runs), "run"), f"from {self.runs[0].id}", quantity(len(self.products), "product")]
        parts: dict[str, Sequence[Any]] = {
            "In short": self.sentences(),
            "Which categories hold": [self.categories_figure(), self.categories],
            "What the differences come from": [self.sources],
            "Products that agree least": [self.products.head(40)],
        }
        return write_page(Path(path), "How far a run repeats itself", facts, sections(parts))

    def shown(self) -> Parts:
        """Return what Jupyter shows: the summary, and which categories hold."""
        return {"": self.sentences(), "Which categories hold": [self.categories_figure(), self.categories]}


def stability_of(runs: Sequence[Run]) -> Stability:
    """Report how far finished runs of the same products agree; nothing is asked of a model."""
    if len(runs) < 2:
        raise RunError("one run says nothing about how far it repeats itself", "--repeats 5")
    placed = [agreement.placements(run) for run in runs]
    similarity = agreement.agreement_matrix(placed)
    medoid = agreement.medoid_of(similarity)
    flips = [
        float(agreement.moved_products(placed[i], placed[j]).mean()) for i, j in combinations(range(len(runs)), 2)
    ]
    return Stability(
        runs=list(runs),
        similarity=similarity,
        ami=mean_pairwise(similarity),
        flip_rate=float(np.mean(flips)),
        categories=agreement.best_matches(placed, medoid),
        products=_products(runs[medoid], placed, medoid),
        medoid=runs[medoid],
        sources=_sources(runs, similarity),
    )


def _products(run: Run, placed: Sequence[pd.Series], medoid: int) -> pd.DataFrame:
    votes = agreement.vote_shares(placed, medoid)
    votes.insert(0, "title", run.products.set_index("product_id")["title"].reindex(votes.index))
    frame = votes.rename_axis("product_id").reset_index()
    return frame.sort_values(["agreement", "product_id"], ignore_index=True)


def _sources(runs: Sequence[Run], similarity: Numbers) -> pd.DataFrame:
    """Average the agreement of pairs of runs by what they differ in: `differ_in`, `pairs`, `ami`."""
    rows: dict[str, list[float]] = {}
    for i, j in combinations(range(len(runs)), 2):
        one, two = asdict(runs[i].parameters), asdict(runs[j].parameters)
        differ = " and ".join(name for name in VARIED if one[name] != two[name]) or "nothing"
        rows.setdefault(differ, []).append(float(similarity[i, j]))
    table = [(name, len(values), float(np.mean(values))) for name, values in rows.items()]
    frame = pd.DataFrame(table, columns=["differ_in", "pairs", "ami"])
    return frame.sort_values("ami", ascending=False, ignore_index=True)


def consensus_of(runs: Sequence[Run]) -> tuple[pd.DataFrame, list[Category]]:
    """Return what runs agree on: each product with its category and agreement, and the categories.

    Up to 10,000 products by co-association, above by votes after matching to the run in the middle. The frame has
    `product_id`, `category` and `confidence`; names and definitions are those of the best match in the run in the
    middle, or in another one where that has none.
    """
    placed = [agreement.placements(run) for run in runs]
    medoid = agreement.medoid_of(agreement.agreement_matrix(placed))
    frame = agreement.on_common_products(placed)
    votes = agreement.vote_shares(placed, medoid)
    category, confidence = votes["category"].copy(), votes["agreement"].copy()
    named = ~category.isin(["", OUT_OF_SCOPE])
    known = [_definitions(runs[i]) for i in (medoid, *(i for i in range(len(runs)) if i != medoid))]
    if named.any() and len(frame) <= agreement.LARGEST_FOR_CO_ASSOCIATION:
        groups, margin = agreement.consensus_groups(frame[named])
        names = _names(groups, [frame[named][i] for i in (medoid, *(i for i in range(len(runs)) if i != medoid))])
        category[named] = groups.map(names)
        confidence[named] = margin
    definitions = {name: text for each in reversed(known) for name, text in each.items()}
    taxonomy = [
        Category(f"S_{i}", name, definitions.get(name, name))
        for i, name in enumerate(sorted(set(category) - {"", OUT_OF_SCOPE}))
    ]
    result = pd.DataFrame(
        {"product_id": category.index, "category": category.to_numpy(), "confidence": confidence.to_numpy()}
    )
    return result, taxonomy


def _definitions(run: Run) -> dict[str, str]:
    taxonomies = run.result("taxonomies")
    return dict(zip(taxonomies["category_name"], taxonomies["definition"], strict=True))


def _names(groups: pd.Series, runs: Sequence[pd.Series]) -> dict[int, str]:
    """Name each group after the category that it shares most with, the run in the middle first; no name twice."""
    names: dict[int, str] = {}
    for run in runs:
        left = groups[~groups.isin(list(names))]
        if left.empty:
            break
        for group, name in agreement.match_categories(left.map(str), run.reindex(left.index)).items():
            used = {fold_name(each) for each in names.values()}
            if group not in ("", OUT_OF_SCOPE) and name not in ("", OUT_OF_SCOPE) and fold_name(name) not in used:
                names[int(group)] = name
    for group in sorted(set(groups) - set(names)):
        names[int(group)] = f"{runs[0][groups == group].mode().iloc[0]} ({group + 1})"
    return names
