"""Sending one request until there is an answer: limits → intent → request → raw answer on disk → what it means."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from segkit.core.models import Usage
from segkit.errors import RefusedError, SegkitError, StoppedError
from segkit.llm.limits import Budget, ExhaustedError, Limits, Probe, Reservation, Ticket
from segkit.llm.prices import cost_usd
from segkit.llm.responses import NextStep, classify_response
from segkit.llm.transports.base import LostError, NotSentError, Response, Transport
from segkit.runs import interactions
from segkit.runs.events import log_event
from segkit.runs.interactions import Intent
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings
from segkit.storage.disk import disk_error
from segkit.storage.redaction import redactor

LONGEST_ANSWER = 16_384
LONGEST_BACKOFF = 30.0


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request on its way: where its log goes, the first part of the log, the metadata, and the bytes to send."""

    batch: int
    attempt: int
    head: dict[str, Any]
    facts: dict[str, Any]
    data: bytes
    output_tokens: int


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A letter that was answered: the response, its intent on disk, and how long it took."""

    response: Response
    intent: Intent
    duration_ms: int
    tickets: list[Ticket]
    reservation: Reservation


_NOTHING = Response(0, {}, b"")


class NoAnswerError(Exception):
    """No answer after all tries."""


class MustSplitError(Exception):
    """The endpoint will not answer a question like this, but may answer a smaller one."""

    def __init__(self, trouble: str, why: str) -> None:
        super().__init__(why)
        self.trouble = trouble
        self.why = why


class RetryingClient:
    """The one owner of retries: what a second try can mend is tried again, what it cannot ends at once."""

    def __init__(
        self,
        run: Run,
        stage: str,
        transport: Transport,
        settings: Settings,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        self._run, self._folder, self._stop = run, run.stage_folder(stage), stop
        self._transport, self._settings, self._progress = transport, settings, progress
        self._model, self._most_tries = run.parameters.model, 1 + run.parameters.max_retries
        self._host = urlsplit(run.parameters.endpoint).hostname or run.parameters.endpoint
        self._redact = redactor(settings.secrets)
        self._probe = Probe()
        self._refused: SegkitError | None = None
        self._budget = Budget(settings.segkit_max_calls, settings.segkit_max_cost_usd, *progress.spent())
        self._limits = Limits(
            settings.segkit_concurrency,
            settings.segkit_requests_per_minute,
            settings.segkit_input_tokens_per_minute,
            settings.segkit_output_tokens_per_minute,
        )

    async def send(self, letter: ModelRequest) -> ModelReply:
        """Return the answer; raise RefusedError, StoppedError, NoAnswerError or MustSplitError if there is none."""
        tries, waited = 0, 0.0
        while True:
            tries += 1
            sent, meaning = await self._once(letter)
            if meaning.step == "answer":
                return sent
            await self._close_log(letter, sent, meaning)
            if self._refused:
                raise self._refused
            if meaning.step == "cut":
                raise MustSplitError(meaning.trouble, meaning.why)
            if meaning.step == "again" and tries >= self._most_tries:
                raise NoAnswerError(_joined(f"{meaning.why}, {tries} tries", meaning.hint))
            waited += await self._pause(letter, meaning, tries, waited)

    async def settle(self, sent: ModelReply, usage: Usage, cost: Decimal | None) -> None:
        """Replace what was reserved for an answered letter by what the server told."""
        self._limits.settle(sent.tickets, usage.input, usage.output)
        self._limits.faster()
        await self._budget.settle(sent.reservation, 1, cost)

    def halt(self, error: SegkitError) -> None:
        """Let nothing more be sent; the first reason counts."""
        self._refused = self._refused or error

    def raise_if_stopped(self) -> None:
        """Raise RefusedError when asking is hopeless, StoppedError when somebody asked the run to stop."""
        if self._refused:
            raise self._refused
        if self._stop.is_set():
            raise StoppedError("stopped on request; all answers are kept", f"segkit resume {self._run.id}")

    async def close_if_stopped(self) -> None:
        """Send those away who wait for their turn, once nobody may ask any more."""
        if (self._stop.is_set() or self._refused) and not self._limits.closed:
            await self._limits.close()

    async def _once(self, letter: ModelRequest) -> tuple[ModelReply, NextStep]:
        """Send once, as soon as the budget and the limits let it through."""
        await self._probe.wait()
        self.raise_if_stopped()
        reservation = await self._reserve(letter)
        try:
            return await self._within_limits(letter, reservation)
        except SegkitError:  # before anything was sent
            await self._budget.settle(reservation, 0, Decimal(0))
            raise

    async def _within_limits(self, letter: ModelRequest, reservation: Reservation) -> tuple[ModelReply, NextStep]:
        tickets = await self._limits.enter(len(letter.data) // 4, letter.output_tokens)
        if tickets is None:
            self.raise_if_stopped()
            raise StoppedError("the limits are closed")
        try:
            self.raise_if_stopped()
            intent = self._begin(letter)
            began = time.monotonic()
            response, meaning = await self._exchange(letter, intent)
            if meaning.step == "stop":
                # Known before the next request may leave: a hopeless error costs one request.
                self.halt(RefusedError(meaning.why, _joined(meaning.hint, f"segkit resume {self._run.id}")))
        finally:
            self._probe.open()
            await self._limits.leave()
        took = round((time.monotonic() - began) * 1000)
        return ModelReply(response or _NOTHING, intent, took, tickets, reservation), meaning

    async def _reserve(self, letter: ModelRequest) -> Reservation:
        try:
            return await self._budget.reserve(self._largest(letter))
        except ExhaustedError as error:
            hint = f"all answers are kept; go on with more: segkit resume {self._run.id} {error.option} N"
            raise StoppedError(str(error), hint) from None

    def _largest(self, letter: ModelRequest) -> Decimal:
        """Price a call as if every 2 characters were a token and the answer as long as it may be."""
        if self._budget.most_cost is None:
            return Decimal(0)
        p = self._run.parameters
        most = Usage(input=len(letter.data) // 2, cached=0, output=p.max_output_tokens or LONGEST_ANSWER)
        cost = cost_usd(most, p.model, p.endpoint, self._settings.segkit_prices)
        if cost is None:
            raise StoppedError(f"the price of {p.model} is not known, so no cap can be kept", "set SEGKIT_PRICES")
        return cost

    def _begin(self, letter: ModelRequest) -> Intent:
        try:
            return interactions.begin(self._folder, letter.batch, letter.attempt, letter.head)
        except OSError as error:
            failed = disk_error(self._run.folder, error)
            self.halt(failed)
            raise failed from None

    async def _exchange(self, letter: ModelRequest, intent: Intent) -> tuple[Response | None, NextStep]:
        try:
            response = await self._transport.send(letter.data)
        except NotSentError as error:
            return None, self._clean(NextStep("again", f"{self._host} cannot be reached, nothing was paid: {error}"))
        except LostError as error:
            self._keep(letter, intent, None, self._redact(error.partial))
            self._limits.slower()
            return None, self._clean(NextStep("again", f"{self._host}: {error}"))
        headers = {name: self._text(value) for name, value in response.headers.items()}
        response = replace(response, headers=headers, body=self._redact(response.body))
        self._keep(letter, intent, response.status, response.body)
        return response, self._clean(classify_response(response, self._model, self._host))

    def _keep(self, letter: ModelRequest, intent: Intent, status: int | None, body: bytes) -> None:
        """Write what came into its intent, whose room is reserved; a disk that fails otherwise stops the run."""
        try:
            interactions.keep_raw(intent, status, body)
        except OSError as error:
            lost = "answers of calls in flight could not be saved"
            failed = disk_error(self._run.folder, error, lost)
            if self._refused and lost not in self._refused.message:  # the first error is the one that is reported
                self._refused.message += f"; {lost}"
            self.halt(failed)
            with contextlib.suppress(SegkitError):
                self._event("answer_not_saved", letter, file=intent.path.name, why=str(error))
            raise failed from None

    def _clean(self, meaning: NextStep) -> NextStep:
        return replace(meaning, why=self._text(meaning.why))

    def _text(self, text: str) -> str:
        return self._redact(text.encode(errors="surrogateescape")).decode(errors="replace")

    async def _close_log(self, letter: ModelRequest, sent: ModelReply, meaning: NextStep) -> None:
        """Keep the log of a call that may have been paid, or that cut its question; others leave an event."""
        money = _money(sent.response, meaning)
        self._event("no_answer", letter, why=meaning.why, step=meaning.step, money=money)
        if money == "not_paid":
            await self._budget.settle(sent.reservation, 0, Decimal(0))
        else:
            await self._budget.settle(sent.reservation, 1, None)
            self._progress.counts.add_call(Usage(), None)
        if money == "not_paid" and meaning.step != "cut":
            interactions.drop(sent.intent)
            return
        outcome = meaning.trouble or "no_answer"
        facts = {**letter.facts, "duration_ms": sent.duration_ms, "outcome": outcome, "money": money}
        facts |= {"why": meaning.why, "timestamp": interactions.started_at(sent.intent)}
        body = sent.response.body.decode(errors="replace")
        tail = {"response": body, "metadata": facts}
        interactions.finish(sent.intent, tail, compress=self._settings.segkit_compress_logs)

    async def _pause(self, letter: ModelRequest, meaning: NextStep, tries: int, waited: float) -> float:
        self._progress.counts.retries += 1
        longest = min(LONGEST_BACKOFF, self._settings.segkit_backoff_seconds * 2 ** (tries - 1))
        own = longest * random.uniform(0.5, 1)  # noqa: S311 (jitter)
        # A wish that was honoured and did not help is believed once.
        pause = own if meaning.wait is None else max(meaning.wait, own if tries > 1 else 0.0)
        if meaning.step == "wait":
            if waited + pause > self._settings.segkit_max_wait_seconds:
                raise self._paused(meaning, pause)
            self._limits.hold(pause if meaning.wait is None else meaning.wait)
            self._limits.slower()
        self._event("waits", letter, seconds=round(pause, 3), why=meaning.why)
        await self._sleep(pause)
        return pause

    def _paused(self, meaning: NextStep, pause: float) -> StoppedError:
        until = (datetime.now().astimezone() + timedelta(seconds=pause)).strftime("%H:%M")
        return StoppedError(
            f"paused until {until}: {self._host} asks to wait {pause:.0f} s ({meaning.why})",
            f"nothing is lost; then: segkit resume {self._run.id}",
        )

    async def _sleep(self, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while clock() < until:
            self.raise_if_stopped()
            await asyncio.sleep(min(0.2, max(0.0, until - clock())))

    def _event(self, event: str, letter: ModelRequest, **facts: Any) -> None:
        where = {"stage": letter.facts["interaction_type"], "batch": letter.batch, "attempt": letter.attempt}
        log_event(self._run.folder, event, **where, **facts)


def _money(response: Response, meaning: NextStep) -> str:
    if response is _NOTHING:
        return "not_paid" if "nothing was paid" in meaning.why else "unknown"
    if response.status < 300:
        return "paid"
    return "unknown" if response.status in (408, 409) or response.status >= 500 else "not_paid"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
