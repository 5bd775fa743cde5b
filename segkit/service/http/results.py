"""The results of a run as JSON, piece by piece, so that memory does not grow with the products."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from segkit.runs.mirror import fetch
from segkit.service.status import CachedStatus

_ROWS = 2000


async def results_json(folder: Path, current: CachedStatus) -> AsyncGenerator[bytes]:
    """Write the results of a run that ended; files that cannot be read raise before the first piece."""
    head: dict[str, Any] = {"run_id": current.run_id, "status": current.state}
    if current.state != "completed":
        head |= {"partial": True, "reason": current.document["reason"]}
    pieces, turn = _pieces(folder, head), threading.Lock()

    def read() -> bytes | None:
        with turn:
            return next(pieces, None)

    def close() -> None:
        with turn:
            pieces.close()

    try:
        while (piece := await asyncio.to_thread(read)) is not None:
            yield piece
    finally:  # not awaited: when the client has gone, a thread may still be reading
        asyncio.get_running_loop().run_in_executor(None, close)


def _pieces(folder: Path, head: dict[str, Any]) -> Generator[bytes]:
    """Write `head`, the categories that hold products, and the category of every product.

    `confidence` is that of the category at the end: of the move, for a product that refinement moved. What a failed
    run has not got to is an empty list.
    """
    fetch(folder, *(f"results/{name}.parquet" for name in ("taxonomies", "segments", "refined_segments")))
    with ExitStack() as files:
        tables = [_table(folder, name, files) for name in ("segments", "refined_segments")]
        yield orjson.dumps({**head, "taxonomies": _taxonomies(folder)})[:-1] + b',"segments":['
        is_first = True
        for rows in _segments(*tables):
            yield (b"" if is_first else b",") + orjson.dumps(rows)[1:-1]
            is_first = False
        yield b"]}"


def _table(folder: Path, name: str, files: ExitStack) -> pq.ParquetFile | None:
    path = folder / "results" / f"{name}.parquet"
    return files.enter_context(pq.ParquetFile(path, pre_buffer=False)) if path.exists() else None


def _taxonomies(folder: Path) -> list[dict[str, Any]]:
    path = folder / "results" / "taxonomies.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    return [row for row in rows if row["product_count"]]


def _segments(first: pq.ParquetFile | None, refined: pq.ParquetFile | None) -> Iterator[list[dict[str, Any]]]:
    """Read the first pass and the refined one side by side: both are sorted by product and hold the same ones."""
    if first is None or refined is None:
        return
    for before, after in zip(first.iter_batches(_ROWS), refined.iter_batches(_ROWS), strict=True):
        if not before["product_id"].equals(after["product_id"]):
            raise ValueError("segments and refined_segments do not hold the same products")
        columns = [after["product_id"], after["taxonomy_id"], _final_confidence(before, after)]
        batch = pa.RecordBatch.from_arrays(columns, ["product_id", "taxonomy_id", "confidence"])
        yield batch.to_pylist()


def _final_confidence(before: pa.RecordBatch, after: pa.RecordBatch) -> pa.Array:
    if "confidence" in after.schema.names:
        return after["confidence"]
    return pc.if_else(pc.equal(before["taxonomy_id"], after["taxonomy_id"]), before["confidence"], None)
