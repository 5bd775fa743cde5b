"""Loading a catalogue: a file or a frame is read, its rows are checked, and one line says what was understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.files import read_file
from segkit.core.catalogue.gate import Catalogue, check_products
from segkit.core.catalogue.lines import text_of
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.shapes import known_shape
from segkit.core.catalogue.text_files import Table
from segkit.core.text import quantity


def load_products(
    path: str | Path,
    *,
    id_column: str = "product_id",
    title_column: str = "title",
    where: Mapping[str, str] | None = None,
    product_ids: Sequence[int | str] | None = None,
    **more: Any,
) -> pd.DataFrame:
    """Return the products of a file: CSV, TSV, Excel, Parquet, JSON, JSON lines or Google's XML.

    The frame is sorted by `product_id` (int64, unique) and has `title` (str, empty where there is none), `source_id`
    where the ids are texts, and all other columns. `where` keeps the rows with just that value in a column,
    `product_ids` an explicit list; `more` are further fields of `CatalogueOptions`, such as `encoding`, `delimiter`,
    `header_row` and `sheet`. Raises ProductsError, with the rows, when the file cannot be used as it is.
    """
    options = CatalogueOptions(
        id_column=id_column, title_column=title_column, where=dict(where or {}), product_ids=product_ids, **more
    )
    return load_catalogue(Path(path), options).products


def load_catalogue(source: Path | pd.DataFrame, options: CatalogueOptions | None = None) -> Catalogue:
    """Read a file or take a frame, check its rows, and describe what was understood."""
    options = options or CatalogueOptions()
    if isinstance(source, pd.DataFrame):
        return check_products(source, options)
    table = _joined(read_file(source, options), options)
    catalogue = check_products(table.frame, options, str(source), table.hint)
    return replace(catalogue, source=source.name, understood=_understood(table, catalogue, options))


def _joined(table: Table, options: CatalogueOptions) -> Table:
    """Make one product of the rows of one id where the export is known to write several: variants, pictures."""
    shape = known_shape(map(str, table.frame.columns))
    if shape is None or not shape.joined or options.id_column != shape.id_column:
        return table
    texts = table.frame.map(text_of)
    first = texts.mask(texts == "").groupby(shape.id_column, sort=False).first().reset_index()
    joined = first[table.frame.columns].fillna("").astype("str")
    what = f"{shape.name} with {quantity(len(table.frame), 'row')} for {quantity(len(joined), 'product')}"
    return Table(joined, f"{table.understood}, {what}", table.hint)


def _understood(table: Table, catalogue: Catalogue, options: CatalogueOptions) -> str:
    """Say in one line how a file was read: `semicolons, UTF-8, header in line 1, 512 rows; id: asin (text), …`."""
    kind = " (text)" if "source_id" in catalogue.products else ""
    words = [
        f"{table.understood}, {quantity(len(table.frame), 'row')}",
        f"id: {options.id_column}{kind}, title: {options.title_column}",
    ]
    if len(catalogue.refused):
        words.append(f"{quantity(len(catalogue.refused), 'row')} refused")
    if catalogue.left_out:
        words.append(f"left out: {', '.join(catalogue.left_out)}")
    return "; ".join(words)
