"""A taxonomy as a sheet in which a person edits it: sizes, shares and examples beside the columns for edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.core.taxonomy.edits import Edit
from segkit.core.taxonomy.keys import completed

EXAMPLES = 5
#: What a person fills in.
EDITED_COLUMNS = ("action", "into", "note")
#: How wide the columns are in Excel, in characters; their texts are wrapped.
WIDTHS = {"name": 28, "definition": 48, "includes": 28, "excludes": 28, "action": 13, "into": 16, "note": 28} | {
    f"example_{i + 1}": 36 for i in range(EXAMPLES)
}
_PROPOSED = r"would go into (C-[0-9]+),"
_GONE = {"merge_into": "merged into {}", "split": "split into {}", "delete": "deleted", "": "without products"}


def taxonomy_sheet(taxonomy: pd.DataFrame, assignments: pd.DataFrame, run_id: str, category: str) -> pd.DataFrame:
    """Return a row a category: the largest first, proposals after them, retired keys last.

    `assignments` is the table `run.assignments`. The columns are `key`, `name`, `definition`, `includes`, `excludes`,
    those of EDITED_COLUMNS, `state` (active, locked, proposed or retired), `products`, `share` of all products,
    `example_1` to `example_5` (titles, the surest first), `run` and `product_category`.
    """
    taxonomy = completed(taxonomy)
    titles = _titles(taxonomy, assignments)
    rows = [_row(row, titles, len(assignments)) for row in taxonomy.to_dict("records")]
    order = {"active": 0, "locked": 0, "proposed": 2, "retired": 3}
    rows.sort(
        key=lambda row: (order[row["state"]] + (row["name"] == OUT_OF_SCOPE), -row["products"], int(row["key"][2:]))
    )
    frame = pd.DataFrame(rows)
    return frame.assign(run=run_id, product_category=category)


def _titles(taxonomy: pd.DataFrame, assignments: pd.DataFrame) -> dict[str, list[str]]:
    """Return the titles of the products of each key, the surest first; of a proposal those that it would get."""
    living = taxonomy[taxonomy["state"] != "retired"]
    keys = dict(zip(living["category_name"], living["key"], strict=True))
    proposed = assignments["reason"].str.extract(_PROPOSED, expand=False)
    sure = assignments.assign(key=assignments["category"].map(keys).fillna(proposed))
    sure = sure.sort_values(["confidence", "product_id"], ascending=[False, True], na_position="last")
    titles = sure.assign(title=sure["title"].fillna("")).groupby("key")["title"]
    return {str(key): list(found) for key, found in titles}


def _row(row: dict[Any, Any], titles: dict[str, list[str]], count: int) -> dict[str, Any]:
    of_key = titles.get(row["key"], [])
    is_placed = row["state"] == "active"
    state = "locked" if row["is_locked"] and is_placed else ("active" if is_placed else row["state"])
    products = len(of_key) if state != "retired" else 0
    examples = {f"example_{i + 1}": of_key[i] if i < products else "" for i in range(EXAMPLES)}
    gone = _GONE.get(row["retired_by"], "").format(", ".join(row["into"].split())) if state == "retired" else ""
    gone = "split into parts that were proposed" if row["retired_by"] == "split" and not row["into"] else gone
    return {
        "key": row["key"], "name": row["category_name"], "definition": row["definition"],
        "includes": row["includes"], "excludes": row["excludes"], "action": "", "into": "", "note": gone,
        "state": state, "products": products, "share": round(products / count, 4) if count else 0.0, **examples,
    }  # fmt: skip


def edited_sheet(sheet: pd.DataFrame, edits: Sequence[Edit]) -> pd.DataFrame:
    """Return a sheet into which edits are filled, as a person would type them."""
    rows: dict[str, dict[Any, Any]] = {row["key"]: row for row in sheet.to_dict("records")}
    added = []
    for edit in edits:
        texts = {"definition": edit.definition, "includes": edit.includes, "excludes": edit.excludes}
        cells: dict[str, Any] = {name: text for name, text in texts.items() if text is not None}
        cells |= {"name": edit.name} if edit.name else {}
        if edit.action == "add":
            empty = {name: "" if sheet[name].dtype == "str" else 0 for name in sheet.columns}
            added.append({**empty, **cells, "action": "add", "note": edit.note})
            continue
        if edit.action not in ("rename", "redefine"):
            cells |= {"action": edit.action, "into": "; ".join(edit.into)}
        rows[edit.key] |= {**cells, "note": edit.note}
    heads = {name: sheet[name].iloc[0] for name in ("run", "product_category")} if len(sheet) else {}
    return pd.DataFrame([*rows.values(), *({**row, **heads} for row in added)], columns=sheet.columns)


def taxonomy_json(sheet: pd.DataFrame) -> dict[str, Any]:
    """Return a sheet as a JSON document, with the examples of each category as one list."""
    rows = []
    for row in sheet.drop(columns=["run", "product_category"]).to_dict("records"):
        examples = [row.pop(f"example_{i}") for i in range(1, EXAMPLES + 1)]
        rows.append({**row, "examples": [title for title in examples if title]})
    head = {name: str(sheet[name].iloc[0]) if len(sheet) else "" for name in ("run", "product_category")}
    return {**head, "categories": rows}
