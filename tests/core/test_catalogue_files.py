"""Files as shops, marketplaces, spreadsheets and data tools write them: read whole, or refused with what helps."""

from __future__ import annotations

import datetime
import gzip
import io
import json
import shlex
import uuid
import zipfile
from pathlib import Path
from typing import Any

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segkit.cli.options import ProductSource
from segkit.core.catalogue.gate import Catalogue
from segkit.core.catalogue.lines import cut_columns, product_lines
from segkit.core.catalogue.load import load_catalogue
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.titles import untitled
from segkit.errors import ProductsError

SHOPIFY = (
    "Handle,Title,Body (HTML),Vendor,Variant SKU,Variant Price\n"
    'oak-desk,Oak Desk,"<p>Solid oak,<br>\n120 cm</p>",Nordo,OD-120,299.00\n'
    "oak-desk,,,,OD-140,329.00\n"
    "oak-desk,,,,OD-160,359.00\n"
    "pine-shelf,Pine Shelf,<p>Pine</p>,Nordo,PS-1,49.90\n"
)
WOO = (
    "\ufeffID,Type,SKU,Name,Regular price,Parent\n"
    '11,variable,MUG,"Mug, ""tall""",9,\n'
    "12,variation,MUG-R,Mug - Red,9,id:11\n"
    "13,simple,POT,Tea Pot,25,\n"
)
LISTINGS = (
    "item-name\tlisting-id\tseller-sku\tprice\tasin1\n"
    "Garden Hose 25 m\t0501A\tGH-25\t19.99\tB0AAAAAAA1\n"
    '"Flexi" Sprinkler\t0502B\tSP-01\t12.50\tB0AAAAAAA2\n'
    '1" Tap Adapter\t0503C\tTA-1\t3.20\tB0AAAAAAA3\n'
)
TEMPLATE = (
    "TemplateType=home\tVersion=2021\tThe top 3 rows are for use only.\n"
    "Seller SKU\tProduct Name\tPrice\n"
    "item_sku\titem_name\tstandard_price\n"
    "LMP-1\tFloor Lamp\t59\n"
)
FEED = (
    "id\ttitle\tlink\tprice\tavailability\n"
    "SKU-123\tHiking Boots\thttps://shop.example/1\t89.00 USD\tin stock\n"
    "SKU-124\tRain Jacket\thttps://shop.example/2\t120.00 USD\tin stock\n"
)
XML = """<?xml version="1.0"?>
<rss version="2.0" xmlns:g="http://base.google.com/ns/1.0"><channel><title>Shop</title>
<item><g:id>SKU-123</g:id><title>Hiking Boots</title><g:price>89.00 USD</g:price></item>
<item><g:id>SKU-124</g:id><title><![CDATA[Rain & Wind Jacket]]></title></item>
</channel></rss>"""
LAMPS = [{"product_id": 1, "title": "Red lamp"}, {"product_id": 2, "title": "Blue lamp"}]
ROWS = "1,Red lamp\n2,Blue lamp\n"


def read(folder: Path, name: str, content: str | bytes, **options: Any) -> Catalogue:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_catalogue(path, CatalogueOptions(**options))


def refusal(folder: Path, name: str, content: str | bytes, **options: Any) -> ProductsError:
    with pytest.raises(ProductsError) as caught:
        read(folder, name, content, **options)
    return caught.value


def zipped(**files: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
        archive.writestr("__MACOSX/._p.csv", "x")
    return data.getvalue()


def workbook(*rows: list[Any], sheet: str = "Products", more: str = "") -> bytes:
    book = openpyxl.Workbook()
    assert book.active is not None
    book.active.title = sheet
    for row in rows:
        book.active.append(row)
    if more:
        book.create_sheet(more).append(["nothing"])
    data = io.BytesIO()
    book.save(data)
    return data.getvalue()


# --- the same two lamps -----------------------------------------------------------------------------

LAMP_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "trailing commas": (
        "p.csv",
        "product_id,title,,\n1,Red lamp,,\n2,Blue lamp,,\n",
        "commas, UTF-8, header in line 1",
    ),
    "a line sep=": (
        "p.csv",
        "sep=;\r\nproduct_id;title\r\n1;Red lamp\r\n2;Blue lamp\r\n",
        "semicolons, UTF-8, header in line 2",
    ),
    "pipes": ("p.txt", "product_id|title\n1|Red lamp\n2|Blue lamp\n", "pipes, UTF-8"),
    "tabs": ("p.txt", "product_id\ttitle\n1\tRed lamp\n2\tBlue lamp\n", "tabs, UTF-8"),
    "UTF-16": ("p.txt", "product_id\ttitle\n1\tRed lamp\n2\tBlue lamp\n".encode("utf-16"), "tabs, UTF-16"),
    "UTF-32": ("p.csv", f"product_id,title\n{ROWS}".encode("utf-32"), "commas, UTF-32"),
    "a title above": ("p.csv", f"Export of March\n\nproduct_id,title\n{ROWS}", "header in line 3"),
    "empty rows": ("p.csv", f"product_id,title\n{ROWS},\n,\n", "2 rows"),
    "gzip": ("p.csv.gz", gzip.compress(f"product_id,title\n{ROWS}".encode()), "commas, UTF-8"),
    "zip": ("p.zip", zipped(p__csv=f"product_id,title\n{ROWS}"), "commas, UTF-8"),
    "a JSON list": ("p.json", json.dumps(LAMPS), "a JSON list"),
    "JSON of an API": (
        "p.json",
        json.dumps({"count": 2, "products": LAMPS, "tags": ["a"]}),
        "the JSON list 'products'",
    ),
    "JSON lines named .json": ("p.json", "\n".join(map(json.dumps, LAMPS)), "JSON lines"),
    "Excel": (
        "p.xlsx",
        workbook(["product_id", "title"], [1, "Red lamp"], [2, "Blue lamp"]),
        "Excel, sheet 'Products'",
    ),
    "Excel with a heading": (
        "p.xlsx",
        workbook(
            ["Our lamps"], [], ["product_id", "title", None], [1, "Red lamp"], [2, "Blue lamp"], [], more="Notes"
        ),
        "sheet 'Products' of 2, header in row 3",
    ),
}


@pytest.mark.parametrize(("name", "content", "understood"), LAMP_FILES.values(), ids=LAMP_FILES)
def test_one_catalogue_in_many_forms(tmp_path: Path, name: str, content: str | bytes, understood: str) -> None:
    """Every form gives the same products, and one line says how it was understood."""
    catalogue = read(tmp_path, name, content)
    assert catalogue.products.to_dict("records") == LAMPS
    assert understood in catalogue.understood
    assert catalogue.understood.endswith("2 rows; id: product_id, title: title")


# --- exports of shops and marketplaces --------------------------------------------------------------

EXPORTS: dict[str, tuple[str, str | bytes, dict[str, str]]] = {
    "Shopify": ("p.csv", SHOPIFY, {"oak-desk": "Oak Desk", "pine-shelf": "Pine Shelf"}),
    "WooCommerce": ("p.csv", WOO, {"11": 'Mug, "tall"', "13": "Tea Pot"}),
    "Amazon listings": (
        "p.txt",
        LISTINGS,
        {"GH-25": "Garden Hose 25 m", "SP-01": '"Flexi" Sprinkler', "TA-1": '1" Tap Adapter'},
    ),
    "Amazon template": ("p.txt", TEMPLATE, {"LMP-1": "Floor Lamp"}),
    "Google feed": ("p.tsv", FEED, {"SKU-123": "Hiking Boots", "SKU-124": "Rain Jacket"}),
    "Google XML": ("p.xml", XML, {"SKU-123": "Hiking Boots", "SKU-124": "Rain & Wind Jacket"}),
}


@pytest.mark.parametrize(("name", "content", "products"), EXPORTS.values(), ids=EXPORTS)
def test_a_known_export_is_read_by_the_options_of_its_refusal(
    tmp_path: Path, name: str, content: str, products: dict[str, str]
) -> None:
    """What is pasted works, and gives the products of the export."""
    hint = refusal(tmp_path, name, content).hint
    words = shlex.split(hint.partition(": add ")[2])
    typed = dict(zip(words[0::2], words[1::2], strict=True))
    source = ProductSource(
        products=str(tmp_path / name),
        id_column=typed["--id-column"],
        title_column=typed["--title-column"],
        where=[typed["--where"]] if "--where" in typed else None,
        header_row=int(typed.get("--header-row", 0)),
    )
    frame = load_catalogue(tmp_path / name, source.catalogue_options(None, tmp_path / "refused.csv")).products
    ids = frame["source_id"] if "source_id" in frame else frame["product_id"].astype("str")
    assert dict(zip(ids, frame["title"], strict=True)) == products


def test_rows_of_one_shopify_handle_are_one_product(tmp_path: Path) -> None:
    catalogue = read(tmp_path, "p.csv", SHOPIFY, id_column="Handle", title_column="Title")
    assert "a Shopify export with 4 rows for 2 products" in catalogue.understood
    assert catalogue.products.set_index("source_id").loc["oak-desk", "Variant SKU"] == "OD-120"


def test_a_report_without_quoting_loses_no_row(tmp_path: Path) -> None:
    """A quote that stands in a title would swallow the rows up to the next one."""
    report = 'asin\titem-name\nB2\tA\nB3\t"Rocker\nB4\tC\nB5\tD"\nB6\tE\n'
    catalogue = read(tmp_path, "p.tsv", report, id_column="asin", title_column="item-name")
    assert dict(zip(catalogue.products["source_id"], catalogue.products["title"], strict=True)) == {
        "B2": "A", "B3": '"Rocker', "B4": "C", "B5": 'D"', "B6": "E",
    }  # fmt: skip
    assert "quotes are part of the text" in catalogue.understood
    commas = 'product_id,title\n2,A\n3,"Rocker\n4,C\n5,D"\n6,E\n'
    assert read(tmp_path, "q.csv", commas).products["product_id"].tolist() == [2, 3, 4, 5, 6]


def test_a_description_of_several_lines_stays_one_field(tmp_path: Path) -> None:
    """Quotes that are quotes are obeyed, also where the lines inside hold as many commas as the header."""
    text = 'product_id,title\n1,"lamp\nred, big"\n2,"a\tb\nc\td"\n'
    assert read(tmp_path, "p.csv", text).products["title"].tolist() == ["lamp\nred, big", "a\tb\nc\td"]


# --- what a file does not say -----------------------------------------------------------------------


@pytest.mark.parametrize(("encoding", "word"), [("cp1252", "Müller’s Tür"), ("latin-1", "Tür\x85\x81")])
def test_an_encoding_is_named_and_never_guessed(tmp_path: Path, encoding: str, word: str) -> None:
    data = f"product_id,title\n1,a\n2,{word}\n".encode(encoding)
    error = refusal(tmp_path, "p.csv", data)
    assert "line 3: byte 0x" in error.message
    assert f"--encoding {encoding}" in error.hint
    catalogue = read(tmp_path, "p.csv", data, encoding=encoding)
    assert catalogue.products["title"].tolist() == ["a", word]
    assert f"commas, {encoding}" in catalogue.understood
    assert "unknown" in refusal(tmp_path, "p.csv", data, encoding="utf-9").message
    assert "is not ascii" in refusal(tmp_path, "p.csv", data, encoding="ascii").message


def test_what_was_given_holds(tmp_path: Path) -> None:
    """The separator, the row of the header and the sheet."""
    tildes = "old~names\nproduct_id~title\n1~Red lamp\n2~Blue lamp\n"
    assert read(tmp_path, "p.csv", tildes, delimiter="~", header_row=2).products.to_dict("records") == LAMPS
    book = workbook(["product_id", "title"], [1, "Red lamp"], [2, "Blue lamp"], sheet="Lamps", more="Other")
    assert read(tmp_path, "p.xlsx", book, sheet="Lamps").products.to_dict("records") == LAMPS
    assert "--sheet is one of Lamps, Other" in refusal(tmp_path, "p.xlsx", book, sheet="Lamp").hint
    assert "no column 'product_id'" in refusal(tmp_path, "p.xlsx", book, header_row=2).message


BROKEN: dict[str, tuple[str, str | bytes, str]] = {
    "zip of two": ("p.zip", zipped(a__csv="x", b__csv="y"), "holds 2 files: a.csv, b.csv"),
    "half a zip": ("p.zip", zipped(a__csv="x")[:40], "cannot be unpacked"),
    "half a gzip": ("p.csv.gz", gzip.compress(b"product_id,title\n" * 999)[:30], "cannot be unpacked"),
    "no workbook": ("p.xlsx", "product_id,title\n", "cannot be read as Excel"),
    "an empty sheet": ("p.xlsx", workbook(), "is empty"),
    "no JSON": ("p.json", "{", "is not JSON"),
    "two lists": ("p.json", '{"a": [{"x": 1}], "b": [{"x": 1}]}', "2 lists of objects: a, b"),
    "no list": ("p.json", '{"a": 1}', "no list of objects"),
    "no XML": ("p.xml", "<rss>", "cannot be read as XML"),
    "entities": ("p.xml", '<!DOCTYPE x [<!ENTITY a "b">]><rss><item>&a;</item></rss>', "cannot be read as XML"),
    "another XML": ("p.xml", "<catalog><product/></catalog>", "no <item> and no <entry>"),
    "rounded ids": ("p.xlsx", workbook(["product_id", "title"], [4006381333931000, "a"]), "which Excel rounds"),
}


@pytest.mark.parametrize(("name", "content", "why"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: str | bytes, why: str) -> None:
    error = refusal(tmp_path, name, content)
    assert why in error.message
    assert error.hint or "cannot be" in error.message or "is not JSON" in error.message


# --- Parquet ----------------------------------------------------------------------------------------


def test_parquet_as_others_write_it(tmp_path: Path) -> None:
    """The id in the index, texts as bytes, a folder of parts, a column of pictures, and integers with gaps."""
    lamps = pd.DataFrame(LAMPS)
    lamps.set_index("product_id").to_parquet(tmp_path / "index.parquet")
    pq.write_table(pa.table({"product_id": [1, 2], "title": [b"Red lamp", b"Blue lamp"]}), tmp_path / "bytes.parquet")
    (tmp_path / "folder.parquet").mkdir()
    for row in LAMPS:
        pq.write_table(
            pa.table({k: [v] for k, v in row.items()}), tmp_path / f"folder.parquet/part-{row['product_id']}.parquet"
        )
    (tmp_path / "folder.parquet" / "_SUCCESS").touch()
    for name in ("index", "bytes", "folder"):
        products = load_catalogue(tmp_path / f"{name}.parquet").products
        assert products.to_dict("records") == LAMPS, name
    pictures = pa.table(
        {**pa.Table.from_pylist(LAMPS).to_pydict(), "picture": [b"\xff\xd8", None], "stock": [2**53 + 1, None]}
    )
    pq.write_table(pictures, tmp_path / "pictures.parquet")
    catalogue = load_catalogue(tmp_path / "pictures.parquet")
    assert catalogue.left_out == ["picture"]
    assert "left out: picture" in catalogue.understood
    assert product_lines(catalogue.products, "$title {stock}") == ["Red lamp 9007199254740993", "Blue lamp"]


# --- frames -----------------------------------------------------------------------------------------

FRAMES: dict[str, tuple[pd.DataFrame, str]] = {
    "float ids": (pd.DataFrame({"product_id": [1.0, 2.0], "title": ["a", "b"]}), "1.0 is a decimal number"),
    "float ids with a gap": (pd.DataFrame({"product_id": [1.0, None], "title": ["a", "b"]}), "there is no id"),
    "the same id twice": (pd.DataFrame({"product_id": [1, 1, 3], "title": list("abc")}), "1 (rows 1, 2)"),
    "no id column": (pd.DataFrame({"title": ["a"]}), "no column 'product_id'"),
    "dates as ids": (
        pd.DataFrame({"product_id": [datetime.date(2026, 1, 1)], "title": ["a"]}),
        "no id but a value of type date",
    ),
    "a column twice": (
        pd.DataFrame([[1, "a", "b"]], columns=["product_id", "title", "title"]),
        "more than once: title",
    ),
    "no rows": (pd.DataFrame({"product_id": [], "title": []}), "0 rows"),
}


@pytest.mark.parametrize(("frame", "why"), FRAMES.values(), ids=FRAMES)
def test_a_frame_passes_the_same_gate(frame: pd.DataFrame, why: str) -> None:
    with pytest.raises(ProductsError) as caught:
        load_catalogue(frame)
    assert why in caught.value.message


def test_a_good_frame_is_read_like_a_file(tmp_path: Path) -> None:
    """The id as the index, missing titles, names of columns that are numbers, and options as for files."""
    frame = pd.DataFrame({"name": ["a", None, "c"], "kind": ["x", "x", "y"], 7: [1, 2, 3]}, index=["A1", "B2", "C3"])
    frame.index.name = "sku"
    options = CatalogueOptions(id_column="sku", title_column="name", where={"kind!": "y"})
    products = load_catalogue(frame, options).products
    assert sorted(products["source_id"]) == ["A1", "B2"]
    assert untitled(products).sum() == 1
    assert "7" in products.columns
    assert list(frame.columns) == ["name", "kind", 7], "the frame of the caller stays as it is"


ODD = {
    "complex": [1 + 2j, 0j],
    "mixed": [1, "one"],
    "sets": [{1}, set()],
    "half a sign": pd.Series(["a \ud800", "\ud83d\ude00"], dtype="object"),
    "sparse": pd.arrays.SparseArray([0, 1]),
    "periods": pd.period_range("2024", periods=2, freq="M"),
    "intervals": pd.interval_range(0, 2),
    "durations": pd.to_timedelta([1, None], unit="D"),
    "big": pd.array([2**53 + 1, None], dtype="Int64"),
    "categories": pd.Categorical(["x", None]),
}


@pytest.mark.parametrize("values", ODD.values(), ids=ODD)
def test_a_column_of_any_kind_can_be_stored(tmp_path: Path, values: Any) -> None:
    frame = pd.DataFrame({"product_id": [1, 2], "title": ["a lamp", "b lamp"], "odd": values})
    products = load_catalogue(frame).products
    products.to_parquet(tmp_path / "p.parquet")
    again = pd.read_parquet(tmp_path / "p.parquet")
    assert again["product_id"].tolist() == [1, 2]
    if "Int64" in str(products["odd"].dtype):
        assert pq.read_table(tmp_path / "p.parquet")["odd"].to_pylist() == [2**53 + 1, None]


def test_ids_of_type_uuid_and_titles_with_half_a_sign_are_read() -> None:
    ids = [uuid.UUID(int=7), uuid.UUID(int=8)]
    titles = pd.Series(["a \ud800 lamp", "smile \ud83d\ude00"], dtype="object")
    products = load_catalogue(pd.DataFrame({"product_id": ids, "title": titles})).products
    assert sorted(products["source_id"]) == sorted(map(str, ids))
    assert sorted(products["title"]) == ["a \ufffd lamp", "smile \U0001f600"]


# --- refused rows -----------------------------------------------------------------------------------


def test_refused_rows_go_to_a_file(tmp_path: Path) -> None:
    """All of them, with their reasons; on request the others are taken."""
    text = "product_id,title\n1,a\n,b\n1,c\nnull,d\n5,e\n"
    file = tmp_path / "home" / "refused_rows.csv"
    error = refusal(tmp_path, "p.csv", text, refused_file=file)
    assert "2 rows cannot be used: row 2: there is no id, row 4: there is no id" in error.message
    assert f"all of them are in {file}; --skip-refused" in error.hint
    assert pd.read_csv(file, keep_default_na=False).to_dict("list") == {
        "row": [2, 3, 4],
        "id": ["", "1", "null"],
        "reason": ["there is no id", "the id stands in row 1 already", "there is no id"],
    }
    catalogue = read(tmp_path, "p.csv", text, refused_file=file, skip_refused=True)
    assert catalogue.products["product_id"].tolist() == [1, 5]
    assert len(catalogue.refused) == 3
    assert "3 rows refused" in catalogue.understood


# --- lines ------------------------------------------------------------------------------------------


def test_a_line_takes_any_column_by_braces() -> None:
    frame = pd.DataFrame({
        "title": ["Oak Desk"], "Regular price": ["299"], "Body (HTML)": ["<p>Solid&nbsp;oak <b>5 &lt; 6</b></p>"],
    })  # fmt: skip
    line = "{title} | {Regular price} USD | {Body (HTML)} {{x}} $$"
    assert product_lines(frame, line) == ["Oak Desk | 299 USD | Solid oak 5 < 6 {x} $"]
    with pytest.raises(ProductsError, match=r"unknown column \{Regular prize\}") as caught:
        product_lines(frame, "$title {Regular prize}")
    assert "$title, {Regular price}, {Body (HTML)}" in caught.value.hint


def test_each_column_keeps_its_share_of_the_line() -> None:
    """A long description does not push the price off the line."""
    frame = pd.DataFrame({"title": ["Desk"], "text": ["word " * 1000], "price": ["299"]})
    (line,) = product_lines(frame, "$title | $text | $price USD")
    assert len(line) <= 1000
    assert line.startswith("Desk | word word")
    assert line.endswith("… | 299 USD")


def test_columns_that_lose_text_for_want_of_room_are_counted() -> None:
    frame = pd.DataFrame({"title": ["Oak desk", "Pine shelf"], "text": ["word " * 400, "<p>short</p>"]})
    assert cut_columns(frame, "{title} | {text}") == {"text": 1}
    assert cut_columns(frame) == {}
    assert len(product_lines(frame, "{title} | {text}")[0]) <= 1000


def test_a_workbook_without_the_columns_names_its_sheets_and_the_row_that_may_be_its_header(tmp_path: Path) -> None:
    rows = [["Catalogue"], [], ["Item no.", "Description", "Price"], ["007", "Rotary dimmer", 9]]
    (tmp_path / "p.xlsx").write_bytes(workbook(*rows, more="Notes"))
    with pytest.raises(ProductsError) as caught:
        load_catalogue(tmp_path / "p.xlsx")
    assert "(--header-row 3): Item no., Description, Price" in str(caught.value)
    assert "there are 2 sheets (--sheet): " in str(caught.value)
    options = CatalogueOptions(header_row=3, sheet="Products", id_column="Item no.", title_column="Description")
    assert load_catalogue(tmp_path / "p.xlsx", options).products["source_id"].tolist() == ["007"]


def test_the_options_for_a_known_export_are_added_to_those_given(tmp_path: Path) -> None:
    (tmp_path / "listings.txt").write_bytes("item-name\tseller-sku\tasin1\nCafé\tS1\tB1\n".encode("cp1252"))
    with pytest.raises(ProductsError) as caught:
        load_catalogue(tmp_path / "listings.txt", CatalogueOptions(encoding="cp1252"))
    words = shlex.split(caught.value.hint.partition(": add ")[2])
    assert words == ["--id-column", "seller-sku", "--title-column", "item-name"]
    options = CatalogueOptions(encoding="cp1252", id_column=words[1], title_column=words[3])
    assert load_catalogue(tmp_path / "listings.txt", options).products["title"].tolist() == ["Café"]


@pytest.mark.parametrize(
    ("condition", "ids"),
    [({"price": "19.99"}, [1]), ({"price": "19,99"}, [1]), ({"price!": "19.99"}, [2]), ({"price": "1299"}, [2])],
)
def test_a_condition_finds_an_amount_however_it_is_written(
    tmp_path: Path, condition: dict[str, str], ids: list[int]
) -> None:
    (tmp_path / "p.csv").write_text("product_id;title;price\n1;Dimmer;19,99 €\n2;Switch;1.299,00 €\n")
    assert (
        load_catalogue(tmp_path / "p.csv", CatalogueOptions(where=condition)).products["product_id"].tolist() == ids
    )


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ('Report of May\n\nsku,name,price\nA1,Oak Desk,"1,50"\n', "line 3 may be the header (--header-row 3)"),
        ("Report,,\n,,\nsku,name,price\nA1,Oak Desk,1\n", "line 3 may be the header (--header-row 3)"),
        ("art;bez\nA1;Oak Desk\n", "columns are art, bez"),
    ],
)
def test_a_header_below_the_first_line_is_named(tmp_path: Path, text: str, hint: str) -> None:
    (tmp_path / "report.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ProductsError) as refused:
        load_catalogue(tmp_path / "report.csv", CatalogueOptions())
    assert hint in refused.value.hint
    if "sku" in text:
        options = CatalogueOptions(id_column="sku", title_column="name", header_row=3)
        assert load_catalogue(tmp_path / "report.csv", options).products["title"].tolist() == ["Oak Desk"]


@pytest.mark.parametrize(("one", "two"), [("SKU", "Name"), ("product-id", "Product_Title"), ("Asin", "item name")])
def test_columns_with_usual_names_become_a_command(tmp_path: Path, one: str, two: str) -> None:
    (tmp_path / "mine.csv").write_text(f"{one};{two}\nA1;Oak Desk\n", encoding="utf-8")
    with pytest.raises(ProductsError) as refused:
        load_catalogue(tmp_path / "mine.csv", CatalogueOptions())
    words = shlex.split(refused.value.hint.split(": ", 1)[1])
    assert words[words.index("--id-column") + 1] == one
    assert words[words.index("--title-column") + 1] == two


def test_a_list_of_products_is_found_at_any_depth_of_json(tmp_path: Path) -> None:
    rows = [{"product_id": 1, "title": "Oak Desk"}]
    (tmp_path / "deep.json").write_text(json.dumps({"meta": {"n": 1}, "data": {"page": {"items": rows}}}))
    found = load_catalogue(tmp_path / "deep.json", CatalogueOptions())
    assert found.products["title"].tolist() == ["Oak Desk"]
    (tmp_path / "two.json").write_text(json.dumps({"a": {"x": rows}, "b": {"x": rows}}))
    with pytest.raises(ProductsError, match=r"2 lists of objects: a\.x, b\.x"):
        load_catalogue(tmp_path / "two.json", CatalogueOptions())


def test_a_folder_without_parquet_names_a_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-0.csv").write_text("product_id,title\n1,Oak Desk\n")
    with pytest.raises(ProductsError) as refused:
        load_catalogue(tmp_path / "parts", CatalogueOptions())
    assert refused.value.hint == f"give one file: {tmp_path / 'parts' / 'part-0.csv'}"
