"""A taxonomy that lives through runs: its categories keep their keys, also when others come and go.

A taxonomy is a frame with a row a category:

    key            `C-1`, `C-2`, …: given once, and never to another category
    id             its number in the results of a run
    category_name, definition, includes, excludes
    state          `active`; `proposed` until a person accepts it; `retired` when no product is put into it any more
    product_count  the products in it
    retired_by     the edit that retired it (`merge_into`, `split`, `delete`); empty if none did
    into           the keys of the categories that took its place, separated by spaces
    is_locked      whether edits of it are refused

Retired categories stay in it: they are the register of keys that are never used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE, Category
from segkit.core.results import OUT_OF_SCOPE_DEFINITION, Numbers
from segkit.core.text import fold_name, one_line

COLUMNS = {
    "key": "str",
    "id": "int64",
    "category_name": "str",
    "definition": "str",
    "includes": "str",
    "excludes": "str",
    "state": "str",
    "product_count": "int64",
    "retired_by": "str",
    "into": "str",
    "is_locked": "bool",
}
_EMPTY = {"str": "", "int64": 0, "bool": False}


def taxonomy_frame(rows: Sequence[Mapping[str, object]]) -> pd.DataFrame:
    """Make a taxonomy of rows; texts that are missing are empty, and counts zero."""
    empty = {name: _EMPTY[kind] for name, kind in COLUMNS.items()} | {"state": "active"}
    return pd.DataFrame([{**empty, **row} for row in rows], columns=list(COLUMNS)).astype(COLUMNS)


def of_results(taxonomies: pd.DataFrame) -> pd.DataFrame:
    """Make a taxonomy of the result `taxonomies` of a run, which gives its categories their first keys.

    One that refinement has emptied is retired: the first pass still speaks of it, but nothing is put into it.
    """
    return taxonomy_frame(
        [
            {
                **{str(name): value for name, value in row.items()},
                "key": row.get("key") or key_of(row["id"]),
                "state": "active" if row["product_count"] or row["category_name"] == OUT_OF_SCOPE else "retired",
            }
            for row in taxonomies.to_dict("records")
        ]
    )


def numbers_kept(taxonomy: pd.DataFrame, before: pd.DataFrame, after: pd.DataFrame) -> Numbers:
    """Return the numbers of the categories that were found anew and that an earlier taxonomy has too.

    `before` and `after` hold the category of products at the end (`product_id`, `refined_category`). A category is
    the same one where it has the same name; or where, of the products that both runs have placed, more than half of
    either category are in the other, so that only its name is new. Retired ones do not come back.
    """
    living = taxonomy[taxonomy["state"] != "retired"]
    numbers = {name: number_of_key(key) for name, key in zip(living["category_name"], living["key"], strict=True)}
    by_fold = {fold_name(name): number for name, number in numbers.items()}
    found = {*after["category"], *after["refined_category"]} - {""}
    kept = {name: by_fold[fold_name(name)] for name in found if fold_name(name) in by_fold}
    both = before.merge(after, on="product_id", suffixes=("", "_after"))
    ends = zip(both["refined_category"].astype("str"), both["refined_category_after"].astype("str"), strict=True)
    moves = Counter((old, new) for old, new in ends if old and new)
    left, right = Counter[str](), Counter[str]()
    for (old, new), count in moves.items():
        left[old] += count
        right[new] += count
    for (old, new), count in moves.items():
        is_most = 2 * count > max(left[old], right[new])
        if is_most and new not in kept and old in numbers and numbers[old] not in kept.values():
            kept[new] = numbers[old]
    return Numbers(kept, next_number(taxonomy))


def succeeded(taxonomy: pd.DataFrame, taxonomies: pd.DataFrame) -> pd.DataFrame:
    """Return the taxonomy of the result `taxonomies` of a run; categories of an earlier one that it lacks retire."""
    now = of_results(taxonomies)
    gone = completed(taxonomy[~taxonomy["key"].isin(now["key"])]).assign(state="retired", product_count=0)
    return pd.concat([now, gone], ignore_index=True)


def completed(taxonomy: pd.DataFrame) -> pd.DataFrame:
    """Return a taxonomy with the columns that it lacks because an earlier release of segkit wrote it."""
    return taxonomy_frame([{str(name): value for name, value in row.items()} for row in taxonomy.to_dict("records")])


def key_of(number: int) -> str:
    """Return the key of the category that was the n-th to be made."""
    return f"C-{number}"


def number_of_key(key: str) -> int:
    """Return the number in a key."""
    return int(key.removeprefix("C-"))


def next_number(taxonomy: pd.DataFrame) -> int:
    """Return the number that no category has had, neither as its id nor in its key."""
    numbers = [int(key[2:]) for key in taxonomy["key"] if key.startswith("C-") and key[2:].isdigit()]
    return max([0, *numbers, *map(int, taxonomy["id"])]) + 1


def open_splits(taxonomy: pd.DataFrame) -> set[str]:
    """Return the keys of categories that were split without naming the parts, which a model then proposes."""
    return set(taxonomy.loc[(taxonomy["retired_by"] == "split") & (taxonomy["into"] == ""), "key"])


def choices(taxonomy: pd.DataFrame) -> list[Category]:
    """Return the categories that products can be put into, as a prompt shows them: `S_0`, `S_1`, … by key."""
    active = taxonomy[(taxonomy["state"] == "active") & (taxonomy["category_name"] != OUT_OF_SCOPE)]
    rows = active.sort_values("id")[["category_name", "definition", "includes", "excludes"]]
    return [
        Category(f"S_{i}", name, _shown(definition, includes, excludes))
        for i, (name, definition, includes, excludes) in enumerate(rows.itertuples(index=False, name=None))
    ]


def _shown(definition: str, includes: str, excludes: str) -> str:
    also = [f"Includes: {includes}"] if includes else []
    return one_line("; ".join([definition, *also, *([f"Excludes: {excludes}"] if excludes else [])]), 2000)


def with_proposals(
    taxonomy: pd.DataFrame, found: Sequence[Category], sizes: Mapping[str, int], smallest: int
) -> pd.DataFrame:
    """Add the categories found among products that fit nowhere, as proposals, each with a key of its own.

    `sizes` counts the products of each by name; one with fewer than `smallest` is no proposal. Nor is one of the
    name of an active category: that a model first finds a product to fit nowhere and then names it like a category is
    a contradiction, and a person has to see it. An earlier proposal that is found again keeps its key; the others
    are retired.
    """
    folded = taxonomy["category_name"].map(fold_name)
    active = set(folded[taxonomy["state"] == "active"])
    wanted = {
        fold_name(category.name): category
        for category in sorted(found, key=lambda category: (-sizes.get(category.name, 0), category.name))
        if sizes.get(category.name, 0) >= smallest and fold_name(category.name) not in active
    }
    grown = taxonomy.copy()
    for row in grown.index[grown["state"] == "proposed"]:
        again = wanted.pop(folded[row], None)
        grown.loc[row, "state"] = "proposed" if again else "retired"
        grown.loc[row, "product_count"] = sizes[again.name] if again else 0
    first = next_number(grown)
    rows = [
        {
            "key": key_of(number),
            "id": number,
            "category_name": category.name,
            "definition": category.definition,
            "state": "proposed",
            "product_count": sizes[category.name],
        }
        for number, category in enumerate(wanted.values(), start=first)
    ]
    return pd.concat([grown, taxonomy_frame(rows)], ignore_index=True) if rows else grown


def counted(taxonomy: pd.DataFrame, final: pd.Series) -> pd.DataFrame:
    """Return the taxonomy with the products of each category counted; proposals keep what they would get.

    `final` holds the name of the category of each product, or nothing. For products out of scope there has to be a
    category too.
    """
    counts = final.value_counts()
    if OUT_OF_SCOPE in counts.index and OUT_OF_SCOPE not in set(taxonomy["category_name"]):
        number = next_number(taxonomy)
        row = {
            "key": key_of(number),
            "id": number,
            "category_name": OUT_OF_SCOPE,
            "definition": OUT_OF_SCOPE_DEFINITION,
        }
        taxonomy = pd.concat([taxonomy, taxonomy_frame([row])], ignore_index=True)
    is_proposed = taxonomy["state"] == "proposed"
    products = taxonomy["category_name"].map(counts).fillna(0).astype("int64")
    products = products.mask(taxonomy["state"] == "retired", 0)  # its name may be that of another one by now
    return taxonomy.assign(product_count=taxonomy["product_count"].where(is_proposed, products))
