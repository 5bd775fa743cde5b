"""Simulations of what the statistics promise, seeded: the tests and the benchmark have the same figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import adjusted_mutual_info_score

from segkit.evaluation import statistics
from segkit.evaluation.audit import placement_tests

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
