"""Labels of people: read from a file, a frame or a column of the products; and the sheet they are filled in on."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segkit.core.models import OUT_OF_SCOPE
from segkit.core.text import fold_name
from segkit.errors import ProductsError
from segkit.evaluation.agreement import placements
from segkit.evaluation.explain.nearest import category_similarity
from segkit.runs.run import Run

NONE_OF_THESE = "none of these"
_OUT = {"out_of_scope", "out of scope"}
_COLUMNS = ("label", "segment_label", "category")


@dataclass(frozen=True)
class Labels:
    """Labels by product id; `own` where they are names of the run's own categories.

    `blind` holds for each labelled product whether the run's answer was hidden from the person (empty where this is
    not known), `doubled` a second label of the same person for the same product, `source` where they come from.
    """

    names: pd.Series
    own: bool
    source: str
    blind: pd.Series
    doubled: pd.Series
    doubtful: int = 0


def labels_of(run: Run, labels: str | Path | pd.DataFrame | None = None, label_column: str = "") -> Labels:
    """Read the labels of a run's products: a sheet that `segkit label` made, any table with ids, or a column.

    A table has `product_id` and a column with labels (`label_column`, or `label`); without a table, `label_column`
    names a column of the run's products. Rows without a label are left out. Raises ProductsError for what
    cannot be used.
    """
    frame, source = _frame(run, labels)
    column = label_column or next((name for name in _COLUMNS if name in frame), "")
    if column not in frame or "product_id" not in frame:
        have = ", ".join(map(str, frame.columns))
        raise ProductsError(
            f"{source} has no column {column or 'label'!r}"
            if "product_id" in frame
            else f"{source} has no product_id",
            f"its columns are {have}: name one with --label-column",
        )
    frame = frame[frame[column].notna() & (frame[column].astype("str").str.strip() != "")]
    frame = frame[frame["product_id"].isin(run.products["product_id"])]
    if frame.empty:
        raise ProductsError(f"{source} has no label for any product of {run.id}", "fill in its column `label`")
    categories = {fold_name(name): name for name in run.result("taxonomies")["category_name"]}
    texts = [_canonical(text, categories) for text in frame[column].astype("str")]
    frame = frame.assign(_name=texts)
    once = frame.drop_duplicates("product_id").set_index("product_id")
    twice = frame[frame.duplicated("product_id")].drop_duplicates("product_id").set_index("product_id")["_name"]
    distinct = set(once["_name"]) - {NONE_OF_THESE, OUT_OF_SCOPE}
    own = bool(distinct) and len(distinct & set(categories.values())) >= 0.9 * len(distinct)
    blind = (
        once["blind"].astype("str").str.lower().isin(["yes", "true", "1"])
        if "blind" in once
        else pd.Series(dtype=bool)
    )
    return Labels(once["_name"].sort_index(), own, source, blind, twice)


def _frame(run: Run, labels: str | Path | pd.DataFrame | None) -> tuple[pd.DataFrame, str]:
    if labels is None:
        return run.products, f"products of {run.id}"
    if isinstance(labels, pd.DataFrame):
        return labels, "the labels"
    path = Path(labels)
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path), str(path)
        if path.suffix == ".xlsx":
            return pd.read_excel(path), str(path)
        return pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig"), str(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ProductsError(f"{path} cannot be read: {error}", "give a CSV, Excel or Parquet file") from None


def _canonical(text: str, categories: dict[str, str]) -> str:
    """Return a label as the run spells it; other labels stay as they are but for white space."""
    clean = " ".join(unicodedata.normalize("NFKC", text).removeprefix("'").split())
    if clean.casefold() in _OUT:
        return OUT_OF_SCOPE
    if clean.casefold() == NONE_OF_THESE:
        return NONE_OF_THESE
    return categories.get(fold_name(clean), clean)


def label_sheet(run: Run, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Make a sheet for a person: products drawn at random, with three candidate categories each, in random order.

    Rows that are `blind` (a random half) have candidates chosen without the run's answer, so that it can be measured
    how far the proposal itself sways the person; a tenth of the rows stands twice, which measures the person.
    The column `label` is empty: one of the candidates, any other category, `none of these`, or `out of scope`.
    """
    random = np.random.default_rng(seed)
    placed = placements(run)
    ids = random.permutation(placed.index.to_numpy())[:count]
    titles = run.products.set_index("product_id")["title"]
    blind = set(random.permutation(ids)[: len(ids) // 2].tolist())
    nearest = _nearest(run)
    rows = [
        _sheet_row(int(i), str(titles[i]), placed[i], nearest.get(int(i), []), int(i) in blind, random) for i in ids
    ]
    again = [rows[i] for i in random.permutation(len(rows))[: max(1, len(rows) // 10)]]
    # The second time a product stands far from the first.
    sheet = pd.DataFrame([*rows, *again])
    sheet.insert(0, "row", range(1, len(sheet) + 1))
    return sheet


def _sheet_row(
    product: int, title: str, answer: str, nearest: list[str], blind: bool, random: np.random.Generator
) -> dict[str, Any]:
    others = [name for name in nearest if name != answer]
    shown = nearest[:3] if blind or not answer else [answer, *others[:2]]
    shown = [shown[i] for i in random.permutation(len(shown))]
    return {
        "product_id": product,
        "title": title,
        **{f"candidate_{i + 1}": shown[i] if i < len(shown) else "" for i in range(3)},
        "candidate_4": NONE_OF_THESE,
        "blind": "yes" if blind else "no",
        "label": "",
    }


def _nearest(run: Run) -> dict[int, list[str]]:
    """Rank the categories for each product by the words that its title shares with their names and definitions."""
    similar = category_similarity(run)
    ranked = np.argsort(-similar.to_numpy(), axis=1, kind="stable")[:, :4]
    names = similar.columns.tolist()
    return {int(product): [names[i] for i in row] for product, row in zip(similar.index, ranked, strict=True)}


def sheet_bytes(sheet: pd.DataFrame, form: str) -> bytes:
    """Write a sheet as `csv` or `xlsx`; in Excel the column to fill in is yellow."""
    if form == "csv":
        from segkit.analysis.export import as_csv

        return as_csv(sheet)
    return _excel(sheet)


def _excel(sheet: pd.DataFrame) -> bytes:
    import io

    try:
        from openpyxl.styles import PatternFill
    except ModuleNotFoundError:
        raise ProductsError(
            "writing Excel needs the package openpyxl", "pip install openpyxl, or --out labels.csv"
        ) from None
    data = io.BytesIO()
    with pd.ExcelWriter(data, engine="openpyxl") as writer:
        sheet.to_excel(writer, sheet_name="labels", index=False)
        page = writer.sheets["labels"]
        page.freeze_panes = "A2"
        column = list(sheet.columns).index("label") + 1
        for row in range(1, len(sheet) + 2):
            page.cell(row, column).fill = PatternFill("solid", start_color="FFF2A8")
        for cell in (cell for line in page.iter_rows() for cell in line if cell.data_type == "f"):
            cell.data_type = "s"  # a title that begins with = is no formula
        for letter, width in zip("ABCDEFGHI", (6, 14, 70, 34, 34, 34, 16, 8, 34), strict=False):
            page.column_dimensions[letter].width = width
    return data.getvalue()
