"""People's edits of a taxonomy, as data: checked together, and applied to a taxonomy without asking a model.

A list of edits has no order: it says how the taxonomy is to be. So a list that is applied twice changes nothing the
second time, and two categories may exchange their names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.core.taxonomy.keys import completed, key_of, next_number, taxonomy_frame
from segkit.core.text import clean_definition, clean_name, fold_name, name_fault, quantity, shortened
from segkit.errors import TaxonomyError

ACTIONS = ("rename", "redefine", "merge_into", "split", "delete", "lock", "unlock", "add", "accept")
#: The actions after which the products of a category are asked about again.
ASKING = ("redefine", "split", "delete")
_RETIRING = ("merge_into", "split", "delete")
_MOST_SHOWN = 8
_FLAGS: dict[str, dict[str, Any]] = {
    "lock": {"is_locked": True},
    "unlock": {"is_locked": False},
    "accept": {"state": "active"},
}


@dataclass(frozen=True, slots=True)
class Edit:
    """One change of a category: what `action` needs of the other fields, and a note for people.

    `into` holds a key for `merge_into`; for `split` the names of two parts or more, each with a definition after a
    colon if there is one, or nothing: then its products are extracted on their own, and the parts are proposed. A
    text that is None stays as it is. `where` is the place that an error names, such as `row 7`.
    """

    action: str
    key: str = ""
    name: str = ""
    definition: str | None = None
    includes: str | None = None
    excludes: str | None = None
    into: tuple[str, ...] = ()
    note: str = ""
    where: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Edited:
    """A taxonomy after its edits.

    `changes` are the edits that changed something, with the key that an added category got. `goes_into` holds for the
    key of each merged category the key of the category that its products are in now, `asked` for the keys whose
    products are asked about again the action that is the reason.
    """

    taxonomy: pd.DataFrame
    changes: tuple[Edit, ...]
    goes_into: Mapping[str, str]
    asked: Mapping[str, str]


def edited(taxonomy: pd.DataFrame, edits: Sequence[Edit]) -> Edited:
    """Apply a list of edits to a taxonomy of `core.taxonomy.keys`.

    Raises TaxonomyError with every edit that cannot be applied: an unknown or locked key, a merge that leads in a
    circle or into a category that goes, two edits that exclude each other, a name that two categories would have.
    """
    rows: dict[str, dict[str, Any]] = {row["key"]: row for row in _records(completed(taxonomy))}
    effective = _effective(edits, rows)
    faults = [*_faults(effective, rows), *_exclusive(edits, effective)]
    if not faults:
        faults = _merge_faults(effective, rows)
    if faults:
        raise _refused(faults)
    changes, goes_into = _applied(effective, rows)
    if faults := _double_names(rows.values(), changes):
        raise _refused(faults)
    asked = {edit.key: edit.action for edit in changes if edit.action in ASKING}
    asked |= {key: asked[end] for key, end in goes_into.items() if end in asked}
    return Edited(taxonomy_frame(list(rows.values())), tuple(changes), goes_into, asked)


def _records(taxonomy: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in taxonomy.to_dict("records")]


def _effective(edits: Sequence[Edit], rows: Mapping[str, Mapping[str, Any]]) -> list[Edit]:
    """Return the edits that change something; one that adds a category is judged by what the others leave of it."""
    others = [edit for edit in edits if edit.action != "add" and _changes(edit, rows)]
    gone = {edit.key for edit in others if edit.action in (*_RETIRING, "rename", "redefine")}
    left = {key: row for key, row in rows.items() if key not in gone}
    return [edit for edit in dict.fromkeys(edits) if _changes(edit, left if edit.action == "add" else rows)]


def _changes(edit: Edit, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """Return whether an edit changes anything; one that cannot be applied counts as a change, to be refused."""
    row = rows.get(edit.key)
    if edit.action == "add":
        same = [
            each for each in _living(rows.values()) if fold_name(str(each["category_name"])) == fold_name(edit.name)
        ]
        is_there = same and same[0]["state"] == "active" and _texts(edit, same[0]) == _texts(Edit("add"), same[0])
        return not is_there
    if row is None:
        return True
    if row["state"] == "retired" and edit.action in _RETIRING:
        to_another = edit.action == "merge_into" and edit.into and _now(edit.into[0], rows) != _now(edit.key, rows)
        return row["retired_by"] != edit.action or bool(to_another)
    changed = {
        "rename": clean_name(edit.name) != row["category_name"],
        "redefine": _texts(edit, row) != _texts(Edit("redefine"), row),
        "lock": not row["is_locked"],
        "unlock": bool(row["is_locked"]),
        "accept": row["state"] != "active",
    }
    return bool(changed.get(edit.action, True))


def _now(key: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the key of the category that a category was merged into, by now."""
    while key in rows and rows[key]["retired_by"] == "merge_into":
        key = str(rows[key]["into"])
    return key


def _texts(edit: Edit, row: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return definition, includes and excludes after an edit of a row."""
    stated = {"definition": edit.definition, "includes": edit.includes, "excludes": edit.excludes}
    found = [str(row[name]) if value is None else clean_definition(value) for name, value in stated.items()]
    return found[0] or str(row["definition"]), found[1], found[2]


def _living(rows: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    return (row for row in rows if row["state"] != "retired")


def _faults(edits: Sequence[Edit], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with each edit; one that a locked category gets in the list that unlocks it is right."""
    unlocked = {
        edit.key: {**rows[edit.key], "is_locked": False}
        for edit in edits
        if edit.action == "unlock" and edit.key in rows
    }
    return [_at(edit, fault) for edit in edits if (fault := _fault(edit, {**rows, **unlocked}))]


def _fault(edit: Edit, rows: Mapping[str, Mapping[str, Any]]) -> str:
    row = rows.get(edit.key)
    if edit.action not in ACTIONS:
        return f"{edit.action!r} is no action; they are {', '.join(ACTIONS)}"
    if edit.action in ("add", "rename") and (fault := name_fault(edit.name)):
        return f"{edit.key or 'a new category'}: {fault}"
    if edit.action == "add":
        return _proposed_fault(edit, rows)
    if row is None:
        return f"there is no category {edit.key or 'without a key'}; the keys are {shortened(rows, _MOST_SHOWN)}"
    if row["category_name"] == OUT_OF_SCOPE:
        return f"{edit.key} holds the products that are out of scope, and cannot be edited"
    if row["state"] == "retired":
        return f"{edit.key} ({row['category_name']}) is retired, and its key is never used again"
    if row["is_locked"] and edit.action not in ("lock", "unlock", "accept"):
        return f"{edit.key} ({row['category_name']}) is locked; `unlock` it first"
    if edit.action == "accept" and row["state"] != "proposed":
        return f"{edit.key} ({row['category_name']}) is {row['state']}, not proposed"
    return _target_fault(edit, rows) if edit.action in ("merge_into", "split") else ""


def _proposed_fault(edit: Edit, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what is wrong with adding a category that is proposed already: its products would stay behind."""
    for key, row in rows.items():
        if row["state"] == "proposed" and fold_name(str(row["category_name"])) == fold_name(edit.name):
            return f"{key} ({row['category_name']}) is proposed; `accept` it instead of adding it"
    return ""


def _target_fault(edit: Edit, rows: Mapping[str, Mapping[str, Any]]) -> str:
    if edit.action == "split":
        names = [name for name, _ in parts_of(edit)]
        wrong = [fault for name in names if (fault := name_fault(name))]
        if len(names) == 1:
            wrong.append(
                "a split needs two parts or more in `into`, separated by semicolons, or none to have them proposed; "
                "it has 1"
            )
        return f"{edit.key}: {wrong[0]}" if wrong else ""
    if len(edit.into) != 1 or not edit.into[0]:
        return f"{edit.key} is to be merged, but column `into` does not say into which key"
    target = rows.get(edit.into[0])
    if target is None:
        known = shortened(rows, _MOST_SHOWN)
        return f"{edit.key} is to be merged into {edit.into[0]}, which does not exist; the keys are {known}"
    if target["category_name"] == OUT_OF_SCOPE or target["state"] != "active":
        return (
            f"{edit.key} is to be merged into {edit.into[0]} ({target['category_name']}), which is {target['state']}"
        )
    return ""


def _exclusive(edits: Sequence[Edit], effective: Sequence[Edit]) -> list[str]:
    """Return the keys with edits that exclude each other: two of the same kind, or one that retires and another.

    Of two that contradict each other, one may be what the taxonomy is already. They are refused all the same, or the
    list would change something each time it is applied.
    """
    faults = []
    for key in dict.fromkeys(edit.key for edit in edits if edit.key):
        of_key = [edit for edit in dict.fromkeys(edits) if edit.key == key]
        actions = Counter(edit.action for edit in of_key)
        changing = dict.fromkeys(edit.action for edit in effective if edit.key == key)
        retiring = [action for action in _RETIRING if action in changing]
        others = [action for action in changing if action != (retiring or [""])[0]]
        twice = [action for action, count in actions.items() if count > 1]
        if twice:
            faults.append(_at(of_key[-1], f"{key} has {twice[0]} more than once"))
        elif retiring and others:
            faults.append(_at(of_key[-1], f"{key} has {retiring[0]} and {others[0]}; it can have one of them"))
        elif {"lock", "unlock"} <= actions.keys():
            faults.append(_at(of_key[-1], f"{key} has lock and unlock; it can have one of them"))
    return faults


def _merge_faults(edits: Sequence[Edit], rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return merges that lead in a circle, or into a category that this very list retires."""
    targets = {edit.key: edit.into[0] for edit in edits if edit.action == "merge_into"}
    gone = {edit.key: edit.action for edit in edits if edit.action in ("split", "delete")}
    faults = []
    for edit in edits:
        if edit.action == "merge_into":
            path = [edit.key]
            while path[-1] in targets and targets[path[-1]] not in path:
                path.append(targets[path[-1]])
            if path[-1] in targets:
                circle = " → ".join([*path, targets[path[-1]]])
                faults.append(_at(edit, f"{edit.key} is merged in a circle: {circle}"))
            elif path[-1] in gone:
                faults.append(_at(edit, f"{edit.key} is to be merged into {path[-1]}, which has {gone[path[-1]]}"))
    return faults


def _applied(edits: Sequence[Edit], rows: dict[str, dict[str, Any]]) -> tuple[list[Edit], dict[str, str]]:
    """Apply edits without faults to rows, in place; return the changes, and where merged categories went."""
    targets = {edit.key: edit.into[0] for edit in edits if edit.action == "merge_into"}
    goes_into = {key: _end(key, targets) for key in targets}
    changes = []
    for edit in sorted(edits, key=lambda edit: (edit.action == "add", edit.action != "merge_into")):
        row = rows.get(edit.key, {})
        if edit.action == "add":
            edit = replace(edit, key=_add(rows, edit, clean_name(edit.name)))
        elif edit.action == "merge_into":
            target = rows[goes_into[edit.key]]
            placed = row["product_count"] if row["state"] == "active" else 0  # of a proposal nothing is placed yet
            target["product_count"] = int(str(target["product_count"])) + int(str(placed))
            row |= {"state": "retired", "retired_by": "merge_into", "into": goes_into[edit.key], "product_count": 0}
        elif edit.action == "split":
            parts = [
                _add(rows, Edit("add", definition=text or _part(name, row)), name) for name, text in parts_of(edit)
            ]
            row |= {"state": "retired", "retired_by": "split", "into": " ".join(parts), "product_count": 0}
        elif edit.action == "delete":
            row |= {"state": "retired", "retired_by": "delete", "product_count": 0}
        elif edit.action == "redefine":
            row |= dict(zip(("definition", "includes", "excludes"), _texts(edit, row), strict=True)) | {
                "product_count": 0
            }
        elif edit.action == "rename":
            row |= {"category_name": clean_name(edit.name)}
        else:
            row |= _FLAGS[edit.action]
        changes.append(edit)
    return changes, goes_into


def _end(key: str, targets: Mapping[str, str]) -> str:
    while key in targets:
        key = targets[key]
    return key


def _add(rows: dict[str, dict[str, Any]], edit: Edit, name: str) -> str:
    """Add a category under a key that none has had, and return the key."""
    number = next_number(taxonomy_frame(list(rows.values())))
    texts = {each: clean_definition(getattr(edit, each) or "") for each in ("definition", "includes", "excludes")}
    texts["definition"] = texts["definition"] or name
    row = {"key": key_of(number), "id": number, "category_name": name, **texts}
    rows[key_of(number)] = _records(taxonomy_frame([row]))[0]
    return key_of(number)


def parts_of(edit: Edit) -> list[tuple[str, str]]:
    """Return name and definition of the parts that a split names."""
    pairs = [part.partition(":") for part in edit.into]
    return [(clean_name(name), definition.strip()) for name, _, definition in pairs]


def _part(name: str, row: Mapping[str, Any]) -> str:
    return clean_definition(f"{name}, a part of what was {row['category_name']}: {row['definition']}")


def _double_names(rows: Iterable[Mapping[str, Any]], changes: Sequence[Edit]) -> list[str]:
    named: dict[str, list[str]] = {}
    for row in _living(rows):
        named.setdefault(fold_name(str(row["category_name"])), []).append(f"{row['key']} ({row['category_name']})")
    places = {edit.key: edit.where for edit in changes if edit.where}
    faults = []
    for both in named.values():
        if len(both) > 1:
            at = [places[key] for key in (name.split()[0] for name in both) if key in places]
            faults.append(f"{at[0] + ': ' if at else ''}{' and '.join(both)} would have the same name")
    return faults


def _at(edit: Edit, fault: str) -> str:
    return f"{edit.where}: {fault}" if edit.where else fault


def _refused(faults: Sequence[str]) -> TaxonomyError:
    count = "an edit" if len(faults) == 1 else quantity(len(faults), "edit")
    return TaxonomyError(
        f"{count} cannot be applied: {shortened(faults, 20, '; ')}", "correct the list; nothing was asked", faults
    )


def moved_rows(rows: pd.DataFrame, before: pd.DataFrame, result: Edited) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Apply edits to the products placed so far; return the rows that stay, and those that are asked about again.

    `rows` is a lineage with `taxonomy_id` and `refined_taxonomy_id`. Rows of renamed and merged categories take the
    new name and id; all others stay as they are. The second frame has `product_id`, `key` and `action`.
    """
    keys = dict(zip(before["id"], before["key"], strict=True))
    after = result.taxonomy.set_index("key")
    final = rows["refined_taxonomy_id"].map(keys)
    is_asked = final.isin(list(result.asked))
    asked = pd.DataFrame({"product_id": rows["product_id"], "key": final, "action": final.map(dict(result.asked))})[
        is_asked
    ].reset_index(drop=True)
    kept = rows[~is_asked].reset_index(drop=True)
    renamed = {edit.key for edit in result.changes if edit.action == "rename"}
    for number, name in (("taxonomy_id", "category"), ("refined_taxonomy_id", "refined_category")):
        now = kept[number].map(keys)
        is_changed = now.isin([*result.goes_into, *renamed])
        if not is_changed.any():
            continue
        ends = now[is_changed].map(lambda key: result.goes_into.get(key, key))
        kept.loc[is_changed, number] = ends.map(after["id"])
        kept.loc[is_changed, name] = ends.map(after["category_name"])
    return kept, asked.astype({"product_id": "int64", "key": "str", "action": "str"})
