"""Where a model proposes what a person has decided otherwise: shown to a person, and never resolved here.

The edits of a taxonomy hold from run to run, since its categories keep their keys. A model knows nothing of them, and
may propose a category again that was renamed, merged away, split or deleted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from segkit.core.text import fold_name, shortened

#: The edits of a taxonomy and of those before it, oldest first; `category_name` is the name before the edit.
HISTORY = ["run", "action", "key", "category_name", "now", "note"]
CONFLICTS = ["key", "category_name", "action", "edited_key", "run", "note", "conflict"]


def conflicts_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Make the result `conflicts` of rows."""
    return pd.DataFrame(rows, columns=CONFLICTS).astype("str")


def former_names(taxonomy: pd.DataFrame, history: pd.DataFrame) -> dict[str, str]:
    """Return for each name, folded, that an edit has taken away the key that it belonged to.

    A name that an active category has by now is none of them.
    """
    renamed = history[history["action"] == "rename"]
    gone = taxonomy[taxonomy["retired_by"] != ""]
    names = [*zip(renamed["category_name"], renamed["key"], strict=True)]
    names += [*zip(gone["category_name"], gone["key"], strict=True)]
    active = set(taxonomy.loc[taxonomy["state"] == "active", "category_name"].map(fold_name))
    return {fold_name(name): str(key) for name, key in names if fold_name(name) not in active}


def names_now(taxonomy: pd.DataFrame, history: pd.DataFrame) -> dict[str, str]:
    """Return for each former name, folded, of a category that is still proposed the name that it has now."""
    proposed: dict[str, str] = dict(
        taxonomy.loc[taxonomy["state"] == "proposed", ["key", "category_name"]].itertuples(index=False)
    )
    return {name: proposed[key] for name, key in former_names(taxonomy, history).items() if key in proposed}


def proposal_conflicts(taxonomy: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each proposed category that has the name or the definition of one that an edit took away.

    The columns are `key` and `category_name` of the proposal, `action` and `edited_key` of the edit, the `run` that
    was given it and its `note`, and the `conflict` in a sentence.
    """
    former = former_names(taxonomy, history)
    gone = taxonomy[taxonomy["retired_by"] != ""]
    defined = dict(zip(gone["definition"].map(fold_name), gone["key"], strict=True))
    found = []
    for row in taxonomy[taxonomy["state"] == "proposed"].to_dict("records"):
        name, text = str(row["category_name"]), str(row["definition"])
        edited = former.get(fold_name(name)) or defined.get(fold_name(text), "")
        if edited not in ("", row["key"]):
            proposed = f"{row['key']} ({name}) is proposed"
            found.append(conflict_row(str(row["key"]), name, edited, proposed, taxonomy, history))
    return conflicts_frame(found)


def conflict_row(
    key: str, name: str, edited: str, proposed: str, taxonomy: pd.DataFrame, history: pd.DataFrame
) -> dict[str, str]:
    """Word a conflict: what is proposed, and which edit of the category with the key `edited` speaks against it."""
    names = dict(zip(taxonomy["key"], taxonomy["category_name"], strict=True))
    row = taxonomy[taxonomy["key"] == edited].iloc[0]
    action, targets = str(row["retired_by"]) or "rename", [f"{each} ({names[each]})" for each in row["into"].split()]
    edit = history[(history["key"] == edited) & (history["action"] == action)].tail(1)
    run, note = (str(edit[column].iloc[0]) if len(edit) else "" for column in ("run", "note"))
    split = f"was split into {shortened(targets)}" if targets else "was split"
    what = {
        "rename": f"{edited} had that name until it became {names[edited]}",
        "delete": f"{edited} ({names[edited]}) was deleted",
        "merge_into": f"{edited} ({names[edited]}) was merged into {shortened(targets)}",
        "split": f"{edited} ({names[edited]}) {split}",
    }[action]
    return dict(zip(CONFLICTS, (key, name, action, edited, run, note, f"{proposed}, but {what}"), strict=True))
