"""The assignments of a run as one file for other programs: CSV, Excel, JSONL or Parquet."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.analysis.frames import records
from segkit.core.taxonomy.edits import ACTIONS
from segkit.core.taxonomy.files import SHEET
from segkit.core.taxonomy.sheet import WIDTHS, edited_sheet, taxonomy_json, taxonomy_sheet
from segkit.display import excel_value, json_text, plain, spreadsheet_text
from segkit.errors import InputError, SettingsError
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy
from segkit.storage.disk import write_atomic

BOM = b"\xef\xbb\xbf"  # without it, Excel takes the UTF-8 of a file that is opened by a double click for another code


def exported(run: Run, with_columns: bool = False) -> pd.DataFrame:
    """Return a row a product, in the order of the run's products.

    `product_id` and, if the ids were texts, `source_id`; `title`; `category` and `confidence` at the end (empty if
    there is none); `first_category` and `first_confidence`, before refinement; `state` and `reason` as in the ledger;
    and `category_key`, which the category keeps in the runs that follow.
    `with_columns` adds the other columns of the input.
    """
    frame = run.assignments
    if not with_columns:
        return frame
    others = run.products.drop(columns=["title", "source_id"], errors="ignore")
    taken = set(frame.columns) - {"product_id"}
    others = others.rename(columns={name: f"input_{name}" for name in others.columns if name in taken})
    return frame.merge(others, on="product_id", how="left", validate="1:1")


def exported_taxonomy(run: Run, taxonomy: Taxonomy | None = None) -> pd.DataFrame:
    """Return the categories of a run as the sheet in which a person edits them (`core.taxonomy.sheet`).

    The edits of `taxonomy`, if there are any, are filled in as a person would type them.
    """
    given = taxonomy or run.taxonomy()
    sheet = taxonomy_sheet(given.base, run.assignments, run.id, run.parameters.category)
    return edited_sheet(sheet, given.edits)


def write_taxonomy(run: Run, path: str | Path, taxonomy: Taxonomy | None = None) -> pd.DataFrame:
    """Write the categories of a finished run as a sheet (.xlsx, .csv or .json) to edit them, and return the sheet.

    Raises InputError for another suffix and for a file that cannot be written.
    """
    path, sheet = Path(path), exported_taxonomy(run, taxonomy)
    write = TAXONOMY_WRITERS.get(path.suffix.lower().removeprefix("."))
    if write is None:
        suffixes = ", ".join(f".{form}" for form in TAXONOMY_WRITERS)
        raise InputError(f"{path}: {path.suffix or 'no'} suffix", f"a taxonomy is written to {suffixes}")
    try:
        write_atomic(path, write(sheet))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
    return sheet


def as_csv(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Return a frame as CSV; unless `raw`, an apostrophe keeps spreadsheets from running a text as a formula."""
    written = frame.apply(_written, write=_raw if raw else spreadsheet_text)
    return written.to_csv(index=False, lineterminator="\r\n").encode()


def as_jsonl(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Return a frame as one JSON object a line; what is missing is null."""
    return "".join(f"{json_text(row)}\n" for row in records(frame)).encode()


def as_parquet(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Return a frame as Parquet."""
    data = io.BytesIO()
    frame.to_parquet(data, index=False)
    return data.getvalue()


def as_xlsx(
    frame: pd.DataFrame,
    raw: bool = False,
    *,
    name: str = "segments",
    widths: Mapping[str, int] | None = None,
    choices: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """Return a frame as an Excel file: texts are texts, also those that look like formulas or long numbers.

    `widths` are the widths of some columns in characters, and their texts are wrapped; `choices` are the values that
    Excel offers in the cells of a column.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.styles import Alignment, Font
        from openpyxl.utils import get_column_letter
    except ImportError:
        raise SettingsError("the package openpyxl is not installed", "pip install openpyxl") from None
    book = Workbook(write_only=True)
    sheet = book.create_sheet(name)
    sheet.freeze_panes = "A2"
    letters = {column: get_column_letter(number) for number, column in enumerate(frame.columns, start=1)}
    for column, width in (widths or {}).items():
        sheet.column_dimensions[letters[column]].width = width
    for column, values in (choices or {}).items():
        sheet.data_validations.append(_choice(values, f"{letters[column]}2:{letters[column]}1048576"))
    bold, wrapped = Font(bold=True), Alignment(wrap_text=True, vertical="top")
    sheet.append([_cell(sheet, column, font=bold) for column in frame.columns])
    styles = [{"alignment": wrapped} if column in (widths or {}) else {} for column in frame.columns]
    for row in frame.astype(object).itertuples(index=False):
        sheet.append([_cell(sheet, value, **style) for value, style in zip(row, styles, strict=True)])
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


def _choice(values: Sequence[str], cells: str) -> Any:
    """Return the list that Excel offers in some cells; other values stay possible, and are checked when read."""
    from openpyxl.worksheet.datavalidation import DataValidation

    return DataValidation(
        type="list", formula1=f'"{",".join(values)}"', sqref=cells, allow_blank=True, showErrorMessage=False
    )


def _taxonomy_xlsx(sheet: pd.DataFrame) -> bytes:
    return as_xlsx(sheet, name=SHEET, widths=WIDTHS, choices={"action": ACTIONS})


#: How the sheet of `exported_taxonomy` is written.
TAXONOMY_WRITERS: dict[str, Callable[[pd.DataFrame], bytes]] = {
    "xlsx": _taxonomy_xlsx,
    "csv": lambda sheet: BOM + as_csv(sheet),
    "json": lambda sheet: json_text(taxonomy_json(sheet)).encode(),
}
WRITERS: dict[str, Callable[[pd.DataFrame, bool], bytes]] = {
    "csv": as_csv,
    "xlsx": as_xlsx,
    "jsonl": as_jsonl,
    "parquet": as_parquet,
}


def _written(column: pd.Series, write: Callable[[Any], Any]) -> pd.Series:
    is_number = pd.api.types.is_numeric_dtype(column)
    return column if is_number else column.astype(object).map(write, na_action="ignore")


def _raw(value: Any) -> Any:
    return value if isinstance(value, str) else plain(value)


def _cell(sheet: Any, value: Any, **style: Any) -> Any:
    """Return a cell for openpyxl, which takes a text with an equals sign for a formula unless its type is set."""
    from openpyxl.cell import WriteOnlyCell

    value = excel_value(value)
    cell = WriteOnlyCell(sheet, value)
    if isinstance(value, str):
        cell.data_type = "s"
    for name, value in style.items():
        setattr(cell, name, value)
    return cell
