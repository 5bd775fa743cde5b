"""Taxonomies in files: a sheet with edits as segkit writes it, or a typed list of names and definitions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.files import excel_rows
from segkit.core.catalogue.text_files import decoded, delimited_rows
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.taxonomy.edits import ACTIONS, Edit
from segkit.core.taxonomy.keys import key_of, taxonomy_frame
from segkit.core.text import clean_definition, clean_name, fold_name, name_fault, quantity, shortened
from segkit.display import excel_value, plain, spreadsheet_text, typed_text
from segkit.errors import ProductsError, TaxonomyError

#: The files that a taxonomy is read from.
SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".json")
SHEET = "taxonomy"
_COLUMNS = {
    "key": "key", "category key": "key", "category id": "key",
    "name": "name", "category name": "name", "category": "name", "segment": "name",
    "definition": "definition", "description": "definition",
    "includes": "includes", "excludes": "excludes",
    "action": "action", "into": "into", "note": "note", "state": "state", "run": "run",
    "product category": "product_category",
}  # fmt: skip
_SYNONYMS = {"merge": "merge_into", "remove": "delete", "new": "add", "define": "redefine"}
_MOST_ROWS = 5000


@dataclass(frozen=True, slots=True)
class TaxonomyFile:
    """What a file says: a row a category, by the names of `_COLUMNS`, with `where` it stands.

    `run` is the run that it was exported from, `category` what its products are; both are empty in a typed list.
    """

    name: str
    rows: tuple[Mapping[str, str], ...]
    run: str = ""
    category: str = ""

    @property
    def has_keys(self) -> bool:
        return any(row.get("key") for row in self.rows)


def is_taxonomy_file(source: str | Path) -> bool:
    """Return whether a text names a file and not a run."""
    return isinstance(source, Path) or Path(source).suffix.lower() in SUFFIXES


def read_taxonomy_file(path: Path) -> TaxonomyFile:
    """Read a taxonomy from CSV, TSV, Excel, JSON or plain text; raise TaxonomyError for a file that is none."""
    read = _READERS.get(path.suffix.lower())
    if read is None:
        what = f"{path}: {path.suffix or 'no'} suffix"
        raise TaxonomyError(what, f"a taxonomy is read from {', '.join(SUFFIXES)}")
    try:
        return taxonomy_file(path.name, *read(path.name, path.read_bytes()))
    except ProductsError as error:  # of the readers, which it shares with catalogues
        raise TaxonomyError(error.message, "save it as `CSV UTF-8`, or as .xlsx") from None
    except OSError as error:
        raise TaxonomyError(
            f"{path} cannot be read: {error.strerror or error}", "segkit taxonomy export latest"
        ) from None


def taxonomy_document(name: str, document: Mapping[str, Any]) -> TaxonomyFile:
    """Take a taxonomy from a JSON document as segkit writes it: `run`, `product_category` and `categories`."""
    return taxonomy_file(name, *_of_document(name, document))


def taxonomy_file(name: str, rows: Sequence[Mapping[str, Any]], where: Sequence[str]) -> TaxonomyFile:
    """Make a taxonomy of rows by their column names; `where` names the place of each row."""
    if not rows:
        raise TaxonomyError(f"{name} holds no categories", "each row needs a name, and should have a definition")
    if len(rows) > _MOST_ROWS:
        raise TaxonomyError(f"{name} has {quantity(len(rows), 'row')}; a taxonomy has at most {_MOST_ROWS:,}")
    known = [{**_known(row), "where": at} for row, at in zip(rows, where, strict=True)]
    if not any("name" in row or row.get("key") for row in known):
        found = shortened(dict.fromkeys(key for row in rows for key in row))
        raise TaxonomyError(
            f"{name} has no column `name`; its columns are {found}", "name it `name`, beside `definition`"
        )
    filled = [row for row in known if any(row.get(column) for column in ("key", "name", "definition", "action"))]
    runs = {row["run"] for row in filled if row.get("run")}
    if len(runs) > 1:
        raise TaxonomyError(
            f"{name} holds categories of several runs: {shortened(sorted(runs))}", "export one of them"
        )
    categories = [row["product_category"] for row in filled if row.get("product_category")]
    return TaxonomyFile(name, tuple(filled), next(iter(runs), ""), categories[0] if categories else "")


def _known(row: Mapping[str, Any]) -> dict[str, str]:
    """Take the columns that are known, under their names; all cells become texts."""
    found: dict[str, str] = {}
    for name, value in row.items():
        column = _COLUMNS.get(re.sub(r"[\s_]+", " ", str(name)).strip().casefold())
        if column and column not in found:
            found[column] = plain(value).strip()
    return found


def base_taxonomy(file: TaxonomyFile) -> pd.DataFrame:
    """Make a taxonomy of a file that stands for itself; categories without a key get the next ones, in order."""
    rows: list[dict[str, object]] = []
    taken = [int(row["key"][2:]) for row in file.rows if re.fullmatch(r"C-[0-9]{1,9}", row.get("key", ""))]
    _check_keys(file)
    number = max(taken, default=0)
    for row in file.rows:
        name = _text(row, "name")
        is_new = not row.get("key")
        if is_new and file.has_keys:
            continue  # an addition to an exported taxonomy
        if name != OUT_OF_SCOPE and (fault := name_fault(name)):
            raise TaxonomyError(f"{file.name}, {row['where']}: {fault}", "give every category a name of its own")
        number += is_new
        key = key_of(number) if is_new else row["key"]
        texts = {each: clean_definition(_text(row, each)) for each in ("definition", "includes", "excludes")}
        texts["definition"] = texts["definition"] or clean_name(name)
        state = row.get("state", "")
        rows.append({
            "key": key, "id": int(key[2:]), "category_name": clean_name(name), **texts,
            "state": state if state in ("proposed", "retired") else "active",
            "is_locked": state == "locked",
        })  # fmt: skip
    folded = pd.Series(
        [fold_name(str(row["category_name"])) for row in rows if row["state"] != "retired"], dtype="str"
    )
    if len(twice := folded[folded.duplicated()]):
        raise TaxonomyError(
            f"{file.name} has {shortened(twice.unique())} more than once", "give each category a name of its own"
        )
    return taxonomy_frame(rows)


def _check_keys(file: TaxonomyFile) -> None:
    keys = [row["key"] for row in file.rows if row.get("key")]
    wrong = [key for key in keys if not re.fullmatch(r"C-[1-9][0-9]{0,8}", key)]
    if wrong:
        raise TaxonomyError(
            f"{file.name}: {shortened(wrong)} is no key", "keys look like C-4; leave it empty in a new row"
        )
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise TaxonomyError(
            f"{file.name} has {shortened(twice)} in more than one row", "leave the key empty in a new row"
        )


def edits_of(file: TaxonomyFile, base: pd.DataFrame) -> tuple[list[Edit], list[str]]:
    """Return the edits that a file makes to a taxonomy, and remarks for a person.

    Edits are the cells of `action`; names and texts that differ from the taxonomy; and rows without a key, which are
    new categories where the file has keys or the row has `add`. A category that the file leaves out stays as it is,
    and a remark says so.
    """
    _check_keys(file)
    known = base.set_index("key")
    keys = {fold_name(name): key for key, name in known.loc[known["state"] != "retired", "category_name"].items()}
    edits: list[Edit] = []
    for row in (row for row in file.rows if file.has_keys or _action(row)[0] == "add"):
        row_edits = _edits_of_row(row, known, {str(name): str(key) for name, key in keys.items()})
        edits += row_edits
    return edits, _remarks(file, known, edits)


def _edits_of_row(row: Mapping[str, str], known: pd.DataFrame, keys: Mapping[str, str]) -> list[Edit]:
    key, where, note = row.get("key", ""), row["where"], row.get("note", "")
    action, into = _action(row)
    if not key:
        texts: dict[str, Any] = {each: _text(row, each) for each in ("definition", "includes", "excludes")}
        if action not in ("", "add"):
            return [Edit(action, "", _text(row, "name"), into=into, note=note, where=where)]  # refused: it has no key
        return [Edit("add", "", _text(row, "name"), **texts, note=note, where=where)]
    found: list[Edit] = []
    if key in known.index and action not in ("merge_into", "split", "delete"):
        now = known.loc[key]
        if "name" in row and not _same(row["name"], str(now["category_name"])):
            found.append(Edit("rename", key, _text(row, "name"), note=note, where=where))
        changed: dict[str, Any] = {
            each: _text(row, each)
            for each in ("definition", "includes", "excludes")
            if each in row and not _same(row[each], str(now[each]))
        }
        if changed:
            found.append(Edit("redefine", key, **changed, note=note, where=where))
    if action == "merge_into":
        into = tuple(keys.get(fold_name(target), target) for target in into)
    if key not in known.index or action not in ("", "rename", "redefine", "add"):
        found.append(Edit(action or "rename", key, _text(row, "name"), into=into, note=note, where=where))
    return found


def _action(row: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """Return the action of a row and its target, which may stand in `into` or behind the action."""
    words = row.get("action", "").replace("→", " ").strip()
    name, target = re.sub(r"[\s_-]+", "_", words.casefold()).strip("_"), row.get("into", "")
    for action in sorted((*ACTIONS, *_SYNONYMS), key=len, reverse=True):
        if name == action or name.startswith(f"{action}_"):
            behind = re.split(r"[\s_-]+", words, maxsplit=action.count("_") + 1)[action.count("_") + 1 :]
            name, target = _SYNONYMS.get(action, action), target or "".join(behind)
            break
    into = (
        [typed_text(part.strip()) for part in re.split(r"[;\n]", target) if part.strip()]
        if name == "split"
        else [typed_text(target)]
    )
    return name, tuple(part for part in into if part)


def _remarks(file: TaxonomyFile, known: pd.DataFrame, edits: Sequence[Edit]) -> list[str]:
    shown = {row.get("key") for row in file.rows}
    living = known[(known["state"] != "retired") & (known["category_name"] != OUT_OF_SCOPE)]
    left_out = [f"{key} ({name})" for key, name in living["category_name"].items() if key not in shown]
    remarks = []
    if left_out and file.has_keys:
        remarks.append(f"{shortened(left_out)} not in {file.name}: stays as it is; `delete` in `action` deletes")
    renamed = {edit.key for edit in edits if edit.action == "rename"}
    same = [
        row["key"]
        for row in file.rows
        if _action(row)[0] == "rename" and row.get("key") and row["key"] not in renamed
    ]
    if same:
        remarks.append(f"{shortened(same)} has `rename`, but its name is as it was; write the new name in `name`")
    return remarks


def _text(row: Mapping[str, str], column: str) -> str:
    return typed_text(row.get(column, ""))


def _same(cell: str, text: str) -> bool:
    """Return whether a cell holds a text as a file of segkit shows it."""
    shown = {clean_definition(plain(write(text))) for write in (str, excel_value, spreadsheet_text)}
    return clean_definition(cell) in shown


Rows = tuple[list[dict[str, Any]], list[str]]


def _of_document(name: str, document: Any) -> Rows:
    head = document if isinstance(document, Mapping) else {}
    categories = head.get("categories") if head else document
    if not isinstance(categories, list) or not all(isinstance(row, Mapping) for row in categories):
        raise TaxonomyError(
            f"{name} holds no list `categories` of objects", "segkit taxonomy export latest --out taxonomy.json"
        )
    more = {each: head[each] for each in ("run", "product_category") if head.get(each)}
    return [{**row, **more} for row in categories], [f"category {i}" for i in range(1, len(categories) + 1)]


def _read_json(name: str, data: bytes) -> Rows:
    try:
        return _of_document(name, json.loads(decoded(name, data)[0]))
    except ValueError as error:
        raise TaxonomyError(f"{name} is no JSON: {error}") from None


def _read_delimited(name: str, data: bytes) -> Rows:
    return _under_header(delimited_rows(name, decoded(name, data)[0]))


def _read_plain(name: str, data: bytes) -> Rows:
    """Read a line a category: its name, and its definition after a colon, a tab or a dash."""
    lines = [re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", line).strip() for line in decoded(name, data)[0].splitlines()]
    pairs = [re.split(r"\t|:\s+|\s[–—-]\s", line, maxsplit=1) for line in lines]
    rows = [(number, pair) for number, pair in enumerate(pairs, start=1) if pair[0]]
    named = [{"name": pair[0], "definition": pair[1] if len(pair) > 1 else ""} for _, pair in rows]
    return named, [f"line {number}" for number, _ in rows]


def _read_excel(name: str, data: bytes) -> Rows:
    return _under_header([[plain(value) for value in row] for row in excel_rows(name, data, [SHEET])[1]])


def _under_header(lines: list[list[str]]) -> Rows:
    """Take the first row with a column `name` for the header; two columns may have none."""
    filled = [(number, line) for number, line in enumerate(lines, start=1) if any(cell.strip() for cell in line)]
    is_name = [
        any(_COLUMNS.get(re.sub(r"[\s_]+", " ", cell).strip().casefold()) == "name" for cell in line)
        for _, line in filled
    ]
    if any(is_name):
        header, body = filled[is_name.index(True)][1], filled[is_name.index(True) + 1 :]
    else:
        width = max((len([cell for cell in line if cell.strip()]) for _, line in filled), default=0)
        header, body = (["name", "definition"] if width <= 2 else filled[0][1]), filled[0 if width <= 2 else 1 :]
    rows = [dict(zip(header, [*line, *[""] * (len(header) - len(line))], strict=False)) for _, line in body]
    return rows, [f"row {number}" for number, _ in body]


_READERS: dict[str, Callable[[str, bytes], Rows]] = {
    ".csv": _read_delimited, ".tsv": _read_delimited, ".txt": _read_plain, ".xlsx": _read_excel, ".json": _read_json,
}  # fmt: skip
