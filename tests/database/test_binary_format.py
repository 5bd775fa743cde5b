"""Tables of numbers as bytes for the server, and sums that both sides compute alike."""

import psycopg
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from segkit.database.binary_format import binary_rows, stored_sums, table_sums

integers = st.integers(-(2**63) + 1, 2**63 - 1)
floats = st.floats(allow_nan=False) | st.none()
rows = st.lists(st.tuples(integers, st.integers(1, 3) | st.none(), floats), max_size=30)


@pytest.fixture(scope="module")
def connection(postgres_url: str):
    with psycopg.connect(postgres_url) as connection:
        columns = "run_id varchar(50), product_id bigint, taxonomy_id bigint, confidence float8"
        connection.execute(f"CREATE TEMP TABLE numbers ({columns})".encode())
        yield connection


def table_of(values: list[tuple[int, int | None, float | None]]) -> pa.Table:
    ids, categories, confidences = zip(*values, strict=True) if values else ((), (), ())
    arrays = [pa.array(ids, pa.int64()), pa.array(categories, pa.int64()), pa.array(confidences, pa.float64())]
    return pa.table(dict(zip(("product_id", "taxonomy_id", "confidence"), arrays, strict=True)))


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(values=rows)
@example(values=[(0, None, 0.0), (-1, 1, -0.0), (2**62, 2, float("inf")), (1, 2, -1.0), (2, 2, None), (3, 3, 5e-324)])
def test_any_numbers_are_sent_and_summed_alike(connection: psycopg.Connection, values: list) -> None:
    """Bytes made by the column arrive as the numbers they are, null or not, and both sides sum them alike."""
    table = table_of(values)
    connection.execute("TRUNCATE numbers")
    with connection.cursor() as cursor, cursor.copy("COPY numbers FROM STDIN (FORMAT binary)") as copy:
        for piece in binary_rows(table, "RUN_1"):
            copy.write(piece)
    stored = connection.execute("SELECT product_id, taxonomy_id, confidence FROM numbers").fetchall()
    assert sorted(map(repr, stored)) == sorted(map(repr, values))
    for columns in (["product_id"], ["product_id", "taxonomy_id"], table.column_names):
        assert stored_sums(connection, "numbers", columns, "RUN_1") == table_sums(table.select(columns))


def test_one_changed_value_changes_the_sums() -> None:
    values = [(n, n % 3, n / 7) for n in range(1, 1000)]
    before = table_sums(table_of(values))
    for changed in [(500, 0, 500 / 7), (500, 2, 500 / 7 - 2e-6), (501, 2, 500 / 7), (500, None, 500 / 7)]:
        assert table_sums(table_of([*values[:499], changed, *values[500:]])) != before


def test_two_exchanged_confidences_of_a_category_change_the_sums() -> None:
    values = [(n, 1, n / 7) for n in range(1, 100)]
    exchanged = [(values[0][0], 1, values[1][2]), (values[1][0], 1, values[0][2]), *values[2:]]
    assert table_sums(table_of(exchanged)) != table_sums(table_of(values))
