"""What is odd about a run: position in the prompt, size of batch, names, definitions, out of scope, cut titles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segkit.evaluation.statistics import Numbers, permute_within

WINDOW = 10  # slots


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
