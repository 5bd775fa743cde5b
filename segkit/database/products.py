"""The table `amazon_products`: runs refer to its rows, and one that segkit made gets them from the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from psycopg.sql import SQL, Identifier

from segkit.core.catalogue.ids import is_integer, number_of
from segkit.core.catalogue.prices import PRICE, decimal_sign, plain_price
from segkit.core.text import quantity, shortened
from segkit.database.binary_format import binary_rows
from segkit.database.connection import Connection, column_list, connect, frame_from, translated_errors
from segkit.database.run_tables import Row
from segkit.errors import DatabaseError, ProductsError

_ROWS = 20_000  # at once as Python objects
_OWN = "made and filled by segkit"  # the comment of an amazon_products that our migration made
_TEXTS = ("title", "brand", "price_usd", "category")
_ADD_KEYS = """
INSERT INTO product_keys SELECT * FROM unnest(%s::bigint[], %s::text[]) AS ours (id, key) ORDER BY id
ON CONFLICT DO NOTHING
"""
_DIFFERING_KEYS = """
SELECT key FROM unnest(%s::bigint[], %s::text[]) AS ours (id, key)
WHERE NOT EXISTS (SELECT FROM product_keys WHERE product_id = id AND source_id = key) ORDER BY key
"""
_COLUMNS = """
SELECT attname FROM pg_attribute
WHERE attrelid = to_regclass('amazon_products') AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""


def require_products(connection: Connection, folder: Path, *, skip: bool = False) -> list[int]:
    """Check that `amazon_products` has every product of a run; add the missing ones to a table that segkit made.

    If another table lacks some, raise DatabaseError with their number and the first ids; with `skip`, return the ids
    of all of them, sorted, so that they can be left out.
    """
    path = folder / "products.parquet"
    if not path.exists():
        return []
    missing = _add_missing(connection, path, skip=skip)
    _add_keys(connection, path)
    return missing


def _add_missing(connection: Connection, path: Path, *, skip: bool) -> list[int]:
    ids = pq.read_table(path, columns=["product_id"]).rename_columns(["id"])
    _make(connection, "segkit_ids", ["id"])
    _send(connection, "COPY segkit_ids FROM STDIN (FORMAT binary)", binary_rows(ids))
    missing = _missing(connection)
    if missing and _is_own(connection):
        _add_products(connection, path)
    elif missing and skip:
        return missing
    elif missing:
        what = f"the run has {quantity(len(missing), 'product')} that amazon_products lacks: {shortened(missing)}"
        hint = "put them into amazon_products, then run `segkit sync RUN` again; `--missing skip` leaves them out"
        raise DatabaseError(what, hint)
    return []


def add_products(url: str, folder: Path) -> int:
    """Add the products of a folder that `amazon_products` lacks, as `require_products` does; return how many."""
    with translated_errors(url, "storing products"), connect(url) as connection:
        before = _count(connection)
        require_products(connection, folder)
        return _count(connection) - before


def _count(connection: Connection) -> int:
    row = connection.execute("SELECT count(*) FROM amazon_products").fetchone()
    return int(row[0]) if row else 0


def load_products(url: str, ids: Sequence[int | str], product_line: str = "", key: str = "") -> pd.DataFrame:
    """Return the rows of `amazon_products` for a list of ids, in its order, with `id` as `product_id`.

    Ids that are texts are looked up in the column `key`, and numbers that are no id; without `key` the number of a
    text is computed, as for a file. Texts are kept as `source_id`. Of the other columns only `title`, `brand`,
    `price_usd`, `category` and those whose name stands in `product_line` are read: a table of your own may have
    columns that nothing here can hold. Raises ProductsError for ids that are not there, DatabaseError for all else.
    """
    with translated_errors(url, "loading products"), connect(url) as connection:
        present = [name for (name,) in connection.execute(_COLUMNS)]
        wanted = [name for name in present if name in ("id", *_TEXTS) or name in product_line]
        numbers = _by_key(connection, ids, key, present) if key else [_number(given) for given in ids]
        question = SQL("SELECT {} FROM amazon_products WHERE id = ANY(%s)").format(column_list(wanted))
        frame = frame_from(connection.execute(question, (numbers,)))
    if "title" not in frame.columns:
        raise ProductsError("amazon_products has no column `title`", "segkit reads the columns id and title")
    present_ids = set(frame["id"])
    _require_all([given for given, number in zip(ids, numbers, strict=True) if number not in present_ids])
    if len(set(numbers)) < len(numbers):
        raise ProductsError("product ids are listed more than once", "list each product once")
    frame = frame.set_index("id").loc[numbers].rename_axis("product_id").reset_index()
    texts = [str(given) for given in ids]
    is_text = any(str(number) != text for number, text in zip(numbers, texts, strict=True))
    return frame.assign(source_id=pd.array(texts, dtype="str")) if is_text else frame


def _by_key(connection: Connection, ids: Sequence[int | str], key: str, present: Sequence[str]) -> list[int]:
    """Return the numbers of ids: as they stand in a column of `amazon_products`, or as its `id`.

    Integers are looked for as `id` first, and texts in the column, so that an EAN may be given as either.
    """
    if key not in present:
        what = f"amazon_products has no column {key!r}"
        raise ProductsError(what, f"SEGKIT_PRODUCT_KEY names one of {shortened(present)}")
    own = set(present_products(connection, [given for given in ids if isinstance(given, int)]))
    texts = [str(given) for given in ids if given not in own and "\0" not in str(given)]
    question = SQL("SELECT id, {0}::text FROM amazon_products WHERE {0}::text = ANY(%s)").format(Identifier(key))
    found = connection.execute(question, (texts,)).fetchall()
    numbers = {text: int(number) for number, text in found}
    if len(numbers) < len(found):
        counts = Counter(text for _, text in found)
        what = f"several products have the same {key}: {shortened(sorted(t for t in counts if counts[t] > 1))}"
        raise ProductsError(what, "give their ids, or another SEGKIT_PRODUCT_KEY")
    _require_all([given for given in ids if str(given) not in numbers and not is_integer(str(given))])
    return [int(given) if given in own or str(given) not in numbers else numbers[str(given)] for given in ids]


def _number(given: int | str) -> int:
    return number_of(given) if isinstance(given, str) and not is_integer(given) else int(given)


def _require_all(missing: Sequence[int | str]) -> None:
    if missing:
        count = quantity(len(missing), "product", "are")
        what = f"{count} not in amazon_products: {shortened(sorted(missing, key=str))}"
        raise ProductsError(what, "check the ids")


def present_products(connection: Connection, ids: list[int]) -> list[int]:
    """Return those of some product ids that `amazon_products` has, sorted."""
    if not ids:
        return []
    found = connection.execute("SELECT id FROM amazon_products WHERE id = ANY(%s::bigint[]) ORDER BY id", (ids,))
    return [id_ for (id_,) in found]


def _make(connection: Connection, name: str, columns: list[str]) -> None:
    kinds = ", ".join(f"{column} {'bigint' if column == 'id' else 'text'}" for column in columns)
    connection.execute(SQL("CREATE TEMP TABLE {} ({}) ON COMMIT DROP").format(Identifier(name), SQL(kinds)))


def _send(connection: Connection, statement: str, pieces: Iterable[bytes]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        for piece in pieces:
            copy.write(piece)


def _missing(connection: Connection) -> list[int]:
    """Return the ids of the products that the table lacks, sorted."""
    question = (
        "SELECT id FROM segkit_ids AS ours WHERE NOT EXISTS"
        " (SELECT FROM amazon_products AS theirs WHERE theirs.id = ours.id) ORDER BY id"
    )
    return [id_ for (id_,) in connection.execute(question)]


def _is_own(connection: Connection) -> bool:
    comment = connection.execute("SELECT obj_description('amazon_products'::regclass)").fetchone()
    return comment == (_OWN,)


def _add_products(connection: Connection, path: Path) -> None:
    """Add the new products of a run to a table that segkit made, as far as it has columns for them."""
    with pq.ParquetFile(path) as file:
        texts = [name for name in _TEXTS if name in file.schema_arrow.names]
        _make(connection, "segkit_products", ["id", *_TEXTS])
        statement = SQL("COPY segkit_products ({}) FROM STDIN").format(column_list(["id", *texts]))
        prices = file.read(columns=[PRICE]).column(0).to_pylist() if PRICE in texts else []
        plain = {PRICE: partial(plain_price, decimal=decimal_sign(prices))}
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for batch in file.iter_batches(_ROWS, columns=["product_id", *texts]):
                for id_, *values in _rows_of(batch, texts):
                    named = zip(texts, values, strict=True)
                    copy.write_row((id_, *(plain.get(name, _text)(value) for name, value in named)))
    connection.execute(
        "INSERT INTO amazon_products (id, title, brand, price_usd, category) SELECT id, title, brand,"
        r" CASE WHEN price_usd ~ '^-?\d+(\.\d+)?$' THEN price_usd::numeric END, category"
        " FROM segkit_products ORDER BY id ON CONFLICT (id) DO NOTHING"  # in order, or two syncs may deadlock
    )


def key_differences(connection: Connection, folder: Path) -> list[str]:
    """Return the ids of a run, as people have them, that `product_keys` does not hold."""
    return _differing_keys(connection, _keys(folder / "products.parquet"))


def _add_keys(connection: Connection, path: Path) -> None:
    """Add the ids as people have them; raise DatabaseError if one of them belongs to another product already."""
    keys = _keys(path)
    connection.execute(_ADD_KEYS, keys)
    if others := _differing_keys(connection, keys):
        what = f"{quantity(len(others), 'id', 'belong')} to other products in product_keys: {shortened(others)}"
        raise DatabaseError(what, "compare the rows of product_keys with the run's products.parquet")


def _keys(path: Path) -> tuple[list[int], list[str | None]]:
    """Return the product ids of a run and the ids as people have them; none if those were integers."""
    if not path.exists() or "source_id" not in pq.read_schema(path).names:
        return [], []
    table = pq.read_table(path, columns=["product_id", "source_id"])
    table = table.filter(table["source_id"].is_valid())
    return table["product_id"].to_pylist(), [_text(key) for key in table["source_id"].to_pylist()]


def _differing_keys(connection: Connection, keys: tuple[list[int], list[str | None]]) -> list[str]:
    return [key for (key,) in connection.execute(_DIFFERING_KEYS, keys)] if keys[0] else []


def _rows_of(batch: pa.RecordBatch, texts: list[str]) -> Iterator[Row]:
    return zip(*(batch.column(name).to_pylist() for name in ["product_id", *texts]), strict=True)


def _text(value: Any) -> str | None:
    """Return a value as Postgres can hold it: NUL becomes U+FFFD."""
    return None if value is None else str(value).replace("\0", "\ufffd")
