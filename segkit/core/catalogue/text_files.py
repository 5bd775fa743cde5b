"""Tables in text files: which encoding, separator, quotes and header, decided from the file and reported."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from segkit.core.catalogue.ids import is_integer
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.text import quantity, shortened
from segkit.errors import ProductsError

_FIELD_LIMIT = 1_000_000
_SAMPLE = 1_000_000  # characters from which the separator is decided
_HEADER_LINES = 20  # lines in which the header is looked for
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
_MARKS = [
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
]


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of a file under the names of their columns, and a sentence about how the file was read.

    `hint` says where else the columns may be, if the wanted ones are not among them.
    """

    frame: pd.DataFrame
    understood: str
    hint: str = ""


def decoded(name: str, data: bytes, encoding: str = "") -> tuple[str, str]:
    """Decode a file; return the text and the name of the encoding.

    A byte order mark decides; otherwise the text is UTF-8, or in `encoding`. Raises ProductsError with the line that
    is not, and with the encoding that reads it: none is guessed.
    """
    if encoding:
        return _decoded_as(name, data, encoding)
    for mark, codec, title in _MARKS:
        if data.startswith(mark):
            return data.decode(codec, errors="strict" if codec == "utf-8-sig" else "replace"), title
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(name, data, error.start) from None
    if "\0" in text[:2]:
        hint = "--encoding utf-16-le" if text[1:2] == "\0" else "--encoding utf-16-be"
        raise ProductsError(f"{name} looks like UTF-16 without a byte order mark", f"if it is: {hint}")
    return text, "UTF-8"


def read_delimited(name: str, text: str, encoding: str, options: CatalogueOptions, *, tabs: bool = False) -> Table:
    """Read a table of separated fields; `tabs` prefers tabs, as the suffix .tsv promises.

    Raises ProductsError with the line that cannot be read.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    delimiter, text, skipped = _separator_line(text, options.delimiter)
    if not text.strip():
        raise ProductsError(f"{name} is empty", "the first line names the columns")
    delimiter, header = _header(text, delimiter, options, tabs=tabs)
    before, text = _split_lines(text, header)
    source = _Lines(name, text, delimiter, skipped + len(before))
    hint = "" if options.header_row else _later_header(text, options.delimiter)
    try:
        names, rows, quoted = _rows(source, options)
    except ProductsError as error:
        error.hint = hint or error.hint
        raise
    names, rows = _without_empty_ends(names, rows)
    _require_distinct(name, names, source.first + 1)
    frame = pd.DataFrame(rows, columns=names, dtype="str")
    words = [_NAMES.get(delimiter, repr(delimiter)), encoding, f"header in line {source.first + 1}"]
    return Table(frame, ", ".join([*words, *([] if quoted else ["quotes are part of the text"])]), hint)


def delimited_rows(name: str, text: str) -> list[list[str]]:
    """Return the fields of every row of a text, whatever separates them; no row is taken for the header.

    Raises ProductsError with the line that cannot be read.
    """
    csv.field_size_limit(_FIELD_LIMIT)
    delimiter, text, skipped = _separator_line(text, "")
    delimiter = delimiter or max("\t;,|", key=lambda candidate: _agreement(text[:_SAMPLE], candidate))
    return [[] for _ in range(skipped)] + [row for _, row in _Lines(name, text, delimiter, skipped).rows(quoted=True)]


@dataclass(frozen=True, slots=True)
class _Lines:
    """The text from the header on, and how many lines of the file come before it."""

    name: str
    text: str
    delimiter: str
    first: int

    def rows(self, *, quoted: bool) -> Iterator[tuple[int, list[str]]]:
        """Yield the line of the file in which a row ends, and its fields."""
        file = io.StringIO(self.text, newline="")
        if quoted:
            reader = csv.reader(file, delimiter=self.delimiter, strict=True)
        else:
            reader = csv.reader(file, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, strict=True)
        try:
            for row in reader:
                yield self.first + reader.line_num, row
        except csv.Error as error:
            where = f"{self.name}, line {self.first + reader.line_num}"
            raise ProductsError(f"{where}: {error}", "quote fields as RFC 4180 says") from None


def _rows(source: _Lines, options: CatalogueOptions) -> tuple[list[str], list[list[str]], bool]:
    """Read the header and the rows, with quotes or, in a report that knows no quoting, without."""
    try:
        names, rows = _table(source, quoted=True)
    except ProductsError:
        if source.delimiter not in "\t|":
            raise
        return *_table(source, quoted=False), False
    if _swallowed(source, names, rows, options):
        try:
            return *_table(source, quoted=False), False
        except ProductsError:
            pass
    return names, rows, True


def _table(source: _Lines, *, quoted: bool) -> tuple[list[str], list[list[str]]]:
    numbered = source.rows(quoted=quoted)
    _, names = next(numbered, (0, []))
    rows = []
    for line, row in numbered:
        if not any(row):
            continue
        if any(row[len(names) :]) or len(row) < len(names):
            what = f"{source.name}, line {line}: {quantity(len(row), 'field')} where the header has {len(names)}"
            raise ProductsError(what, "" if len(names) > 1 else "name the separator: --delimiter ';'")
        rows.append(row[: len(names)])
    return names, rows


def _swallowed(
    source: _Lines, names: Sequence[str], rows: Sequence[Sequence[str]], options: CatalogueOptions
) -> bool:
    """Report whether a quoted field holds what looks like rows: lines with as many separators as the header has.

    Where commas or semicolons separate, quoting is usual, so such lines must begin with an integer as the ids do.
    """
    column = names.index(options.id_column) if options.id_column in names else 0
    integers = all(is_integer(row[column].strip()) for row in rows)
    for row in rows:
        for field in row:
            if "\n" not in field and "\r" not in field:
                continue
            inside = [line.split(source.delimiter) for line in field.splitlines()[1:]]
            full = [cells for cells in inside if len(cells) == len(names)]
            if full and (
                source.delimiter in "\t|" or (integers and all(is_integer(c[column].strip()) for c in full))
            ):
                return True
    return False


def _header(text: str, delimiter: str, options: CatalogueOptions, *, tabs: bool) -> tuple[str, int]:
    """Choose the separator, and how many lines come before the header.

    The first line that names both wanted columns is the header. Where none does, the header is the first line, and
    the separator is the one that gives the rows the same number of fields.
    """
    candidates = [delimiter] if delimiter else ["\t", ",", ";", "|"] if tabs else [",", ";", "\t", "|"]
    lines = text[:_SAMPLE].splitlines()[: max(_HEADER_LINES, options.header_row)]
    if options.header_row > 0:
        lines, first = lines[options.header_row - 1 : options.header_row], options.header_row - 1
    else:
        first = 0
    for number, line in enumerate(lines):
        for candidate in candidates:
            if set(options.wanted) <= {name.strip() for name in next(csv.reader([line], delimiter=candidate), [])}:
                return candidate, first + number
    _, rest = _split_lines(text[:_SAMPLE], first)
    return max(candidates, key=lambda candidate: _agreement(rest, candidate)), first


def _later_header(text: str, delimiter: str) -> str:
    """Name a line behind the first that looks more like a header: the first of the lines with the most fields."""
    found: list[tuple[int, int, list[str]]] = []
    for number, line in enumerate(text[:_SAMPLE].splitlines()[:_HEADER_LINES]):
        for candidate in [delimiter] if delimiter else list(",;\t|"):
            names = [name.strip() for name in next(csv.reader([line], delimiter=candidate), []) if name.strip()]
            found.append((len(names), -number, names))
    most, number, names = max(found, default=(0, 0, []), key=lambda each: each[:2])
    first = max((count for count, number, _ in found if number == 0), default=0)
    if most <= max(1, first) or (most == first + 1 and first > 1):  # one name less is a column without a name
        return ""
    return f"line {1 - number} may be the header (--header-row {1 - number}): {shortened(names, 5)}"


def _agreement(text: str, delimiter: str) -> tuple[float, int]:
    """Return the share of rows that have as many fields as the header, and that number; 0 for a single column."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    widths: Counter[int] = Counter()
    try:
        header = len(next(reader, []))
        widths.update(len(row) for _, row in zip(range(1000), reader, strict=False) if row)
    except csv.Error:
        return 0.0, 0
    share = widths[header] / max(sum(widths.values()), 1) if widths else 1.0
    return (share if header > 1 else 0.0), header


def _separator_line(text: str, delimiter: str) -> tuple[str, str, int]:
    """Obey the line `sep=;` that Excel writes; return the separator, the text behind it and the lines it takes."""
    found = re.match(r"\ufeff?sep=(.)[\"']?\r?\n?", text, re.IGNORECASE)
    if not found:
        return delimiter, text, 0
    return delimiter or found[1], text[found.end() :], 1


def _split_lines(text: str, count: int) -> tuple[list[str], str]:
    """Split the first lines off a text."""
    lines = text.splitlines(keepends=True) if count else []
    return lines[:count], "".join(lines[count:]) if count else text


def _without_empty_ends(names: Sequence[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Drop columns without a name and without a value; name the others that have no name by their place."""
    dropped = {i for i, name in enumerate(names) if not name.strip() and not any(row[i] for row in rows)}
    if dropped:
        names = [name for i, name in enumerate(names) if i not in dropped]
        rows = [[value for i, value in enumerate(row) if i not in dropped] for row in rows]
    return [name.strip() or f"column {i}" for i, name in enumerate(names, start=1)], rows


def _require_distinct(name: str, names: Sequence[str], line: int) -> None:
    repeated = sorted(column for column, count in Counter(names).items() if count > 1)
    if repeated:
        what = f"{name}, line {line}: columns named more than once: {shortened(repeated)}"
        raise ProductsError(what, "give each its own name in the file")


def _decoded_as(name: str, data: bytes, encoding: str) -> tuple[str, str]:
    try:
        return data.decode(encoding).removeprefix("\ufeff"), encoding
    except LookupError:
        raise ProductsError(f"--encoding {encoding!r} is unknown", "--encoding cp1252, latin-1, utf-16 …") from None
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        what = f"{name}, line {line}: byte 0x{data[error.start]:02x} is not {encoding}"
        raise ProductsError(what, "give another --encoding") from None


def _not_utf8(name: str, data: bytes, start: int) -> ProductsError:
    """Name the line, and the encoding of western Windows or latin-1 with what the line then says."""
    line = data[:start].count(b"\n") + 1
    encoding = "cp1252"
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        encoding = "latin-1"
    begin = max(data.rfind(b"\n", 0, start) + 1, start - 20)
    words = data[begin : start + 20].splitlines()[0].decode(encoding).strip()
    hint = f"save the file as UTF-8, or give its encoding; with --encoding {encoding} it reads {words!r}"
    return ProductsError(f"{name}, line {line}: byte 0x{data[start]:02x} is not UTF-8", hint)
