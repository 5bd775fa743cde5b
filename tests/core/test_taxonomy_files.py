"""Taxonomies that people write: any of the formats gives the same categories, and a fault names its row."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from segkit.core.taxonomy.edits import Edit
from segkit.core.taxonomy.files import base_taxonomy, edits_of, read_taxonomy_file
from segkit.errors import TaxonomyError

ROWS = [("Drip Coffee Makers", "Machines that drip."), ("Moka Pots", "Pots for the stove; no power.")]


def write(path: Path) -> Path:
    frame = pd.DataFrame(ROWS, columns=["name", "definition"])
    if path.suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif path.suffix == ".json":
        path.write_text(json.dumps({"categories": frame.to_dict("records")}), encoding="utf-8")
    elif path.suffix == ".txt":
        path.write_text("\n".join(f"- {name}: {definition}" for name, definition in ROWS), encoding="utf-8")
    else:
        encoding = "utf-16" if path.stem == "wide" else "utf-8-sig"
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ";", encoding=encoding)
    return path


@pytest.mark.parametrize("name", ["a.csv", "wide.csv", "a.tsv", "a.txt", "a.xlsx", "a.json"])
def test_every_format_gives_the_same_taxonomy(name: str, tmp_path: Path) -> None:
    taxonomy = base_taxonomy(read_taxonomy_file(write(tmp_path / name)))
    assert taxonomy["key"].tolist() == ["C-1", "C-2"]
    assert list(zip(taxonomy["category_name"], taxonomy["definition"], strict=True)) == ROWS


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("a.txt", "Moka Pots: a\nmoka pots: b", r"a\.txt has moka pots more than once"),
        ("a.csv", "key,name\nC-1,A pot\nC-1,A mug", r"a\.csv has C-1 in more than one row"),
        ("a.csv", "key,name\nC1,A pot", r"a\.csv: C1 is no key"),
        ("a.csv", "shade,size,price\nred,1,2", r"has no column `name`; its columns are shade, size, price"),
        ("a.json", "[1]", "holds no list `categories`"),
        ("a.json", "{", "is no JSON"),
        ("a.csv", "", "holds no categories"),
        ("a.docx", "Moka Pots", r"\.docx suffix"),
        ("a.csv", b"name,definition\nCaf\xe9,A place", r"a\.csv, line 2: byte 0xe9 is not UTF-8 \(save it as"),
        ("a.csv", 'name,definition\n"Pots"s,x', r"a\.csv, line 2: .* expected after"),
        ("a.xlsx", "Moka Pots", r"a\.xlsx cannot be read as Excel"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(name: str, text: str | bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TaxonomyError, match=why):
        base_taxonomy(read_taxonomy_file(tmp_path / name))


@pytest.mark.parametrize("text", ["sep=;\nname;definition\n{}", "name|definition\n{}", "{}"])
def test_separators_are_found_as_in_catalogues(text: str, tmp_path: Path) -> None:
    """Also the line that Excel writes, pipes, and a list without a header, whose definitions hold other signs."""
    sign = "|" if "|" in text else ";"
    rows = "\n".join(f'{name}{sign}"{definition}"' for name, definition in ROWS)
    (tmp_path / "a.csv").write_text(text.format(rows), encoding="utf-8")
    taxonomy = base_taxonomy(read_taxonomy_file(tmp_path / "a.csv"))
    assert list(zip(taxonomy["category_name"], taxonomy["definition"], strict=True)) == ROWS


def test_the_cells_of_a_sheet_become_edits(tmp_path: Path) -> None:
    """A changed name is a rename, a row without a key is a new category, and what is left out stays."""
    base = base_taxonomy(read_taxonomy_file(write(tmp_path / "a.csv")))
    (tmp_path / "b.csv").write_text(
        "key,name,action,into\nC-1,Filter Machines,,\n,Cold Brew Jugs,,\n", encoding="utf-8"
    )
    edits, remarks = edits_of(read_taxonomy_file(tmp_path / "b.csv"), base)
    assert edits == [
        Edit("rename", "C-1", "Filter Machines", where="row 2"),
        Edit("add", "", "Cold Brew Jugs", definition="", includes="", excludes="", where="row 3"),
    ]
    assert remarks == ["C-2 (Moka Pots) not in b.csv: stays as it is; `delete` in `action` deletes"]
