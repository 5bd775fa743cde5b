"""Starting, resuming and cancelling runs. A start makes a whole run or nothing, and one key makes one run."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from segkit.errors import (
    DatabaseError,
    ProductsError,
    PromptError,
    RequestError,
    RunError,
    SegkitError,
    SettingsError,
    StorageError,
    TaxonomyError,
)
from segkit.runs.create import new_run_id
from segkit.runs.mirror import discard, push
from segkit.runs.run import Run, open_run
from segkit.runs.status import read_status
from segkit.service.jobs import Jobs, known_cost
from segkit.service.journal import Journal
from segkit.service.readiness import DatabaseReadiness
from segkit.service.records import Record
from segkit.service.starts import admission
from segkit.service.starts.admission import Caps
from segkit.service.starts.folder import Order, make_run
from segkit.service.starts.request import Client, StartRequest, packed
from segkit.service.tokens import Token, TokenStore
from segkit.service.workers import Workers
from segkit.settings import Settings

_FAULTS = 20  # of a taxonomy that are listed
_UNAVAILABLE = {
    DatabaseError: ("database-unavailable", "the database cannot be read"),
    StorageError: ("storage-unavailable", "the storage cannot be written"),
}


class Submissions:
    """Accepts starts, resumes and cancellations; a refused one has cost nothing and left nothing."""

    def __init__(
        self,
        jobs: Jobs,
        tokens: TokenStore,
        settings: Settings,
        database: DatabaseReadiness,
        journal: Journal,
        workers: Workers,
    ) -> None:
        self._workers = workers
        self._jobs, self._records, self._tokens = jobs, jobs.records, tokens
        self._settings, self._database, self._journal = settings, database, journal
        self._order = asyncio.Lock()
        # Threads of their own: a database that does not answer must not take those that read the status of runs.
        self._makers = ThreadPoolExecutor(2, "maker")
        self._making: dict[str, asyncio.Future[Record]] = {}
        self.owners: dict[str, str] = self._records.owners()

    def close(self) -> None:
        """Wait for the runs that are being made."""
        self._makers.shutdown()

    async def start(self, wanted: StartRequest, key: str | None, client: Client) -> tuple[Record, bool]:
        """Make a run and queue it; returns its record, and whether this request made it.

        Raises RequestError when the token, the queue, the money or the database does not allow it.
        """
        try:
            return await self._start(wanted, key, client)
        except RequestError as error:
            facts = {"kind": error.kind, "why": error.message}
            self._journal.note("start_refused", **_who(client), parameters=wanted.facts, **facts)
            raise

    async def _start(self, wanted: StartRequest, key: str | None, client: Client) -> tuple[Record, bool]:
        admission.check_token(wanted.model, wanted.products, client.token)
        budget = admission.choose_budget(wanted.model, wanted.max_cost_usd, client.token, self._settings)
        digest = await asyncio.to_thread(lambda: wanted.sha256)
        async with self._order:
            record = Record(
                self._free_id(), client.token.name, key, digest, "making", wanted.products, budget=budget,
                max_unassigned=wanted.max_unassigned,
            )  # fmt: skip
            record, is_new = await asyncio.to_thread(self._records.reserve, record, self._caps(client.token))
            if is_new:  # the task goes on when the client hangs up
                task = asyncio.get_running_loop().run_in_executor(self._makers, self._make, wanted, record, client)
                self._making[record.run_id] = task
                task.add_done_callback(lambda _: self._making.pop(record.run_id, None))
        if making := self._making.get(record.run_id):
            return await asyncio.shield(making), is_new
        if record.phase == "making" and self._is_unmade(record.run_id):
            raise RequestError("start-failed", "the first request with this key failed just now", "send it again")
        return record, is_new

    def _is_unmade(self, run_id: str) -> bool:
        """Report whether a run that is no longer being made was not made, also where that could not be recorded."""
        record = self._records.get(run_id)
        return record is None or record.phase == "making"

    async def resume(self, run_id: str, changes: Mapping[str, Any], client: Client) -> None:
        """Queue a run that ended before it was completed; it may be given more money or laxer terms.

        Its owner pays, whoever resumes it. A run of the command line, or of a token that is gone, becomes a run of
        the token that resumes it.
        """
        run = await asyncio.to_thread(open_run, run_id, self._jobs.runs_dir)
        owner = self._tokens.named(self.owners.get(run_id, "")) or client.token
        products = int(run.document["input"]["products"])
        admission.check_token(run.parameters.model, products, owner)
        limit = partial(self._workers.call, admission.calls_without_price, run, owner, self._settings)
        calls = await asyncio.to_thread(partial(limit, products=products))
        async with self._order:
            await asyncio.to_thread(self._jobs.tick)  # its end may not be recorded yet
            record = await asyncio.to_thread(self._records.get, run_id)
            if record and record.phase != "ended":
                raise RequestError("wrong-state", f"{run_id} is active already", state="running")
            record = record or Record(run_id, "", None, "", "ended", products, spent=known_cost(run.status))
            record = self._on_new_terms(replace(record, owner=owner.name), run, calls, changes, owner)
            await asyncio.to_thread(self._jobs.requeue, record, self._caps(owner))
        self.owners[run_id] = record.owner
        self._journal.note("run_resumed", run_id=run_id, **_who(client), paid_by=record.owner, parameters=changes)

    def _on_new_terms(
        self, record: Record, run: Run, calls: int | None, changes: Mapping[str, Any], owner: Token
    ) -> Record:
        """Return the record of a run as it is queued again; `calls` limits one whose price is not known."""
        budget, model, wanted = None, run.parameters.model, changes.get("max_cost_usd")
        if calls is None:
            wanted = record.budget if wanted is None else Decimal(str(wanted))
            budget = admission.require_budget(
                model, admission.choose_budget(model, wanted, owner, self._settings)
            )  # fmt: skip
            admission.check_left(known_cost(run.status), budget)
        else:
            calls = calls if record.max_calls is None else record.max_calls
        unassigned = changes.get("max_unassigned")
        unassigned = record.max_unassigned if unassigned is None else unassigned
        return replace(
            record, phase="queued", budget=budget, max_calls=calls, cancelled=False, max_unassigned=unassigned
        )

    async def cancel(self, run_id: str, client: Client) -> None:
        """Stop a run in an orderly way."""
        async with self._order:
            await asyncio.to_thread(self._jobs.cancel, run_id)
        await asyncio.to_thread(_push_if_failed, self._jobs.runs_dir / run_id)
        self._journal.note("run_cancelled", run_id=run_id, **_who(client))

    def _free_id(self) -> str:
        """Return an id that no other run has: four digits are few where many start in one second."""
        while True:
            run_id = new_run_id()
            is_taken = run_id in self._making or run_id in self.owners
            if not is_taken and not (self._jobs.runs_dir / run_id).exists():
                return run_id

    def _make(self, wanted: StartRequest, record: Record, client: Client) -> Record:
        """Make the folder of a run and queue it, or leave nothing."""
        without = replace(wanted, product_ids=())
        order = Order(
            without,
            packed(wanted.product_ids),
            record,
            client,
            self._settings,
            self._jobs.runs_dir,
            self._records.path,
        )
        try:
            self._database.prepare()
            made = self._workers.call(make_run, order, products=wanted.products)
            self._records.enlist(made)
            parameters = {**wanted.facts, "body_sha256": record.body_sha256}
            self._journal.write("run_ordered", run_id=record.run_id, **_who(client), parameters=parameters)
            self._jobs.add(record.run_id)
        except BaseException as error:
            discard(self._jobs.runs_dir / record.run_id)  # nothing was asked in it
            self._records.forget(record.run_id)
            if isinstance(error, SegkitError):
                raise self._refusal(error, wanted, client) from None
            raise
        self.owners[record.run_id] = record.owner
        return replace(record, phase="queued")

    def _caps(self, token: Token) -> Caps:
        most = self._settings.segkit_serve_runs + self._settings.segkit_serve_queue
        return Caps(most, token.max_active, token.max_total_cost_usd)

    def _refusal(self, error: SegkitError, wanted: StartRequest, client: Client) -> RequestError:
        """Return what a client can do something about; what only the operator can mend is logged."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, PromptError):
            what = f"the prompt set {wanted.prompts} cannot be used"
            place = [{"pointer": "#/prompts", "detail": what}]
            return RequestError("unknown-prompts", what, "leave it out, or ask the operator", errors=place)
        if isinstance(error, ProductsError):
            return RequestError("unknown-products", error.message, "check the ids")
        if isinstance(error, TaxonomyError):
            return unusable_taxonomy(error, "#/taxonomy")
        self._journal.note_error("start_failed", error, **_who(client))
        if isinstance(error, SettingsError):
            what = "the service is not set up for this model; nothing was started"
            return RequestError("model-unavailable", what, "use another model, or ask the operator")
        kind, what = _UNAVAILABLE.get(type(error), ("disk-unavailable", "the disk cannot be written"))
        return RequestError(kind, f"{what}; nothing was started", "try again later")


def unusable_taxonomy(error: TaxonomyError, pointer: str) -> RequestError:
    """Return the refusal of an edited taxonomy, with each of its faults; `pointer` is its place in the body."""
    places = [{"pointer": f"{pointer}/categories", "detail": fault} for fault in error.faults[:_FAULTS]]
    return RequestError("unusable-taxonomy", error.message, "correct it; nothing was started", errors=places)


def _who(client: Client) -> dict[str, str]:
    return {"owner": client.token.name, "client": client.address, "request_id": client.request_id}


def _push_if_failed(folder: Path) -> None:
    """Tell S3 that a run never began; while S3 fails, only this machine knows."""
    if read_status(folder).state == "failed":
        with suppress(StorageError, RunError, OSError):
            push(folder)


def may_see(token: Token, owner: str | None) -> bool:
    """Report whether a token may see a run; a run of the command line belongs to nobody."""
    return token.all_runs or owner == token.name
