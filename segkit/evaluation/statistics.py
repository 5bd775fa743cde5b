"""Intervals and tests for runs: small pure functions, each with its source.

The unit is what was drawn independently: products of one prompt share its luck, so that a rate over products is
judged by its batches, and two taxonomies by repeats of their runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts take up to half a second to import: they are loaded where they are first used

Numbers = npt.NDArray[np.float64]
EXACT = 10_000  # as many rearrangements are tried one by one; of more, so many are drawn
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval, the number of units behind it, and what a unit is.

    `low` and `high` are None where no interval can be given.
    """

    value: float
    low: float | None
    high: float | None
    count: int
    unit: str

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f} (no interval; {self.count:,} {self.unit})"
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}; {self.count:,} {self.unit})"

    def as_json(self, name: str) -> dict[str, float | None]:
        """Return the figure as JSON fields, with `_low` and `_high` where there is an interval."""
        fields: dict[str, float | None] = {name: self.value}
        if self.low is not None:
            fields |= {f"{name}_low": self.low, f"{name}_high": self.high}
        return fields


def jackknife(value: float, left_out: Sequence[float], unit: str, confidence: float = CONFIDENCE) -> Estimate:
    """Return a statistic with the interval of the delete-one jackknife, t with k - 1 degrees of freedom.

    `left_out` holds the statistic without the first, the second, … of the k units. Used for clustering scores, which
    a bootstrap with replacement shifts upwards: a product drawn twice always agrees with itself.
    Source: Efron and Stein, "The jackknife estimate of variance", Annals of Statistics 9 (1981).
    """
    k = len(left_out)
    if k < 2:
        return Estimate(value, None, None, k, unit)
    half = float(scipy.special.stdtrit(k - 1, 0.5 + confidence / 2)) * _jackknife_error(left_out)
    return Estimate(value, value - half, value + half, k, unit)


def _jackknife_error(left_out: Sequence[float]) -> float:
    k, spread = len(left_out), np.asarray(left_out) - np.mean(left_out)
    return math.sqrt((k - 1) / k * float(np.sum(spread**2)))


def jackknife_test(value: float, left_out: Sequence[float]) -> float:
    """Return the one-sided p that a true value is not above zero, from the delete-one jackknife of `jackknife`."""
    k = len(left_out)
    if k < 2:
        return 1.0
    error = _jackknife_error(left_out)
    if error < 1e-12:  # the same in every unit
        return 0.0 if value > 1e-12 else 1.0
    return float(scipy.special.stdtr(k - 1, -(value / error)))


def blocked_error(scores: Numbers) -> tuple[float, int]:
    """Return the standard error of the difference of two settings' means, and its degrees of freedom.

    `scores` has a row a setting and a column a block, such as a seed, that all settings share. What settings and
    blocks do not explain is pooled over all settings, so that two blocks are enough.
    Source: Fisher, "The Design of Experiments" (1935), chapter 4 on randomised blocks.
    """
    settings, blocks = scores.shape
    rest = scores - scores.mean(axis=1, keepdims=True) - scores.mean(axis=0) + scores.mean()
    freedom = (settings - 1) * (blocks - 1)
    return math.sqrt(float(np.sum(rest**2)) / freedom * 2 / blocks) if freedom else float("inf"), freedom


def outdone(scores: Numbers, level: float) -> dict[int, float]:
    """Return the settings that cannot be the best, by number, each with its p after Holm's correction.

    `scores` has a row a setting and a column a block. Each setting is tested against the one with the highest mean,
    on one side, with `blocked_error`.
    """
    error, freedom = blocked_error(scores)
    means = scores.mean(axis=1)
    best = int(means.argmax())
    others = [number for number in range(len(means)) if number != best]
    gaps = [float(means[best] - means[number]) for number in others]
    if error < 1e-12:
        p_values = [0.0 if gap > 1e-12 else 1.0 for gap in gaps]
    else:
        p_values = [float(scipy.special.stdtr(max(freedom, 1), -(gap / error))) for gap in gaps]
    return {number: p for number, p in zip(others, holm(p_values), strict=True) if p <= level}


def mean_pairwise(similarity: Numbers, unit: str = "runs", confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean similarity of all pairs of runs, with a jackknife over runs.

    `similarity` is a symmetric matrix, a row a run. Two runs are one pair, and one pair has no interval.
    """
    k = len(similarity)
    left_out = [_mean_of_pairs(np.delete(np.delete(similarity, i, 0), i, 1)) for i in range(k)] if k > 2 else []
    estimate = jackknife(_mean_of_pairs(similarity), left_out, unit, confidence)
    return Estimate(estimate.value, estimate.low, estimate.high, k, unit)


def _mean_of_pairs(similarity: Numbers) -> float:
    return float(similarity[np.triu_indices(len(similarity), 1)].mean()) if len(similarity) > 1 else 1.0


def t_interval(values: Sequence[float], unit: str = "batches", confidence: float = CONFIDENCE) -> Estimate:
    """Return the mean of independent values with Student's interval ("The probable error of a mean", 1908)."""
    k = len(values)
    mean = float(np.mean(values))
    if k < 2:
        return Estimate(mean, None, None, k, unit)
    half = float(scipy.special.stdtrit(k - 1, 0.5 + confidence / 2) * np.std(values, ddof=1) / math.sqrt(k))
    return Estimate(mean, mean - half, mean + half, k, unit)


def difference_interval(
    first: Sequence[float], second: Sequence[float], unit: str = "runs", confidence: float = CONFIDENCE
) -> Estimate:
    """Return the difference of two means, second minus first, with Welch's interval (Biometrika 34, 1947)."""
    value, count = float(np.mean(second) - np.mean(first)), len(first) + len(second)
    if min(len(first), len(second)) < 2:
        return Estimate(value, None, None, count, unit)
    if np.std(first) == np.std(second) == 0:
        return Estimate(value, value, value, count, unit)
    interval = scipy.stats.ttest_ind(second, first, equal_var=False).confidence_interval(confidence)
    return Estimate(value, float(interval.low), float(interval.high), count, unit)


def t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean difference of zero, by Student's test over batches or other units."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not np.any(values):
        return 1.0
    if np.std(values) == 0:
        return 0.0
    return float(scipy.stats.ttest_1samp(values, 0).pvalue)


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> float:
    """Return the two-sided p of a mean difference of zero, by flipping the signs of the units' differences.

    Exact up to 13 units. Source: Fisher, "The Design of Experiments" (1935), chapter 3.
    """
    values = np.asarray(differences, dtype=float)
    if not len(values):
        return 1.0
    if 2 ** len(values) <= EXACT:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
    else:
        signs = 1 - 2 * np.random.default_rng(seed).integers(0, 2, (EXACT, len(values)), dtype=np.int8)
        signs[0] = 1  # what was seen is one of the arrangements: p is never 0
    means = np.abs(signs @ values)
    return float(np.mean(means >= means[0] * (1 - 1e-9)))


def group_test(similarity: Numbers, first: int, seed: int = 0) -> float:
    """Return the one-sided p that runs agree no less between two groups than within them.

    `similarity` is a symmetric matrix whose first rows are the `first` runs of one group. The statistic is the mean
    within groups minus the mean between, the reference all ways to name the groups. Four runs in each are the least
    that can reach 5 % (35 splits). Source: Anderson, "A new method for non-parametric multivariate analysis of
    variance", Austral Ecology 26 (2001).
    """
    k = len(similarity)
    if not 0 < first < k or k < 3:
        return 1.0
    if math.comb(k, first) <= EXACT:
        groups = [list(chosen) for chosen in combinations(range(k), first)]
    else:
        random = np.random.default_rng(seed)
        groups = [list(range(first)), *(random.permutation(k)[:first].tolist() for _ in range(EXACT - 1))]
    seen = _separation(similarity, list(range(first)))
    return float(np.mean([_separation(similarity, group) >= seen - 1e-12 for group in groups]))


def _separation(similarity: Numbers, group: Sequence[int]) -> float:
    inside = np.zeros(len(similarity), dtype=bool)
    inside[list(group)] = True
    same = np.equal.outer(inside, inside)
    pairs = np.triu(np.ones_like(similarity, dtype=bool), 1)
    return float(similarity[pairs & same].mean() - similarity[pairs & ~same].mean())


def permute_within(sizes: Numbers, totals: Numbers, times: int = 2000, seed: int = 0) -> Numbers:
    """Draw how many outcomes of 0 or 1 each part of a batch has, summed over batches, when they are permuted in it.

    `sizes` has a row a batch and a column a part, with its number of products; `totals` the outcomes of each batch.
    Returns a row a permutation and a column a part. Within a batch, permuted outcomes fall into its parts as a
    multivariate hypergeometric draw. What batches differ in (an easy one, a hard one) stays as it is, so that only
    the order inside them is tested. Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses" (2005),
    chapter 7 on blocks.
    """
    random, drawn = np.random.default_rng(seed), np.zeros((times, sizes.shape[1]))
    for row, total in zip(sizes.astype(np.int64), totals.astype(np.int64), strict=True):
        drawn += random.multivariate_hypergeometric(row, total, size=times)
    return drawn


def correlation_test(first: Numbers, second: Numbers, times: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return Spearman's rank correlation and its two-sided p, by permuting one side.

    The values of each side must be exchangeable where nothing is correlated: rates from equally many products are.
    Source: Good, "Permutation, Parametric and Bootstrap Tests of Hypotheses" (2005), chapter 3.
    """
    x, y = (scipy.stats.rankdata(values) - (len(values) + 1) / 2 for values in (first, second))
    if not np.any(x) or not np.any(y):
        return 0.0, 1.0
    random, seen = np.random.default_rng(seed), abs(float(x @ y))
    more = sum(abs(float(x @ random.permutation(y))) >= seen - 1e-9 for _ in range(times))
    return float(x @ y / math.sqrt(float((x @ x) * (y @ y)))), (1 + more) / (times + 1)


def wilson(successes: float, count: float, unit: str = "products", confidence: float = CONFIDENCE) -> Estimate:
    """Return a rate with Wilson's score interval, for products drawn at random one by one.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if count <= 0:
        return Estimate(float("nan"), None, None, 0, unit)
    z, rate = float(scipy.special.ndtri(0.5 + confidence / 2)), successes / count
    middle = (rate + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2))
    low, high = middle - half if successes else 0.0, middle + half if successes < count else 1.0
    return Estimate(rate, low, high, round(count), unit)


def clustered_rate(
    outcomes: Sequence[float], batches: Sequence[int], unit: str = "products", confidence: float = CONFIDENCE
) -> Estimate:
    """Return a rate over products that stood in batches, with Wilson's interval at their effective number.

    The number is divided by the design effect (never below 1) and by the square of t over z, since a few batches tell
    little about their own spread. Source: Korn and Graubard, "Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data", Survey Methodology 24 (1998).
    """
    values, groups = np.asarray(outcomes, dtype=float), np.asarray(batches)
    count, names = len(values), np.unique(groups)
    if not count:
        return Estimate(float("nan"), None, None, 0, unit)
    rate, k = float(values.mean()), len(names)
    effect = design_effect(values, groups)
    effective = count / effect
    if effect > 1:
        level = 0.5 + confidence / 2
        effective *= float(scipy.special.ndtri(level) / scipy.special.stdtrit(k - 1, level)) ** 2
    estimate = wilson(rate * effective, effective, unit, confidence)
    return Estimate(rate, estimate.low, estimate.high, count, unit)


def design_effect(outcomes: npt.ArrayLike, batches: npt.ArrayLike) -> float:
    """Return by what the variance of a rate grows since products of a batch fare alike: 1 where they do not.

    It is never below 1. Source: Kish, "Survey Sampling" (1965), section 5.4.
    """
    values, (names, groups) = np.asarray(outcomes, dtype=float), np.unique(batches, return_inverse=True)
    count, k, rate = len(values), len(names), float(np.mean(values))
    if k < 2 or not 0 < rate < 1:
        return 1.0
    totals = np.bincount(groups, weights=values - rate, minlength=k)
    variance = k / (k - 1) * float(np.sum(totals**2)) / count**2
    return max(1.0, variance / (rate * (1 - rate) / count))


def clopper_pearson(
    successes: float, count: float, unit: str = "products", confidence: float = CONFIDENCE
) -> Estimate:
    """Return a rate with the exact interval of Clopper and Pearson (Biometrika 26, 1934).

    Both may be fractions: those of an effective number of products, where products of a batch fare alike.
    """
    tail = (1 - confidence) / 2
    low = float(scipy.special.betaincinv(successes, count - successes + 1, tail)) if successes else 0.0
    high = float(scipy.special.betaincinv(successes + 1, count - successes, 1 - tail)) if successes < count else 1.0
    return Estimate(successes / count, low, high, round(count), unit)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, so that any false alarm at all is rare.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scandinavian J. of Statistics 6 (1979).
    """
    p, k = np.asarray(p_values, dtype=float), len(p_values)
    order = np.argsort(p)
    corrected = np.empty(k)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * (k - np.arange(k))))
    return [float(value) for value in corrected]


def selection_optimism(scores: Numbers, best: int) -> float | None:
    """Return how much better the best of several settings looks than it is, since it was chosen on its own scores.

    `scores` has the axes setting, repeat, and part of the labels. For each repeat and part, the setting is chosen
    anew on all others; the optimism is how much the `best` one scores above it there, on average. None where there is
    nothing to leave out. Sources: Stone, "Cross-validatory choice and assessment of statistical predictions", JRSS B
    36 (1974); Cawley and Talbot, "On over-fitting in model selection", JMLR 11 (2010).
    """
    repeats, parts = scores.shape[1:]
    if repeats * parts < 2:
        return None
    excess = []
    for repeat in range(repeats):
        others = np.delete(scores, repeat, axis=1) if repeats > 1 else scores
        for part in range(parts):
            rest = np.delete(others, part, axis=2) if parts > 1 else others
            chosen = int(rest.mean(axis=(1, 2)).argmax())
            excess.append(scores[best, repeat, part] - scores[chosen, repeat, part])
    return max(0.0, float(np.mean(excess)))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected so that of what is found few are false alarms (JRSS B 57, 1995)."""
    return [float(value) for value in scipy.stats.false_discovery_control(p_values)] if len(p_values) else []


def krippendorff_alpha(ratings: Sequence[Sequence[Any]]) -> float:
    """Return the agreement of several people or runs about names: 1 is perfect, 0 is chance.

    `ratings` has a row a product and a column a rater; None is no rating. Source: Krippendorff, "Computing
    Krippendorff's alpha-reliability" (2011), nominal data.
    """
    rows = [[value for value in row if value is not None and value == value] for row in ratings]
    rows = [row for row in rows if len(row) > 1]
    names = sorted({value for row in rows for value in row}, key=str)
    coincidences = np.zeros((len(names), len(names)))
    for row in rows:
        counts = np.array([row.count(name) for name in names], dtype=float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(row) - 1)
    totals = coincidences.sum(axis=0)
    n = float(totals.sum())
    expected = n**2 - float(np.sum(totals**2))
    if expected == 0:
        return 1.0
    return 1 - (n - 1) * (n - float(np.trace(coincidences))) / expected


def share(
    labels: npt.ArrayLike, predictions: npt.ArrayLike, others: npt.ArrayLike, confidence: float = CONFIDENCE
) -> Estimate:
    """Return a share of all products, from a few labelled ones and the model's answers to all.

    `labels` and `predictions` hold 0 or 1 (or a weight, such as revenue) for the labelled products, which were drawn
    at random, `others` the predictions for the products without a label. A segment with fewer than ten labelled
    products has Wilson's interval instead, since the normal one is too narrow there.
    Source: Angelopoulos, Duchi and Zrnic, "PPI++: efficient prediction-powered inference" (2023), section 6.
    """
    y, f, g = (np.asarray(values, dtype=float) for values in (labels, predictions, others))
    n, rest = len(y), len(g)
    if _is_binary(y) and min(y.sum(), n - y.sum()) < 10:
        return wilson(float(y.sum()), n, "labelled products", confidence)
    if n < 2:
        return Estimate(float(y.mean()) if n else float("nan"), None, None, n, "labelled products")
    spread = float(np.var(np.concatenate([f, g]), ddof=1))
    weight = 0.0
    if rest and spread:
        weight = float(np.clip(np.cov(y, f)[0, 1] / (spread * (1 + n / rest)), 0, 1))
    value = float(y.mean() + weight * ((g.mean() if rest else 0.0) - f.mean()))
    variance = float(np.var(y - weight * f, ddof=1)) / n + (weight**2 * spread / rest if rest else 0.0)
    half = float(scipy.special.stdtrit(n - 1, 0.5 + confidence / 2)) * math.sqrt(variance)
    if _is_binary(y) and 0 < value < 1:
        return _on_logit_scale(value, half, n)
    return Estimate(value, value - half, value + half, n, "labelled products")


def _on_logit_scale(value: float, half: float, n: int) -> Estimate:
    """Return the interval made on the scale of log odds, where small shares have less skew."""
    odds, half = math.log(value / (1 - value)), half / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-(odds + end))) for end in (-half, half))
    return Estimate(value, low, high, n, "labelled products")


def _is_binary(values: Numbers) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def unseen_mass(counts: Sequence[int]) -> Estimate:
    """Return the share of products whose kind was not met, with its upper 95 % bound as `high`.

    `counts` has for each kind how many of the n products read so far are of it. Sources: Good, "The population
    frequencies of species", Biometrika 40 (1953); Esty, "A normal limit law for a nonparametric estimator of the
    coverage of a random sample", Annals of Statistics 11 (1983).
    """
    n = sum(counts)
    if not n:
        return Estimate(1.0, 0.0, 1.0, 0, "products")
    once, twice = sum(count == 1 for count in counts), sum(count == 2 for count in counts)
    value = once / n
    bound = value + 1.645 * math.sqrt(max(0.0, once * (1 - once / n) + 2 * twice)) / n
    return Estimate(value, 0.0, min(1.0, bound), n, "products")
