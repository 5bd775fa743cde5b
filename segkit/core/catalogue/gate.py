"""The gate that every catalogue passes, a file or a frame: rows are checked before anything is asked or paid."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

import pandas as pd

from segkit.core.catalogue.ids import number_of, numbers_of, read_ids
from segkit.core.catalogue.lines import text_of
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.prices import decimal_sign, plain_price
from segkit.core.catalogue.shapes import known_shape, usual_shape
from segkit.core.catalogue.titles import title_of
from segkit.core.text import quantity, shortened, without_surrogates
from segkit.errors import ProductsError

FIRST_RUN = "segkit_first_run"  # a column that only runs have which extend another
_SHOWN = 10
_REFUSED = ["row", "id", "reason"]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Checked products and what happened on the way to them.

    `products` has `product_id` (int64, unique, sorted), `title` (str, empty where there is none), `source_id` where
    the ids were texts, and all other columns. `refused` has a row for each row that was left out: `row`, `id` and
    `reason`. `left_out` names columns that are not kept. `names` has the new names of the columns of the id and the
    title. `understood` says how a file was read.
    """

    products: pd.DataFrame
    refused: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_REFUSED))
    left_out: list[str] = field(default_factory=list)
    where: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    source: str = "(a frame)"
    understood: str = ""


def check_products(
    frame: pd.DataFrame, options: CatalogueOptions | None = None, source: str = "", hint: str = ""
) -> Catalogue:
    """Check the rows of a frame, name its columns, and return the products.

    Rows are counted from 1, in the order of the frame. Whether ids are integers or texts is decided from all rows,
    also where only some are taken. Raises ProductsError for rows that cannot be used, unless `skip_refused` leaves
    them out; they are written to `refused_file` in either case. `hint` says where else columns may be.
    """
    options = options or CatalogueOptions()
    frame = _with_named_columns(frame, options)
    _require(frame, options, hint)
    ids = read_ids(frame[options.id_column], as_text=options.ids_as_text)
    kept = _chosen(frame, options.where)
    faults = {row: fault for row, fault in ids.faults.items() if kept[row]}
    titles = [title_of(value) for value in frame[options.title_column]]
    faults |= {row: fault for row, (_, fault) in enumerate(titles) if fault and kept[row] and row not in faults}
    repeated = _repeated(ids.numbers, [row for row, keep in enumerate(kept) if keep and row not in faults])
    refused = _refused_rows(frame[options.id_column], faults, repeated)
    _write_refused(refused, options)
    if len(refused) and not options.skip_refused:
        raise _refusal(refused, repeated, options)
    usable = [keep and row + 1 not in set(refused["row"]) for row, keep in enumerate(kept)] if len(refused) else kept
    products, left_out = _plain_columns(
        _named(frame, ids.numbers, ids.texts, [title for title, _ in titles], options)
    )
    products = select(products[usable], options.product_ids)
    new = {options.id_column: "source_id" if "source_id" in products else "product_id", options.title_column: "title"}
    names = {old: name for old, name in new.items() if old not in products.columns}
    return Catalogue(products, refused, left_out, dict(options.where), names, source or "(a frame)")


def select(products: pd.DataFrame, product_ids: Sequence[int | str] | None) -> pd.DataFrame:
    """Keep an explicit list of products, sorted by id; raise ProductsError for ids that are not there."""
    if product_ids is not None:
        products = products[products["product_id"].isin(numbers_of(products, product_ids))]
    if products.empty:
        raise ProductsError("there are no products: 0 rows", "give a file or a list with at least one product")
    return products.sort_values("product_id", ignore_index=True)


def first_runs(products: pd.DataFrame) -> dict[int, str]:
    """Return for each product in which run it came in; empty where its run extends no other."""
    ids = [int(product) for product in products["product_id"]]
    return dict(zip(ids, products.get(FIRST_RUN, pd.Series([""] * len(ids))), strict=True))


def _with_named_columns(frame: pd.DataFrame, options: CatalogueOptions) -> pd.DataFrame:
    """Return the frame with texts as names of columns, and columns of an index that is named."""
    indexed = [name for name in frame.index.names if name is not None]
    wanted = [name for name in (*options.wanted, *options.where) if name in indexed and name not in frame.columns]
    frame = frame.reset_index(drop=not wanted)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    repeated = sorted(frame.columns[frame.columns.duplicated()])
    if repeated:
        raise ProductsError(f"columns are named more than once: {shortened(repeated)}", "give each a name of its own")
    return frame


def _require(frame: pd.DataFrame, options: CatalogueOptions, elsewhere: str) -> None:
    columns = list(frame.columns)
    if options.id_column == options.title_column:
        what = f"column {options.id_column!r} cannot be both the id and the title"
        raise ProductsError(what, f"name two of --id-column, --title-column: columns are {shortened(columns, 20)}")
    for name in (*options.wanted, *(_column(name, columns) for name in options.where)):
        if name in columns:
            continue
        unnamed = options.wanted == CatalogueOptions().wanted and name in options.wanted
        if shape := known_shape(columns) or (usual_shape(columns) if unnamed else None):
            raise ProductsError(f"no column {name!r}", f"this is {shape.name}: add {shape.options()}")
        if len(columns) == 1 and (sign := re.search(r"[^\w\s.()-]", columns[0])):
            hint = f"if {sign[0]!r} separates the fields: --delimiter {shlex.quote(sign[0])}"
            raise ProductsError(f"no column {name!r} but one column {columns[0][:80]!r}", hint)
        near = get_close_matches(name, columns, n=1) or [c for c in columns if c.casefold() == name.casefold()]
        option = "" if name not in options.wanted else "--id-column, --title-column: "
        hint = f"did you mean {near[0]}? " if near else ""
        hint += f"{option}columns are {shortened(columns, 20) or '(none)'}" + (f"; {elsewhere}" if elsewhere else "")
        raise ProductsError(f"no column {name!r}", hint)


def _column(condition: str, columns: Sequence[str]) -> str:
    """Return the column of a condition; `kind!` is the column `kind`, unless there is one of that very name."""
    return condition if condition in columns else condition.removesuffix("!")


def _chosen(frame: pd.DataFrame, where: Mapping[str, str]) -> list[bool]:
    """Report for each row whether it fulfils all conditions."""
    kept = pd.Series(True, index=frame.index)
    for condition, value in where.items():
        column = _column(condition, list(frame.columns))
        texts = frame[column].map(text_of)
        equal = _equal(texts, value)
        fits = equal if condition == column else ~equal
        if not (kept & fits).any() and kept.any():
            values = [str(v) for v in texts[kept].value_counts().index[:_SHOWN]]
            raise ProductsError(f"no row has {condition}={value!r}", f"values are {', '.join(map(repr, values))}")
        kept &= fits
    return [bool(keep) for keep in kept]


def _equal(texts: pd.Series, value: str) -> pd.Series:
    """Report which texts are a value: letter by letter, or if none is, as the same amount (`19,99 €` is 19.99)."""
    equal = texts == value
    amount = plain_price(value, decimal_sign([value]))
    if equal.any() or amount is None:
        return equal
    decimal = decimal_sign(texts)
    amounts = texts.map(lambda text: plain_price(text, decimal))
    return amounts.map(lambda found: found is not None and Decimal(found) == Decimal(amount)).astype(bool)


def _repeated(numbers: Sequence[int], rows: Sequence[int]) -> dict[int, list[int]]:
    """Return for each id that stands more than once its rows, in order."""
    counts = Counter(numbers[row] for row in rows)
    found: dict[int, list[int]] = {}
    for row in rows:
        if counts[numbers[row]] > 1:
            found.setdefault(numbers[row], []).append(row)
    return found


def _refused_rows(ids: pd.Series, faults: Mapping[int, str], repeated: Mapping[int, list[int]]) -> pd.DataFrame:
    """List the rows that are refused; of rows with the same id all but the first."""
    rows = dict(faults)
    for positions in repeated.values():
        rows |= dict.fromkeys(positions[1:], f"the id stands in row {positions[0] + 1} already")
    listed = [(row + 1, text_of(ids.iloc[row]), rows[row]) for row in sorted(rows)]
    return pd.DataFrame(listed, columns=_REFUSED)


def _write_refused(refused: pd.DataFrame, options: CatalogueOptions) -> None:
    if len(refused) and options.refused_file:
        try:
            options.refused_file.parent.mkdir(parents=True, exist_ok=True)
            refused.to_csv(options.refused_file, index=False)
        except OSError as error:
            raise ProductsError(f"{options.refused_file} cannot be written: {error.strerror or error}") from None


def _refusal(refused: pd.DataFrame, repeated: Mapping[int, list[int]], options: CatalogueOptions) -> ProductsError:
    """Word the refusal of some rows: the first of them, where all of them are, and what helps."""
    others = refused[~refused["reason"].str.startswith("the id stands in row ")]
    listed = f"all of them are in {options.refused_file}; " if options.refused_file else ""
    skip = f"{listed}--skip-refused goes on without them"
    if others.empty:
        texts = dict(zip(refused["row"], refused["id"], strict=True))
        named = [f"{texts[rows[1] + 1]} (rows {shortened([r + 1 for r in rows])})" for rows in repeated.values()]
        return ProductsError(
            f"{quantity(len(repeated), 'product id', 'stand')} more than once: {shortened(named)}", skip
        )
    rows = [f"row {row}: {reason}" for row, reason in zip(others["row"], others["reason"], strict=True)]
    cure = ""
    if others["reason"].str.endswith(" is a decimal number").all():
        cure = "write the ids as integers (pandas: .astype('Int64')), or take them as texts: --ids-as-text; "
    return ProductsError(f"{quantity(len(rows), 'row')} cannot be used: {shortened(rows)}", cure + skip)


def _named(
    frame: pd.DataFrame,
    numbers: Sequence[int],
    texts: Sequence[str],
    titles: Sequence[str],
    options: CatalogueOptions,
) -> pd.DataFrame:
    """Put the id and the title first under their names; other columns of these names get another one."""
    columns: dict[str, Any] = {"product_id": pd.array(list(numbers), dtype="int64")}
    sources = list(texts) or _own_sources(frame, numbers, options)
    if sources:
        columns["source_id"] = pd.array(sources, dtype="str")
    columns["title"] = pd.array(list(titles), dtype="str")
    rest = frame.drop(columns=[options.id_column, options.title_column])
    rest = rest.drop(columns="source_id") if sources and not texts else rest
    taken = {*columns, *rest.columns}
    names = {name: _free(f"{name}_original", taken) for name in columns if name in rest.columns}
    return pd.concat([pd.DataFrame(columns, index=frame.index), rest.rename(columns=names)], axis="columns")


def _own_sources(frame: pd.DataFrame, numbers: Sequence[int], options: CatalogueOptions) -> list[str]:
    """Return the texts of ids that were computed before, in a frame of products that came through this gate."""
    if "source_id" not in frame.columns or "source_id" in options.wanted:
        return []
    texts = [text_of(value) for value in frame["source_id"]]
    return texts if all(number_of(t) == n for t, n in zip(texts, numbers, strict=True)) else []


def _free(name: str, taken: Iterable[str]) -> str:
    return name if name not in taken else _free(f"{name}_", taken)


def _plain_columns(products: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Write out columns of bytes that are UTF-8, and leave out those that are not, such as pictures."""
    left_out: list[str] = []
    for name in map(str, products.select_dtypes("object", exclude="str").columns):
        values = products[name]
        if not values.map(lambda value: isinstance(value, bytes | bytearray)).any():
            continue
        try:
            products[name] = values.map(
                lambda v: bytes(v).decode() if isinstance(v, bytes | bytearray) else text_of(v)
            )
        except UnicodeDecodeError:
            left_out.append(name)
    products = products.drop(columns=left_out)
    for name in products.columns:
        if not _can_be_stored(products[name]):
            products[name] = _storable(products[name])
    return products, left_out


def _can_be_stored(values: pd.Series) -> bool:
    """Report whether Parquet can hold a column; not sparse or complex ones, mixed types, or what is no UTF-8."""
    import pyarrow as pa

    try:
        pa.Array.from_pandas(values)
    except (pa.ArrowException, TypeError, ValueError):  # of these kinds are pyarrow's errors
        return False
    return not isinstance(values.dtype, pd.SparseDtype)


def _storable(values: pd.Series) -> pd.Series:
    """Return a column as Parquet can hold it: a sparse one written out, others as texts."""
    if isinstance(values.dtype, pd.SparseDtype):
        return values.astype(values.dtype.subtype)
    return values.map(_plain_text)


def _plain_text(value: Any) -> str:
    return without_surrogates(text_of(value))
