"""Whether new products still fall into the categories of a taxonomy as earlier ones did."""

from __future__ import annotations

import numpy as np
import pandas as pd

PERMUTATIONS = 1999
#: The alarm is a p-value below this; of the deliveries without drift it raises a false one for at most this share.
FALSE_ALARM_RATE = 0.05


def drift_p_value(
    earlier: pd.DataFrame, new: pd.DataFrame, seed: int = 0, permutations: int = PERMUTATIONS
) -> float | None:
    """Return the p-value of a permutation test that batches of two sets of products are of one kind.

    Both frames have a row a product with `batch` and `category`, NONE_FITS and OUT_OF_SCOPE included. Products are
    shuffled into batches, so that without drift every batch could be of either set: the batch is the unit, and
    products of one batch are not taken for independent. The statistic is the total variation between the mean shares
    of the categories. None where one set has no batch.

    Source: P. Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 3rd ed., 2005, chapter 3; the exact
    p-value counts the observed order (B. Phipson and G. K. Smyth, 2010).
    """
    if earlier.empty or new.empty:
        return None
    labelled = pd.concat([earlier.assign(new=False), new.assign(new=True)])
    shares = pd.crosstab([labelled["new"], labelled["batch"]], labelled["category"], normalize="index")
    is_new = shares.index.get_level_values("new").to_numpy(dtype=bool)
    table = shares.to_numpy()
    observed = _distance(table, is_new)
    order = np.random.default_rng(seed)
    beyond = sum(_distance(table, order.permutation(is_new)) >= observed - 1e-12 for _ in range(permutations))
    return float((1 + beyond) / (1 + permutations))


def _distance(shares: np.ndarray, is_new: np.ndarray) -> float:
    return float(np.abs(shares[is_new].mean(axis=0) - shares[~is_new].mean(axis=0)).sum() / 2)
