"""Reading products from a file: every row is checked before anything is asked or paid."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from segkit.core.text import one_line, shortened
from segkit.errors import ProductsError

FIRST_RUN = "segkit_first_run"  # a column that only runs have which extend another
BIGINT = range(-(2**63), 2**63)
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_ONLY_NUMBER = re.compile(r"[\d\s.,+-]*")
_FIELD_LIMIT = 1_000_000
_SHOWN = 10


def load_products(
    path: str | Path,
    *,
    id_column: str = "product_id",
    title_column: str = "title",
    where: Mapping[str, str] | None = None,
    product_ids: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Read the products of a CSV, Parquet or JSONL file.

    Gives a frame sorted by `product_id` (int64, unique) with `title` (str, empty where there is none) and all
    other columns as they are. `where` keeps the rows whose column has just that value, `product_ids` keeps an
    explicit list. Raises ProductsError, with the rows told, when the file cannot be used as it is.
    """
    frame = _read(Path(path)).reset_index(drop=True)
    _require(frame, [id_column, title_column, *(where or {})])
    frame = _named(_filtered(frame, where or {}), id_column, title_column)
    return select(check_products(frame), product_ids)


def select(products: pd.DataFrame, product_ids: Sequence[int] | None) -> pd.DataFrame:
    """Keep an explicit list of products, sorted by id; raise ProductsError for ids that are not there."""
    if product_ids is not None:
        unknown = sorted(set(product_ids) - set(products["product_id"]))
        if unknown:
            raise ProductsError(
                f"{len(unknown)} product ids are not among the products: {shortened(unknown)}",
                "take them off the list",
            )
        repeated = sorted(_repeated(product_ids))
        if repeated:
            raise ProductsError(f"product ids are listed more than once: {shortened(repeated)}")
        products = products[products["product_id"].isin(list(product_ids))]
    if products.empty:
        raise ProductsError("there are no products: 0 rows", "give a file or a list with at least one product")
    return products.sort_values("product_id", ignore_index=True)


def parse_ids(text: str) -> list[int]:
    """Read ids from a text, separated by commas or white space; raise ProductsError for what is no id."""
    words = [word for word in re.split(r"[,\s]+", text) if word]
    wrong = [word for word in words if _as_id(word) is None]
    if wrong:
        raise ProductsError(f"not product ids (BIGINT): {shortened(wrong)}")
    return [int(word) for word in words]


def untitled(products: pd.DataFrame) -> pd.Series:
    """Mark the products that have no title to show a model (boolean, aligned with `products`)."""
    return products["title"].map(lambda title: _ONLY_NUMBER.fullmatch(one_line(title)) is not None).astype(bool)


def first_runs(products: pd.DataFrame) -> dict[int, str]:
    """Tell for each product in which run it came in; empty where its run extends no other."""
    ids = [int(product) for product in products["product_id"]]
    return dict(zip(ids, products.get(FIRST_RUN, pd.Series([""] * len(ids))), strict=True))


def product_lines(products: pd.DataFrame, product_line: str = "$title") -> list[str]:
    """Render each product as the one line a model sees, from the template `product_line` over its columns."""
    template = Template(product_line)
    names = template.get_identifiers()
    unknown = sorted(set(names) - set(products.columns))
    if not template.is_valid() or unknown or not names:
        known = ", ".join(f"${name}" for name in products.columns)
        what = f"unknown {', '.join('$' + n for n in unknown)}" if unknown else "no valid $column in it"
        raise ProductsError(f"product line {product_line!r}: {what}", f"columns are {known}")
    if product_line == "$title":
        return [one_line(title) for title in products["title"]]
    # Values go in once and are never read as templates themselves.
    rows = zip(*(map(_text, products[name]) for name in names), strict=True)
    return [one_line(template.substitute(dict(zip(names, row, strict=True)))) for row in rows]


def _read(path: Path) -> pd.DataFrame:
    if not path.is_file():
        near = (
            get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1) if path.parent.is_dir() else []
        )
        raise ProductsError(f"no such file: {path}", f"did you mean {path.parent / near[0]}?" if near else "")
    readers = {
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".parquet": _read_parquet,
        ".jsonl": _read_jsonl,
        ".ndjson": _read_jsonl,
    }
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ProductsError(
            f"{path}: {path.suffix or 'no'} suffix", "products are read from .csv, .parquet or .jsonl"
        )
    try:
        before, frame, after = _identity(path), reader(path), _identity(path)
    except OSError as error:
        raise ProductsError(f"{path} cannot be read: {error.strerror or error}") from None
    if before != after:
        raise ProductsError(f"{path} was changed while it was read", "try again when it is whole")
    return frame


def _identity(path: Path) -> tuple[int, ...]:
    """Tell what differs once a file was written to or replaced."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ProductsError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8", "save the file as UTF-8"
        ) from None


def _read_csv(path: Path) -> pd.DataFrame:
    text = _decoded(path)
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    csv.field_size_limit(_FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = next(reader, [])
        _check_header(path, names)
        rows = list(_csv_rows(path, reader, len(names)))
    except csv.Error as error:
        raise ProductsError(f"{path}, line {reader.line_num}: {error}", "quote fields as RFC 4180 says") from None
    return pd.DataFrame(rows, columns=names, dtype="str")


def _csv_rows(path: Path, reader: Any, width: int) -> Iterable[list[str]]:
    for row in reader:
        if not row:
            continue
        if len(row) != width:
            raise ProductsError(f"{path}, line {reader.line_num}: {len(row)} fields where the header has {width}")
        yield row


def _check_header(path: Path, names: Sequence[str]) -> None:
    if not names:
        raise ProductsError(f"{path} is empty", "the first line names the columns")
    repeated = sorted(_repeated(names))
    if repeated:
        raise ProductsError(f"{path}, line 1: columns named more than once: {shortened(repeated)}")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (ValueError, OSError) as error:  # pyarrow's errors are of these kinds
        raise ProductsError(f"{path} cannot be read as Parquet: {error}") from None


def _read_jsonl(path: Path) -> pd.DataFrame:
    import orjson

    rows = []
    for number, line in enumerate(_decoded(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ProductsError(f"{path}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ProductsError(f"{path}, line {number}: not a JSON object")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _require(frame: pd.DataFrame, names: Iterable[str]) -> None:
    for name in names:
        if name not in frame.columns:
            columns = [str(column) for column in frame.columns]
            near = get_close_matches(name, columns, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            listed = ", ".join(columns) or "(none)"
            raise ProductsError(f"no column {name!r}", f"{hint}--id-column, --title-column: columns are {listed}")


def _named(frame: pd.DataFrame, id_column: str, title_column: str) -> pd.DataFrame:
    if id_column == title_column:
        raise ProductsError(f"column {id_column!r} cannot be both the id and the title", "name two columns")
    displaced = {name: f"{name}_original" for name in ("product_id", "title")}
    return frame.rename(columns={**displaced, id_column: "product_id", title_column: "title"})


def _filtered(frame: pd.DataFrame, where: Mapping[str, str]) -> pd.DataFrame:
    for column, value in where.items():
        texts = frame[column].map(_text)
        kept = frame[texts == value]
        if kept.empty and not frame.empty:
            values = [str(v) for v in texts.value_counts().index[:_SHOWN]]
            raise ProductsError(f"no row has {column}={value!r}", f"values are {', '.join(map(repr, values))}")
        frame = kept
    return frame


def check_products(frame: pd.DataFrame) -> pd.DataFrame:
    """Give `product_id` as int64 and `title` as text; raise ProductsError for ids that are none or not unique."""
    ids = [_as_id(value) for value in frame["product_id"]]
    # Rows are told as they stand in the file, also where only some of them were taken.
    rows = [int(row) + 1 for row in frame.index]
    wrong = [f"row {rows[i]}: {frame['product_id'].iloc[i]!r}" for i, value in enumerate(ids) if value is None]
    if wrong:
        raise ProductsError(
            f"{len(wrong)} product ids are not integers within BIGINT, written plainly: {shortened(wrong)}",
            "products with text ids (ASIN, SKU) need a column of numbers: --id-column",
        )
    repeated = sorted(_repeated(ids))
    if repeated:
        told = [
            f"{value} (rows {shortened([rows[i] for i, v in enumerate(ids) if v == value])})"
            for value in repeated[:_SHOWN]
        ]
        raise ProductsError(
            f"{len(repeated)} product ids stand more than once: {shortened(told)}", "keep one row a product"
        )
    titles = [value if isinstance(value, str) else "" for value in frame["title"]]
    return frame.assign(product_id=pd.array(ids, dtype="int64"), title=pd.array(titles, dtype="str"))


def _as_id(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        return int(text) if len(text) < 21 and _INTEGER.fullmatch(text) and int(text) in BIGINT else None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    # A float column is refused even where its values look whole: digits beyond 2^53 are already lost.
    return number if not isinstance(value, float) and number == value and number in BIGINT else None


def _repeated(values: Iterable[Any]) -> set[Any]:
    seen: set[Any] = set()
    return {value for value in values if value in seen or seen.add(value)}  # type: ignore[func-returns-value]


def _text(value: Any) -> str:
    missing = value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)
    return "" if missing else str(value)
