"""The results of a run as the seed's JSON, piece by piece, so that memory does not grow with the products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from segkit.runs.mirror import fetch

_ROWS = 2000


def results_json(folder: Path, run_id: str, state: str, **more: Any) -> Iterator[bytes]:
    """Write the results of a run: its categories with products in them, and every product's category at the end.

    `confidence` is that of the first pass, which refinement does not state anew. What a failed run has not got to
    is an empty list. Files that cannot be read raise before the first piece is given.
    """
    fetch(folder, *(f"results/{name}.parquet" for name in ("taxonomies", "segments", "refined_segments")))
    with ExitStack() as files:
        tables = [_table(folder, name, files) for name in ("segments", "refined_segments")]
        head = orjson.dumps({"run_id": run_id, "status": state, **more, "taxonomies": _taxonomies(folder)})
        yield head[:-1] + b',"segments":['
        first = True
        for rows in _segments(*tables):
            yield (b"" if first else b",") + orjson.dumps(rows)[1:-1]
            first = False
        yield b"]}"


def _table(folder: Path, name: str, files: ExitStack) -> pq.ParquetFile | None:
    path = folder / "results" / f"{name}.parquet"
    return files.enter_context(pq.ParquetFile(path)) if path.exists() else None


def _taxonomies(folder: Path) -> list[dict[str, Any]]:
    path = folder / "results" / "taxonomies.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist() if path.exists() else []
    return [row for row in rows if row["product_count"]]


def _segments(stated: pq.ParquetFile | None, refined: pq.ParquetFile | None) -> Iterator[list[dict[str, Any]]]:
    """Read the first pass and the refined one side by side: both are sorted by product and hold the same ones."""
    if stated is None or refined is None:
        return
    for before, after in zip(stated.iter_batches(_ROWS), refined.iter_batches(_ROWS), strict=True):
        if not before["product_id"].equals(after["product_id"]):
            raise ValueError("segments and refined_segments do not hold the same products")
        columns = [after["product_id"], after["taxonomy_id"], before["confidence"]]
        batch = pa.RecordBatch.from_arrays(columns, ["product_id", "taxonomy_id", "confidence"])
        yield batch.to_pylist()
