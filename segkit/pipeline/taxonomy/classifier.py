"""A classifier of product lines, and how much of a catalogue it may place under a promise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from segkit.core.models import NONE_FITS
from segkit.evaluation.statistics import Estimate, clopper_pearson, design_effect

Numbers = npt.NDArray[np.float64]
#: The shares of the products that the classifier may place, the largest first; each is tried once.
COVERAGES = tuple(round(1 - 0.05 * step, 2) for step in range(16))
RISK = 0.05  # the chance that the promise is broken, over all coverages together
_FEATURES, _CHUNK = 40_000, 20_000


@dataclass(frozen=True, slots=True)
class Threshold:
    """The products that a classifier may place: those whose `score` is at least this, a share of `coverage`.

    `agreement` is that with the held-back answers of the model to such products, with its 95 % interval.
    """

    coverage: float
    score: float
    agreement: Estimate


class LineClassifier:
    """Names the category of a product line as the answers that it learned from do, with a probability."""

    def __init__(self, lines: Iterable[str], categories: Iterable[str], seed: int) -> None:
        """Train a logistic regression on the words and pairs of words of lines; there are at least two categories."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import SGDClassifier

        self._words = TfidfVectorizer(ngram_range=(1, 2), max_features=_FEATURES, sublinear_tf=True)
        self._model = SGDClassifier(loss="log_loss", alpha=3e-6, max_iter=12, tol=None, random_state=seed)
        self._model.fit(self._words.fit_transform(lines), list(categories))

    def placed(self, lines: Iterable[str]) -> tuple[list[str], Numbers]:
        """Return the category of each line, and how sure that is: 0 for NONE_FITS, which is no place."""
        names: list[str] = []
        scores: list[float] = []
        for chunk in _chunks(lines):
            shares = self._model.predict_proba(self._words.transform(chunk))
            best = shares.argmax(axis=1)
            names += [str(name) for name in self._model.classes_[best]]
            scores += shares[np.arange(len(best)), best].tolist()
        found = np.asarray(scores, dtype=float)
        return names, np.where(np.asarray(names, dtype=object) == NONE_FITS, 0.0, found)


def _chunks(lines: Iterable[str]) -> Iterator[list[str]]:
    """Cut lines into pieces, so that memory does not grow with the catalogue."""
    rest = iter(lines)
    while chunk := list(islice(rest, _CHUNK)):
        yield chunk


def find_threshold(
    scores: npt.ArrayLike, agrees: npt.ArrayLike, batches: npt.ArrayLike, promise: float
) -> Threshold | None:
    """Return the largest coverage at which a classifier agrees with the model in a share of `promise` at least.

    The arrays hold, for answers that the classifier did not learn from, its score, whether it agrees, and the batch
    in which the model was asked. At each of 16 coverages the disagreement of the answers with the highest scores gets
    an exact upper bound, with Bonferroni's correction for their number, at the effective number of answers; so that
    the promise is broken in at most 5 % of cascades. None where no coverage keeps it.

    Sources: Clopper and Pearson, Biometrika 26 (1934); Korn and Graubard, Survey Methodology 24 (1998), for answers
    that share a batch; the choice of a threshold follows Geifman and El-Yaniv, "Selective classification for deep
    neural networks" (2017).
    """
    score, wrong, groups = np.asarray(scores, float), ~np.asarray(agrees, dtype=bool), np.asarray(batches)
    if not len(score):
        return None
    ordered = np.sort(score)[::-1]
    for coverage in COVERAGES:
        least = float(ordered[round(coverage * len(score)) - 1])
        covered = score >= max(least, np.nextafter(0, 1))
        if covered.any() and _bound(wrong[covered], groups[covered]) <= 1 - promise:
            rate = _effective(wrong[covered], groups[covered], 0.95)
            agreement = Estimate(1 - rate.value, *_turned(rate), int(covered.sum()), "answers")
            return Threshold(float(covered.mean()), least, agreement)
    return None


def _bound(wrong: npt.NDArray[np.bool_], batches: npt.NDArray[np.int64]) -> float:
    """Return the upper bound of a rate of disagreement, one of those of all coverages."""
    high = _effective(wrong, batches, 1 - 2 * RISK / len(COVERAGES)).high
    return 1.0 if high is None else high


def _effective(wrong: npt.NDArray[np.bool_], batches: npt.NDArray[np.int64], confidence: float) -> Estimate:
    count = len(wrong) / design_effect(wrong, batches)
    return clopper_pearson(float(wrong.mean()) * count, count, "answers", confidence)


def _turned(rate: Estimate) -> tuple[float | None, float | None]:
    """Return the interval of agreement, from that of disagreement."""
    return (None if rate.high is None else 1 - rate.high), (None if rate.low is None else 1 - rate.low)
