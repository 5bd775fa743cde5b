"""The content of a run folder for the tables of Postgres: checked Arrow tables with the run's own ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segkit.core.text import quantity
from segkit.errors import RunError
from segkit.runs.status import read_status

_MODEL = ("model", "temperature", "response_format", "endpoint")  # the parameters that go into model_config
_INT, _TEXT, _TIME = pa.int64(), pa.string(), pa.timestamp("us", tz="UTC")
SCHEMAS = {  # the other tables in the order of their references, with the columns that a run folder has for each
    "run_products": {"product_id": _INT},
    "product_taxonomies": {"id": _INT, "category_name": _TEXT, "definition": _TEXT, "product_count": _INT}
    | {"category_key": _TEXT},
    "product_segments": {"product_id": _INT, "taxonomy_id": _INT, "confidence": pa.float64()},
    "refined_product_segments": {"product_id": _INT, "taxonomy_id": _INT},
    "product_moves": {"product_id": _INT, "confidence": pa.float64()},
    "llm_interaction_index": {"interaction_type": _TEXT, "batch_id": _INT, "attempt": _INT, "file_path": _TEXT}
    | {"prompt_file": _TEXT, "cache_key": _TEXT, "created_at": _TIME},
}
_IN_FILES = {"category_key": "key"}  # columns that have another name in the files of a run, and may be missing
TABLES = ("amazon_products", "product_keys", "segmentation_runs", *SCHEMAS)
#: The files of a run that the tables are made of, apart from its logs.
FILES = ("products.parquet", *(f"results/{name}.parquet" for name in ("taxonomies", "segments", "refined_segments")))
ASSIGNMENTS = ("product_segments", "refined_product_segments")

Content = dict[str, pa.Table]  # what a run has for each of these tables
Row = tuple[Any, ...]


def run_row(folder: Path) -> Row:
    """Return the row of a run in segmentation_runs."""
    with _readable(folder):
        run, status = json.loads((folder / "run.json").read_bytes()), read_status(folder)
        model = {name: value for name, value in run["parameters"].items() if name in _MODEL}
        others = {name: value for name, value in run["parameters"].items() if name not in _MODEL}
        head = (run["run_id"], datetime.fromisoformat(run["created_at"]), status.state)
        # How long the run took is known only after its sync, which is a part of it.
        summary = {name: value for name, value in status.summary.items() if name != "seconds"}
        if status.products is None or not status.state:
            raise ValueError("its status is damaged")
        return (*head, model, others, status.products, status.processed_products, summary)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: {error!r}", "nothing was written to the database") from error


def run_content(folder: Path, interactions: pd.DataFrame) -> Content:
    """Return the tables of a run folder, with the run's own numbers for its categories."""
    results = folder / "results"
    with _readable(folder / "interactions"):
        index = index_content(interactions)
    content = {
        "run_products": _parquet(folder / "products.parquet", "run_products"),
        "product_taxonomies": _parquet(results / "taxonomies.parquet", "product_taxonomies"),
        "product_segments": _parquet(results / "segments.parquet", "product_segments"),
        "refined_product_segments": _parquet(results / "refined_segments.parquet", "refined_product_segments"),
        "product_moves": _parquet(results / "refined_segments.parquet", "product_moves"),
        "llm_interaction_index": index,
    }
    content["product_moves"] = _moves(content)
    for name in ASSIGNMENTS:
        _require(folder, content[name]["product_id"], content["run_products"]["product_id"], "products")
        _require(folder, content[name]["taxonomy_id"], content["product_taxonomies"]["id"], "categories")
    return content


def _moves(content: Content) -> pa.Table:
    """Return the rows of `product_moves`, which has all products, for those whose category was changed."""
    first, refined, confidences = (content[name] for name in (*ASSIGNMENTS, "product_moves"))
    before = pc.take(first["taxonomy_id"], pc.index_in(refined["product_id"], value_set=first["product_id"]))
    is_moved = pc.fill_null(pc.not_equal(refined["taxonomy_id"], before), True)
    return confidences.filter(is_moved) if confidences.num_rows else confidences


def without_products(content: Content, product_ids: list[int]) -> Content:
    """Return the tables without the rows of some products."""
    if not product_ids:
        return content
    gone = pa.array(product_ids, _INT)
    return {
        name: table.filter(pc.invert(pc.is_in(table["product_id"], value_set=gone)))
        if "product_id" in table.column_names
        else table
        for name, table in content.items()
    }


def digests(content: Content) -> dict[str, str]:
    """Return the BLAKE2 hash of each table of a run: equal if nothing changed."""
    return {name: _digest(table.combine_chunks()) for name, table in content.items()}


def _digest(table: pa.Table) -> str:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return hashlib.blake2b(stream.getvalue(), digest_size=32).hexdigest()


def _parquet(path: Path, name: str) -> pa.Table:
    """Return a file of the run, sorted by its id column, which must be unique; empty if the run has none yet."""
    schema = pa.schema(SCHEMAS[name])
    if not path.exists():
        return schema.empty_table()
    with _readable(path):
        if name == "product_moves" and "confidence" not in pq.read_schema(path).names:
            return schema.empty_table()  # of a run that did not keep them yet
        table = _columns(path, schema)
    if table[0].null_count:
        raise RunError(f"{path} has {quantity(table[0].null_count, 'row')} without an id", "the run is damaged")
    table = _sorted(table, schema.names[0])
    if twice := _repeated(table[0].to_numpy()):
        raise RunError(f"{path} has ids more than once: {twice[:10]}", "the run is damaged")
    if "confidence" in schema.names:  # NaN is no confidence, and unequal to itself
        finite = pc.if_else(pc.is_finite(table["confidence"]), table["confidence"], None)
        table = table.set_column(schema.names.index("confidence"), "confidence", finite)
    return table


def _columns(path: Path, schema: pa.Schema) -> pa.Table:
    """Read the columns of a table from a file; one that an older run does not have is null."""
    stored = {name: _IN_FILES.get(name, name) for name in schema.names}
    optional = [name for name in schema.names if name in _IN_FILES]
    lacking = [name for name in optional if stored[name] not in pq.read_schema(path).names]
    found = pq.read_table(path, columns=[stored[name] for name in schema.names if name not in lacking])
    nothing = pa.nulls(found.num_rows, _TEXT)
    return pa.table({n: nothing if n in lacking else found.column(stored[n]) for n in schema.names}).cast(schema)


def _sorted(table: pa.Table, name: str) -> pa.Table:
    """Sort by a column of ids; a sorted table, as a run writes it, costs one comparison."""
    ids = table[name].to_numpy()
    return table if np.all(ids[1:] >= ids[:-1]) else table.take(pa.array(np.argsort(ids)))


def _repeated(ids: NDArray[np.int64]) -> list[int]:
    return [int(id_) for id_ in np.unique(ids[1:][ids[1:] == ids[:-1]])]


def _require(folder: Path, values: pa.ChunkedArray, known: pa.ChunkedArray, what: str) -> None:
    stated = values.drop_null()
    unknown = [] if stated.equals(known) else np.setdiff1d(stated.unique(), known).tolist()
    if unknown:
        raise RunError(f"{folder} assigns {what} that it does not have: {unknown[:10]}", "the run is damaged")


def index_content(interactions: pd.DataFrame) -> pa.Table:
    """Return the index of the interactions in the order of their time."""
    schema = pa.schema(SCHEMAS["llm_interaction_index"])
    frame = interactions.reindex(columns=schema.names).astype({"batch_id": "Int64", "attempt": "Int64"})
    frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True, format="ISO8601").dt.floor("us")
    order = [(name, "ascending") for name in ("created_at", "interaction_type", "batch_id", "attempt", "file_path")]
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False).sort_by(order)
