"""Simulations of what the statistics promise, seeded: the tests and the benchmark have the same figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import adjusted_mutual_info_score

from segkit.evaluation import statistics
from segkit.evaluation.audit import placement_tests
from segkit.evaluation.ranking import FIRST_ROUND, HALVING_LEVEL

Numbers = npt.NDArray[np.float64]
BATCH = 40


def _logistic(values: Numbers) -> Numbers:
    return 1 / (1 + np.exp(-values))


def batch_differences(random: np.random.Generator, batches: int, effect: float = 0.0) -> Numbers:
    """Mean difference of the errors of two prompts in each batch, on the same products.

    Errors cluster by batch: the logit is -1.7 + item + batch luck, items N(0, 1.5) shared by both prompts, the luck
    N(0, 0.6) drawn for each prompt (an ICC of about 0.03); `effect` is added to the logit of the second prompt.
    """
    items = random.normal(0, 1.5, (batches, BATCH))
    errors = [
        random.random((batches, BATCH)) < _logistic(-1.7 + items + random.normal(0, 0.6, (batches, 1)) + shift)
        for shift in (0.0, effect)
    ]
    return np.asarray(errors[1].mean(axis=1) - errors[0].mean(axis=1))


def alarms(test: str, batches: int, effect: float = 0.0, times: int = 1000, seed: int = 1) -> float:
    """Share of comparisons that a test (`t_test`, `sign_flip_test`) calls different at 5 %."""
    random, judge = np.random.default_rng(seed), getattr(statistics, test)
    return float(np.mean([judge(batch_differences(random, batches, effect)) <= 0.05 for _ in range(times)]))


def asked_twice_coverage(rate: float, icc: float, times: int = 2000, seed: int = 2) -> float:
    """Share of intervals that hold the true rate: 200 products in five batches, whose rates are beta-distributed."""
    random, scale = np.random.default_rng(seed), 1 / icc - 1
    batches = np.repeat(np.arange(5), BATCH)
    held = 0
    for _ in range(times):
        rates = random.beta(rate * scale, (1 - rate) * scale, 5)
        estimate = statistics.clustered_rate(random.random(200) < rates[batches], batches)
        held += estimate.low <= rate <= estimate.high
    return held / times


def noisy_run(random: np.random.Generator, truth: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A run that puts a share of the products elsewhere (a share of its own) and sometimes merges two kinds."""
    run = truth.copy()
    flipped = random.random(len(run)) < random.beta(6, 24)
    run[flipped] = random.integers(0, truth.max() + 1, flipped.sum())
    if random.random() < 0.5:
        one, two = random.choice(truth.max() + 1, 2, replace=False)
        run[run == one] = two
    return run


def agreement_of(runs: list[npt.NDArray[np.int64]]) -> Numbers:
    similarity = np.eye(len(runs))
    for i in range(len(runs)):
        for j in range(i):
            similarity[i, j] = similarity[j, i] = adjusted_mutual_info_score(runs[i], runs[j])
    return similarity


def stability_coverage(repeats: int, times: int = 400, seed: int = 3) -> float:
    """Share of intervals that hold the mean agreement of two runs, which 80 other runs tell."""
    random = np.random.default_rng(seed)
    truth = random.choice(10, 150, p=np.array([24, 18, 14, 11, 9, 8, 6, 5, 3, 2]) / 100)
    true = statistics.mean_pairwise(agreement_of([noisy_run(random, truth) for _ in range(80)])).value
    held = 0
    for _ in range(times):
        estimate = statistics.mean_pairwise(agreement_of([noisy_run(random, truth) for _ in range(repeats)]))
        held += estimate.low <= true <= estimate.high
    return held / times


def share_coverage(labelled: int, times: int = 600, seed: int = 4) -> dict[str, float]:
    """Coverage of the shares of twelve segments (25 to 1 %): all, and intervals with ten labelled products or more.

    10,000 products; the model is right in 88 %, and puts 8 % into one and 4 % into another fixed neighbour. `width`
    is the mean width for the six largest, `naive_width` the same without the model's answers.
    """
    random = np.random.default_rng(seed)
    sizes = np.array([25, 18, 14, 11, 8, 6, 5, 4, 3, 3, 2, 1]) / 100
    held, enough, widths, naive = [], [], [], []
    for _ in range(times):
        truth = random.choice(12, 10_000, p=sizes)
        luck = random.random(10_000)
        answer = np.where(luck < 0.88, truth, np.where(luck < 0.96, (truth + 1) % 12, (truth + 5) % 12))
        for segment in range(12):
            y, f = truth == segment, answer == segment
            estimate = statistics.share(y[:labelled], f[:labelled], f[labelled:])
            held.append(estimate.low <= sizes[segment] <= estimate.high)
            enough.append(y[:labelled].sum() >= 10)
            if segment < 6:
                widths.append(estimate.high - estimate.low)
                classical = statistics.wilson(y[:labelled].sum(), labelled)
                naive.append(classical.high - classical.low)
    return {
        "all": float(np.mean(held)),
        "ten_or_more": float(np.mean(np.array(held)[np.array(enough)])),
        "width": float(np.mean(widths)),
        "naive_width": float(np.mean(naive)),
    }


def tied_with_the_best(scores: Numbers) -> set[int]:
    """The settings (rows of scores, a column a seed) that a sweep calls tied with the best, that one included."""
    settings, repeats = scores.shape
    best, p_values = int(scores.mean(axis=1).argmax()), {}
    for other in set(range(settings)) - {best}:
        gaps = scores[best] - scores[other]
        left_out = [float(np.delete(gaps, i).mean()) for i in range(repeats)]
        p_values[other] = statistics.jackknife_test(float(gaps.mean()), left_out)
    corrected = statistics.holm(list(p_values.values()))
    return {best} | {other for other, p in zip(p_values, corrected, strict=True) if p > 0.05}


def best_in_the_set(
    settings: int, repeats: int, gap: float, times: int = 2000, seed: int = 6, halving: bool = False
) -> dict[str, float]:
    """How often the settings that are tied with the best hold the true best, and how many they are on average.

    Each setting is worse than the one before it by `gap`; the baseline is the worst. A seed brings luck that all
    settings share, N(0, 0.03), and luck of each, whose spread differs from setting to setting: 0.01 to 0.04. With
    `halving`, those that are outdone after two repeats end there; `saved` is the share of runs that are not made.
    """
    random, held, size, saved = np.random.default_rng(seed), 0, 0, 0.0
    for _ in range(times):
        spread = 0.02 * random.uniform(0.5, 2, settings)[:, None]
        own = random.normal(0, 1, (settings, repeats)) * spread
        scores = -gap * np.arange(settings)[:, None] + random.normal(0, 0.03, repeats) + own
        ended = statistics.outdone(scores[:, :FIRST_ROUND], HALVING_LEVEL) if halving else {}
        left = [number for number in range(settings) if number == settings - 1 or number not in ended]
        tied = {left[row] for row in tied_with_the_best(scores[left])}
        held += 0 in tied
        size += len(tied)
        saved += (settings - len(left)) * (repeats - FIRST_ROUND) / (settings * repeats)
    return {"held": held / times, "size": size / times, "saved": saved / times}


def optimism_left(settings: int, spread: float, times: int = 1000, seed: int = 7) -> dict[str, float]:
    """How much the best of some settings looks better than it is: `naive`, and `corrected` by the optimism.

    Five seeds and 200 labelled products in two halves; true values differ by N(0, `spread`). A half of the labels
    brings luck of N(0, 0.048) to each setting (the errors of 100 products, clustered), a seed N(0, 0.03), and each
    seed and half another N(0, 0.03).
    """
    random, naive, corrected = np.random.default_rng(seed), [], []
    for _ in range(times):
        truth = random.normal(0, spread, (settings, 1, 1))
        luck = random.normal(0, 0.048, (settings, 1, 2)) + random.normal(0, 0.03, (settings, 5, 1))
        cells = truth + luck + random.normal(0, 0.03, (settings, 5, 2))
        means = cells.mean(axis=(1, 2))
        best = int(means.argmax())
        naive.append(means[best] - truth[best, 0, 0])
        corrected.append(naive[-1] - statistics.selection_optimism(cells, best))
    return {"naive": float(np.mean(naive)), "corrected": float(np.mean(corrected))}


def audit_alarms(batches: int, extra: float = 0.0, times: int = 4000, seed: int = 5, uneven: bool = False) -> float:
    """Share of runs that the audit flags for position or size of batch: errors of 20 %, ICC 0.04, of 40 products.

    `extra` errors are added in slots 30 to 39; of `uneven` batches every fifth has only 25 products.
    """
    random, scale = np.random.default_rng(seed), 1 / 0.04 - 1
    sizes = np.where((np.arange(batches) % 5 == 4) & uneven, 25, BATCH)
    groups = np.repeat(np.arange(batches), sizes)
    slots = np.concatenate([np.arange(size) for size in sizes])
    found = 0
    for number in range(times):
        rates = random.beta(0.2 * scale, 0.8 * scale, batches)[groups] + extra * (slots >= 30)
        outcomes = (random.random(len(slots)) < rates).astype(float)
        position, size = placement_tests(outcomes, slots, groups, times=400, seed=number)
        found += position.p_value <= 0.05 or (size is not None and size.p_value <= 0.05)
    return found / times
