"""Files of catalogues, by their suffix: text, Excel, Parquet, JSON, Google's XML, packed or not."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.text_files import Table, decoded, read_delimited
from segkit.core.text import quantity, shortened
from segkit.errors import ProductsError

READ = ".csv, .tsv, .txt, .parquet, .jsonl, .json, .xlsx or .xml, also packed as .gz or .zip"
_EXCEL_DIGITS = 15


def read_file(path: Path, options: CatalogueOptions) -> Table:
    """Read a file, or a folder of Parquet files, as a table of all its columns.

    Raises ProductsError for a file that cannot be read, that is of another form, or that changes meanwhile.
    """
    if path.is_dir() and any(path.rglob("*.parquet")):
        return _read_parquet(path.name, path, options)
    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if PurePath(p.name).suffix.lower() in _READERS)
        hint = f"give one file: {path / inside[0]}" if inside else f"products are read from {READ}"
        raise ProductsError(f"no such file: {path} is a folder without Parquet files", hint)
    if not path.is_file():
        near = get_close_matches(path.name, _neighbours(path), n=1, cutoff=0.8)
        raise ProductsError(f"no such file: {path}", f"did you mean {path.parent / near[0]}?" if near else "")
    try:
        before, data = _identity(path), path.read_bytes()
        table = _read_bytes(str(path), path.name, data, options)
        after = _identity(path)
    except OSError as error:
        raise ProductsError(f"{path} cannot be read: {error.strerror or error}") from None
    if before != after:
        raise ProductsError(f"{path} was changed while it was read", "try again when it is whole")
    return table


def _read_bytes(shown: str, name: str, data: bytes, options: CatalogueOptions) -> Table:
    suffix = PurePath(name).suffix.lower()
    if suffix in (".gz", ".zip"):
        inner, data = _unpacked(shown, name, data)
        return _read_bytes(shown, inner, data, options)
    reader = _READERS.get(suffix)
    if reader is None:
        more = "save it as .xlsx: " if suffix in (".xls", ".ods", ".xlsb", ".numbers") else ""
        raise ProductsError(f"{shown}: {suffix or 'no'} suffix", f"{more}products are read from {READ}")
    return reader(shown, data, options)


def _unpacked(shown: str, name: str, data: bytes) -> tuple[str, bytes]:
    """Return the name and the content of the one file inside."""
    try:
        if name.lower().endswith(".gz"):
            return name[:-3], gzip.decompress(data)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            inside = [n for n in archive.namelist() if not n.endswith("/") and not _is_hidden(n)]
            if len(inside) == 1:
                return inside[0], archive.read(inside[0])
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise ProductsError(f"{shown} cannot be unpacked: {error}") from None
    raise ProductsError(
        f"{shown} holds {quantity(len(inside), 'file')}: {shortened(inside)}", "unpack it and give one of them"
    )


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or PurePath(name).name.startswith(".")


def _read_text(shown: str, data: bytes, options: CatalogueOptions, *, tabs: bool = False) -> Table:
    text, encoding = decoded(shown, data, options.encoding)
    return read_delimited(shown, text, encoding, options, tabs=tabs)


def _read_tabs(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    return _read_text(shown, data, options, tabs=True)


def _read_excel(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    """Read a sheet of a workbook as it is shown there: integers stay integers, texts stay texts."""
    title, rows, sheets = excel_rows(shown, data, [options.sheet] if options.sheet else [])
    if options.sheet not in ("", title):
        raise ProductsError(f"{shown} has no sheet {options.sheet!r}", f"--sheet is one of {shortened(sheets)}")
    frame, line = _under_header(shown, rows, options)
    _require_exact(shown, frame, options)
    which = f"sheet {title!r}" + (f" of {len(sheets)}" if len(sheets) > 1 else "")
    return Table(frame, f"Excel, {which}, header in row {line}", _elsewhere(rows, line, sheets, options))


def excel_rows(shown: str, data: bytes, preferred: Sequence[str]) -> tuple[str, list[list[Any]], list[str]]:
    """Return the name and the rows of a sheet of a workbook, and the names of all its sheets.

    The sheet is the first of the preferred ones that is there, else the first of the workbook. Raises ProductsError
    for what is no workbook.
    """
    import openpyxl

    try:
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ProductsError(f"{shown} cannot be read as Excel: {error}") from None
    sheet = book[next((name for name in preferred if name in book.sheetnames), book.sheetnames[0])]
    return sheet.title, [list(row) for row in sheet.iter_rows(values_only=True)], book.sheetnames


def _elsewhere(rows: Sequence[Sequence[Any]], header: int, sheets: Sequence[str], options: CatalogueOptions) -> str:
    """Name the other sheets of a workbook, and a row of this one that has more names than its header."""
    hints = []
    if not options.header_row:
        named = [sum(isinstance(value, str) and bool(value.strip()) for value in row) for row in rows[:20]]
        best = max(range(len(named)), key=lambda i: named[i])
        if named[best] > max(1, named[header - 1]):
            names = [value for value in rows[best] if isinstance(value, str) and value.strip()]
            hints.append(f"row {best + 1} may be the header (--header-row {best + 1}): {shortened(names, 5)}")
    if len(sheets) > 1 and not options.sheet:
        hints.append(f"there are {len(sheets)} sheets (--sheet): {shortened(sheets)}")
    return "; ".join(hints)


def _under_header(shown: str, rows: list[list[Any]], options: CatalogueOptions) -> tuple[pd.DataFrame, int]:
    """Find the row that names the columns: as given, the first with both wanted names, or the first filled one."""
    filled = [i for i, row in enumerate(rows) if any(value is not None for value in row)]
    if not filled:
        raise ProductsError(f"{shown} is empty", "the first row names the columns")
    fits = [i for i in filled[:20] if set(options.wanted) <= {str(value) for value in rows[i]}]
    header = options.header_row - 1 if options.header_row else (fits or filled)[0]
    if header >= len(rows):
        raise ProductsError(
            f"{shown} has {quantity(len(rows), 'row')}", f"--header-row {options.header_row} is not one of them"
        )
    width = max(map(len, rows))
    rows = [[*row, *[None] * (width - len(row))] for row in rows]
    names = ["" if value is None else str(value).strip() for value in rows[header]]
    body = [row for row in rows[header + 1 :] if any(value is not None for value in row)]
    kept = [i for i, name in enumerate(names) if name or any(row[i] is not None for row in body)]
    columns = {names[i] or f"column {i + 1}": [row[i] for row in body] for i in kept}
    if len(columns) < len(kept):
        raise ProductsError(f"{shown}, row {header + 1}: columns are named more than once", "give each its own name")
    return pd.DataFrame(columns, dtype=object), header + 1


def _require_exact(shown: str, frame: pd.DataFrame, options: CatalogueOptions) -> None:
    """Refuse ids that Excel has rounded: a number keeps 15 digits there."""
    values = frame.get(options.id_column, pd.Series(dtype=object))
    lost = [v for v in values if isinstance(v, int | float) and abs(v) >= 10**_EXCEL_DIGITS]
    if lost:
        what = f"{shown}: {quantity(len(lost), 'id', 'have')} more than {_EXCEL_DIGITS} digits, which Excel rounds"
        raise ProductsError(
            f"{what}: {shortened(lost)}", "format the column as text in Excel and enter the ids again"
        )


def _read_parquet_bytes(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    return _read_parquet(shown, io.BytesIO(data), options)


def _read_parquet(shown: str, source: Path | io.BytesIO, options: CatalogueOptions) -> Table:
    """Read Parquet, also a folder as Spark writes it; integers with gaps stay integers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    integers = {getattr(pa, name.lower())(): getattr(pd, f"{name}Dtype")() for name in _INTEGERS}
    try:
        frame = pq.read_table(source).to_pandas(types_mapper=integers.get)
    except (ValueError, OSError, pa.ArrowException) as error:  # of these kinds are pyarrow's errors
        raise ProductsError(f"{shown} cannot be read as Parquet: {error}") from None
    return Table(frame, "Parquet" + (", a folder" if isinstance(source, Path) else ""))


_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")


def _read_json_lines(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    text, encoding = decoded(shown, data, options.encoding)
    return Table(_frame(shown, list(_json_lines(shown, text))), f"JSON lines, {encoding}")


def _json_lines(shown: str, text: str) -> Iterator[dict[str, Any]]:
    import orjson

    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ProductsError(f"{shown}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise ProductsError(f"{shown}, line {number}: not a JSON object")
        yield row


def _read_json(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    """Read a list of objects, or an object that holds one; or JSON lines under this name."""
    import orjson

    text, encoding = decoded(shown, data, options.encoding)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return _read_json_lines(shown, data, options)
        raise ProductsError(f"{shown} is not JSON: {error}") from None
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return Table(_frame(shown, value), f"a JSON list, {encoding}")
    lists = dict(_lists(value))
    if len(lists) == 1:
        key, rows = next(iter(lists.items()))
        return Table(_frame(shown, rows), f"the JSON list {key!r}, {encoding}")
    found = f"{quantity(len(lists), 'list')} of objects: {shortened(lists)}" if lists else "no list of objects"
    raise ProductsError(f"{shown} holds {found}", "give a JSON list with an object for each product")


def _lists(value: Any, path: str = "") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Find the lists of objects inside an object, at any depth, with the names that lead to each."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        name = f"{path}.{key}" if path else str(key)
        if _is_table(inner):
            yield name, inner
        else:
            yield from _lists(inner, name)


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _frame(shown: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Make a frame of objects; an object inside one becomes columns `outer.inner`."""
    if any(isinstance(value, dict) for row in rows for value in row.values()):
        rows = [_flat(row) for row in rows]
    return pd.DataFrame(rows, dtype=object)


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= _flat(value, f"{before}{name}.") if isinstance(value, dict) and value else {f"{before}{name}": value}
    return flat


def _read_xml(shown: str, data: bytes, options: CatalogueOptions) -> Table:
    """Read a feed of Google's: the items of RSS or the entries of Atom."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError, fromstring

    try:
        root = fromstring(data)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise ProductsError(f"{shown} cannot be read as XML: {error}") from None
    items = [element for element in root.iter() if _local(element.tag) in ("item", "entry")]
    if not items:
        raise ProductsError(f"{shown} holds no <item> and no <entry>", f"products are read from {READ}")
    rows = [
        {_local(child.tag): " ".join(child.itertext()).strip() for child in reversed(list(item))} for item in items
    ]
    return Table(pd.DataFrame(rows, dtype=object), "XML, a Google feed")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _neighbours(path: Path) -> list[str]:
    return [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else []


def _identity(path: Path) -> tuple[int, ...]:
    """Return what differs once a file was written to or replaced."""
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


_READERS: dict[str, Callable[[str, bytes, CatalogueOptions], Table]] = {
    ".csv": _read_text,
    ".txt": _read_text,
    ".tsv": _read_tabs,
    ".tab": _read_tabs,
    ".parquet": _read_parquet_bytes,
    ".jsonl": _read_json_lines,
    ".ndjson": _read_json_lines,
    ".json": _read_json,
    ".xlsx": _read_excel,
    ".xlsm": _read_excel,
    ".xml": _read_xml,
}
