"""Putting products into a given taxonomy: the questions, what counts as an answer, keys that last, and drift."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from catalogues import catalogue
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.extract import assignment_frame, join_assignments
from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, Answer, Category, CheckedAnswer, Parameters
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.core.taxonomy.assign import assign_questions, assigned
from segkit.core.taxonomy.drift import drift_p_value
from segkit.core.taxonomy.keys import choices, counted, of_results, taxonomy_frame, with_proposals
from segkit.core.validation import check_assign

PRODUCTS, CATEGORIES = ["P_0", "P_1", "P_2"], ["S_0", "S_1"]
TAXONOMY = [Category("S_0", "Kettles", "For tea"), Category("S_1", "Whisks", "For cream")]
PARAMETERS = Parameters("Kitchen Things", "offline", 0.2, "offline@2", taxonomy="RUN", products_per_assignment=7)


def answer(**categories: str) -> str:
    return json.dumps({"assignments": {i: {"category": c, "confidence": 0.9} for i, c in categories.items()}})


def checked(content: str, before: CheckedAnswer | None = None) -> CheckedAnswer:
    missing = before.missing if before else PRODUCTS
    return check_assign(content, missing, CATEGORIES, "key", before, frozenset(PRODUCTS))


def test_a_category_none_fits_and_out_of_scope_are_answers() -> None:
    found = checked(answer(P_0="S_1", P_1=NONE_FITS, P_2=OUT_OF_SCOPE))
    assert found.valid
    assert {i: placed.category for i, placed in found.value.items()} == dict(
        zip(PRODUCTS, ["S_1", NONE_FITS, OUT_OF_SCOPE], strict=True)
    )
    assert found.sources == dict.fromkeys(PRODUCTS, "key")


def test_silence_is_missing_and_only_what_is_missing_is_asked_again() -> None:
    first = checked(answer(P_0="S_0"))
    assert not first.valid
    assert first.missing == ("P_1", "P_2")
    second = checked(answer(P_1="S_0", P_2="S_1"), first)
    assert second.valid
    assert second.value["P_0"].category == "S_0"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("no JSON", "format"),
        ('{"reassignments": []}', "validation"),
        (answer(P_0="S_2", P_1="S_0", P_2="S_0"), "validation"),
        (answer(P_0="s_0", P_1="S_0", P_2="S_0"), "validation"),
        (answer(P_0="S_0", P_1="S_0", P_2="S_0", P_7="S_0"), "completeness"),
        (answer(), "completeness"),
    ],
)
def test_an_answer_that_is_not_valid_says_why(content: str, kind: str) -> None:
    assert kind in {fault.kind for fault in checked(content).faults}


def test_assignments_with_and_without_probabilities_are_one_table() -> None:
    """As a cascade has them: the classifier states a score alone."""
    row = {"batch": 1, "part": "", "category": "Kettles", "confidence": 0.9}
    stated = assignment_frame([{"product_id": 2, **row, "probabilities": '{"Kettles":0.9}'}])
    joined = join_assignments(stated, assignment_frame([{"product_id": 1, **row}]))
    assert joined["probabilities"].tolist() == ["", '{"Kettles":0.9}']
    assert joined.dtypes["probabilities"] == stated.dtypes["probabilities"]
    assert "probabilities" not in join_assignments(assignment_frame([{"product_id": 1, **row}]))


def test_a_product_with_two_categories_has_none() -> None:
    twice = '{"assignments": {"P_0": {"category": "S_0"}, "P_0": {"category": "S_1"}, "P_1": {"category": "S_0"}}}'
    assert checked(twice).missing == ("P_0", "P_2")


@given(st.dictionaries(st.sampled_from([*PRODUCTS, "P_9", "S_0"]), st.sampled_from([*CATEGORIES, NONE_FITS, "S_9"])))
def test_what_counts_was_asked_for_and_allowed(stated: dict[str, str]) -> None:
    found = checked(answer(**stated))
    assert {i: placed.category for i, placed in found.value.items()} == {
        i: c for i, c in stated.items() if i in PRODUCTS and c != "S_9"
    }
    assert set(found.missing) | found.value.keys() == set(PRODUCTS)
    assert not set(found.missing) & found.value.keys()


def questions(products: pd.DataFrame) -> list[Any]:
    return list(assign_questions(products, TAXONOMY, load_prompts(keys=ASSIGNING), PARAMETERS))


def test_every_titled_product_is_asked_about_once() -> None:
    products = catalogue(20)
    products.loc[3, "title"] = " "
    asked = questions(products)
    ids = [product for question in asked for product in question.context["product_ids"]]
    assert sorted(ids) == sorted(set(products["product_id"]) - {103})
    assert [len(question.context["product_ids"]) for question in asked] == [7, 6, 6]


def test_the_taxonomy_stands_before_the_products_and_the_schema_allows_no_other_id() -> None:
    question = questions(catalogue(3))[0]
    text = question.prompt.text
    assert "[S_0] Kettles: For tea\n[S_1] Whisks: For cream" in text
    assert text.index("[S_1]") < text.index("[P_0]")
    schema = question.prompt.schema
    assert schema["properties"]["assignments"]["required"] == PRODUCTS
    allowed = schema["$defs"]["assignment"]["properties"]["category"]["enum"]
    assert allowed == ["S_0", "S_1", NONE_FITS, OUT_OF_SCOPE]


def test_what_is_missing_is_cut_down_to_single_products() -> None:
    question = questions(catalogue(7))[0]
    first = question.check(answer(P_0="S_0", P_1="S_0", P_2="S_0"), "key", None)
    parts = question.cut(first, "invalid")
    assert [part.context["product_ids"] for part in parts] == [
        question.context["product_ids"][3:5],
        question.context["product_ids"][5:],
    ]
    assert all(len(single.context["product_ids"]) == 1 for part in parts for single in part.cut(None, "invalid"))
    assert questions(catalogue(1))[0].cut(None, "invalid") == []


def test_each_product_ends_in_one_row() -> None:
    products = catalogue(9)
    products.loc[8, "title"] = ""
    first, second = questions(products)
    full = first.check(answer(P_0="S_0", P_1=NONE_FITS, P_2=OUT_OF_SCOPE, P_3="S_1"), "a", None)
    rows = assigned([Answer(first, full), Answer(second, None, "endpoint: it is down")], products, TAXONOMY)
    assert rows["product_id"].tolist() == products["product_id"].tolist()
    assert sorted(rows["category"]) == sorted(["Kettles", "Whisks", NONE_FITS, OUT_OF_SCOPE, *[""] * 5])
    assert set(rows.loc[rows["category"] == "", "reason"]) == {"endpoint: it is down", "no title"}


def proposals(taxonomy: pd.DataFrame, smallest: int = 5, **sizes: int) -> pd.DataFrame:
    found = [Category("", name, f"All {name}") for name in sizes]
    return with_proposals(taxonomy, found, sizes, smallest)


def base() -> pd.DataFrame:
    names = ["Kettles", "Whisks", "Left", OUT_OF_SCOPE]
    return of_results(
        pd.DataFrame({"id": [1, 2, 3, 4], "category_name": names, "definition": names, "product_count": [9, 8, 0, 2]})
    )


def states(taxonomy: pd.DataFrame) -> dict[str, tuple[str, str]]:
    return {row.key: (row.category_name, row.state) for row in taxonomy.itertuples()}


def test_what_refinement_emptied_is_no_choice() -> None:
    assert [category.name for category in choices(base())] == ["Kettles", "Whisks"]


def test_a_definition_says_what_is_included_and_excluded() -> None:
    row = {"key": "C-1", "id": 1, "category_name": "Kettles", "definition": "For tea"}
    (category,) = choices(taxonomy_frame([{**row, "includes": "gooseneck", "excludes": "urns"}]))
    assert category.definition == "For tea; Includes: gooseneck; Excludes: urns"


def test_a_kind_with_enough_products_is_proposed_under_a_new_key() -> None:
    grown = proposals(base(), Blenders=5, Rare=4, KETTLES=50)
    assert states(grown)["C-5"] == ("Blenders", "proposed")
    assert len(grown) == 5, "too few, and the name of an active category, are no proposals"
    assert [category.name for category in choices(grown)] == ["Kettles", "Whisks"], "until a person accepts it"


def test_a_proposal_found_again_keeps_its_key_and_others_retire_theirs() -> None:
    first = proposals(base(), Blenders=6, Toasters=5)
    again = proposals(first, Toasters=7, Ladles=5)
    assert states(again)["C-5"] == ("Blenders", "retired")
    assert states(again)["C-6"] == ("Toasters", "proposed")
    assert states(again)["C-7"] == ("Ladles", "proposed")
    assert again.set_index("key").loc["C-6", "product_count"] == 7


@pytest.mark.long
@given(st.lists(st.dictionaries(st.sampled_from("ABCDEFGH"), st.integers(1, 9), max_size=4), max_size=12))
def test_a_key_is_never_given_to_another_category(months: list[dict[str, int]]) -> None:
    taxonomy, names = base(), dict(zip(base()["key"], base()["category_name"], strict=True))
    for sizes in months:
        taxonomy = proposals(taxonomy, **sizes)
        assert taxonomy["key"].is_unique
        assert taxonomy["id"].is_unique
        for key, name in zip(taxonomy["key"], taxonomy["category_name"], strict=True):
            assert names.setdefault(key, name) == name
        assert set(names) == set(taxonomy["key"])


def test_products_out_of_scope_have_a_category_when_there_are_some() -> None:
    taxonomy = base().iloc[:2]
    assert len(counted(taxonomy, pd.Series(["Kettles"]))) == 2
    grown = counted(taxonomy, pd.Series(["Kettles", OUT_OF_SCOPE, OUT_OF_SCOPE]))
    assert grown["product_count"].tolist() == [1, 0, 2]
    assert grown["key"].tolist() == ["C-1", "C-2", "C-3"]


def batches(
    categories: Sequence[str], shares: Sequence[float], count: int, seed: int, start: int = 1, size: int = 30
) -> pd.DataFrame:
    drawn = np.random.default_rng(seed).choice(categories, size=(count, size), p=shares)
    rows = [(start + number, category) for number, batch in enumerate(drawn) for category in batch]
    return pd.DataFrame(rows, columns=["batch", "category"])


def test_products_that_fall_elsewhere_are_a_drift() -> None:
    earlier = batches(["a", "b"], [0.5, 0.5], 20, 1)
    new = batches(["a", "b", NONE_FITS], [0.4, 0.4, 0.2], 10, 2)
    assert drift_p_value(earlier, new) == pytest.approx(1 / 2000)
    assert drift_p_value(earlier, new.head(0)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [((25, 40), (1, 10)), ((25, 40), (2, 20)), pytest.param((25, 40), (3, 97), marks=pytest.mark.long),
     pytest.param((100, 40), (12, 25), marks=pytest.mark.long)],
)  # fmt: skip
def test_a_small_delivery_is_no_drift_by_itself(old: tuple[int, int], new: tuple[int, int]) -> None:
    """Batches of other sizes than the earlier ones: without drift no more alarms than stated."""
    kinds, shares = ["a", "b", "c", "d", "e"], [0.4, 0.3, 0.15, 0.1, 0.05]
    values = [
        drift_p_value(
            batches(kinds, shares, old[0], seed, size=old[1]),
            batches(kinds, shares, new[0], seed + 1000, size=new[1]),
            seed,
            199,
        )
        for seed in range(150)
    ]
    assert sum(value < 0.05 for value in values if value) <= 7.5 + 2.6 * (150 * 0.05 * 0.95) ** 0.5


@pytest.mark.long
def test_without_drift_the_alarm_is_as_rare_as_it_says() -> None:
    """Two hundred deliveries of the same kind: no more than a twentieth are taken for a drift, but for chance."""
    values = [
        drift_p_value(
            batches(["a", "b", "c"], [0.6, 0.3, 0.1], 12, seed),
            batches(["a", "b", "c"], [0.6, 0.3, 0.1], 6, seed + 1000),
            1,
            199,
        )
        for seed in range(200)
    ]
    assert sum(value <= 0.05 for value in values if value) <= 10 + 2.6 * (200 * 0.05 * 0.95) ** 0.5
