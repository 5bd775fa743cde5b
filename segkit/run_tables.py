"""What a run folder holds for the tables of Postgres: checked Arrow tables, with the run's own ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from segkit.errors import RunError
from segkit.mirror import fetch

_MODEL = ("model", "temperature", "response_format", "endpoint")  # the parameters that go into model_config
_INT, _TEXT, _TIME = pa.int64(), pa.string(), pa.timestamp("us", tz="UTC")
SCHEMAS = {  # the other tables in the order of their references, with the columns that a run folder has for each
    "run_products": {"product_id": _INT},
    "product_taxonomies": {"id": _INT, "category_name": _TEXT, "definition": _TEXT, "product_count": _INT},
    "product_segments": {"product_id": _INT, "taxonomy_id": _INT, "confidence": pa.float64()},
    "refined_product_segments": {"product_id": _INT, "taxonomy_id": _INT},
    "llm_interaction_index": {"interaction_type": _TEXT, "batch_id": _INT, "attempt": _INT, "file_path": _TEXT}
    | {"prompt_file": _TEXT, "cache_key": _TEXT, "created_at": _TIME},
}
_RESULTS = ("taxonomies", "segments", "refined_segments")
ASSIGNMENTS = ("product_segments", "refined_product_segments")

Content = dict[str, pa.Table]  # what a run has for each of these tables
Row = tuple[Any, ...]


def run_row(folder: Path) -> Row:
    """The row of a run in segmentation_runs."""
    with _readable(folder):
        run, status = (json.loads((folder / name).read_bytes()) for name in ("run.json", "status.json"))
        model = {name: value for name, value in run["parameters"].items() if name in _MODEL}
        others = {name: value for name, value in run["parameters"].items() if name not in _MODEL}
        head = (run["run_id"], datetime.fromisoformat(run["created_at"]), status["state"])
        return (*head, model, others, status["products"], status["processed"], status["summary"])


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: {error!r}", "nothing was written to the database") from error


def run_content(folder: Path, interactions: pd.DataFrame) -> Content:
    """What a run folder says, with the run's own numbers for its categories."""
    results = folder / "results"
    fetch(folder, "products.parquet", *(f"results/{name}.parquet" for name in _RESULTS))
    with _readable(folder / "interactions"):
        index = _index(interactions)
    content = {
        "run_products": _parquet(folder / "products.parquet", "run_products"),
        "product_taxonomies": _parquet(results / "taxonomies.parquet", "product_taxonomies"),
        "product_segments": _parquet(results / "segments.parquet", "product_segments"),
        "refined_product_segments": _parquet(results / "refined_segments.parquet", "refined_product_segments"),
        "llm_interaction_index": index,
    }
    for name in ASSIGNMENTS:
        _require(folder, content[name]["product_id"], content["run_products"]["product_id"], "products")
        _require(folder, content[name]["taxonomy_id"].drop_null(), content["product_taxonomies"]["id"], "categories")
    return content


def _parquet(path: Path, name: str) -> pa.Table:
    """A file of the run, sorted by its id column, which must be unique; empty where the run did not get so far."""
    schema = pa.schema(SCHEMAS[name])
    if not path.exists():
        return schema.empty_table()
    with _readable(path):
        table = pq.read_table(path, columns=schema.names).select(schema.names).cast(schema)
    counts = table.group_by(schema.names[0]).aggregate([([], "count_all")])
    if table.num_rows != counts.num_rows or table[0].null_count:
        twice = counts.filter(pc.greater(counts["count_all"], 1))[schema.names[0]].to_pylist()
        raise RunError(f"{path} has ids more than once, or none: {twice[:10]}", "the run is damaged")
    if "confidence" in schema.names:  # NaN is no confidence, and unequal to itself
        finite = pc.if_else(pc.is_finite(table["confidence"]), table["confidence"], None)
        table = table.set_column(2, "confidence", finite)
    return table.sort_by(schema.names[0])


def _require(folder: Path, values: pa.ChunkedArray, known: pa.ChunkedArray, what: str) -> None:
    unknown = values.filter(pc.invert(pc.is_in(values, value_set=known))).unique().to_pylist()
    if unknown:
        raise RunError(f"{folder} assigns {what} that it does not have: {unknown[:10]}", "the run is damaged")


def _index(interactions: pd.DataFrame) -> pa.Table:
    """The index of the interactions in the order of their time."""
    schema = pa.schema(SCHEMAS["llm_interaction_index"])
    frame = interactions.reindex(columns=schema.names).astype({"batch_id": "Int64", "attempt": "Int64"})
    frame["created_at"] = pd.to_datetime(frame["created_at"], utc=True, format="ISO8601").dt.floor("us")
    order = [(name, "ascending") for name in ("created_at", "interaction_type", "batch_id", "attempt", "file_path")]
    return pa.Table.from_pandas(frame, schema=schema, preserve_index=False).sort_by(order)
