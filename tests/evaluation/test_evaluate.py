"""A run against labels: scores by hand, shares that are right where the run is wrong, sheets that come back."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from segkit import evaluate
from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import ProductsError
from segkit.evaluation import scores
from segkit.evaluation.agreement import placements
from segkit.evaluation.evaluate import agreement_of_people
from segkit.evaluation.labels import label_sheet, labels_of, sheet_bytes
from segkit.runs.run import Run

FIELDS = {"ami", "ari", "harmonic_purity", "v_measure", "out_of_scope_precision", "out_of_scope_recall", "shares"}


def series(text: str) -> pd.Series:
    return pd.Series(list(text))


def test_scores_of_the_same_grouping_are_one_and_names_do_not_matter() -> None:
    for function in scores.SCORES.values():
        assert function(series("aabbbc"), series("xxyyyz")) == pytest.approx(1)


def test_scores_by_hand() -> None:
    """Four products, one label split in two: B-cubed recall 3/4 and precision 1; purity F1 of 1 and 2/3 of one."""
    labels, found = series("aabb"), series("xxyz")
    assert scores.b_cubed(labels, found) == pytest.approx(2 * 0.75 / 1.75)
    assert scores.harmonic_purity(labels, found) == pytest.approx((1 + 2 / 3) / 2)


def test_a_mapping_is_scored_on_products_it_was_not_learned_from() -> None:
    """Categories of one product each fit any label when mapping and score share products, and none otherwise."""
    labels, found = series("ab" * 20), pd.Series([f"category {i}" for i in range(40)])
    own = found.map(scores.mapped(labels, found))
    assert (own == labels).all()
    assert not (scores.cross_mapped(labels, found) == labels).any()


def test_the_surest_products_come_first() -> None:
    curve = scores.risk_coverage(pd.Series([0.9, 0.8, 0.2, None]), pd.Series([True, True, False, False]))
    assert curve["accuracy"].tolist() == pytest.approx([1, 1, 2 / 3])
    assert scores.brier(pd.Series([1.0, 0.0]), pd.Series([True, False])) == 0


def test_the_sample_against_its_own_labels(sample_runs: list[Run]) -> None:
    evaluation = evaluate(sample_runs[0], label_column="segment_label")
    document = evaluation.as_json()
    assert document.keys() >= FIELDS
    assert document["ami_low"] < document["ami"] < document["ami_high"]
    assert set(document["shares"][0]) == {"category", "share", "share_low", "share_high", "raw_share"}
    assert sum(row["share"] for row in document["shares"]) == pytest.approx(1)
    assert "were labelled" in evaluation.methods()
    assert len(evaluation.misses) == evaluation.confusions["products"].sum()


def test_shares_are_those_of_the_labels_and_not_of_a_run_that_is_wrong(sample_runs: list[Run]) -> None:
    """A person who moves every third product of the largest category elsewhere corrects its share."""
    run = sample_runs[0]
    truth = placements(run)
    largest, second = truth[truth != OUT_OF_SCOPE].value_counts().index[:2]
    wrong = truth[truth == largest].index[::3]
    truth[wrong] = second
    drawn = truth.sample(150, random_state=1)
    table = pd.DataFrame({"product_id": drawn.index, "label": drawn.to_numpy()})
    shares = evaluate(run, table).shares.set_index("category")
    right = (truth == largest).mean()
    assert shares.loc[largest, "share_low"] <= right <= shares.loc[largest, "share_high"]
    assert shares.loc[largest, "raw_share"] - right > 0.02
    assert abs(shares.loc[largest, "share"] - right) < 0.02


def test_shares_can_be_weighted(sample_runs: list[Run]) -> None:
    evaluation = evaluate(sample_runs[0], label_column="segment_label", weight="price_usd")
    products = sample_runs[0].products
    prices = pd.to_numeric(products["price_usd"]).fillna(0)
    by_hand = prices.groupby(products["segment_label"]).sum() / prices.sum()
    shares = evaluation.shares.set_index("category")["share"]
    for segment in ("Moka Pots", "Fully Automatic Bean-to-Cup Machines"):
        assert shares[segment] == pytest.approx(by_hand[segment])
    with pytest.raises(ProductsError, match="no weight"):
        evaluate(sample_runs[0], label_column="segment_label", weight="title")


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_sheet_that_is_filled_in_comes_back(sample_runs: list[Run], tmp_path: Path, form: str) -> None:
    """Two hundred rows and a tenth doubled; a person who agrees with the run everywhere finds it right."""
    if form == "xlsx":
        pytest.importorskip("openpyxl")
    run = sample_runs[0]
    path = tmp_path / f"labels.{form}"
    path.write_bytes(sheet_bytes(label_sheet(run), form))
    read = pd.read_csv(path, dtype=str) if form == "csv" else pd.read_excel(path, dtype=str)
    assert len(read) == 220
    assert read["label"].isna().all()
    answers = placements(run)
    read["label"] = [answers[int(product)].upper() for product in read["product_id"]]
    read["product_id"] = read["product_id"].astype("int64")
    read.to_csv(path, index=False) if form == "csv" else read.to_excel(path, index=False)
    evaluation = evaluate(run, path)
    assert evaluation.accuracy.value == 1
    assert evaluation.labels.own
    assert evaluation.self_agreement.value == 1
    assert evaluation.self_agreement.count == 20
    assert evaluation.anchoring.value == 0


def test_a_blind_row_does_not_depend_on_the_runs_answer(sample_runs: list[Run]) -> None:
    sheet = label_sheet(sample_runs[0], 100)
    answers = placements(sample_runs[0]).reindex(sheet["product_id"]).to_numpy()
    shown = (sheet[["candidate_1", "candidate_2", "candidate_3"]].to_numpy() == answers[:, None]).any(axis=1)
    named = answers != OUT_OF_SCOPE
    blind = (sheet["blind"] == "yes").to_numpy()
    assert shown[~blind & (answers != "")].all()
    assert 0 < shown[blind & named].mean() < 1
    assert np.isclose(blind[:100].mean(), 0.5)


def test_labels_that_cannot_be_used_say_why(sample_runs: list[Run]) -> None:
    run = sample_runs[0]
    with pytest.raises(ProductsError, match="no column 'kind'"):
        labels_of(run, label_column="kind")
    with pytest.raises(ProductsError, match="no label for any product"):
        labels_of(run, pd.DataFrame({"product_id": [1], "label": ["x"]}))


def test_people_who_agree_have_an_alpha_of_one() -> None:
    sheet = pd.DataFrame({"product_id": [1, 2, 3], "label": ["a", "b", "b"]})
    assert agreement_of_people([sheet, sheet]) == 1


def test_confusions_of_the_page_link_to_their_products(sample_runs: list[Run], tmp_path: Path) -> None:
    evaluation = evaluate(sample_runs[0], label_column="segment_label")
    html = evaluation.write_html(tmp_path / "evaluation.html").read_text(encoding="utf-8")
    links = re.findall(r'href="#(confusion-\d+)"', html)
    assert len(links) == len(evaluation.confusions) > 1
    assert links == re.findall(r'id="(confusion-\d+)"', html)
    first = evaluation.confusions.iloc[0]
    part = html.split('id="confusion-0"')[1].split("<h3")[0]
    misses = evaluation.misses.query("label == @first.label and category == @first.category")
    assert len(misses) == first.products
    assert all(str(product) in part for product in misses["product_id"])
