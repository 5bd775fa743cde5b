"""A run against labels of people: how right it is, how large its segments really are, and what it confuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import quantity
from segkit.display import html_text
from segkit.errors import ProductsError
from segkit.evaluation import figures, scores
from segkit.evaluation.agreement import batches_of, placements
from segkit.evaluation.labels import NONE_OF_THESE, Labels, labels_of
from segkit.evaluation.pages import Html, Parts, Readable, as_html, sections, write_page
from segkit.evaluation.statistics import Estimate, krippendorff_alpha, share, wilson
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class Evaluation(Readable):
    """What labels say about a run.

    `scores` has a row a score with its interval; `shares` a row a segment: its `share` of all products by PPI++ with
    interval, beside the `raw_share` of the run alone. `confusions` counts products by label and category, `misses`
    lists them. `accuracy` is the share of products whose category is that of their label.
    """

    run: Run
    labels: Labels
    products: int
    scores: dict[str, Estimate]
    macro_f1: float
    accuracy: Estimate
    out_of_scope_precision: Estimate | None
    out_of_scope_recall: Estimate | None
    shares: pd.DataFrame
    weight: str
    confusions: pd.DataFrame
    misses: pd.DataFrame
    risk_coverage: pd.DataFrame
    calibration: pd.DataFrame
    brier: float | None
    self_agreement: Estimate | None
    anchoring: Estimate | None

    def as_json(self) -> dict[str, Any]:
        """Return the figures that other programs rely on."""
        fields: dict[str, Any] = {"run": self.run.id, "labelled": len(self.labels.names), "products": self.products}
        for name, estimate in self.scores.items():
            fields |= estimate.as_json(name)
        fields |= self.accuracy.as_json("accuracy") | {"macro_f1": self.macro_f1}
        for name in ("out_of_scope_precision", "out_of_scope_recall"):
            estimate = getattr(self, name)
            fields |= estimate.as_json(name) if estimate else {name: None}
        columns = ["category", "share", "share_low", "share_high", "raw_share"]
        rows = self.shares[columns].astype(object)
        return {**fields, "brier": self.brier, "shares": rows.where(rows.notna(), None).to_dict("records")}

    def sentences(self) -> list[str]:
        """Say in plain words how good the run is, and by what."""
        lines = [
            f"Right: {_percent(self.accuracy)} of {self.accuracy.count:,} labelled products.",
            f"AMI {self.scores['ami']}, ARI {self.scores['ari']}, V {self.scores['v_measure']}.",
            f"Harmonic purity {self.scores['harmonic_purity']}, B-cubed {self.scores['b_cubed']}, "
            f"macro-F1 {self.macro_f1:.2f} (mapping learned on the other half).",
        ]
        for name, estimate in (("precision", self.out_of_scope_precision), ("recall", self.out_of_scope_recall)):
            if estimate:
                lines.append(f"Out of scope: {name} {_percent(estimate)} of {quantity(estimate.count, 'product')}.")
        if len(self.labels.names) == self.products:
            lines.append(
                "Every product is labelled: the shares are exact for these products, and their intervals are for "
                "more products of the same kind."
            )
        if self.self_agreement:
            lines.append(f"The person agrees with themselves in {_percent(self.self_agreement)} of doubled rows.")
        if self.anchoring:
            lines.append(
                f"Where the run's answer was shown it was called right {self.anchoring.value * 100:+.0f} points more "
                "often than where it was hidden."
            )
        return lines

    def methods(self) -> str:
        """Return a sentence for the methods section of a report."""
        drawn = len(self.labels.names)
        what = (
            "segments of the run" if self.labels.own else "labels, to which categories were mapped on the other half"
        )
        labelled = f"{drawn:,} of {quantity(self.products, 'product', 'were')} labelled"
        return (
            f"{labelled} ({self.labels.source}). Clustering scores have "
            f"95 % jackknife intervals over batches ({self.scores['ami'].count}); shares of the {what} were "
            "estimated by prediction-powered inference (PPI++; Angelopoulos et al., 2023) and by Wilson's interval "
            "below ten labelled products, which assumes that these were drawn at random; weight of a product: "
            f"{self.weight or 'one'}."
        )

    def shares_figure(self) -> Figure:
        """Draw the shares with their intervals, and what the run alone says."""
        title = "Share of each segment: with its interval, and by the run alone (orange)"
        return figures.intervals(self.shares, ("category", "share", "share_low", "share_high"), title, "share")

    def readable_shares(self) -> pd.DataFrame:
        """Return the shares for people: a share and its interval in one cell."""
        table = self.shares
        return pd.DataFrame(
            {
                "segment": table["category"],
                "share": [
                    f"{value:.1%}" if low is None or math.isnan(low) else f"{value:.1%} ({low:.1%} to {high:.1%})"
                    for value, low, high in table[["share", "share_low", "share_high"]].itertuples(index=False)
                ],
                "run alone": table["raw_share"].map("{:.1%}".format),
                "labelled": table["labelled"],
            }
        )

    def _confusions_with_links(self) -> str:
        """Return the confusions as a list of links to their products."""
        rows = [
            f"<tr><td>{html_text(row.label)}</td><td>{html_text(row.category)}</td>"
            f'<td class="number"><a href="#confusion-{row.Index}">{row.products:,}</a></td></tr>'
            for row in self.confusions.itertuples()
        ]
        head = '<tr><th>label</th><th>category</th><th class="number">products</th></tr>'
        return f"<table>{head}{''.join(rows)}</table>"

    def _misses_by_confusion(self) -> str:
        """Return the products of each confusion as a table of its own, to which the list of confusions links."""
        parts = []
        for row in self.confusions.itertuples():
            mask = (self.misses["label"] == row.label) & (self.misses["category"] == row.category)
            title = f"{html_text(row.label)} in {html_text(row.category)}"
            table = as_html(self.misses.loc[mask, ["product_id", "title", "confidence"]].reset_index(drop=True))
            parts.append(f'<h3 id="confusion-{row.Index}">{title}</h3>\n{table}')
        return "\n".join(parts)

    def risk_figure(self) -> Figure:
        """Draw how accuracy falls as less sure products are kept."""
        frame = self.risk_coverage
        labels = ("share of products kept, the surest first", "accuracy")
        return figures.curve(frame["coverage"].tolist(), frame["accuracy"].tolist(), "Accuracy of the surest", labels)

    def write_html(self, path: str | Path) -> Path:
        """Write the evaluation as one page that needs nothing else."""
        facts = [self.run.id, self.labels.source, f"{len(self.labels.names):,} labelled products"]
        return write_page(Path(path), "A run evaluated", facts, self._body())

    def _body(self) -> str:
        parts: dict[str, Sequence[Any]] = {
            "In short": self.sentences(),
            "How large the segments are": [self.shares_figure(), self.readable_shares()],
            "What is confused": [Html(self._confusions_with_links())] if len(self.confusions) else ["Nothing."],
            "Products that are not where their label is": [Html(self._misses_by_confusion())]
            if len(self.confusions)
            else ["None."],
            "How far confidence can be trusted": [self.risk_figure(), self.calibration],
            "For the methods section": [self.methods()],
        }
        return sections(parts)

    def shown(self) -> Parts:
        """Return what Jupyter shows: the summary, the shares of the segments, and what is confused."""
        shares: list[Any] = [self.shares_figure(), self.readable_shares()]
        return {"": self.sentences(), "Shares": shares, "What is confused": [self.confusions.head(10)]}


def evaluate(
    run: Run | str,
    labels: str | Path | pd.DataFrame | None = None,
    *,
    label_column: str = "",
    weight: str = "",
    runs_dir: str | Path = "",
) -> Evaluation:
    """Evaluate a run against labels; nothing is asked of a model.

    `labels` is a sheet of `segkit label`, or any table with `product_id` and a column of labels (`label_column`);
    without it, `label_column` names a column of the run's products. `weight` is a numeric column of the products,
    such as revenue, by which shares are weighted. Raises ProductsError where there is no label, or no such weight.
    """
    place = Path(runs_dir) if runs_dir else load_settings().storage_root
    run = run if isinstance(run, Run) else open_run(run, place)
    known = labels_of(run, labels, label_column)
    confidence = run.assignments.set_index("product_id")["confidence"]
    found = placements(run)
    on = known.names.index
    truth, answer, batches = known.names, found[on], batches_of(run).reindex(on)
    translated = answer if known.own else scores.cross_mapped(truth, answer)
    right = translated == truth
    out_of_scope = _out_of_scope(truth, answer)
    return Evaluation(
        run=run,
        labels=known,
        products=len(found),
        scores={name: scores.score(name, truth, answer, batches) for name in scores.SCORES},
        macro_f1=scores.macro_f1(truth, translated),
        accuracy=wilson(int(right.sum()), len(right)),
        out_of_scope_precision=out_of_scope[0],
        out_of_scope_recall=out_of_scope[1],
        shares=_shares(run, known, found, translated, weight),
        weight=weight,
        confusions=_confusions(truth, answer, right),
        misses=_misses(run, truth, answer, translated),
        risk_coverage=scores.risk_coverage(confidence.reindex(on), right),
        calibration=scores.calibration(confidence.reindex(on), right),
        brier=scores.brier(confidence.reindex(on), right),
        self_agreement=_self_agreement(known),
        anchoring=_anchoring(known, right),
    )


def _out_of_scope(truth: pd.Series, answer: pd.Series) -> tuple[Estimate | None, Estimate | None]:
    """Return precision and recall of `OUT_OF_SCOPE`; None where nothing was called so, or nothing is labelled so."""
    called, labelled = answer == OUT_OF_SCOPE, truth == OUT_OF_SCOPE
    both = int((called & labelled).sum())
    precision = wilson(both, int(called.sum())) if called.any() and labelled.any() else None
    return precision, wilson(both, int(labelled.sum())) if labelled.any() else None


def _shares(run: Run, known: Labels, found: pd.Series, translated: pd.Series, weight: str) -> pd.DataFrame:
    """Estimate the share of each segment: a row each, the largest first."""
    truth, on = known.names, known.names.index
    names = {} if known.own else scores.mapped(truth, found[on])
    rest = found.drop(on).map(lambda name: names.get(name, name))
    answers = pd.concat([translated, rest])
    weights = _weights(run, weight, found.index)
    segments = [name for name in pd.unique(pd.concat([truth, answers])) if name not in ("", NONE_OF_THESE)]
    if not known.own:
        segments = [name for name in segments if name in set(truth)]
    total = float(weights.sum())
    rows = []
    for segment in segments:
        scale = weights * len(weights) / total
        estimate = share(
            ((truth == segment) * scale[on]).to_numpy(),
            ((translated == segment) * scale[on]).to_numpy(),
            ((rest == segment) * scale[rest.index]).to_numpy(),
        )
        raw = float(weights[answers[answers == segment].index].sum() / total)
        labelled = int((truth == segment).sum())
        rows.append((segment, estimate.value, estimate.low, estimate.high, raw, labelled))
    columns = ["category", "share", "share_low", "share_high", "raw_share", "labelled"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.sort_values(["share", "category"], ascending=[False, True], ignore_index=True)


def _weights(run: Run, column: str, products: pd.Index) -> pd.Series:
    if not column:
        return pd.Series(1.0, index=products)
    frame = run.products.set_index("product_id")
    if column not in frame:
        raise ProductsError(f"the products have no column {column!r}", f"they have {', '.join(frame.columns)}")
    values = pd.to_numeric(frame[column], errors="coerce").reindex(products)
    if values.isna().all() or (values < 0).any():
        raise ProductsError(f"column {column!r} is no weight", "take a column of numbers from 0 up, such as revenue")
    return values.fillna(0.0)


def _confusions(truth: pd.Series, answer: pd.Series, right: pd.Series) -> pd.DataFrame:
    """Count the products that are wrong by label and category, the most frequent confusion first."""
    wrong = pd.DataFrame({"label": truth[~right], "category": answer[~right]})
    counts = wrong.value_counts().rename("products").reset_index()
    return counts.sort_values(["products", "label"], ascending=[False, True], ignore_index=True)


def _misses(run: Run, truth: pd.Series, answer: pd.Series, translated: pd.Series) -> pd.DataFrame:
    wrong = translated.index[translated != truth]
    titles = run.products.set_index("product_id")["title"]
    confidence = run.assignments.set_index("product_id")["confidence"]
    frame = pd.DataFrame(
        {
            "product_id": wrong,
            "title": titles.reindex(wrong).to_numpy(),
            "label": truth[wrong].to_numpy(),
            "category": answer[wrong].to_numpy(),
            "confidence": confidence.reindex(wrong).to_numpy(),
        }
    )
    return frame.sort_values(["label", "category", "product_id"], ignore_index=True)


def _self_agreement(known: Labels) -> Estimate | None:
    if known.doubled.empty:
        return None
    same = known.names.reindex(known.doubled.index) == known.doubled
    return wilson(int(same.sum()), len(same), "doubled rows")


def _anchoring(known: Labels, right: pd.Series) -> Estimate | None:
    """Return how much more often an answer is called right where it was shown, with its normal interval."""
    blind = known.blind.reindex(right.index).dropna().astype(bool)
    if blind.empty or blind.all() or not blind.any():
        return None
    parts = [right[blind.index][mask].astype(float) for mask in (~blind, blind)]
    value = float(parts[0].mean() - parts[1].mean())
    half = 1.96 * float(np.sqrt(sum(part.var(ddof=0) / len(part) for part in parts)))
    return Estimate(value, value - half, value + half, len(right), "products")


def agreement_of_people(sheets: Sequence[pd.DataFrame], column: str = "label") -> float:
    """Return Krippendorff's alpha of the labels that several people gave to the same products."""
    labels = [sheet.drop_duplicates("product_id").set_index("product_id")[column] for sheet in sheets]
    frame = pd.concat(labels, axis=1).astype(object)
    return krippendorff_alpha(frame.where(frame.notna(), None).to_numpy().tolist())


def _percent(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.0%}"
    return f"{estimate.value:.0%} ({estimate.low:.0%} to {estimate.high:.0%})"
