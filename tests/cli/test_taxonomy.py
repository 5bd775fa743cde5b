"""`segkit taxonomy` and `segkit assign` with a sheet that a person has edited."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from segkit.cli.main import main
from segkit.pipeline.prepare import SAMPLE
from segkit.pipeline.segment import segment
from segkit.runs.run import Run, open_run


@pytest.fixture
def finished(place: Path) -> Run:
    return segment(SAMPLE, "Coffee Makers", model="offline", runs_dir=place / "runs")


def command(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def edit(path: Path, key: str, **cells: str) -> None:
    """Write into the cells of a category, as a person does in Excel."""
    book = openpyxl.load_workbook(path)
    sheet: Any = book.active
    columns = {cell.value: cell.column for cell in sheet[1]}
    (row,) = [row for row in range(2, sheet.max_row + 1) if sheet.cell(row, columns["key"]).value == key]
    for name, value in cells.items():
        sheet.cell(row, columns[name]).value = value
    book.save(path)


def test_a_sheet_is_exported_edited_checked_and_applied(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("taxonomy", "export", "latest", "--out", "taxonomy.xlsx") == 0
    sheet: Any = openpyxl.load_workbook("taxonomy.xlsx")["taxonomy"]
    (choice,) = sheet.data_validations.dataValidation
    header = {cell.value: cell.column_letter for cell in sheet[1]}
    assert str(choice.sqref).startswith(f"{header['action']}2:")
    assert "merge_into" in choice.formula1
    assert sheet.column_dimensions[header["definition"]].width > 40
    assert command("assign", "--taxonomy", "taxonomy.xlsx", "--no-notebooks") == 2
    assert "taxonomy.xlsx changes nothing, and no products are given" in capsys.readouterr().err
    keys = finished.taxonomy().frame.query("category_name != 'OUT_OF_SCOPE'")["key"].tolist()
    edit(Path("taxonomy.xlsx"), keys[0], name="Everyday Machines")
    edit(Path("taxonomy.xlsx"), keys[1], action="merge_into", into=keys[0])
    edit(Path("taxonomy.xlsx"), keys[2], action="delete", note="not sold any more")
    capsys.readouterr()

    assert command("taxonomy", "check", "taxonomy.xlsx", "--json") == 0
    check = json.loads(capsys.readouterr().out)
    counts = {"renamed": 1, "merged": 1, "split": 0, "deleted": 1, "added": 0}
    assert {name: check[name] for name in counts} == counts

    assert command("assign", "--taxonomy", "taxonomy.xlsx", "--no-notebooks", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["products"], report["calls"]) == (check["products_to_ask"], check["calls"])
    assert report["old_rows_unchanged"] is True
    run = open_run("latest", finished.folder.parent)
    assert "Everyday Machines" in set(run.result("taxonomies")["category_name"])
    assert run.archived("edits")["note"].tolist().count("not sold any more") == 1


def test_a_sheet_with_a_fault_is_refused_with_its_row(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("taxonomy", "export", "latest", "--out", "taxonomy.xlsx") == 0
    edit(Path("taxonomy.xlsx"), "C-1", action="merge_into", into="C-99")
    capsys.readouterr()
    assert command("taxonomy", "check", "taxonomy.xlsx") == 2
    error = capsys.readouterr().err
    assert "row 2" in error
    assert "C-99" in error


def json_of(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert command(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_run_and_plan_take_a_taxonomy(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The run has the given products alone; what the edits leave stays, and the plan counts each call."""
    assert command("taxonomy", "export", "latest", "--out", "taxonomy.xlsx") == 0
    keys = finished.taxonomy().frame.query("category_name != 'OUT_OF_SCOPE'")["key"].tolist()
    edit(Path("taxonomy.xlsx"), keys[0], action="split", note="too coarse")
    edit(Path("taxonomy.xlsx"), keys[1], name="Everyday Machines")
    edit(Path("taxonomy.xlsx"), keys[2], action="delete")
    new = SAMPLE.read_text(encoding="utf-8").splitlines()
    renumbered = [f"9{line}" for line in new[1:30]]
    Path("some.csv").write_text("\n".join([*new[:200], *renumbered]), encoding="utf-8")

    plan = json_of(capsys, "plan", "some.csv", "--taxonomy", "taxonomy.xlsx", "--batch-size", "20")
    words = ("run", "some.csv", "--taxonomy", "taxonomy.xlsx", "--batch-size", "20", "--no-notebooks")
    report = json_of(capsys, *words)
    planned = {row["stage"]: row["calls"] for row in plan}
    run = open_run("latest", finished.folder.parent)
    made = {name: stage.calls for name, stage in run.status.stages.items()}
    assert planned["assign_products"] == made["assign_products"] > 1
    assert planned["segmentation"] == 1
    assert len(run.products) == 199 + 29
    assert report["products"] + report["old_rows"] == len(run.products)
    assert report["old_rows_unchanged"] is True
    assert sorted(run.archived("edits")["action"]) == ["delete", "rename", "split"]
    assert report["conflicts"] == [] or {"key", "conflict", "run"} <= report["conflicts"][0].keys()
    assert run.parameters.model == "offline", "what is not typed is as in the run before"

    again = json_of(capsys, "plan", "some.csv", "--taxonomy", "taxonomy.xlsx", "--batch-size", "20")
    assert again[-1]["calls"] == 0, "all answers are there by now"
    assert json_of(capsys, *words)["calls"] == 0


def test_a_given_taxonomy_is_not_extracted(finished: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("run", "sample", "--taxonomy", "latest", "--extract-sample", "auto") == 2
    assert "extract_sample is 'auto', but the taxonomy is given" in capsys.readouterr().err
    assert command("run", "--taxonomy", "latest") == 2
    assert "no products are given" in capsys.readouterr().err
    assert len(list(finished.folder.parent.glob("RUN_*"))) == 1
