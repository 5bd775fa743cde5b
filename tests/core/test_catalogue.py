"""Products from odd files: read exactly, or refused before anything is asked, with the rows told."""

import codecs
import csv
import gzip
import hashlib
import json
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from catalogues import data
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.catalogue.gate import check_products, select
from segkit.core.catalogue.ids import number_of, parse_id_file, parse_ids, require_distinct
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.load import load_products
from segkit.core.catalogue.titles import untitled
from segkit.errors import ProductsError

PLAIN = "product_id,title,brand\n2,Slide dimmer,GE\n1,Rotary dimmer,\n"


def write(folder: Path, content: str | bytes, name: str = "products.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, **options: Any) -> ProductsError:
    """The error that reading a file ends in."""
    with pytest.raises(ProductsError) as caught:
        load_products(path, **options)
    return caught.value


def parquet(folder: Path, **columns: Any) -> Path:
    pd.DataFrame(columns).to_parquet(folder / "products.parquet")
    return folder / "products.parquet"


def jsonl(folder: Path, *rows: Any) -> Path:
    return write(folder, "\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), "products.jsonl")


# --- reading ----------------------------------------------------------------------------------------

SAME = {
    "plain": PLAIN.encode(),
    "byte order mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "semicolons": PLAIN.replace(",", ";").encode(),
    "tabs": PLAIN.replace(",", "\t").encode(),
    "CRLF": PLAIN.replace("\n", "\r\n").encode(),
    "CR": PLAIN.replace("\n", "\r").encode(),
    "quoted": b'"product_id","title","brand"\n"2","Slide dimmer","GE"\n"1","Rotary dimmer",""\n',
    "blank lines": PLAIN.replace("\n", "\n\n").encode(),
    "no line end": PLAIN.strip().encode(),
    "spaces around ids": PLAIN.replace("2,", " 2 ,").encode(),
}


@pytest.mark.parametrize("content", SAME.values(), ids=SAME)
def test_dresses_of_one_csv(tmp_path: Path, content: bytes) -> None:
    """Marks, separators, line ends and quotes change nothing; rows are sorted by id."""
    frame = load_products(write(tmp_path, content))
    assert frame.to_dict("list") == {
        "product_id": [1, 2],
        "title": ["Rotary dimmer", "Slide dimmer"],
        "brand": ["", "GE"],
    }
    assert frame["product_id"].dtype == "int64"


def test_the_three_formats_give_the_same(tmp_path: Path) -> None:
    """CSV, JSONL and Parquet of the same products are the same products."""
    rows = [{"product_id": 2, "title": "Slide dimmer"}, {"product_id": 1, "title": "Rotary dimmer"}]
    frames = [
        load_products(write(tmp_path, "product_id,title\n2,Slide dimmer\n1,Rotary dimmer\n")),
        load_products(jsonl(tmp_path, *rows, "")),
        load_products(parquet(tmp_path, **pd.DataFrame(rows).to_dict("list"))),
        load_products(write(tmp_path, "product_id\ttitle\n2\tSlide dimmer\n1\tRotary dimmer\n", "products.TSV")),
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


@pytest.mark.parametrize(
    "title",
    ["two\nlines", 'with "quotes"', "a, b; c\td", "=cmd()", "é 開關 😀", " spaces ", "NA", "Nan bread", "1984"],
)
def test_titles_are_kept_as_they_are(tmp_path: Path, title: str) -> None:
    """Embedded separators, quotes and line breaks are data, and a number is a title."""
    quoted = title.replace('"', '""')
    from_csv = load_products(write(tmp_path, f'product_id,title\n1,"{quoted}"\n2,next\n'))
    from_json = load_products(jsonl(tmp_path, {"product_id": 1, "title": title}, {"product_id": 2, "title": "next"}))
    for frame in (from_csv, from_json):
        assert frame["title"].tolist() == [title, "next"]
        assert untitled(frame).tolist() == [False, False]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=8))
@settings(max_examples=40)
def test_any_titles_come_through_csv_and_parquet(tmp_path_factory: pytest.TempPathFactory, titles: list[str]) -> None:
    """What pandas writes is read back, sign by sign."""
    folder = tmp_path_factory.mktemp("products")
    frame = pd.DataFrame({"product_id": range(len(titles)), "title": titles})
    frame.to_csv(folder / "p.csv", index=False, quoting=csv.QUOTE_ALL)  # a bare CR is a line end elsewhere
    frame.to_parquet(folder / "p.parquet")
    for path in folder.iterdir():
        assert load_products(path)["title"].tolist() == titles, path.name


BROKEN: dict[str, tuple[str | bytes, str]] = {
    "no bytes": (b"", "is empty"),
    "only a header": ("product_id,title\n", "0 rows"),
    "one column": ("product_id\n1\n", "no column 'title'"),
    "no header": ("1,Rotary dimmer\n2,Slide\n", "no column 'product_id'"),
    "a field too many": ("product_id,title\n1,a\n2,b,c\n", "line 3: 3 fields where the header has 2"),
    "a field too few": ('product_id,title\n1,"a\nb"\n2\n', "line 4: 1 field where the header has 2"),
    "open quote": ('product_id,title\n1,"a\n2,b\n', "line 3"),
    "text behind a quote": ('product_id,title\n1,"a"b\n', "line 2"),
    "repeated column": ("product_id,title,title\n1,a,b\n", "columns named more than once: title"),
    "Latin-1": ("product_id,title\n1,a\n2,café\n".encode("latin-1"), "line 3: byte 0xe9 is not UTF-8"),
    "UTF-16 without a mark": (PLAIN.encode("utf-16-le"), "looks like UTF-16 without a byte order mark"),
    "endless field": ("product_id,title\n1," + "x" * 1_000_001, "line 2: field larger"),
}


@pytest.mark.parametrize(("content", "why"), BROKEN.values(), ids=BROKEN)
def test_a_broken_csv_is_told_with_its_line(tmp_path: Path, content: str | bytes, why: str) -> None:
    """What is wrong and where, in one line."""
    error = refused(write(tmp_path, content))
    assert why in error.message
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (['{"product_id": 1, "title": "a"}', "{"], "line 2: "),
        (['{"product_id": 1, "title": "a"}', "[1]"], "line 2: not a JSON object"),
        (['{"product_id": 1, "title": NaN}'], "line 1: "),
        (['{"product_id": 1, "title": "\\ud800"}'], "line 1: "),
        ([""], "no column 'product_id'"),
    ],
)
def test_a_broken_jsonl_is_told_with_its_line(tmp_path: Path, rows: list[str], why: str) -> None:
    """The same for JSON lines."""
    assert why in refused(jsonl(tmp_path, *rows)).message


def test_a_truncated_parquet_is_told(tmp_path: Path) -> None:
    """Cut anywhere, it is one clear error."""
    path = parquet(tmp_path, product_id=[1, 2], title=["a", "b"])
    content = path.read_bytes()
    for end in range(0, len(content), 97):
        path.write_bytes(content[:end])
        assert "cannot be read as Parquet" in refused(path).message


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """Another process goes on writing it; a part of a file is not taken for the whole."""
    path = tmp_path / "p.csv"
    path.write_text("product_id,title\n" + "".join(f"{i},Kettle number {i}\n" for i in range(50_000)))
    code = "import sys, time\nwhile True:\n    open(sys.argv[1], 'a').write('-1,x\\n'); time.sleep(0.001)"
    writer = subprocess.Popen([sys.executable, "-S", "-c", code, str(path)])
    try:
        size = path.stat().st_size
        while path.stat().st_size == size:
            time.sleep(0.01)
        assert str(refused(path)) == f"{path} was changed while it was read (try again when it is whole)"
    finally:
        writer.kill()
        writer.wait()


@pytest.mark.parametrize("name", ["products.xls", "products", "products.docx", "products.ods.gz"])
def test_another_format_is_refused(tmp_path: Path, name: str) -> None:
    """The suffixes that can be read are named."""
    data = gzip.compress(PLAIN.encode()) if name.endswith(".gz") else PLAIN
    assert ".csv, .tsv, .txt, .parquet, .jsonl, .json, .xlsx or .xml" in refused(write(tmp_path, data, name)).hint


def test_a_wrong_path_is_told_with_the_nearest(tmp_path: Path) -> None:
    """A misspelt path has one clear line."""
    write(tmp_path, PLAIN)
    assert "did you mean" in refused(tmp_path / "product.csv").hint
    assert "no such file" in refused(tmp_path / "none" / "x.csv").message
    assert "no such file" in refused(tmp_path).message


# --- ids --------------------------------------------------------------------------------------------

BAD_IDS = {
    "": "there is no id",
    " ": "there is no id",
    "NaN": "there is no id",
    "n/a": "there is no id",
    "1.0": "1.0 is a decimal number",
    "1\0": "control characters",
    "9" * 300: "has 300 characters",
}


@pytest.mark.parametrize(("value", "why"), BAD_IDS.items())
def test_an_id_that_is_none_is_refused(tmp_path: Path, value: str, why: str) -> None:
    """Nothing goes through float, nothing is guessed; the row is named, and what helps."""
    error = refused(write(tmp_path, f"product_id,title\n1,a\n{value},b\n"))
    assert "1 row cannot be used: row 2: " in error.message
    assert why in error.message
    assert "--skip-refused" in error.hint


TEXT_IDS = ["007", "1e5", "+1", "1_000", "0x1", "x", "--1", "- 1", "1 2", "９", "١", "²", "True", "B0CFXPMZ7L"]
TEXT_IDS += [str(2**63), str(-(2**63) - 1), "9" * 30, "0b6f6a3e-5d0f-4f6e-9a53-0a8b6f1c2d3e", "red/lamp-2"]


@pytest.mark.parametrize("value", TEXT_IDS)
def test_an_id_may_be_any_text(tmp_path: Path, value: str) -> None:
    """One that is no plain integer makes the column texts: the number is computed, and the text is kept."""
    frame = load_products(write(tmp_path, f"product_id,title\n7,a\n{value},b\n"))
    texts = dict(zip(frame["title"], frame["source_id"], strict=True))
    assert texts == {"a": "7", "b": value}
    numbers = dict(zip(frame["title"], frame["product_id"], strict=True))
    assert all(2**52 <= number < 2**53 for number in numbers.values())
    assert numbers == {"a": number_of("7"), "b": number_of(value)}


def test_the_number_of_a_text_never_changes() -> None:
    """It is the same on every machine and in every release, or runs could not be extended."""
    assert number_of("B0CFXPMZ7L") == int(hashlib.sha256(b"B0CFXPMZ7L").hexdigest()[:13], 16) | 2**52
    assert number_of("007") != number_of("7")


def test_the_kind_of_an_id_does_not_depend_on_the_choice_of_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "product_id,title,kind\n7,a,x\nB2,b,y\n")
    alone = load_products(path, where={"kind": "x"})
    assert alone["product_id"].tolist() == [number_of("7")]
    assert load_products(path, product_ids=["B2"])["source_id"].tolist() == ["B2"]
    assert load_products(path, product_ids=[number_of("7")])["source_id"].tolist() == ["7"]


def test_ids_that_look_like_numbers_are_texts_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, "product_id,title\n1.0,a\n2.0,b\n")
    assert "--ids-as-text" in refused(path).hint
    assert sorted(load_products(path, ids_as_text=True)["source_id"]) == ["1.0", "2.0"]


def test_two_texts_of_one_number_are_refused() -> None:
    """Their numbers are given here, since nobody finds two texts with the same 52 bits."""
    numbers, texts = [5, 5], ["one", "other"]
    with pytest.raises(ProductsError, match="'one' and 'other' have the same number 5"):
        require_distinct(numbers, texts, {})


def test_products_pass_the_gate_again_unchanged(tmp_path: Path) -> None:
    """What was loaded may be handed over as a frame; the numbers are not hashed a second time."""
    frame = load_products(
        write(tmp_path, "sku,name,title\n007,a,old\nB,b,older\n"), id_column="sku", title_column="name"
    )
    again = check_products(frame).products
    pd.testing.assert_frame_equal(again, frame)
    assert list(again.columns) == ["product_id", "source_id", "title", "title_original"]


@pytest.mark.parametrize("value", [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)])
def test_every_bigint_is_an_id(tmp_path: Path, value: int) -> None:
    """To the last digit, in each format."""
    for path in (
        write(tmp_path, f"product_id,title\n{value},a\n"),
        jsonl(tmp_path, {"product_id": value, "title": "a"}),
        jsonl(tmp_path, {"product_id": str(value), "title": "a"}),
        parquet(tmp_path, product_id=[value], title=["a"]),
    ):
        assert load_products(path)["product_id"].tolist() == [value]


@pytest.mark.parametrize("value", [1.0, 1.5, True, None, [1], {"a": 1}, 10**30])
def test_a_json_id_of_another_type_is_refused(tmp_path: Path, value: Any) -> None:
    """1.0 is no 1, true is no 1, null is no 0."""
    assert (
        "row 2"
        in refused(jsonl(tmp_path, {"product_id": 7, "title": "a"}, {"product_id": value, "title": "b"})).message
    )


@pytest.mark.parametrize(
    "ids",
    [
        pd.array([1.0, 2.0], dtype="float64"),
        pd.array([1.0, 2.0], dtype="float32"),
        [True, False],
        pd.to_datetime(["2020-01-01", "2020-01-02"]),
        [Decimal("1.5"), Decimal("2.5")],
    ],
)
def test_a_parquet_column_of_another_type_is_refused(tmp_path: Path, ids: Any) -> None:
    """A float column has lost its digits already."""
    assert "2 rows cannot be used: row 1: " in refused(parquet(tmp_path, product_id=ids, title=["a", "b"])).message


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64", "Int64", "str"])
def test_a_parquet_column_of_integers_is_read(tmp_path: Path, dtype: str) -> None:
    """Whatever their width."""
    path = parquet(tmp_path, product_id=pd.array([2, 1], dtype="int64").astype(dtype), title=["a", "b"])
    assert load_products(path)["product_id"].tolist() == [1, 2]


def test_duplicate_ids_are_told_with_their_rows(tmp_path: Path) -> None:
    """With the same title or another one, refused with the list."""
    error = refused(write(tmp_path, "product_id,title\n1,a\n5,b\n1,a\n5,c\n7,d\n 1,e\n"))
    assert "2 product ids stand more than once: 1 (rows 1, 3, 6), 5 (rows 2, 4)" in error.message


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    """An error stays readable with thousands of wrong rows."""
    message = refused(write(tmp_path, "product_id,title\n" + ",a\n" * 3000)).message
    assert "3,000 rows cannot be used" in message
    assert "and 2,990 more" in message
    assert len(message) < 500


def test_rows_are_told_as_they_stand_in_the_file(tmp_path: Path) -> None:
    """Also where only some rows were taken."""
    path = write(tmp_path, "product_id,title,kind\n1,a,x\nnull,b,y\n3,c,x\n3,d,y\n3,e,y\n")
    assert (
        "3 (rows 4, 5)"
        in refused(write(tmp_path, path.read_text().replace("null", "9"), "b.csv"), where={"kind": "y"}).message
    )
    assert "row 2: there is no id" in refused(path, where={"kind": "y"}).message
    assert load_products(path, where={"kind": "x"})["product_id"].tolist() == [1, 3]


def test_equal_titles_are_separate_products(tmp_path: Path) -> None:
    """Two products of one name are two products."""
    assert load_products(write(tmp_path, "product_id,title\n1,a\n2,a\n"))["title"].tolist() == ["a", "a"]


# --- titles -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "title",
    [
        None,
        "",
        " ",
        "\u200b\n",
        float("nan"),
        "-",
        "?",
        "null",
        " None",
        "NaN",
        "N/A",
        "#N/A",
        "TBD",
        "undefined",
        "\u3164",
    ],
)
def test_no_title(tmp_path: Path, title: Any) -> None:
    """Empty, blank, invisible, or a word for nothing: listed as untitled, never shown to a model."""
    row = {"product_id": 1} if isinstance(title, float) and title != title else {"product_id": 1, "title": title}
    frame = load_products(jsonl(tmp_path, row, {"product_id": 2, "title": "Dimmer 600"}))
    assert untitled(frame).tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "title"),
    [
        (5, "5"),
        (1984, "1984"),
        (1.5, "1.5"),
        ("123", "123"),
        (" 1,299.00 ", " 1,299.00 "),
        ("4 5", "4 5"),
        ("😀", "😀"),
    ],
)
def test_a_number_is_a_title(tmp_path: Path, value: Any, title: str) -> None:
    """Books are named so; a number of another type is written out."""
    frame = load_products(jsonl(tmp_path, {"product_id": 1, "title": value}))
    assert frame["title"].tolist() == [title]
    assert not untitled(frame).any()


@pytest.mark.parametrize(("value", "kind"), [(True, "bool"), (["a"], "list")])
def test_a_title_of_another_type_is_refused(tmp_path: Path, value: Any, kind: str) -> None:
    """It is named for what it is, and not as a missing title."""
    rows = [{"product_id": 1, "title": value}, {"product_id": 2, "title": "a"}]
    assert f"row 1: the title is no text but a value of type {kind}" in refused(jsonl(tmp_path, *rows)).message


def test_missing_titles_in_parquet(tmp_path: Path) -> None:
    """Null in a typed column is an empty title."""
    frame = load_products(parquet(tmp_path, product_id=[1, 2], title=pd.array([None, "a"], dtype="str")))
    assert frame["title"].tolist() == ["", "a"]


# --- columns and lists ------------------------------------------------------------------------------

COLUMNS = "sku,product_id,name,title,kind\n5,11,Rotary,old,x\n6,12,Slide,new,y\n"


@pytest.mark.parametrize(
    ("id_column", "title_column", "ids", "titles"),
    [
        ("product_id", "title", [11, 12], ["old", "new"]),
        ("sku", "name", [5, 6], ["Rotary", "Slide"]),
        ("sku", "title", [5, 6], ["old", "new"]),
        ("product_id", "name", [11, 12], ["Rotary", "Slide"]),
        ("sku", "product_id", [5, 6], ["11", "12"]),
    ],
)
def test_columns_by_other_names(
    tmp_path: Path, id_column: str, title_column: str, ids: list[int], titles: list[str]
) -> None:
    """The named columns are used, whatever else bears the usual names."""
    frame = load_products(write(tmp_path, COLUMNS), id_column=id_column, title_column=title_column)
    assert frame["product_id"].tolist() == ids
    assert frame["title"].tolist() == titles
    assert frame.columns.is_unique


def test_columns_that_change_places(tmp_path: Path) -> None:
    """Even the two usual names may be the wrong way round."""
    path = write(tmp_path, "title,product_id\n1,Rotary\n")
    frame = load_products(path, id_column="title", title_column="product_id")
    assert (frame["product_id"][0], frame["title"][0]) == (1, "Rotary")


def test_one_column_cannot_be_both(tmp_path: Path) -> None:
    """Id and title are two columns."""
    assert "both the id and the title" in refused(write(tmp_path, COLUMNS), title_column="product_id").message


@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ({"title": "old"}, [5]),
        ({"name": "Slide"}, [6]),
        ({"product_id": "12"}, [6]),
        ({"kind": "x", "sku": "5"}, [5]),
    ],
)
def test_rows_are_chosen_by_the_columns_of_the_file(tmp_path: Path, where: dict[str, str], ids: list[int]) -> None:
    """A column means what the file calls so, also where another one is the title."""
    frame = load_products(write(tmp_path, COLUMNS), id_column="sku", title_column="name", where=where)
    assert frame["product_id"].tolist() == ids


def test_a_value_that_no_row_has_is_told_with_the_values(tmp_path: Path) -> None:
    """What stands in the column is listed."""
    error = refused(write(tmp_path, COLUMNS), where={"kind": "X"})
    assert "no row has kind='X'" in error.message
    assert "'x', 'y'" in error.hint


@pytest.mark.parametrize("option", ["id_column", "title_column"])
def test_a_missing_column_is_told_with_the_nearest(tmp_path: Path, option: str) -> None:
    """A misspelt column has one clear line."""
    error = refused(write(tmp_path, COLUMNS), **{option: "titel"})
    assert "no column 'titel'" in error.message
    assert "did you mean title?" in error.hint
    assert "sku, product_id, name, title, kind" in error.hint


def test_an_explicit_list() -> None:
    """Just these products, in one order, or an error that names those that are not there or stand twice."""
    frame = pd.DataFrame({"product_id": [3, 1, 2], "title": ["c", "a", "b"]})
    assert select(frame, [3, 1])["product_id"].tolist() == [1, 3]
    assert select(frame, None)["title"].tolist() == ["a", "b", "c"]
    with pytest.raises(ProductsError, match="2 product ids are not among the products: 8, 9"):
        select(frame, [9, 1, 8])
    with pytest.raises(ProductsError, match="listed more than once: 1"):
        select(frame, [1, 2, 1])
    with pytest.raises(ProductsError, match="0 rows"):
        select(frame, [])


def test_ids_are_read_from_text() -> None:
    """Commas, semicolons, tabs and lines separate them, and spaces where all of them are numbers."""
    assert parse_ids(" 1,2\n3\t-4,,5 \r\n6 7") == ["1", "2", "3", "-4", "5", "6", "7"]
    assert parse_ids("B01; 007,SKU 12") == ["B01", "007", "SKU 12"]
    assert parse_ids("") == []


def test_a_file_of_ids_may_have_a_header_and_comments() -> None:
    assert parse_id_file("SKU\n# the first two\n007;\n  #\n#12\nB01,B02\n", "sku") == ["007", "#12", "B01", "B02"]
    assert parse_id_file("product_id;\n1;\n2;\n", "id") == ["1", "2"]
    assert parse_id_file("", "id") == []


# --- lines ------------------------------------------------------------------------------------------


def test_the_line_of_a_product() -> None:
    """From any columns, one line, values never read as templates; what is missing is empty."""
    frame = pd.DataFrame(
        {
            "product_id": [1, 2],
            "title": ["A\n$brand", "B"],
            "brand": ["$title", None],
            "price": pd.array([19, None], dtype="Int64"),
            "rating": [4.5, float("nan")],
            "seen": pd.to_datetime(["2020-01-01", None]),
        }
    )
    assert product_lines(frame) == ["A $brand", "B"]
    assert product_lines(frame, "$title | ${brand} | $price USD") == ["A $brand | $title | 19 USD", "B | | USD"]
    assert product_lines(frame, "$title $$5 $rating") == ["A $brand $5 4.5", "B $5"]
    assert product_lines(frame, "$product_id\n$seen") == ["1 2020-01-01 00:00:00", "2"]


def test_a_column_of_lists_is_shown_and_chosen_as_text(tmp_path: Path) -> None:
    """Parquet may hold lists; they are text, not a crash."""
    path = parquet(tmp_path, product_id=[1, 2], title=["a", "b"], tags=[["x", "y"], ["z"]])
    frame = load_products(path)
    assert product_lines(frame, "$title $tags") == ["a ['x' 'y']", "b ['z']"]
    assert "no row has tags='q'" in refused(path, where={"tags": "q"}).message


@pytest.mark.parametrize(
    "line", ["", "title", "$titel", "$", "$title $", "${title", "$title ${ brand }", "$title $é", "$$title"]
)
def test_a_line_that_cannot_be_filled_is_refused(line: str) -> None:
    """Before any call, with the columns there are."""
    with pytest.raises(ProductsError, match="product line") as caught:
        product_lines(pd.DataFrame({"product_id": [1], "title": ["a"]}), line)
    assert "$product_id, $title" in caught.value.hint


# --- real catalogues --------------------------------------------------------------------------------

CATALOGUES = {
    "amazon_switches.csv": 512,
    "amazon_other_categories.csv": 235,
    "fashion_catalogue.csv": 44_446,
    "retail_demo_catalogue.csv": 2_465,
}


@pytest.mark.parametrize(("name", "count"), CATALOGUES.items())
def test_real_catalogues_are_read_whole(name: str, count: int) -> None:
    """Every row, sorted, with its title, and every line one line."""
    frame = load_products(data(name))
    assert len(frame) == count
    assert frame["product_id"].is_monotonic_increasing
    assert not untitled(frame).any()
    assert all(line == line.strip() and line.isprintable() for line in product_lines(frame))


def test_one_category_of_a_real_catalogue() -> None:
    """The rows that the catalogue's own README counts."""
    frame = load_products(data("amazon_switches.csv"), where={"category": "Dimmer Switches"})
    assert len(frame) == 286
