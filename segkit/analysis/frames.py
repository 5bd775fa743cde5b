"""Frames of what a database answers: every id, count and amount is the one that was stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import chain, count
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.types as kinds

_PLACES = Decimal("1e-10")  # what a float may differ from a decimal: no amount of money has so many places
_INFINITY = {2**63 - 1: "infinity", -(2**63) + 1: "-infinity"}  # how DuckDB stores them in a timestamp


def frame_of(table: pa.Table) -> pd.DataFrame:
    """Return an Arrow table as a frame without changing a value.

    Integers that may be missing are `Int64`; lists and structs are Python's. A column of decimals becomes one of
    integers where all are whole, one of floats where these hold ten decimal places, and else stays `Decimal`s.
    """
    columns = [series_of(column) for column in table.columns]
    frame = pd.concat(columns, axis="columns") if columns else pd.DataFrame(index=range(table.num_rows))
    return frame.set_axis(distinct(table.column_names), axis="columns")


def series_of(column: pa.ChunkedArray) -> pd.Series:
    """Return one column of an Arrow table as `frame_of` does."""
    kind = column.type
    if kinds.is_decimal(kind):
        return numbers(column.to_pylist())
    if kinds.is_nested(kind):
        return pd.Series(column.to_pylist(), dtype=object)
    if kinds.is_dictionary(kind):
        return series_of(column.cast(kind.value_type))
    if kinds.is_timestamp(kind) and (found := set(column.cast(pa.int64()).unique().to_pylist()) & set(_INFINITY)):
        return _with_infinity(column, found)
    if column.null_count and kinds.is_integer(kind):
        return pd.Series(column.to_pandas(types_mapper=_NULLABLE.get))
    if column.null_count and kinds.is_boolean(kind):
        return pd.Series(column.to_pandas(types_mapper={pa.bool_(): pd.BooleanDtype()}.get))
    return pd.Series(column.to_pandas())


def numbers(values: Sequence[Decimal | int | None]) -> pd.Series:
    """Return decimals as integers or floats where these are exact (see `frame_of`), else as they are."""
    stated = [Decimal(value) for value in values if value is not None]
    if stated and all(value.is_finite() and value == value.to_integral_value() for value in stated):
        return integers([None if value is None else int(value) for value in values])
    if all(_fits_float(value) for value in stated):
        return pd.Series([None if value is None else float(value) for value in values], dtype="float64")
    return pd.Series(list(values), dtype=object)


def integers(values: Sequence[int | None]) -> pd.Series:
    """Return integers as `int64`, as `Int64` where some are missing, or as Python's where they need more bits."""
    stated = [value for value in values if value is not None]
    if not all(-(2**63) <= value < 2**63 for value in stated):
        return pd.Series(list(values), dtype=object)
    return pd.Series(list(values), dtype="int64" if len(stated) == len(values) else "Int64")


def distinct(names: Iterable[str]) -> list[str]:
    """Return the names of columns with numbers at those that stand twice: `id`, `id_1`, `id_2`."""
    found: list[str] = []
    for name in names:
        numbered = (f"{name}_{number}" for number in count(1))
        found.append(next(free for free in chain([name], numbered) if free not in found))
    return found


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame as dictionaries of Python's own values."""
    columns = {str(name): frame[name].astype(object).tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _fits_float(value: Decimal) -> bool:
    return (
        not value.is_finite() or abs(Decimal(float(value)) - value) <= _PLACES or Decimal(repr(float(value))) == value
    )


def _with_infinity(column: pa.ChunkedArray, found: set[int]) -> pd.Series:
    stored = column.cast(pa.int64()).to_pylist()
    finite = pa.array([None if value in found else value for value in stored], pa.int64()).cast(column.type)
    times = pd.Series(finite.to_pandas()).astype(object)
    for i, value in enumerate(stored):
        if value in found:
            times.iat[i] = _INFINITY[value]
    return times


_NULLABLE = {
    pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype(), pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(), pa.uint16(): pd.UInt16Dtype(), pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
}  # fmt: skip
