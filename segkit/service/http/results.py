"""The results of a run, piece by piece, so that memory does not grow with the products; and of one product."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from segkit.analysis.export import TAXONOMY_WRITERS, WRITERS, exported, exported_taxonomy
from segkit.analysis.frames import records
from segkit.core.models import NO_ANSWER
from segkit.database.sync import taxonomy_ids
from segkit.errors import DatabaseError, RequestError
from segkit.evaluation.explain.explanation import explain
from segkit.pipeline.taxonomy.check import taxonomy_check
from segkit.pipeline.taxonomy.report import conflicts_of, proposed_categories
from segkit.runs.run import Run, open_run
from segkit.runs.taxonomy import edited_taxonomy
from segkit.service.status import CachedStatus
from segkit.service.workers import Workers
from segkit.settings import Settings

_ROWS = 1000
_WINDOW = 16 + 13  # gzip with a window of 8 kB: an open download holds little memory
_CODING = re.compile(r"(?:^|,)\s*([\w.*-]+)(?:\s*;\s*[qQ]=([01](?:\.[0-9]{0,3})?))?\s*(?=,|$)")  # and its weight
_PRODUCT = ("product_id", "title", "category", "confidence")
_STEP = ("step", "category", "where", "confidence", "prompt_line", "answer_line")
_NAMES = ("taxonomies", "segments", "refined_segments", "ledger")


def exported_file(workers: Workers, runs_dir: Path, current: CachedStatus, kind: str) -> Generator[bytes]:
    """Write a row for each product in another format."""
    yield workers.call(_export, runs_dir, current.run_id, kind, products=current.products)


def _export(runs_dir: Path, run_id: str, kind: str) -> bytes:
    return WRITERS[kind](exported(_with_results(open_run(run_id, runs_dir))), False)


def accepts_gzip(encodings: str) -> bool:
    """Report whether an `Accept-Encoding` accepts gzip, by its name or by `*` (RFC 9110, section 12.5.3)."""
    weights = {name.lower(): float(weight or 1) for name, weight in _CODING.findall(encodings)}
    return weights.get("gzip", weights.get("*", 0)) > 0


def taxonomy_file(workers: Workers, runs_dir: Path, current: CachedStatus, form: str) -> Generator[bytes]:
    """Write the categories of a run as the sheet in which a person edits them."""
    yield workers.call(_export_taxonomy, runs_dir, current.run_id, form, products=current.products)


def _export_taxonomy(runs_dir: Path, run_id: str, form: str) -> bytes:
    return TAXONOMY_WRITERS[form](exported_taxonomy(_with_results(open_run(run_id, runs_dir))))


def check_of_taxonomy(runs_dir: Path, run_id: str, document: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Report what the edits of a taxonomy change and cost; raises TaxonomyError for edits that cannot be applied."""
    return taxonomy_check(edited_taxonomy(_with_results(open_run(run_id, runs_dir)), document), settings)


async def gzipped(pieces: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """Compress pieces with gzip, each in a thread."""
    packer = zlib.compressobj(4, wbits=_WINDOW, memLevel=6)
    try:
        async for piece in pieces:
            if packed := await asyncio.to_thread(packer.compress, piece):
                yield packed
        yield packer.flush()
    finally:
        await pieces.aclose()


def explanation(runs_dir: Path, run_id: str, product_id: str) -> dict[str, Any]:
    """Return how a product got its category; raises ProductsError for a product that the run lacks."""
    found = explain(_with_results(open_run(run_id, runs_dir)), product_id)
    product = {name: _json_value(found.product[name]) for name in _PRODUCT}
    steps = [{name: _json_value(step[name]) for name in _STEP} for step in records(found.steps)]
    second = found.second_category or None
    return {"run_id": run_id, **product, "sentences": found.lines, "steps": steps, "second_category": second}


def _json_value(value: Any) -> Any:
    return None if pd.isna(value) else value


def _with_results(run: Run) -> Run:
    if not run.has_result("ledger"):  # which a run writes last
        raise RequestError("no-results-yet", f"{run.id} ended before it had results", "resume it")
    return run


def results_json(runs_dir: Path, current: CachedStatus, settings: Settings) -> Generator[bytes]:
    """Write the categories that hold products, the category of every product, and the products without one.

    What a failed run has not got to is an empty list.
    """
    run = open_run(current.run_id, runs_dir, settings)
    paths = dict(zip(_NAMES, run.files(*(f"results/{name}.parquet" for name in _NAMES)), strict=True))
    categories = _categories(paths["taxonomies"])
    ids = _database_ids(current.run_id, settings) if current.state == "completed" else {}
    stored = [
        ids.get((row["key"], row["category_name"]), ids.get((None, row["category_name"])))
        for row in categories.select(["key", "category_name"]).to_pylist()
    ]
    is_synced = bool(ids) and None not in stored
    if is_synced:
        numbers = pa.array(stored, pa.int64())
        categories = categories.append_column("number", categories["id"]).set_column(0, "id", numbers)
    with ExitStack() as files:
        tables = [_table(paths[name], files) for name in ("segments", "refined_segments", "ledger")]
        rows = [row for row in categories.to_pylist() if row["product_count"]]
        head = _head(current) | {"synced": is_synced, "taxonomies": rows}
        head |= {"proposed": proposed_categories(run), "conflicts": conflicts_of(run)}
        yield orjson.dumps(head)[:-1] + b',"segments":['
        texts = _source_ids(run.file("products.parquet"))
        yield from _lists(_named(texts, _segments(tables[0], tables[1], categories)))
        yield b'],"unassigned":['
        yield from _lists(_named(texts, _unassigned(tables[2])))
        yield b"]}"


def _head(current: CachedStatus) -> dict[str, Any]:
    head: dict[str, Any] = {"run_id": current.run_id, "status": current.state}
    if current.state != "completed":
        head |= {"partial": True, **{name: current.document[name] for name in ("failure", "reason")}}
    return head


def _lists(lists: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    """Write the items of lists as one list of JSON, without its brackets."""
    comma = b""
    for items in lists:
        if items:
            yield comma + orjson.dumps(items)[1:-1]
            comma = b","


def _source_ids(path: Path) -> dict[int, str]:
    """Return the ids of products as they were given, where those are texts."""
    if "source_id" not in pq.read_schema(path).names:
        return {}
    table = pq.read_table(path, columns=["product_id", "source_id"])
    return dict(zip(table["product_id"].to_pylist(), table["source_id"].to_pylist(), strict=True))


def _named(texts: dict[int, str], lists: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """Add `source_id` to rows whose products have one."""
    for rows in lists:
        yield [{**row, "source_id": texts[row["product_id"]]} for row in rows] if texts else rows


def _database_ids(run_id: str, settings: Settings) -> dict[tuple[str | None, str], int]:
    try:
        return taxonomy_ids(run_id, settings)
    except DatabaseError:
        what = "the ids of the categories cannot be read from the database"
        raise RequestError("database-unavailable", what, "try again later") from None


def _table(path: Path, files: ExitStack) -> pq.ParquetFile | None:
    return files.enter_context(pq.ParquetFile(path, pre_buffer=False)) if path.exists() else None


def _categories(path: Path) -> pa.Table:
    """Read the categories of a run; their ids are their numbers in it."""
    names = ("id", "category_name", "definition", "product_count", "key")
    if not path.exists():
        return pa.table({name: pa.array([], pa.string()) for name in names})
    table = pq.read_table(path)
    if "key" not in table.column_names:  # of a run that was made before categories had keys
        keys = [f"C-{number}" for number in table["id"].to_pylist()]
        table = table.append_column("key", pa.array(keys, pa.string()))
    return table.select(names)


def _segments(
    first: pq.ParquetFile | None, refined: pq.ParquetFile | None, categories: pa.Table
) -> Iterator[list[dict[str, Any]]]:
    """Read the first pass and the refined one side by side: both are sorted by product and hold the same ones."""
    if first is None or refined is None:
        return
    for before, after in zip(first.iter_batches(_ROWS), refined.iter_batches(_ROWS), strict=True):
        if not before["product_id"].equals(after["product_id"]):
            raise ValueError("segments and refined_segments do not hold the same products")
        moved = pc.not_equal(before["taxonomy_id"], after["taxonomy_id"])
        stated = after["confidence"] if "confidence" in after.schema.names else pa.nulls(len(after), pa.float64())
        columns = {
            "product_id": after["product_id"],
            "taxonomy_id": _ids(after["taxonomy_id"], categories),
            "confidence": pc.if_else(moved, stated, before["confidence"]),
        }
        rows = pa.table(columns).to_pylist()
        firsts = zip(moved.to_pylist(), _ids(before["taxonomy_id"], categories), before["confidence"], strict=True)
        for row, (is_moved, taxonomy_id, confidence) in zip(rows, firsts, strict=True):
            if is_moved:
                row |= {"first_taxonomy_id": taxonomy_id.as_py(), "first_confidence": confidence.as_py()}
        yield rows


def _ids(numbers: pa.Array, categories: pa.Table) -> pa.Array:
    """Replace the numbers of categories by their ids."""
    known = categories["number" if "number" in categories.column_names else "id"]
    positions = pc.index_in(numbers, value_set=known.combine_chunks())
    return pc.take(categories["id"].combine_chunks(), positions)


def _unassigned(ledger: pq.ParquetFile | None) -> Iterator[list[dict[str, Any]]]:
    for batch in ledger.iter_batches(_ROWS) if ledger else ():
        rows = batch.filter(pc.equal(batch["state"], "unassigned")).select(["product_id", "reason"]).to_pylist()
        yield [{**row, "reason": _for_clients(row["reason"])} for row in rows]


def _for_clients(reason: str) -> str:
    """Return why a product is unassigned; what an endpoint said about itself is for the operator."""
    return "the model gave no answer" if reason.startswith(NO_ANSWER) else reason
