"""The tables a run ends with: taxonomies, segments, refined segments, the ledger, and the lineage of each product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE, Category

#: What mends each kind of reason for which there is no answer.
_REMEDIES = {
    "truncated": "--max-output-tokens N, or fewer --products-per-prompt",
    "timeout": "SEGKIT_TIMEOUT_SECONDS, or fewer --products-per-prompt",
    "too_long": "a model with a longer context, or fewer --products-per-prompt",
    "invalid": "--response-format, or another model",
    "filtered": "the filter of the provider",
    "endpoint": "asked again by segkit resume",
}
_LONGEST_KIND = 20
OUT_OF_SCOPE_DEFINITION = "Products that are not of the product category at all."


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of categories that an earlier run had too, by name, and the first one that none has had."""

    kept: Mapping[str, int] = field(default_factory=dict)
    first: int = 1


def final_tables(
    products: pd.DataFrame, assignments: pd.DataFrame, taxonomy: Sequence[Category], numbers: Numbers | None = None
) -> dict[str, pd.DataFrame]:
    """Make the four result tables that other programs rely on.

    `assignments` has a row for every product: `product_id`, `category` and `refined_category` (names of the
    taxonomy, OUT_OF_SCOPE, or empty), `confidence`, `reason`, and `refined_confidence` if refinement stated any.
    Categories that no product stands in are dropped; one that refinement emptied stays with a count of 0, since the
    first pass still speaks of it. The others are numbered from 1, or as `numbers` says.
    """
    return _tables(products, assignments, _taxonomies(assignments, taxonomy, numbers or Numbers()))


def kept_tables(
    products: pd.DataFrame, assignments: pd.DataFrame, taxonomy: pd.DataFrame, earlier: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """Make the same tables under a taxonomy that keeps its numbers.

    `taxonomy` is a frame of `core.taxonomy.keys`; of it stand in the results what is active and what a product is in.
    The rows of the products in `earlier` are taken over with its `taxonomy_id` and `refined_taxonomy_id`.
    """
    # By number: a category may have the name of one that was retired, which the first pass still speaks of.
    is_used = taxonomy["id"].isin({*earlier["taxonomy_id"], *earlier["refined_taxonomy_id"]})
    is_active = taxonomy["state"] == "active"
    columns = ["id", "category_name", "definition", "product_count", "key"]
    new = assignments[~assignments["product_id"].isin(earlier["product_id"])]
    shown = taxonomy[is_used | is_active].assign(is_active=is_active).sort_values("is_active", kind="stable")
    tables = _tables(products, new, shown[columns])
    tables["taxonomies"] = taxonomy.loc[is_used | is_active, columns].reset_index(drop=True)
    columns = ["product_id", "taxonomy_id", "confidence"]
    refined = earlier[["product_id", "refined_taxonomy_id", "refined_confidence"]].set_axis(columns, axis=1)
    old = {"segments": earlier[columns], "refined_segments": refined}
    for name, rows in old.items():
        tables[name] = pd.concat([rows, tables[name]]).sort_values("product_id", ignore_index=True)
    return {**tables, "ledger": _ledger(products, assignments)}


def _tables(products: pd.DataFrame, assignments: pd.DataFrame, taxonomies: pd.DataFrame) -> dict[str, pd.DataFrame]:
    ids = dict(zip(taxonomies["category_name"], taxonomies["id"], strict=True))
    placed = assignments[assignments["category"] != ""]
    final = "refined_confidence" if "refined_confidence" in assignments.columns else "confidence"
    return {
        "taxonomies": taxonomies,
        "segments": _segments(placed, "category", "confidence", ids),
        "refined_segments": _segments(placed, "refined_category", final, ids),
        "ledger": _ledger(products, assignments),
    }


def _taxonomies(assignments: pd.DataFrame, taxonomy: Sequence[Category], numbers: Numbers) -> pd.DataFrame:
    """Number the categories and give each a key of its number, the largest first and OUT_OF_SCOPE last."""
    first, final = (assignments[name].value_counts() for name in ("category", "refined_category"))
    categories = [*taxonomy, Category("", OUT_OF_SCOPE, OUT_OF_SCOPE_DEFINITION)]
    rows = [
        (category.name, category.definition, int(final.get(category.name, 0)))
        for category in categories
        if category.name in first.index or category.name in final.index
    ]
    rows.sort(key=lambda row: (row[0] == OUT_OF_SCOPE, -row[2], row[0]))
    frame = pd.DataFrame(rows, columns=["category_name", "definition", "product_count"])
    unused = count(numbers.first)
    ids = [numbers.kept[name] if name in numbers.kept else next(unused) for name in frame["category_name"]]
    frame.insert(0, "id", ids)
    frame["key"] = [f"C-{number}" for number in frame["id"]]
    texts = dict.fromkeys(("category_name", "definition", "key"), "str")
    return frame.astype({"id": "int64", "product_count": "int64", **texts})


def assignments_table(
    products: pd.DataFrame,
    lineage: pd.DataFrame,
    ledger: pd.DataFrame,
    taxonomies: pd.DataFrame,
    refined_segments: pd.DataFrame,
) -> pd.DataFrame:
    """Return a row a product, in the order of `products`, with its category at the end and where it came from.

    The columns are `product_id`, `source_id` (if the products have one), `title`, `category` and `confidence` at the
    end, `first_category` and `first_confidence` before refinement, `state`, `reason`, and the `category_key` of the
    category at the end; and `probabilities` (as in the ledger) if a decision endpoint was asked. The confidence of a
    product that refinement moved is that of the move, missing if the run did not keep it; keys are missing in a run
    that is older than keys.
    """
    first = lineage["confidence"]
    final = lineage.get("refined_confidence", first.where(lineage["category"] == lineage["refined_category"]))
    columns = {"product_id": lineage["product_id"], "category": lineage["refined_category"], "confidence": final}
    columns |= {"first_category": lineage["category"], "first_confidence": first}
    keys = [name for name in ("product_id", "source_id", "title") if name in products.columns]
    table = products[keys].merge(pd.DataFrame(columns), on="product_id", how="left")
    table = table.merge(ledger, on="product_id", how="left", validate="1:1")
    has_keys = "key" in taxonomies.columns
    by_number = dict(zip(taxonomies["id"], taxonomies["key"], strict=True)) if has_keys else {}
    numbers = refined_segments.set_index("product_id")["taxonomy_id"]
    found = table["product_id"].map(numbers.map(by_number)).astype(object)
    table = table.assign(category_key=pd.Series(found, dtype="str"))
    return table[sorted(table.columns, key=lambda name: name == "probabilities")]  # last, as the newest column


def grouped_reasons(reasons: Iterable[str]) -> str:
    """Return why there is no answer, by kind: the most frequent first, each with what mends it.

    A reason begins with its kind (`truncated: …`); what follows differs from question to question.
    """
    kinds = Counter(_kind(reason) for reason in reasons)
    return ", ".join(f"{count:,} × {_with_remedy(kind)}" for kind, count in kinds.most_common())


def _kind(reason: str) -> str:
    kind, colon, _ = reason.partition(":")
    return kind if colon and len(kind) < _LONGEST_KIND else reason


def _with_remedy(kind: str) -> str:
    remedy = _REMEDIES.get(kind)
    return f"{kind} ({remedy})" if remedy else kind


def _segments(placed: pd.DataFrame, category: str, confidence: str, ids: dict[str, int]) -> pd.DataFrame:
    frame = placed[["product_id", confidence]].rename(columns={confidence: "confidence"})
    frame.insert(1, "taxonomy_id", placed[category].map(ids).astype("int64"))
    return frame.sort_values("product_id", ignore_index=True)


def _ledger(products: pd.DataFrame, assignments: pd.DataFrame) -> pd.DataFrame:
    ledger = products[["product_id"]].merge(
        assignments[["product_id", "refined_category", "reason"]], on="product_id", how="left", validate="1:1"
    )
    category = ledger.pop("refined_category").fillna("")
    ledger["reason"] = ledger["reason"].fillna("never asked").where(category == "", "")
    state = category.map({"": "unassigned", OUT_OF_SCOPE: "out_of_scope"}).fillna("assigned")
    ledger.insert(1, "state", state.astype("str"))
    return ledger.astype({"reason": "str"}).sort_values("product_id", ignore_index=True)
