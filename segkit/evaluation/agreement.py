"""How far runs agree: the same products, two or more ways to put them into categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import scipy  # its parts take half a second to import: they are loaded where they are first used

from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import RunError
from segkit.evaluation.statistics import Numbers
from segkit.runs.run import Run, open_run, run_ids

#: Parameters in which repeats of a run may differ.
OF_REPEATS = ("seed", "repeat")
LARGEST_FOR_CO_ASSOCIATION = 10_000  # products: the matrix takes the square of them in bytes, eight times


def placements(run: Run) -> pd.Series:
    """Return the final category of each product, by product id; empty for a product without one."""
    lineage = run.result("lineage")
    return lineage.set_index("product_id")["refined_category"].sort_index().astype("str")


def batches_of(run: Run) -> pd.Series:
    """Return the batch that each product was extracted in, by product id."""
    return run.result("lineage").set_index("product_id")["batch"].sort_index()


def on_common_products(runs: Sequence[pd.Series]) -> pd.DataFrame:
    """Put the placements of runs side by side, a column a run, for the products that all of them have."""
    frame = pd.concat(runs, axis=1, join="inner", keys=range(len(runs)))
    if frame.empty:
        raise RunError("these runs have no product in common", "compare runs of the same products: segkit runs")
    return frame


def ami(first: pd.Series, second: pd.Series) -> float:
    """Return the adjusted mutual information of two placements: 1 is the same grouping, 0 is chance.

    Adjusted, since chance agreement grows with the number of categories. Source: Vinh, Epps and Bailey, "Information
    theoretic measures for clusterings comparison", JMLR 11 (2010).
    """
    frame = on_common_products([first, second])
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(frame[0], frame[1]))


def agreement_matrix(runs: Sequence[pd.Series]) -> Numbers:
    """Return the AMI of every pair of runs, as a symmetric matrix."""
    matrix = np.eye(len(runs))
    for i in range(len(runs)):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = ami(runs[i], runs[j])
    return matrix


def match_categories(first: pd.Series, second: pd.Series) -> dict[str, str]:
    """Match the categories of two placements one to one, so that as many products as possible are shared.

    Products out of scope, and those without a category, are matched with their like. Source: Kuhn, "The Hungarian
    method for the assignment problem" (1955).
    """
    frame = on_common_products([first, second])
    counts = pd.crosstab(frame[0], frame[1]).drop(
        index=["", OUT_OF_SCOPE], columns=["", OUT_OF_SCOPE], errors="ignore"
    )
    rows, columns = scipy.optimize.linear_sum_assignment(-counts.to_numpy())
    matched = {
        str(counts.index[i]): str(counts.columns[j]) for i, j in zip(rows, columns, strict=True) if counts.iat[i, j]
    }
    return {**matched, "": "", OUT_OF_SCOPE: OUT_OF_SCOPE}


def moved_products(first: pd.Series, second: pd.Series) -> pd.Series:
    """Mark the products that stand in another category than the match of their first one, by product id."""
    frame, matched = on_common_products([first, second]), match_categories(first, second)
    expected = frame[0].map(lambda name: matched.get(name, "\0"))
    return expected != frame[1]


def matched_table(first: pd.Series, second: pd.Series) -> pd.DataFrame:
    """List the categories and their matches: `first`, `second`, their `products`, those `shared`, and `jaccard`.

    A category without a match stands alone in its row. The largest stand first.
    """
    frame, matched = on_common_products([first, second]), match_categories(first, second)
    sizes = [frame[i].value_counts() for i in (0, 1)]
    pairs = [(one, matched.get(one, "")) for one in sizes[0].index if one]
    pairs += [("", two) for two in sizes[1].index if two and two not in matched.values()]
    rows = []
    for one, two in pairs:
        shared = int(((frame[0] == one) & (frame[1] == two)).sum()) if one and two else 0
        before, after = int(sizes[0].get(one, 0)) if one else 0, int(sizes[1].get(two, 0)) if two else 0
        rows.append((one, two, before, after, shared, shared / max(1, before + after - shared)))
    columns = ["first", "second", "products_first", "products_second", "shared", "jaccard"]
    table = pd.DataFrame(rows, columns=columns)
    table["_size"] = table[["products_first", "products_second"]].max(axis=1)
    return table.sort_values("_size", ascending=False, kind="stable", ignore_index=True).drop(columns="_size")


def containment(first: pd.Series, second: pd.Series) -> pd.DataFrame:
    """Return the share of each first category that stands in each second one: a row a first category, rows sum to 1.

    A split shows as one row over several columns, a merge as one column over several rows.
    """
    frame = on_common_products([first, second])
    counts = pd.crosstab(frame[0].rename("first"), frame[1].rename("second"))
    rows = counts.sum(axis=1).sort_values(ascending=False, kind="stable").index
    columns = counts.sum(axis=0).sort_values(ascending=False, kind="stable").index
    return counts.div(counts.sum(axis=1), axis=0).loc[rows, columns]


def best_matches(runs: Sequence[pd.Series], medoid: int) -> pd.DataFrame:
    """List how well each category of one run is found again in the others: `category`, `products`, `jaccard`.

    `jaccard` is that of the best match, averaged over the other runs. Source: Hennig, "Cluster-wise assessment of
    cluster stability", Computational Statistics and Data Analysis 52 (2007).
    """
    frame = on_common_products(runs)
    found = {}
    for other in (i for i in range(len(runs)) if i != medoid):
        counts = pd.crosstab(frame[medoid], frame[other])
        union = counts.sum(axis=1).to_numpy()[:, None] + counts.sum(axis=0).to_numpy()[None, :] - counts.to_numpy()
        found[other] = pd.Series((counts.to_numpy() / union).max(axis=1), index=counts.index)
    sizes = frame[medoid].value_counts()
    means = pd.DataFrame(found).mean(axis=1) if found else pd.Series(1.0, index=sizes.index)
    table = pd.DataFrame(
        {"category": sizes.index, "products": sizes.to_numpy(), "jaccard": means[sizes.index].to_numpy()}
    )
    return table[table["category"] != ""].reset_index(drop=True)


def medoid_of(matrix: Numbers) -> int:
    """Return the number of the run that agrees best with all others."""
    return int(np.argmax(matrix.sum(axis=1)))


def vote_shares(runs: Sequence[pd.Series], medoid: int) -> pd.DataFrame:
    """Return each product's majority over runs, in the categories of one of them: `category` and `agreement`."""
    frame = on_common_products(runs)
    votes = frame.copy()
    for other in range(len(runs)):
        names = {two: one for one, two in match_categories(frame[medoid], frame[other]).items()}
        votes[other] = frame[other].map(lambda name, names=names: names.get(name, "\0" + name))
    # On a tie the run in the middle decides: its own column stands first.
    votes = votes[[medoid, *(i for i in range(len(runs)) if i != medoid)]]
    category = votes.apply(lambda row: _majority(row.tolist()), axis=1)
    agreement = votes.eq(category, axis=0).mean(axis=1)
    return pd.DataFrame({"category": category, "agreement": agreement})


def _majority(names: list[str]) -> str:
    named = [name for name in names if not name.startswith("\0")]
    return max(named, key=named.count)


def co_association(frame: pd.DataFrame) -> Numbers:
    """Return for each pair of products in how many of the runs they stand together, as a share.

    `frame` has a row a product and a column a run. Source: Fred and Jain, "Combining multiple clusterings using
    evidence accumulation", IEEE PAMI 27 (2005).
    """
    codes = [pd.factorize(frame[column])[0] for column in frame.columns]
    together = np.zeros((len(frame), len(frame)), dtype=np.float32)
    for code in codes:
        together += np.equal.outer(code, code)
    return np.asarray(together / len(codes), dtype=np.float64)


def consensus_groups(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """Group products by how often they stand together; return their group and its margin over the next best.

    Average linkage, cut at the median number of categories. The margin is the mean co-association with the own group
    minus that with the best other one, cut to 0 to 1.
    """
    together = co_association(frame)
    distance = 1 - together
    np.fill_diagonal(distance, 0)
    count = round(float(np.median(frame.nunique())))
    groups = np.zeros(1, dtype=int)
    if len(frame) > 1:
        tree = scipy.cluster.hierarchy.linkage(scipy.spatial.distance.squareform(distance, checks=False), "average")
        groups = scipy.cluster.hierarchy.fcluster(tree, count, "maxclust") - 1
    members = np.eye(groups.max() + 1)[groups]
    # A product does not stand together with itself.
    sums = together @ members - members
    means = sums / np.maximum(1, members.sum(axis=0) - members)
    own = means[np.arange(len(frame)), groups]
    means[np.arange(len(frame)), groups] = -1
    best_other = means.max(axis=1) if means.shape[1] > 1 else np.zeros(len(frame))
    alone = members.sum(axis=0)[groups] == 1
    margin = np.clip(np.where(alone, 1.0, own) - np.maximum(best_other, 0), 0, 1)
    return pd.Series(groups, index=frame.index), pd.Series(margin, index=frame.index)


def repeats_of(run: Run) -> list[Run]:
    """Find the finished runs of the same products with the same parameters and prompts, whatever their seeds.

    The run itself is not among them; the oldest stands first.
    """
    folder = run.folder.parent
    others = (open_run(run_id, folder) for run_id in run_ids(folder) if run_id != run.id)
    return [other for other in others if is_repeat(run, other) and other.has_result("ledger")]


def is_repeat(run: Run, other: Run) -> bool:
    """Return whether two runs differ in nothing but what repeats differ in."""
    return _settings(run) == _settings(other)


def _settings(run: Run) -> tuple[object, ...]:
    parameters = {name: value for name, value in asdict(run.parameters).items() if name not in OF_REPEATS}
    return run.document["input"]["sha256"], run.document["prompts"], parameters
