"""Sums of hashes over the assignments of a run, which PostgreSQL and we compute alike, each from its own rows.

The functions of the server are `hashint8extended` and `hashfloat8extended`, Bob Jenkins' hash as it stands in
PostgreSQL's `src/common/hashfn.c` since version 11. A server that hashes in another way gives other sums; then every
row has to be compared.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from psycopg.sql import SQL, Identifier

from segkit.database.connection import Connection

Sums = dict[int | None, tuple[int, int]]  # of each category id: rows, and the sum of their hashes modulo 2^64

_Words = NDArray[np.uint32]
_START = 0x9E3779B9 + 3923095
_NONE = -1.0  # hashed for a confidence that is null
_SUMS = SQL("SELECT {}, count(*), sum({})::text FROM {} WHERE run_id = %s GROUP BY 1")


def stored_sums(connection: Connection, name: str, columns: list[str], run_id: str) -> Sums:
    """The sums of the rows that a table of numbers holds of a run."""
    hashed = SQL("hashint8extended(product_id, 0)")
    if "confidence" in columns:
        hashed = SQL("hashfloat8extended(coalesce(confidence, -1), hashint8extended(product_id, 0))")
    category = SQL("taxonomy_id" if "taxonomy_id" in columns else "NULL::bigint")
    rows = connection.execute(_SUMS.format(category, hashed, Identifier(name)), (run_id,))
    return {id_: (count, int(total) % 2**64) for id_, count, total in rows}


def our_sums(table: pa.Table) -> Sums:
    """The sums of a table of numbers as `run_tables` gives it."""
    if not table.num_rows:
        return {}
    hashes = _hash_integers(table["product_id"].to_numpy())
    if "confidence" in table.column_names:
        hashes = _hash_floats(table["confidence"].fill_null(_NONE).to_numpy(), hashes)
    if "taxonomy_id" not in table.column_names:
        return {None: (len(hashes), int(hashes.sum()))}
    none = np.iinfo(np.int64).min
    categories = table["taxonomy_id"].fill_null(none).to_numpy()
    order = np.argsort(categories, kind="stable")
    ids, starts, counts = np.unique(categories[order], return_index=True, return_counts=True)
    totals = np.add.reduceat(hashes[order], starts)
    return {
        None if id_ == none else int(id_): (int(count), int(total))
        for id_, count, total in zip(ids, counts, totals, strict=True)
    }


def _hash_integers(values: NDArray[np.int64]) -> NDArray[np.uint64]:
    """What `hashint8extended(value, 0)` gives: equal numbers of 4 and 8 bytes have equal hashes."""
    bits = values.view(np.uint64)
    low, high = bits.astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)
    a, b, c = (np.full(len(bits), (_START + 4) % 2**32, np.uint32) for _ in range(3))
    a += low ^ np.where(values >= 0, high, ~high)
    return _finished(a, b, c)


def _hash_floats(values: NDArray[np.float64], seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What `hashfloat8extended(value, seed)` gives; zero, of either sign, gives its seed back."""
    bits = values.astype("<f8").view(np.uint64)
    a, b, c = (np.full(len(bits), (_START + 8) % 2**32, np.uint32) for _ in range(3))
    a += (seeds >> np.uint64(32)).astype(np.uint32)
    b += seeds.astype(np.uint32)
    _mix(a, b, c)
    a += bits.astype(np.uint32)
    b += (bits >> np.uint64(32)).astype(np.uint32)
    return np.where(values == 0, seeds, _finished(a, b, c))


def _mix(a: _Words, b: _Words, c: _Words) -> None:
    for shifts in ((4, 6, 8), (16, 19, 4)):
        for (x, y, z), shift in zip(((a, b, c), (b, c, a), (c, a, b)), shifts, strict=True):
            x -= z
            x ^= _turned(z, shift)
            z += y


def _finished(a: _Words, b: _Words, c: _Words) -> NDArray[np.uint64]:
    for x, y, shift in ((c, b, 14), (a, c, 11), (b, a, 25), (c, b, 16), (a, c, 4), (b, a, 14), (c, b, 24)):
        x ^= y
        x -= _turned(y, shift)
    return (b.astype(np.uint64) << np.uint64(32)) | c


def _turned(words: _Words, shift: int) -> _Words:
    return (words << np.uint32(shift)) | (words >> np.uint32(32 - shift))
