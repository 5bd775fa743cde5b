"""The bundled sample catalogue: what the pipeline and the evaluation rely on."""

import csv
import io
from collections import Counter
from decimal import Decimal
from importlib.resources import files
from itertools import pairwise

import pytest

COLUMNS = ["product_id", "title", "brand", "price_usd", "rating", "segment_label"]
OUT_OF_SCOPE = "OUT_OF_SCOPE"
BIGINT_MAX = 2**63 - 1


@pytest.fixture(scope="module")
def raw() -> bytes:
    """The file as it ships inside the package."""
    return files("segkit.sample").joinpath("coffee_makers.csv").read_bytes()


@pytest.fixture(scope="module")
def rows(raw: bytes) -> list[dict[str, str]]:
    """The rows as strings, by column name."""
    return list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True))


def test_the_file_is_utf8_with_lf_and_no_byte_order_mark(raw: bytes) -> None:
    assert not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r" not in raw
    assert raw.endswith(b"\n")
    assert not raw.decode("utf-8").isascii()  # readers that guess an encoding must meet a non-ASCII letter


def test_every_row_has_exactly_the_documented_columns(raw: bytes) -> None:
    header, *records = csv.reader(io.StringIO(raw.decode("utf-8"), newline=""), strict=True)
    assert header == COLUMNS
    assert {len(record) for record in records} == {len(COLUMNS)}
    assert 250 <= len(records) <= 280


def test_ids_are_unique_bigints_in_no_order(rows: list[dict[str, str]]) -> None:
    ids = [int(row["product_id"]) for row in rows]
    assert len(set(ids)) == len(ids)
    assert all(0 < product_id <= BIGINT_MAX for product_id in ids)
    assert ids != sorted(ids)


def test_titles_are_present_trimmed_and_distinct(rows: list[dict[str, str]]) -> None:
    titles = [row["title"] for row in rows]
    assert all(title and title == title.strip() for title in titles)
    assert len({title.casefold() for title in titles}) == len(titles)


def test_titles_are_uneven_in_length(rows: list[dict[str, str]]) -> None:
    titles = [row["title"] for row in rows]
    assert sum(len(title.split()) <= 6 for title in titles) >= 5
    assert sum(len(title) >= 200 for title in titles) >= 5


def test_prices_and_ratings_parse_and_some_are_missing(rows: list[dict[str, str]]) -> None:
    prices = [Decimal(row["price_usd"]) for row in rows if row["price_usd"]]
    ratings = [Decimal(row["rating"]) for row in rows if row["rating"]]
    assert all(price > 0 for price in prices)
    assert all(0 <= rating <= 5 for rating in ratings)
    assert 0 < len(rows) - len(prices) < 20
    assert 0 < len(rows) - len(ratings) < 20
    assert any(not row["brand"] for row in rows)


def test_segments_are_many_uneven_and_none_is_tiny(rows: list[dict[str, str]]) -> None:
    sizes = Counter(row["segment_label"] for row in rows)
    out_of_scope = sizes.pop(OUT_OF_SCOPE)
    assert 14 <= out_of_scope <= 20
    assert len(sizes) >= 10
    assert min(sizes.values()) >= 5
    assert max(sizes.values()) >= 3 * min(sizes.values())


def test_rows_are_not_grouped_by_segment(rows: list[dict[str, str]]) -> None:
    labels = [row["segment_label"] for row in rows]
    changes = sum(left != right for left, right in pairwise(labels))
    assert changes > len(labels) / 2


def test_no_title_is_a_segment_label(rows: list[dict[str, str]]) -> None:
    labels = {row["segment_label"].casefold() for row in rows}
    assert labels.isdisjoint(row["title"].casefold() for row in rows)
