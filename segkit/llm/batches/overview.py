"""The batches of a run as the provider has them, for whoever wants to see or to stop them."""

from __future__ import annotations

import asyncio
from typing import Any

from openai.types import Batch

from segkit.llm.batches.provider import BatchProvider
from segkit.llm.batches.records import is_name, read_records
from segkit.runs.run import Run
from segkit.settings import Settings

_AT_WORK = ("validating", "in_progress", "finalizing")


def batches_of(run: Run, settings: Settings, *, cancel: bool = False) -> list[dict[str, Any]]:
    """Return a row for each batch of a run, the oldest first; with `cancel` those at work are stopped before.

    A row has `name`, `batch_id`, `status`, `requests`, `completed`, `failed`, and whether its answers are `logged`.
    The folder of the run is only read: another process may be waiting for the batches. Raises RefusedError or
    EndpointError where the provider does not answer.
    """
    return [] if run.parameters.model == "offline" else asyncio.run(_batches(run, settings, cancel))


async def _batches(run: Run, settings: Settings, cancel: bool) -> list[dict[str, Any]]:
    provider = BatchProvider(run, settings, asyncio.sleep)
    try:
        found = await provider.batches_of_run()
        if cancel:
            found = [await provider.cancel(each.id) if each.status in _AT_WORK else each for each in found]
    finally:
        await provider.close()
    logged = {record.batch_id for record in read_records(run) if record.taken}
    return [_row(batch, batch.id in logged) for batch in reversed(found)]


def _row(batch: Batch, logged: bool) -> dict[str, Any]:
    name, counts = (batch.metadata or {}).get("name", ""), batch.request_counts
    return {
        "name": name if is_name(name) else "",
        "batch_id": batch.id,
        "status": batch.status,
        "requests": counts.total if counts else None,
        "completed": counts.completed if counts else None,
        "failed": counts.failed if counts else None,
        "logged": logged,
    }
