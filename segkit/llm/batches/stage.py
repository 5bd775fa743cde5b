"""A stage sent as batches: files of requests → batches → answers in the logs, until the rest is asked online."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import Any

from openai.types import Batch

from segkit.core.models import STAGES, Question
from segkit.core.text import quantity
from segkit.errors import BudgetError, EndpointError, RefusedError, SegkitError, StoppedError, WaitingError
from segkit.llm.batches.answers import Answers
from segkit.llm.batches.distribution import Distribution, distribute
from segkit.llm.batches.provider import BatchProvider, UnsureError
from segkit.llm.batches.records import (
    BatchRecord,
    answer_files,
    forget,
    is_name,
    mark_taken,
    name_of,
    next_name,
    read_records,
    requests_file,
    sweep,
    write_record,
)
from segkit.llm.batches.requests import OpenRequests, bodies_of, parted
from segkit.llm.event_loop import StopRequest
from segkit.llm.prices import BATCH_PRICE, largest_cost_usd
from segkit.runs.events import log_event
from segkit.runs.run import Run, is_stopping
from segkit.runs.status import update_status
from segkit.settings import Settings
from segkit.storage.disk import write_atomic

#: So many requests, or fewer, that are open after a batch are asked online: nobody waits a day for them.
FEW = 20
#: So many rounds of batches are sent for the same questions, with what was wrong in the answers of the round before.
ROUNDS = 3


class StageBatches:
    """The questions of a stage on their way through batches, from whatever point an earlier process has left."""

    def __init__(
        self,
        run: Run,
        stage: str,
        questions: Sequence[Question],
        settings: Settings,
        stop: StopRequest,
        planned: int,
        done: int,
    ) -> None:
        self._run, self._stage, self._questions, self._settings = run, stage, questions, settings
        self._stop, self._counts = stop, (planned, done)
        self._first = min(question.batch for question in questions)
        self._opened: BatchProvider | None = None

    async def answer(self) -> None:
        """Have the questions answered by batches; what is open then is to be asked online.

        Raises WaitingError while batches are at work and nobody is to wait for them, BudgetError where the next
        request could exceed a cap, RefusedError and EndpointError as asking online does.
        """
        sweep(self._run)
        await self._take_up()
        while True:
            await self._send_all()
            answers = await self._fetched()
            fetched = bool(self._records())
            found = await self._distributed(answers)
            if fetched and found.open and self._settings.segkit_batch and not answers.brought:
                raise self._without_answers(answers)
            if self._is_for_online(found):
                return
            self._write_files(found.open)
            del found, answers  # they take much memory, and the next batch much time

    async def close(self) -> None:
        """Close the connections, if there are any, and show no more how far the batches are."""
        if self._opened:
            await self._opened.close()
        if self._run.status.document.get("batches"):
            update_status(self._run.folder, batches="")

    @property
    def _provider(self) -> BatchProvider:
        # A stage whose questions are all answered needs no provider.
        if self._opened is None:
            self._opened = BatchProvider(self._run, self._settings, self._pause)
        return self._opened

    def _records(self) -> list[BatchRecord]:
        """Return the batches of the stage whose answers are not in the logs yet."""
        folder = STAGES[self._stage]
        return [record for record in read_records(self._run) if record.stage == folder and not record.taken]

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _take_up(self) -> None:
        """Find what an earlier process has perhaps created; what it only meant to send is gathered anew."""
        for record in self._records():
            if not record.batch_id and not await self._is_found_in_time(record):
                forget(self._run, record)

    async def _send_all(self) -> None:
        for record in self._records():
            if not record.batch_id:
                await self._send(record)

    async def _send(self, record: BatchRecord) -> None:
        """Upload the requests and create the batch, unless another machine is found to have created it."""
        await self._pause(0)
        if not await self._is_found(record):
            path = requests_file(self._run, record)
            file_id = await self._provider.upload(path, f"segkit-{self._run.id}-{path.name}")
            await self._create(write_record(self._run, record, file_id=file_id))

    async def _create(self, record: BatchRecord) -> None:
        """Create a batch once: a try without an answer is looked for before there is another one."""
        tries = 0
        while not await self._is_found_in_time(record):
            tries += 1
            if tries > 1 + self._run.parameters.max_retries:
                what = f"{self._provider.host} does not say whether it created the batch {record.name}, {tries} tries"
                raise EndpointError(what, f"segkit resume {self._run.id} looks for it first")
            record = write_record(self._run, record, creating_at=time.time())
            try:
                batch = await self._provider.create(record.file_id, self._metadata(record))
            except UnsureError as error:
                log_event(self._run.folder, "batch_perhaps_created", name=record.name, why=str(error))
            except SegkitError:
                write_record(self._run, record, creating_at=0.0)  # surely not created
                raise
            else:
                self._note(record, batch, "batch_created")
                return

    async def _is_found_in_time(self, record: BatchRecord) -> bool:
        """Look for a batch as long as an earlier try to create it may still be at work."""
        until, looks = record.creating_at + 2 * self._settings.segkit_timeout_seconds, 0
        while record.creating_at:
            if await self._is_found(record):
                return True
            looks += 1
            left = until - time.time()
            if left <= 0:
                break
            await self._pause(min(left, self._provider.backoff(looks)))
        return False

    async def _is_found(self, record: BatchRecord) -> bool:
        """Look for the batches of the run at the provider; take note of those that no record knows."""
        known = {each.name: each for each in read_records(self._run)}
        for batch in await self._provider.batches_of_run():
            name = (batch.metadata or {}).get("name", "")
            if not is_name(name) or batch.id in {each.batch_id for each in known.values()}:
                continue
            while name in known and known[name].batch_id:  # a second one, which is paid too
                name = next_name(name)
            known[name] = self._note(known.get(name) or BatchRecord(name), batch, "batch_found")
        return bool(known[record.name].batch_id)

    def _metadata(self, record: BatchRecord) -> dict[str, str]:
        return {"run_id": self._run.id, "name": record.name, "sha256": record.sha256, "made_by": "segkit"}

    def _note(self, record: BatchRecord, batch: Batch, event: str = "") -> BatchRecord:
        """Write down what the provider states of a batch."""
        counts, errors = batch.request_counts, (batch.errors.data if batch.errors else None) or []
        noted = write_record(
            self._run,
            record,
            batch_id=batch.id,
            status=batch.status,
            file_id=batch.input_file_id,
            completed=(counts and counts.completed) or 0,
            failed=(counts and counts.failed) or 0,
            requests=record.requests or (counts and counts.total) or 0,
            output_file_id=batch.output_file_id or "",
            error_file_id=batch.error_file_id or "",
            problem=self._provider.text("; ".join(str(error.message) for error in errors[:3])),
        )
        if event or noted.status != record.status:
            facts = {"name": record.name, "batch_id": batch.id, "status": batch.status}
            log_event(self._run.folder, event or "batch_status", requests=noted.requests, **facts)
        return noted

    # ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def _fetched(self) -> Answers:
        """Return the answers of all batches of the stage, once all have ended."""
        p = self._run.parameters
        answers, polls = Answers(p.endpoint, p.model, p.repeat), 0
        while not all([await self._is_done(record) for record in self._records()]):
            if not self._settings.segkit_batch_wait:
                raise self._waiting()
            polls += 1
            update_status(self._run.folder, batches=self._progress())
            await self._pause(self._provider.backoff(polls))
        for record in self._records():
            for path, file_id in answer_files(self._run, record).items():
                if not path.exists():
                    await self._provider.download(file_id, path)
                answers.read(path, record.batch_id)
        return answers

    async def _is_done(self, record: BatchRecord) -> bool:
        """Ask how far a batch is; one that has ended is done when its files are there, which may take a moment."""
        until, polls = time.monotonic() + self._settings.segkit_max_wait_seconds, 0
        while not record.ended or _lacks_files(record):
            record = self._note(record, await self._provider.retrieve(record.batch_id))
            if not record.ended:
                return False
            if _lacks_files(record):
                if time.monotonic() > until:
                    what = f"{self._provider.host} has no file with the answers of {record.batch_id}"
                    raise EndpointError(what, f"nothing is lost; later: {self._resume}")
                polls += 1
                await self._pause(self._provider.backoff(polls))
        return True

    def _waiting(self, *, stopped: bool = False) -> SegkitError:
        """Return the error that ends a process whose batches go on."""
        progress = self._progress()
        if not progress:
            return StoppedError("stopped on request; all answers are kept", self._resume)
        commands = f"{self._resume}; to stop it: segkit batches {self._run.id} --cancel"
        if stopped:
            return WaitingError(f"stopped waiting, the provider goes on with {progress}", commands)
        return WaitingError(f"the provider works on {progress}", f"later, or with --wait: {commands}")

    def _progress(self) -> str:
        """Say how far the batches at work are; empty where there is none."""
        under_way = [record for record in self._records() if record.batch_id and not record.ended]
        if not under_way:
            return ""
        done = sum(record.completed + record.failed for record in under_way)
        requests = sum(record.requests for record in under_way)
        batches = f"{quantity(len(under_way), 'batch')} of {STAGES[self._stage]}"
        return f"{batches}: {done:,} of {requests:,} requests are done"

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while True:
            if self._stop.is_set() or is_stopping(self._run):
                raise self._waiting(stopped=True)
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(0.2, left))

    # ── what comes of it ─────────────────────────────────────────────────────────────────────────────────────────

    async def _distributed(self, answers: Answers) -> Distribution:
        """Give the answers to their questions, and take note that all of them are logged."""
        records = self._records()
        if answers.doubled or answers.unread or answers.problems:
            facts = {"doubled": answers.doubled, "unread": answers.unread, "without_answer": dict(answers.problems)}
            log_event(self._run.folder, "batch_not_clean", stage=STAGES[self._stage], **facts)

        def bodies() -> dict[str, dict[str, Any]]:
            files = [requests_file(self._run, record) for record in records]
            return {custom_id: body for path in files for custom_id, body in bodies_of(path).items()}

        given = self._run, self._stage, self._questions, self._settings
        found = await distribute(*given, answers, bodies, *self._counts)
        if isinstance(found.error, StoppedError):  # the disk fails: what is not logged is read again
            raise found.error
        for record in records:
            mark_taken(self._run, record, answers.brought[record.batch_id])
        if found.error:
            raise found.error
        for record in records:
            if record.status == "failed":
                raise self._refused(record)
        return found

    def _refused(self, record: BatchRecord) -> RefusedError:
        what = f"{self._provider.host} refused the batch {record.batch_id}, nothing was paid: {record.problem}"
        return RefusedError(what, f"{self._resume} sends it again, with --no-batch it asks one by one")

    def _without_answers(self, answers: Answers) -> EndpointError:
        why = f": {answers.problem()}" if answers.problems else ""
        hint = f"{self._resume} sends the next batch, with --no-batch it asks one by one"
        return EndpointError(f"the batch returned no answer{why}", hint)

    def _is_for_online(self, found: Distribution) -> bool:
        """Report whether open requests are asked online: few, those that batches did not help, or none."""
        if not found.open or not self._settings.segkit_batch:
            return True
        rounds = {record.round for record in self._group() if record.brought and not record.capped}
        if not rounds:
            return False
        return len(found.open) <= FEW or len(rounds) >= ROUNDS or not found.proven

    def _group(self) -> list[BatchRecord]:
        """Return the batches of these questions, in all rounds."""
        group = f"{STAGES[self._stage]}-{self._first}"
        return [record for record in read_records(self._run) if record.group == group]

    @property
    def _resume(self) -> str:
        """The command that goes on with the run, in batches."""
        made_with = self._run.document.get("caps", {})
        return f"segkit resume {self._run.id}" + ("" if made_with.get("batch") else " --batch")

    def _affordable(self, requests: OpenRequests) -> int:
        """Return how many requests surely fit under the caps; raise BudgetError where not even one does."""
        total = self._run.status.total
        most_calls, most_cost = self._settings.segkit_max_calls, self._settings.segkit_max_cost_usd
        count = len(requests) if most_calls is None else min(len(requests), most_calls - total.calls)
        if most_cost is not None:
            costs = accumulate((self._largest(*size) for size in requests.sizes[: max(count, 0)]), initial=Decimal(0))
            count = sum(total.cost_usd + cost <= most_cost for cost in costs) - 1
        if count <= 0:
            calls = most_calls is not None and total.calls >= most_calls
            spent = f"{total.calls} of {most_calls} calls are made" if calls else f"${total.cost_usd:.4f} are spent"
            option = "--max-calls" if calls else "--max-cost-usd"
            raise BudgetError(
                f"budget: {spent}", f"all answers are kept; more: segkit resume {self._run.id} {option} N"
            )
        return count

    def _largest(self, size: int, output_limit: int) -> Decimal:
        p = self._run.parameters
        cost = largest_cost_usd(size // 2, output_limit, p.model, p.endpoint, self._settings)
        if cost is None:
            raise StoppedError(f"the price of {p.model} is not known, so no cap can be kept", "set SEGKIT_PRICES")
        return cost * BATCH_PRICE

    def _write_files(self, requests: OpenRequests) -> None:
        """Write the files of requests that the caps allow, and for each the intent to send it."""
        count = self._affordable(requests)
        capped, round_ = count < len(requests), max((record.round for record in self._group()), default=0) + 1
        for part, lines in enumerate(parted(requests.lines(count)), start=1):
            data = b"".join(lines)
            name = name_of(self._stage, self._first, round_, part)
            record = BatchRecord(name, hashlib.sha256(data).hexdigest(), len(lines), capped=capped)
            write_atomic(requests_file(self._run, record), data)
            write_record(self._run, record)


def _lacks_files(record: BatchRecord) -> bool:
    """Report whether a batch has answers by its counts, and no file that holds them."""
    lacks_output = record.completed and not record.output_file_id
    return bool(lacks_output or (record.failed and not (record.error_file_id or record.output_file_id)))
