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
