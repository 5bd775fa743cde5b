"""The path of a product through a run: its batch, each merge of its category, refinement, and the log of each."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from segkit.analysis.logs import query
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.ids import given_ids, numbers_of
from segkit.core.models import BY_CLASSIFIER, OUT_OF_SCOPE
from segkit.core.text import fold_name
from segkit.errors import ProductsError
from segkit.runs.run import Run

_COLUMNS = ["step", "category", "where", "confidence", "cache_key", "file_path"]
_FILES = """
SELECT
    interaction_type, batch_id, cache_key, outcome = 'valid' AS valid, file_path,
    coalesce(list_contains(product_ids, {product}), false) AS asked
FROM logged
ORDER BY outcome = 'valid', created_at, file_path
"""
_Row = tuple[str, str, str, float | None, str, str]


def product_path(run: Run, product_id: int | str) -> pd.DataFrame:
    """Return the path of one product, a row a step: stated by a batch, merged round by round, refined.

    The columns are `step`, the category `before` and after it (`category`), `where` it happened, `confidence`, and
    the `cache_key` and `file_path` of the interaction that stated it (empty if none did). A product may also be
    `assigned` to a taxonomy that was given or found in a sample, `classified` by the classifier of a cascade,
    `taken over` from the run that this one began with, or `agreed` on by the runs of a consensus. The first row names
    the product that was asked about, where this one has `the same line as` it.
    Raises ProductsError for a product that the run lacks.
    """
    lineage = run.result("lineage")
    try:
        (number,) = numbers_of(run.products, [product_id])
    except ProductsError:
        what = f"product {product_id} is not in {run.id}"
        raise ProductsError(what, f"segkit export {run.id} --out products.csv lists its products") from None
    found = lineage[lineage["product_id"] == number]
    asked = asked_product(run, int(number))
    files = query(_FILES.format(product=asked), run=run)
    steps = [*_shared(run, int(number), asked), *_path(run, found.iloc[0], files)]
    path = pd.DataFrame(steps, columns=_COLUMNS)
    path.insert(1, "before", ["", *path["category"].iloc[:-1]])
    return path


def asked_product(run: Run, number: int) -> int:
    """Return the product that prompts and answers name: `number` itself, or the one whose line it shares."""
    return shared_entries(product_entries(run.new_products, run.parameters)).get(number, number)


def _shared(run: Run, number: int, asked: int) -> Iterator[_Row]:
    """Return a row that names the product which was asked about, if `number` only has the same line."""
    if asked != number:
        position = run.products["product_id"].tolist().index(asked)
        yield "the same line as", "", f"product {given_ids(run.products).iloc[position]}", *_NONE


def merge_steps(run: Run) -> pd.DataFrame:
    """Return every category of every batch through the merges, a row for each round it went through.

    The columns are `batch`, `batch_category`, `round`, `merge`, `taxonomies` (how many were merged there) and `into`.
    """
    current = run.result("batch_categories")[["batch", "name"]].rename(columns={"name": "batch_category"})
    current["folded"] = current["batch_category"].map(fold_name)
    current = current.drop_duplicates(["batch", "folded"], ignore_index=True)
    current["taxonomy"] = current["batch"].rank(method="dense").astype("int64") - 1
    merges = run.result("merges").assign(folded=lambda frame: frame["name"].map(fold_name))
    steps = []
    for _, merged in merges.groupby("round", sort=True):
        sizes = merged.groupby("merge")["taxonomy"].nunique()
        step = current.merge(merged, on=["taxonomy", "folded"], validate="m:1")
        steps.append(step.assign(taxonomies=step["merge"].map(sizes)))
        current = step[["batch", "batch_category"]].assign(
            folded=step["into"].map(fold_name), taxonomy=step["merge"] - 1
        )
    columns = ["batch", "batch_category", "round", "merge", "taxonomies", "into"]
    return pd.concat(steps, ignore_index=True)[columns] if steps else pd.DataFrame(columns=columns)


def merge_paths(run: Run) -> pd.DataFrame:
    """Return for every category of every batch where it ended: `batch`, `batch_category`, `category`, `products`."""
    stated = run.result("batch_categories")[["batch", "name"]].rename(columns={"name": "batch_category"})
    stated["folded"] = stated["batch_category"].map(fold_name)
    stated = stated.drop_duplicates(["batch", "folded"], ignore_index=True)
    ends = merge_steps(run).drop_duplicates(["batch", "batch_category"], keep="last")
    ends = ends.rename(columns={"into": "category"})[["batch", "batch_category", "category"]]
    paths = stated.merge(ends, on=["batch", "batch_category"], how="left")
    paths["category"] = paths["category"].fillna(paths["batch_category"])
    assignments = run.result("batch_assignments").assign(folded=lambda frame: frame["category"].map(fold_name))
    counts = assignments.groupby(["batch", "folded"]).size().rename("products").reset_index()
    paths = paths.merge(counts, on=["batch", "folded"], how="left")
    return paths.drop(columns="folded").fillna({"products": 0}).astype({"products": "int64"})


def _path(run: Run, product: pd.Series, files: pd.DataFrame) -> Iterator[_Row]:
    """Return the steps of one product; `product` is its row of the lineage."""
    batch = f"batch {product['batch']}" + (f", part {product['part']}" if product["part"] else "")
    if not product["category"]:
        yield "unassigned", "", product["reason"] if not product["batch"] else f"{batch}: {product['reason']}", *_NONE
        return
    confidence, key = _confidence(product, "confidence"), product["cache_key"]
    if product["part"] == BY_CLASSIFIER:
        yield "classified", product["category"], "classifier", confidence, "", ""
        return
    file = _file(files[files["cache_key"] == key])
    if run.parameters.consensus:
        yield "agreed", product["category"], f"{run.parameters.consensus} runs", confidence, key, file
        return
    if run.parameters.taxonomy:
        is_new = product["product_id"] in set(run.new_products["product_id"])
        step, where = ("assigned", batch) if is_new else ("taken over", run.parameters.taxonomy)
        yield step, product["category"], where, confidence, key, file
        return
    if run.parameters.extract_sample:
        yield "assigned", product["category"], batch, confidence, key, file
        return
    yield "stated", product["batch_category"], batch, confidence, key, file
    if product["batch_category"] != OUT_OF_SCOPE:
        yield from _merges(run, product, files)
    if product["refined_by"]:
        file = _file(files[files["cache_key"] == product["refined_by"]])
        confidence = _confidence(product, "refined_confidence")
        yield "moved by refinement", product["refined_category"], "", confidence, product["refined_by"], file
    else:
        yield "kept by refinement", product["refined_category"], "", None, *_keeping(files)


def _keeping(files: pd.DataFrame) -> tuple[str, str]:
    """Return the cache key and the file of the answer that left a product where it was.

    Of its questions in this stage the first counts: the products that are asked twice stand in later batches.
    """
    asked = files[(files["interaction_type"] == "refine_assignments") & files["asked"] & files["valid"].astype(bool)]
    first = asked[asked["batch_id"] == asked["batch_id"].min()]
    return (str(first["cache_key"].iloc[-1]), _file(first)) if len(first) else ("", "")


_NONE: tuple[None, str, str] = (None, "", "")


def _confidence(product: pd.Series, column: str) -> float | None:
    """Return a confidence, or None if it is not known; lineages of earlier versions lack that of a move."""
    value = product.get(column)
    return None if pd.isna(value) else float(value)


def _merges(run: Run, product: pd.Series, files: pd.DataFrame) -> Iterator[_Row]:
    steps = merge_steps(run)
    numbers = _question_numbers(steps)
    own = steps[steps["batch"] == product["batch"]]
    own = own[own["batch_category"].map(fold_name) == fold_name(product["batch_category"])]
    for number, merge, into in zip(own["round"], own["merge"], own["into"], strict=True):
        question = numbers.get((number, merge), 0)
        asked = files[(files["interaction_type"] == "consolidate_taxonomy") & (files["batch_id"] == question)]
        valid = asked[asked["valid"].astype(bool)]
        step = "merged" if len(valid) else "merged by name" if question else "passed on"
        key = valid["cache_key"].iloc[-1] if len(valid) else ""
        yield step, into, f"round {number}, merge {merge}", None, key, _file(valid)


def _question_numbers(steps: pd.DataFrame) -> dict[tuple[int, int], int]:
    """Number the merges that a model was asked about, as their logs do; one taxonomy alone needs no question."""
    asked = steps[steps["taxonomies"] > 1][["round", "merge"]].drop_duplicates().sort_values(["round", "merge"])
    pairs = zip(asked["round"], asked["merge"], strict=True)
    return {(int(number), int(merge)): i for i, (number, merge) in enumerate(pairs, start=1)}


def _file(found: pd.DataFrame) -> str:
    return str(found["file_path"].iloc[-1]) if len(found) else ""
