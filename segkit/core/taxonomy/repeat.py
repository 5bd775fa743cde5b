"""The edits of a taxonomy, repeated on categories that were found anew: as far as these are the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.core.taxonomy.conflicts import former_names
from segkit.core.taxonomy.edits import Edit
from segkit.core.text import fold_name

_HELD = ("rename", "redefine", "lock")  # what these say holds of a category as long as there is one


@dataclass(frozen=True, slots=True)
class RepeatedEdits:
    """Edits for categories that were found anew, and in sentences those that no category was found for."""

    edits: tuple[Edit, ...]
    unplaced: tuple[str, ...]


def repeated_edits(
    found: pd.DataFrame, register: pd.DataFrame, history: pd.DataFrame, same: Mapping[str, int]
) -> RepeatedEdits:
    """Return the edits of an earlier taxonomy as edits of one that was found anew.

    `found` is the new taxonomy; `register` the edited one, with its retired categories, and `history` its edits.
    `same` holds for names of new categories the number of the edited one that each is (`keys.numbers_kept`).
    A new category with a name that an edit took away is taken for what had that name: it is renamed, merged, split or
    deleted as that was. Categories that a person added are added again.
    """
    return _Pairs(found, register, history, same).edits()


class _Pairs:
    """The pairs of new and edited categories, and what follows from each."""

    def __init__(
        self, found: pd.DataFrame, register: pd.DataFrame, history: pd.DataFrame, same: Mapping[str, int]
    ) -> None:
        self._rows: dict[str, dict[Any, Any]] = {row["key"]: row for row in register.to_dict("records")}
        self._history = history
        former, by_number = former_names(register, history), {row["id"]: row["key"] for row in self._rows.values()}
        named = found[(found["state"] == "active") & (found["category_name"] != OUT_OF_SCOPE)]
        self._names: dict[str, str] = dict(zip(named["key"], named["category_name"], strict=True))
        self._old = {
            key: by_number[same[name]] if name in same else former.get(fold_name(name), "")
            for key, name in self._names.items()
        }
        self._new = {old: key for key, old in self._old.items() if old and self._rows[old]["state"] == "active"}

    def edits(self) -> RepeatedEdits:
        edits = [edit for key, old in self._old.items() if old for edit in self._edits_of(key, self._rows[old])]
        return RepeatedEdits((*edits, *self._added()), tuple(self._unplaced(edits)))

    def _edits_of(self, key: str, old: Mapping[str, Any]) -> Iterator[Edit]:
        """Return the edits of a new category that is the same as an edited one, living or retired."""
        action, note = str(old["retired_by"]), f"as {old['key']} ({old['category_name']}) was"
        if action == "delete":
            yield Edit("delete", key, note=note)
        elif action == "merge_into" and self._new.get(self._end(old["key"]), key) != key:
            yield Edit("merge_into", key, into=(self._new[self._end(old["key"])],), note=note)
        elif action == "split":
            parts = [self._rows[part] for part in old["into"].split()]
            if not any(part["key"] in self._new for part in parts):
                # In a sheet, a semicolon separates the parts.
                texts = tuple(f"{part['category_name']}: {part['definition'].replace(';', ',')}" for part in parts)
                yield Edit("split", key, into=texts, note=note)
        elif not action:
            yield from self._held(key, old)

    def _end(self, key: str) -> str:
        """Return the key of the category that a category was merged into, by now."""
        while self._rows[key]["retired_by"] == "merge_into":
            key = str(self._rows[key]["into"])
        return key

    def _held(self, key: str, old: Mapping[str, Any]) -> Iterator[Edit]:
        actions, note = self._actions(old["key"]), f"as {old['key']} was"
        if "rename" in actions and old["category_name"] != self._names[key]:
            yield Edit("rename", key, str(old["category_name"]), note=note)
        if "redefine" in actions:
            yield Edit("redefine", key, "", *_texts(old), note=note)
        if old["is_locked"]:
            yield Edit("lock", key, note=note)

    def _added(self) -> Iterator[Edit]:
        for key in self._history.loc[self._history["action"] == "add", "key"]:
            row = self._rows.get(key)
            if row and row["state"] == "active" and key not in self._new:
                yield Edit("add", "", str(row["category_name"]), *_texts(row), note=f"as {key} was")

    def _actions(self, key: str) -> set[str]:
        return set(self._history.loc[self._history["key"] == key, "action"])

    def _unplaced(self, edits: list[Edit]) -> Iterator[str]:
        """Name the edits whose category was not found again, or not with what they need."""
        for key, row in self._rows.items():
            actions = [action for action in _HELD if action in self._actions(key)]
            if row["state"] == "active" and key not in self._new and actions and "add" not in self._actions(key):
                yield f"{key} ({row['category_name']}) has {', '.join(actions)}, and no category is like it"
        placed = {edit.key for edit in edits}
        for key, old in self._old.items():
            if old and self._rows[old]["retired_by"] and key not in placed:
                row = self._rows[old]
                what = " ".join([row["retired_by"], *row["into"].split()])
                yield f"{key} ({self._names[key]}) is like {old} ({row['category_name']}), which has {what}"


def _texts(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(row["definition"]), str(row["includes"]), str(row["excludes"])
