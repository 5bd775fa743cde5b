"""Starting a run: it is admitted before anything is made, it is there whole or not at all, and one key makes one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from segkit.database.sync import products_from_postgres
from segkit.errors import (
    DatabaseError,
    ProductsError,
    RequestError,
    RunError,
    SegkitError,
    SettingsError,
    StorageError,
)
from segkit.pipeline.prepare import choose_parameters, prepare_run
from segkit.runs.create import new_run_id
from segkit.runs.events import log_event
from segkit.runs.mirror import discard, push
from segkit.runs.run import Run, open_run
from segkit.runs.status import read_status
from segkit.service.admission import (
    calls_without_price,
    check_price,
    check_titles,
    check_token,
    choose_budget,
    needed,
)
from segkit.service.jobs import Jobs, known_cost
from segkit.service.readiness import LateDatabase
from segkit.service.records import Caps, Record
from segkit.service.tokens import Token
from segkit.settings import Settings
from segkit.storage.redaction import safe_text


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for."""

    product_ids: tuple[int, ...]
    category: str
    model: str
    temperature: float | None = None
    max_cost_usd: Decimal | None = None
    max_unassigned: int | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(orjson.dumps(asdict(self), default=str)).hexdigest()


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the token, the address, and the id of the request."""

    token: Token
    address: str
    request_id: str


class Desk:
    """Takes starts, resumes and cancellations; what it refuses has cost nothing and left nothing."""

    def __init__(self, jobs: Jobs, settings: Settings, database: LateDatabase) -> None:
        self._database = database
        self._jobs, self._records, self._settings = jobs, jobs.records, settings
        self._order = asyncio.Lock()
        # Threads of their own: a database that does not answer must not take those that tell how runs stand.
        self._makers = ThreadPoolExecutor(2, "maker")
        self._making: dict[str, asyncio.Future[Record]] = {}
        self.owners: dict[str, str] = self._records.owners()

    async def start(self, wish: Wish, key: str | None, client: Client) -> tuple[Record, bool]:
        """Make a run and queue it; gives its record, and whether this request made it.

        Raises RequestError when the token, the queue, the money or the database does not allow it.
        """
        try:
            return await self._start(wish, key, client)
        except RequestError as error:
            told = {**asdict(wish), "product_ids": len(wish.product_ids)}
            self._audit("start_refused", client, "", told, status=error.status, why=error.message)
            raise

    async def _start(self, wish: Wish, key: str | None, client: Client) -> tuple[Record, bool]:
        check_token(wish.model, len(wish.product_ids), client.token)
        budget = choose_budget(wish.model, wish.max_cost_usd, client.token, self._settings)
        async with self._order:
            wanted = Record(
                self._free_id(), client.token.name, key, wish.sha256, "making", len(wish.product_ids), budget=budget,
                max_unassigned=wish.max_unassigned,
            )  # fmt: skip
            record, is_new = await asyncio.to_thread(self._records.reserve, wanted, self._caps(client.token))
            if is_new:  # the task goes on when the client hangs up
                task = asyncio.get_running_loop().run_in_executor(self._makers, self._make, wish, record, client)
                self._making[record.run_id] = task
                task.add_done_callback(lambda _: self._making.pop(record.run_id, None))
        if making := self._making.get(record.run_id):
            return await asyncio.shield(making), is_new
        if record.phase == "making" and self._is_unmade(record.run_id):
            raise RequestError(
                503, "the first request with this key failed just now", "send it again", retry_after="1"
            )
        return record, is_new

    def _is_unmade(self, run_id: str) -> bool:
        """Tell of a run that nobody makes any more whether it was not made, also where that could not be noted."""
        found = self._records.get(run_id)
        return found is None or found.phase == "making"

    def close(self) -> None:
        """Wait for the runs that are being made."""
        self._makers.shutdown()

    async def resume(self, run_id: str, changes: Mapping[str, Any], client: Client) -> None:
        """Queue a run that ended before it was completed; it may be given more money or laxer terms.

        Whose it is does not change; what it costs from now on counts on the token that resumes it.
        """
        run = await asyncio.to_thread(open_run, run_id, self._jobs.place)
        products = int(run.document["input"]["products"])
        check_token(run.parameters.model, products, client.token)
        planned = await asyncio.to_thread(calls_without_price, run, client.token, self._settings)
        async with self._order:
            await asyncio.to_thread(self._jobs.tick)  # that it ended may not be noted yet
            found = await asyncio.to_thread(self._records.get, run_id)
            if found and found.phase != "ended":
                raise RequestError(409, f"{run_id} is at work or waits already")
            record = self._taken_over(found or Record(run_id, "", None, "", "ended", products), run, client.token)
            wanted = self._resumed(record, run.parameters.model, planned, changes, client.token)
            await asyncio.to_thread(self._jobs.requeue, wanted, self._caps(client.token))
        self.owners[run_id] = wanted.owner
        self._audit("run_resumed", client, run_id, changes)

    def _taken_over(self, record: Record, run: Run, token: Token) -> Record:
        """Let a token pay from now on for a run that another one, or the command line, has paid so far."""
        if record.payer == token.name:
            return record
        paid = known_cost(run.status)
        return replace(record, payer=token.name, paid_before=paid, spent=paid)

    def _resumed(
        self, record: Record, model: str, planned: int | None, changes: Mapping[str, Any], token: Token
    ) -> Record:
        given, unassigned = changes.get("max_cost_usd"), changes.get("max_unassigned")
        budget = calls = None
        if planned is not None:  # its price is not known, so its calls are limited
            calls = planned if record.max_calls is None else record.max_calls
        else:
            wished = record.budget if given is None else Decimal(str(given))
            budget = needed(model, choose_budget(model, wished, token, self._settings))
        unassigned = record.max_unassigned if unassigned is None else unassigned
        return replace(
            record, phase="queued", budget=budget, max_calls=calls, cancelled=False, max_unassigned=unassigned
        )

    async def cancel(self, run_id: str, client: Client) -> None:
        """Stop a run in an orderly way."""
        async with self._order:
            await asyncio.to_thread(self._jobs.cancel, run_id)
        await asyncio.to_thread(_tell_s3, self._jobs.place / run_id)
        self._audit("run_cancelled", client, run_id, {})

    def _free_id(self) -> str:
        """Name a run as no other is named: four digits are few where many are started in one second."""
        while True:
            run_id = new_run_id()
            taken = run_id in self._making or run_id in self.owners
            if not taken and not (self._jobs.place / run_id).exists():
                return run_id

    def _make(self, wish: Wish, record: Record, client: Client) -> Record:
        """Make the run's folder, whole or not at all."""
        try:
            self._make_folder(wish, record, client)
            self._jobs.add(record.run_id)
        except BaseException as error:
            discard(self._jobs.place / record.run_id)  # nothing was asked in it
            self._records.forget(record.run_id)
            if isinstance(error, SegkitError):
                raise self._refused(error, client) from None
            raise
        self.owners[record.run_id] = record.owner
        return replace(record, phase="queued")

    def _make_folder(self, wish: Wish, record: Record, client: Client) -> None:
        given: dict[str, Any] = {
            "model": wish.model, "temperature": wish.temperature, "max_unassigned": wish.max_unassigned
        }  # fmt: skip
        self._database.prepare()
        products = products_from_postgres(wish.product_ids, self._settings)
        chosen = choose_parameters(wish.category, self._settings, **given)
        check_titles(products, chosen.max_unassigned)
        calls = check_price(products, chosen, record.budget, client.token, self._settings)
        if calls is not None:
            self._records.limit_calls(record.run_id, calls)
        run = prepare_run(
            products, wish.category, run_id=record.run_id, runs_dir=self._jobs.place, source="amazon_products",
            settings=self._settings, **given,
        )  # fmt: skip
        told = {**asdict(wish), "product_ids": len(wish.product_ids), "body_sha256": record.body_sha256}
        log_event(run.folder, "run_ordered", owner=record.owner, client=client.address, request_id=client.request_id)
        self._audit("run_ordered", client, run.id, told)

    def _caps(self, token: Token) -> Caps:
        most = self._settings.segkit_serve_runs + self._settings.segkit_serve_queue
        return Caps(most, token.max_active, token.max_total_cost_usd)

    def _refused(self, error: SegkitError, client: Client) -> RequestError:
        """Say to a client what it can do something about; what only the operator can mend is logged."""
        if isinstance(error, RequestError):
            return error
        if isinstance(error, ProductsError):
            return RequestError(422, error.message, error.hint)
        log_event(
            self._jobs.home, "start_failed", owner=client.token.name, request_id=client.request_id,
            error=type(error).__name__, why=self._clean(str(error)),
        )  # fmt: skip
        if isinstance(error, SettingsError):
            what = "the service is not set up for this model; nothing was started"
            return RequestError(422, what, "take another one, or tell the operator")
        places = {DatabaseError: "the database cannot be read", StorageError: "the storage cannot be written"}
        what = places.get(type(error), "the disk cannot be written")
        return RequestError(503, f"{what}; nothing was started", "try again later", retry_after="30")

    def _clean(self, text: str) -> str:
        return safe_text(text, self._settings.secrets)

    def _audit(self, event: str, client: Client, run_id: str, parameters: Mapping[str, Any], **more: Any) -> None:
        log_event(
            self._jobs.home, event, run_id=run_id, owner=client.token.name, client=client.address,
            request_id=client.request_id, parameters=parameters, **more,
        )  # fmt: skip


def _tell_s3(folder: Path) -> None:
    """Let S3 know that a run never began; while it fails, the run says so here alone."""
    if read_status(folder).state == "failed":
        with suppress(StorageError, RunError, OSError):
            push(folder)


def may_see(token: Token, owner: str | None) -> bool:
    """Tell whether a token may see a run; what the command line made belongs to nobody."""
    return token.all_runs or owner == token.name
