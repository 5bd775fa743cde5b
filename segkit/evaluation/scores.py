"""Scores of a grouping against labels: small pure functions of two aligned sequences of names."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    f1_score,
    homogeneity_completeness_v_measure,
)

from segkit.evaluation.statistics import Estimate, jackknife


def b_cubed(labels: pd.Series, found: pd.Series) -> float:
    """Return B-cubed F1: precision and recall of the company that each product is in, averaged over products.

    Source: Bagga and Baldwin, "Entity-based cross-document coreferencing" (1998).
    """
    counts = pd.crosstab(labels.to_numpy(), found.to_numpy()).to_numpy().astype(float)
    precision = float((counts**2 / counts.sum(axis=0)).sum() / counts.sum())
    recall = float((counts**2 / counts.sum(axis=1, keepdims=True)).sum() / counts.sum())
    return 2 * precision * recall / (precision + recall)


def harmonic_purity(labels: pd.Series, found: pd.Series) -> float:
    """Return the mean, over labels weighted by size, of the F1 of the category that fits each label best.

    Source: Pham et al., "TopicGPT" (2024), after Amigó et al., Information Retrieval 12 (2009).
    """
    counts = pd.crosstab(labels.to_numpy(), found.to_numpy()).to_numpy().astype(float)
    sums = counts.sum(axis=1, keepdims=True) + counts.sum(axis=0, keepdims=True)
    return float((counts.sum(axis=1) / counts.sum() * (2 * counts / sums).max(axis=1)).sum())


def v_measure(labels: pd.Series, found: pd.Series) -> float:
    """Return the V-measure (Rosenberg and Hirschberg, EMNLP 2007)."""
    return float(homogeneity_completeness_v_measure(labels, found)[2])


def homogeneity(labels: pd.Series, found: pd.Series) -> float:
    """Return how far each category holds products of one label only; low where labels were merged."""
    return float(homogeneity_completeness_v_measure(labels, found)[0])


def completeness(labels: pd.Series, found: pd.Series) -> float:
    """Return how far each label stands in one category only; low where labels were split."""
    return float(homogeneity_completeness_v_measure(labels, found)[1])


SCORES: dict[str, Callable[[pd.Series, pd.Series], float]] = {
    "ami": lambda labels, found: float(adjusted_mutual_info_score(labels, found)),
    "ari": lambda labels, found: float(adjusted_rand_score(labels, found)),
    "v_measure": v_measure,
    "homogeneity": homogeneity,
    "completeness": completeness,
    "b_cubed": b_cubed,
    "harmonic_purity": harmonic_purity,
}


def score(name: str, labels: pd.Series, found: pd.Series, batches: pd.Series) -> Estimate:
    """Return a score with the jackknife over batches, since products of one prompt share its luck."""
    function = SCORES[name]
    left_out = []
    for batch in batches.unique():
        kept = (batches != batch).to_numpy()
        if kept.any() and batches.nunique() > 1:
            left_out.append(function(labels[kept], found[kept]))
    return jackknife(function(labels, found), left_out, "batches")


def mapped(labels: pd.Series, found: pd.Series) -> dict[str, str]:
    """Map each category to the label that most of its products have."""
    counts = pd.crosstab(found.to_numpy(), labels.to_numpy())
    return {str(name): str(label) for name, label in counts.idxmax(axis=1).items()}


def cross_mapped(labels: pd.Series, found: pd.Series, seed: int = 0) -> pd.Series:
    """Translate categories into labels by a mapping that was learned on the other half of the products.

    A mapping that is scored on the products it was learned from looks better than it is. A category that the other
    half does not have keeps its name, and so counts as wrong.
    """
    half = np.random.default_rng(seed).permutation(len(found)) % 2 == 0
    translated = pd.Series("", index=found.index, dtype="str")
    for part in (half, ~half):
        names = mapped(labels[~part], found[~part]) if (~part).any() else {}
        translated[part] = found[part].map(lambda name, names=names: names.get(name, name))
    return translated


def macro_f1(labels: pd.Series, translated: pd.Series) -> float:
    """Return the mean F1 of the labels, each counting the same whatever its size."""
    return float(f1_score(labels, translated, average="macro", labels=sorted(labels.unique()), zero_division=0))


def risk_coverage(confidence: pd.Series, right: pd.Series) -> pd.DataFrame:
    """Return the accuracy of the surest products: `coverage` (share of them) and `accuracy`, a row a step of 5 %.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification", JMLR 11 (2010).
    """
    known = confidence.notna()
    order = confidence[known].sort_values(ascending=False, kind="stable").index
    hits = right.loc[order].astype(float).to_numpy()
    if not len(hits):
        return pd.DataFrame({"coverage": [], "accuracy": []})
    counts = np.unique(np.maximum(1, np.round(np.arange(0.05, 1.0001, 0.05) * len(hits)).astype(int)))
    return pd.DataFrame({"coverage": counts / len(hits), "accuracy": np.cumsum(hits)[counts - 1] / counts})


def calibration(confidence: pd.Series, right: pd.Series, bins: int = 5) -> pd.DataFrame:
    """Return stated confidence against accuracy in bins of equal size: `products`, `confidence`, `accuracy`."""
    known = confidence.notna()
    frame = pd.DataFrame({"confidence": confidence[known], "accuracy": right[known].astype(float)})
    frame = frame.sort_values("confidence", kind="stable").reset_index(drop=True)
    parts = [part for part in np.array_split(np.arange(len(frame)), bins) if len(part)]
    rows = [(len(part), frame["confidence"].iloc[part].mean(), frame["accuracy"].iloc[part].mean()) for part in parts]
    return pd.DataFrame(rows, columns=["products", "confidence", "accuracy"])


def brier(confidence: pd.Series, right: pd.Series) -> float | None:
    """Return the mean squared distance of confidence from right (1) and wrong (0); None without confidences."""
    known = confidence.notna()
    return float(((confidence[known] - right[known].astype(float)) ** 2).mean()) if known.any() else None
