"""Making a run of a catalogue: files and frames pass the same gate, and nothing is made of what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from segkit.analysis import tables
from segkit.analysis.export import exported, write_taxonomy
from segkit.analysis.lineage import product_path
from segkit.analysis.report import report_page
from segkit.core.catalogue.ids import number_of
from segkit.errors import ProductsError, RunError, SettingsError
from segkit.pipeline.extend import extend_run
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import run_stages, segment
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import load_settings

SHOP = pd.DataFrame(
    {
        "SKU": ["R-1", "007", "7", "B-2", "N-0"],
        "Name": ["Red Table Lamp", "Blue Floor Lamp", "Green Desk Lamp", "Bulb E27", "N/A"],
        "Regular price": [10, 12, 9, 3, 1],
    }
)
BY_SKU = {"id_column": "SKU", "title_column": "Name"}


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


@pytest.mark.parametrize("as_file", [False, True])
def test_a_run_of_text_ids(as_file: bool, place: Path) -> None:
    """From a frame as from a file; the text is kept, and shown and taken wherever an id is."""
    SHOP.to_csv(place / "shop.csv", index=False)
    given: Any = place / "shop.csv" if as_file else SHOP
    line = "{Name} | {Regular price} USD"
    run = worked(prepare_run(given, "Lamps", model="offline", product_line=line, max_unassigned=1, **BY_SKU))
    assert sorted(run.products["source_id"]) == sorted(SHOP["SKU"])
    assert run.parameters.product_line == "{title} | {Regular price} USD"
    assert run.document["input"]["source"] == ("shop.csv" if as_file else "(a frame)")
    assert run.document["input"]["untitled"] == 1
    rows = exported(run).set_index("source_id")
    assert rows.loc["N-0", "state"] == "unassigned"
    assert rows.loc["007", "product_id"] == number_of("007") != rows.loc["7", "product_id"]
    for product in ("007", number_of("007")):
        assert product_path(run, product)["step"].iloc[0] == "stated"
    with pytest.raises(ProductsError, match="product 08 is not in"):
        product_path(run, "08")


def test_what_is_refused_leaves_no_folder(place: Path) -> None:
    """The rows go to a file; on request the run is made of the others, and their number is kept."""
    frame = pd.DataFrame({"product_id": [1, 1, 3], "title": ["A b", "C d", "E f"]})
    with pytest.raises(ProductsError, match=r"1 product id stands more than once: 1 \(rows 1, 2\)") as error:
        prepare_run(frame, "Lamps", model="offline")
    assert not Path("runs").exists()
    file = load_settings().segkit_home / "refused_rows.csv"
    assert str(file) in error.value.hint
    assert pd.read_csv(file)["row"].tolist() == [2]
    run = prepare_run(frame, "Lamps", model="offline", skip_refused=True)
    assert run.products["product_id"].tolist() == [1, 3]
    assert run.document["input"]["refused"] == 1
    summary = run_stages(run)
    assert (summary["products"], summary["refused"]) == (2, 1)
    assert "1 row of the input that could not be used" in report_page(run)
    assert tables.summary(run).set_index("fact")["value"]["refused rows"] == "1"


def test_options_hold_for_a_frame(place: Path) -> None:
    """What `run.json` records has happened."""
    run = prepare_run(SHOP, "Lamps", model="offline", where={"Regular price": "10"}, **BY_SKU)
    assert run.products["source_id"].tolist() == ["R-1"]
    assert run.document["input"]["where"] == {"Regular price": "10"}
    run = prepare_run(SHOP, "Lamps", model="offline", product_ids=["7", number_of("007")], **BY_SKU)
    assert sorted(run.products["source_id"]) == ["007", "7"]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"seed": "7"}, 7),
        ({"products_per_prompt": "12"}, 12),
        ({"temperature": "0.5"}, 0.5),
        ({"prompts": "v0"}, "v0"),
    ],
)
def test_parameters_have_their_own_types(given: dict[str, Any], value: Any, place: Path) -> None:
    """Papermill hands over `-p category 2024` as a number and `-r seed 7` as a text."""
    run = prepare_run(SHOP, 2024, model="offline", **BY_SKU, **given)  # type: ignore[arg-type]
    assert run.parameters.category == "2024"
    assert getattr(run.parameters, next(iter(given))) == value
    with pytest.raises(SettingsError, match="seed is 'x'"):
        prepare_run(SHOP, "Lamps", model="offline", seed="x", **BY_SKU)


def test_products_are_added_by_their_texts(place: Path) -> None:
    """Ids that look like numbers are texts there where the run has texts; the other way round is refused."""
    first = worked(prepare_run(SHOP.head(4), "Lamps", model="offline", **BY_SKU))
    more = pd.DataFrame({"product_id": [123, 7], "title": ["Yellow Lamp", "Lime Desk Lamp"]})
    run = extend_run(first, more)
    ids = dict(zip(run.products["source_id"], run.products["title"], strict=True))
    assert ids["123"] == "Yellow Lamp"
    assert ids["7"] == "Lime Desk Lamp"
    assert len(run.products) == 5
    assert run.products["product_id"].tolist() == sorted(map(number_of, ids))


def test_texts_are_not_added_to_numbers(place: Path) -> None:
    numbers = worked(prepare_run("sample", "Coffee Makers", model="offline", product_ids=[700007672, 700009634]))
    texts = pd.DataFrame({"product_id": ["A1"], "title": ["Kettle"]})
    with pytest.raises(ProductsError, match="are numbers, those of the added products are texts: 'A1'"):
        extend_run(numbers, texts)
    twice = pd.DataFrame({"product_id": [5, 5], "title": ["Kettle", "Pot"]})
    with pytest.raises(ProductsError, match="stands more than once"):
        extend_run(numbers, twice)


def test_a_run_may_be_given_a_taxonomy(place: Path) -> None:
    """Of a finished run, or of a file: its products are those that are given, and nothing is extracted."""
    first = segment("sample", "Coffee Makers", model="offline", runs_dir=place / "runs")
    write_taxonomy(first, "taxonomy.csv")
    lamps = pd.DataFrame({"product_id": [1, 2], "title": ["Red Table Lamp", "Blue Floor Lamp"]})
    for name in (first.id, "taxonomy.csv"):
        run = prepare_run(lamps, "Lamps", taxonomy=name, runs_dir=place / "runs")
        assert (run.parameters.stages, run.parameters.taxonomy) == (("assign_products",), first.id)
        assert run.products["product_id"].tolist() == [1, 2]
        with pytest.raises(RunError, match=f"has the taxonomy of {first.id}, so there is none to extract"):
            extract_taxonomy(run)
        assert run_stages(run)["state"] == "completed"
