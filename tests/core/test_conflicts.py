"""What a model proposes against the edits of a taxonomy: each is named with the edit that speaks against it."""

from __future__ import annotations

import pandas as pd
import pytest

from segkit.core.taxonomy.conflicts import HISTORY, names_now, proposal_conflicts
from segkit.core.taxonomy.edits import Edit, edited
from segkit.core.taxonomy.keys import taxonomy_frame

BASE = taxonomy_frame(
    [
        {"key": f"C-{i}", "id": i, "category_name": name, "definition": f"All {name}"}
        for i, name in enumerate(("Kettles", "Toasters", "Whisks", "Ladles"), start=1)
    ]
)
EDITS = [
    Edit("rename", "C-1", "Tea Kettles"),
    Edit("delete", "C-2"),
    Edit("merge_into", "C-3", into=("C-4",)),
]
AFTER = edited(BASE, EDITS).taxonomy
RENAMED = ("RUN_1", "rename", "C-1", "Kettles", "Tea Kettles", "as customers say")
DELETED = ("RUN_1", "delete", "C-2", "Toasters", "", "")
MERGED = ("RUN_2", "merge_into", "C-3", "Whisks", "C-4 (Ladles)", "")
EDITS_SO_FAR = pd.DataFrame([RENAMED, DELETED, MERGED], columns=HISTORY)


def proposing(name: str, definition: str = "New", taxonomy: pd.DataFrame = AFTER) -> pd.DataFrame:
    row = {"key": "C-9", "id": 9, "category_name": name, "definition": definition, "state": "proposed"}
    return pd.concat([taxonomy, taxonomy_frame([row])], ignore_index=True)


@pytest.mark.parametrize(
    ("name", "definition", "conflict", "run"),
    [
        ("kettles", "New", "C-9 (kettles) is proposed, but C-1 had that name until it became Tea Kettles", "RUN_1"),
        ("Toasters", "New", "C-9 (Toasters) is proposed, but C-2 (Toasters) was deleted", "RUN_1"),
        ("WHISKS", "New", "C-9 (WHISKS) is proposed, but C-3 (Whisks) was merged into C-4 (Ladles)", "RUN_2"),
        ("Bread", "all toasters", "C-9 (Bread) is proposed, but C-2 (Toasters) was deleted", "RUN_1"),
    ],
)
def test_a_proposal_that_an_edit_speaks_against_is_a_conflict(
    name: str, definition: str, conflict: str, run: str
) -> None:
    (row,) = proposal_conflicts(proposing(name, definition), EDITS_SO_FAR).to_dict("records")
    assert (row["key"], row["conflict"], row["run"]) == ("C-9", conflict, run)
    assert row["note"] == ("as customers say" if name == "kettles" else "")


def test_what_no_edit_speaks_about_is_no_conflict() -> None:
    assert proposal_conflicts(proposing("Blenders"), EDITS_SO_FAR).empty
    assert proposal_conflicts(proposing("Toasters", taxonomy=BASE), EDITS_SO_FAR.head(0)).empty


def test_a_split_says_its_parts() -> None:
    for into, words in (((), "was split"), (("Small", "Big"), "was split into C-5 (Small), C-6 (Big)")):
        split = edited(BASE, [Edit("split", "C-1", into=into)]).taxonomy
        history = pd.DataFrame([("RUN_3", "split", "C-1", "Kettles", "", "")], columns=HISTORY)
        (row,) = proposal_conflicts(proposing("Kettles", taxonomy=split), history).to_dict("records")
        assert row["conflict"] == f"C-9 (Kettles) is proposed, but C-1 (Kettles) {words}"


def test_a_proposal_that_was_renamed_is_known_by_its_old_name() -> None:
    named = ("RUN_2", "rename", "C-9", "Blenders", "Smoothie Makers", "")
    history = pd.DataFrame([named], columns=HISTORY)
    assert names_now(proposing("Smoothie Makers"), history) == {"blenders": "Smoothie Makers"}
    assert names_now(AFTER, EDITS_SO_FAR) == {}, "an active category is a choice by the name it has"
