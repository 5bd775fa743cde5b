"""How much of a catalogue belongs to kinds that a sample has not met, and when the sample is large enough."""

from __future__ import annotations

import math

import pandas as pd
import scipy  # its parts take long to import: they are loaded where they are first used

from segkit.core.batching import reading_ends
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import quantity

#: The bound holds for this share of all samples.
CONFIDENCE = 0.95
# Each look at a growing sample is made with more confidence, since the first one that pleases is the last.
_EACH_LOOK = 0.98
_COLUMNS = ["round", "batches", "products", "categories", "met_once", "met_twice", "unseen", "bound"]


def unseen_share(met_once: int, read: int, total: int) -> float:
    """Estimate the share of `total` products that belong to kinds which none of `read` random ones belongs to.

    `met_once` counts the kinds that exactly one product read belongs to. Source: I. J. Good, The population
    frequencies of species and the estimation of population parameters, Biometrika 40, 1953; what was read itself
    belongs to kinds met, so only the rest counts.
    """
    return met_once / read * (1 - read / total) if read else 1.0


def unseen_bound(met_once: int, met_twice: int, read: int, total: int) -> float:
    """Return the upper 95 % bound of that share; `met_twice` counts the kinds that two products belong to.

    The variance is that of W. W. Esty, A normal limit law for a nonparametric estimator of the coverage of a random
    sample, Annals of Statistics 11, 1983 (f1 + 2 f2), for a sample without replacement. Normal limits are too narrow
    where few kinds are met once: without any they would promise that nothing is unseen. So the limit of f1 is the
    exact one of a Poisson count (F. Garwood, 1936), and both parts are put together as by G. Y. Zou and A. Donner
    (Statistics in Medicine 27, 2008). In simulations the bound at which reading stops held in 97 to 100 % of draws.
    """
    if read >= total:
        return 0.0
    if not read:
        return 1.0
    left, z = 1 - read / total, float(scipy.special.ndtri(_EACH_LOOK))
    above = float(scipy.special.gammaincinv(met_once + 1, _EACH_LOOK)) - met_once
    spread = math.sqrt(above**2 / left + 2 * z**2 * (met_twice + 1))
    return min(1.0, left / read * (met_once + spread))


def least_batches(total: int, batches: int, most: float) -> int:
    """Return how many of the even batches of `total` products are read at least: all, where few products are left."""
    looks = reading_ends(batches)
    enough = (end for end in looks if unseen_bound(0, 0, total * end // batches, total) <= most)
    return next(enough, batches)


def reading(number: int, batches: int, categories: pd.Series, total: int) -> dict[str, float]:
    """Describe a sample: `categories` holds the merged category of each product read, or nothing if it has none.

    Returns the columns of `readings_frame`. Where all products were read, nothing is unseen.
    """
    is_all = len(categories) >= total
    known = categories[categories != ""]
    sizes = known.value_counts()
    once, twice = int((sizes == 1).sum()), int((sizes == 2).sum())
    unseen = 0.0 if is_all else unseen_share(once, len(known), total)
    bound = 0.0 if is_all else unseen_bound(once, twice, len(known), total)
    named = int((sizes.index != OUT_OF_SCOPE).sum())
    values = (number, batches, len(categories), named, once, twice, unseen, bound)
    return dict(zip(_COLUMNS, values, strict=True))


def readings_frame(readings: list[dict[str, float]]) -> pd.DataFrame:
    """Return a row a round of reading: how much was read in all, the kinds met, and what may be unseen."""
    kinds = {name: "float64" if name in ("unseen", "bound") else "int64" for name in _COLUMNS}
    return pd.DataFrame(readings, columns=_COLUMNS).astype(kinds)


def sentence(readings: pd.DataFrame, total: int) -> str:
    """Say what was read of `total` products, and how many at most belong to a kind that was not met."""
    if readings.empty:
        return "no product was read"
    last = readings.iloc[-1]
    batches = quantity(int(last["batches"]), "batch")
    if last["products"] >= total:
        return f"read all {quantity(total, 'product')} ({batches})"
    most = f"{math.ceil(last['bound'] * 1000 - 1e-9) / 10:.1f} %"
    return (
        f"read {int(last['products']):,} of {quantity(total, 'product')} ({batches}): "
        f"at most {most} belong to a kind not met ({100 * CONFIDENCE:.0f} %)"
    )
