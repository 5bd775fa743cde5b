"""Sending one request until there is an answer: limits → intent → request → raw answer on disk → what it means."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from segkit.core.models import Usage
from segkit.errors import BudgetError, RefusedError, SegkitError, StoppedError
from segkit.llm import cache
from segkit.llm.cluster.losses import NOTHING_LOST, LostCalls, lost_calls
from segkit.llm.event_loop import StopRequest
from segkit.llm.limits import Budget, ExhaustedError, Limits, Probe, Reservation, SharedMinute, Ticket, Width
from segkit.llm.prices import largest_cost_usd
from segkit.llm.responses import NextStep, classify_response, without_decisions
from segkit.llm.transports.base import LostError, NotSentError, Response, Transport
from segkit.llm.transports.decisions import is_decided
from segkit.llm.transports.stream import whole_body
from segkit.runs import interactions
from segkit.runs.events import log_event
from segkit.runs.interactions import Intent
from segkit.runs.progress import Flight, Progress
from segkit.runs.run import Run
from segkit.settings import Settings
from segkit.storage.disk import disk_error
from segkit.storage.redaction import redactor

LONGEST_BACKOFF = 30.0
# A server that starts again is asked more often; one that was never there is not waited for as long.
LONGEST_POLL, FIRST_PATIENCE = 5.0, 20.0


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request on its way: where its log goes, the first part of the log, the metadata, and the bytes to send.

    `output_tokens` is what an answer usually takes, `output_limit` what it takes at most. `can_mend` says whether the
    asker has another wording for what an endpoint refused, `is_outdated` whether it words its requests otherwise by
    now; an `urgent` request goes while others are held back, a `fresh` one over a connection that no other has used.
    """

    batch: int
    attempt: int
    head: dict[str, Any]
    facts: dict[str, Any]
    data: bytes
    output_tokens: int
    output_limit: int
    can_mend: Callable[[NextStep], bool]
    is_outdated: Callable[[], bool]
    urgent: bool = False
    fresh: bool = False

    @property
    def label(self) -> str:
        """What progress calls the request: its batch, and the part of it."""
        part = self.facts.get("part")
        return f"b{self.batch}/{part}" if part else f"b{self.batch}"


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A request that was answered: the response, its intent on disk, when it was sent, and how long it took."""

    response: Response
    intent: Intent
    began: float
    duration_ms: int
    pass_: Pass


@dataclass(frozen=True, slots=True)
class Pass:
    """The leave to send one request: what it has reserved of the limits and of the budget."""

    tickets: list[Ticket]
    reservation: Reservation


_NOTHING = Response(0, {}, b"")


class NoAnswerError(Exception):
    """No answer after all tries.

    `down` says that the endpoint could not be reached or was not ready, `page` that it sends pages and no answers.
    """

    def __init__(self, why: str, *, down: bool, page: bool = False) -> None:
        super().__init__(why)
        self.down = down
        self.page = page


class MustSplitError(Exception):
    """The endpoint will not answer a question like this, but may answer a smaller one."""

    def __init__(self, trouble: str, why: str) -> None:
        super().__init__(why)
        self.trouble = trouble
        self.why = why


class BadAnswerError(Exception):
    """The provider itself found the model's answer invalid; another attempt may be better."""


class OutdatedError(Exception):
    """While a request waited for its turn, the endpoint refused how it is worded; nothing was sent."""


class NotTakenError(Exception):
    """The endpoint refuses a field of the request, or the request for a reason that nobody knows."""

    def __init__(self, step: NextStep) -> None:
        super().__init__(step.why)
        self.step = step


class Throttle:
    """Lets a request pass when the budget and every limit allow it; the first one goes alone for a moment."""

    #: What the log of a request states of who sent it, where that is not the machine of the run.
    origin: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self, settings: Settings, progress: Progress, lost: LostCalls = NOTHING_LOST, asked: Sequence[str] = ()
    ) -> None:
        """Keep the caps of a run, of which calls may be `lost`, and the limits of the model and address `asked`."""
        calls, cost = progress.spent()
        caps = settings.segkit_max_calls, settings.segkit_max_cost_usd
        self.budget = Budget(*caps, calls + lost.calls, cost + lost.cost_usd)
        self.limits = Limits(
            settings.segkit_concurrency,
            settings.segkit_requests_per_minute,
            settings.segkit_input_tokens_per_minute,
            settings.segkit_output_tokens_per_minute,
            shared=_minute_of(settings.segkit_home, asked) if asked else None,
        )
        self.width = Width(settings.segkit_concurrency)
        self._probe = Probe()
        self._others = asyncio.Event()
        self._others.set()

    @property
    def caps_cost(self) -> bool:
        """Whether a request has to state what it may cost."""
        return self.budget.most_cost is not None

    async def wait(self, urgent: bool) -> None:
        """Wait for the first answer, and while another request is tried alone."""
        await self._probe.wait()
        if not urgent:
            await self._others.wait()

    async def enter(self, request: ModelRequest, largest: Decimal) -> Pass | None:
        """Reserve what a request needs; return None once the limits are closed, raise ExhaustedError at a cap."""
        return await self.reserve(len(request.data), request.output_tokens, largest)

    async def reserve(self, size: int, output_tokens: int, largest: Decimal) -> Pass | None:
        """Reserve what a request of so many bytes needs, as `enter` does."""
        reservation = await self.budget.reserve(largest)
        tickets = await self.limits.enter(size // 4, output_tokens)
        if tickets is None:
            await self.budget.settle(reservation, 0, Decimal(0))
            return None
        return Pass(tickets, reservation)

    async def leave(self, pass_: Pass) -> None:
        """Count a request as no longer under way."""
        self._probe.open()
        await self.limits.leave()

    async def settle(self, pass_: Pass, usage: Usage, cost: Decimal | None) -> None:
        """Replace what an answered request had reserved by what it took."""
        self.limits.settle(pass_.tickets, usage.input, usage.output)
        self.limits.faster()
        await self.budget.settle(pass_.reservation, 1, cost)

    async def give_back(self, pass_: Pass) -> None:
        """Give back the money that a request had reserved and surely did not cost."""
        await self.budget.settle(pass_.reservation, 0, Decimal(0))

    async def write_off(self, pass_: Pass) -> None:
        """Count a request without an answer as a call of the largest cost: it may have been paid."""
        await self.budget.settle(pass_.reservation, 1, None)

    def hold(self, seconds: float, *, refused: bool) -> None:
        """Let no request through for some seconds; a request that was `refused` may be one among many."""
        if refused:
            self.limits.refused(seconds)
        else:
            self.limits.hold(seconds)

    def slower(self) -> None:
        """Let fewer requests be under way at once."""
        self.limits.slower()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Hold back all requests but urgent ones."""
        self._others.clear()
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Hold nobody back any more."""
        self._others.set()

    async def close(self) -> None:
        """Send those away who wait for their turn."""
        self.release()
        if not self.limits.closed:
            await self.limits.close()


class RetryingClient:
    """The one owner of retries: what a second try can mend is tried again, what it cannot ends at once."""

    def __init__(
        self,
        run: Run,
        stage: str,
        transport: Transport,
        settings: Settings,
        progress: Progress,
        stop: StopRequest,
        throttle: Throttle | None = None,
    ) -> None:
        self._run, self._folder, self._stop = run, run.stage_folder(stage), stop
        self._transport, self._settings, self._progress = transport, settings, progress
        self._model, self._most_tries = run.parameters.model, 1 + run.parameters.max_retries
        self._host = urlsplit(run.parameters.endpoint).hostname or run.parameters.endpoint
        self._is_decided = is_decided(stage, run.parameters)
        self._redact = redactor(settings.secrets)
        self._refused: SegkitError | None = None
        self._reached = False
        self.throttle = throttle or Throttle(settings, progress, lost_calls(run), asked_of(run))

    async def send(self, request: ModelRequest) -> ModelReply:
        """Return the answer to a request.

        Raises RefusedError or StoppedError when asking has to end, NoAnswerError after all tries, MustSplitError,
        BadAnswerError, NotTakenError or OutdatedError where another request may have an answer.
        """
        tries, waited = 0, 0.0
        while True:
            tries += 1
            reply, step = await self._once(request)
            if step.step == "answer":
                return reply
            await self._close_log(request, reply, step)
            if self._refused:
                raise self._refused
            _raise_for_asker(step)
            if step.idle:  # never so over a fresh connection
                tries, request = tries - 1, replace(request, fresh=True)
                continue
            if not step.patient and step.step == "again" and tries >= self._most_tries - step.page:
                raise NoAnswerError(_joined(f"{step.why}, {tries} tries", step.hint), down=step.down, page=step.page)
            waited += await self._pause(request, step, tries, waited)

    @contextlib.asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait until nobody else of this machine asks the request with this key: its answer is in the cache then.

        A process that holds it for longer than an answer and a wait may take is not waited for: it may be suspended.
        """
        home, pause, waited = self._settings.segkit_home, 0.05, 0.0
        longest = self._settings.segkit_timeout_seconds + self._settings.segkit_max_wait_seconds
        if not self._settings.segkit_cache:
            yield
            return
        while not (is_mine := cache.claim(home, key)) and waited < longest:
            await self._sleep(pause)
            waited, pause = waited + pause, min(2 * pause, 0.5)
        try:
            yield
        finally:
            if is_mine:
                cache.release(home, key)

    async def settle(self, reply: ModelReply, usage: Usage, cost: Decimal | None) -> None:
        """Replace what was reserved for an answered request by what the server stated."""
        await self.throttle.settle(reply.pass_, usage, cost)
        width = self.throttle.width
        if width.add(reply.began, reply.began + reply.duration_ms / 1000, usage.output):
            log_event(self._run.folder, "endpoint_width", stage=self._folder.name, answers_at_once=width.found)
        self._progress.found_width(width.found)

    def halt(self, error: SegkitError) -> None:
        """Let nothing more be sent; the first reason counts."""
        self._refused = self._refused or error

    def refusal(self, step: NextStep) -> RefusedError:
        """Return the error of a refusal that nobody but the user can mend, with the command that mends it."""
        command = f"segkit resume {self._run.id} {step.option}".rstrip()
        return RefusedError(step.why, _joined(step.hint, command))

    def raise_if_stopped(self) -> None:
        """Raise RefusedError when asking is hopeless, StoppedError when somebody asked the run to stop."""
        if self._refused:
            raise self._refused
        if self._stop.is_set():
            by = f"by {self._stop.by}" if self._stop.by else "on request"
            raise StoppedError(f"stopped {by}; all answers are kept", f"segkit resume {self._run.id}")

    async def close_if_stopped(self) -> None:
        """Send those away who wait for their turn, once nobody may ask any more."""
        if self._stop.is_set() or self._refused:
            await self.throttle.close()

    async def _once(self, request: ModelRequest) -> tuple[ModelReply, NextStep]:
        """Send once, as soon as the budget and the limits let it through."""
        await self.throttle.wait(request.urgent)
        self.raise_if_stopped()
        if request.is_outdated():
            raise OutdatedError
        pass_ = await self._enter(request)
        try:
            return await self._within_limits(request, pass_)
        except SegkitError:  # before anything was sent
            await self.throttle.give_back(pass_)
            raise

    async def _within_limits(self, request: ModelRequest, pass_: Pass) -> tuple[ModelReply, NextStep]:
        try:
            self.raise_if_stopped()
            intent = self._begin(request)
            began = time.monotonic()
            with self._progress.flight(request.label) as flight:
                response, step = await self._exchange(request, intent, flight)
            if step.step == "stop" and not request.can_mend(step):
                # Known before the next request may leave: a hopeless error costs one request.
                self.halt(self.refusal(step))
        finally:
            await self.throttle.leave(pass_)
        took = round((time.monotonic() - began) * 1000)
        return ModelReply(response or _NOTHING, intent, began, took, pass_), step

    async def _enter(self, request: ModelRequest) -> Pass:
        try:
            pass_ = await self.throttle.enter(request, self._largest(request))
        except ExhaustedError as error:
            hint = f"all answers are kept; go on with more: segkit resume {self._run.id} {error.option} N"
            raise BudgetError(str(error), hint) from None
        if pass_ is None:
            self.raise_if_stopped()
            raise StoppedError("the limits are closed")
        return pass_

    def _largest(self, request: ModelRequest) -> Decimal:
        """Price a call as if every 2 characters were a token and the answer as long as it may be."""
        if not self.throttle.caps_cost:
            return Decimal(0)
        p = self._run.parameters
        cost = largest_cost_usd(len(request.data) // 2, request.output_limit, p.model, p.endpoint, self._settings)
        if cost is None:
            raise StoppedError(f"the price of {p.model} is not known, so no cap can be kept", "set SEGKIT_PRICES")
        return cost

    def _begin(self, request: ModelRequest) -> Intent:
        try:
            origin = self.throttle.origin
            head = {**origin, **request.head}
            return interactions.begin(self._folder, request.batch, request.attempt, head, locked=bool(origin))
        except OSError as error:
            failed = disk_error(self._run.folder, error)
            self.halt(failed)
            raise failed from None

    async def _exchange(
        self, request: ModelRequest, intent: Intent, flight: Flight
    ) -> tuple[Response | None, NextStep]:
        try:
            response = await self._transport.send(request.data, flight.add, fresh=request.fresh)
        except NotSentError as error:
            why = f"{self._host} cannot be reached, nothing was paid: {error}"
            return None, self._clean(NextStep("again", why, patient=error.passing, down=True))
        except LostError as error:
            self._keep(request, intent, None, self._redact(whole_body(error.partial, ended=False)))
            if not error.idle:
                self.throttle.slower()
            return None, self._clean(self._lost(error))
        self._reached = True
        headers = {name: self._text(value) for name, value in response.headers.items()}
        # Joined first: in a stream, a secret may be spread over several chunks.
        response = replace(response, headers=headers, body=self._redact(whole_body(response.body)))
        self._keep(request, intent, response.status, response.body)
        step = classify_response(response, self._model, self._host)
        if self._is_decided:
            step = without_decisions(step, response.status, self._host)
        return response, self._clean(step)

    def _lost(self, error: LostError) -> NextStep:
        """Return the step after a request without a whole answer; after a time-out it is never the same again."""
        why = f"{self._host}: {error}"
        if error.timed_out:
            return NextStep("cut", why, trouble="timeout", money="unknown")
        if error.idle:
            return NextStep("again", f"{why} (the server had closed an idle connection)", idle=True, down=True)
        return NextStep("again", why, money="unknown", down=True)

    def _keep(self, request: ModelRequest, intent: Intent, status: int | None, body: bytes) -> None:
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
                self._event("answer_not_saved", request, file=intent.path.name, why=str(error))
            raise failed from None

    def _clean(self, step: NextStep) -> NextStep:
        return replace(step, why=self._text(step.why))

    def _text(self, text: str) -> str:
        return self._redact(text.encode(errors="surrogateescape")).decode(errors="replace")

    async def _close_log(self, request: ModelRequest, reply: ModelReply, step: NextStep) -> None:
        """Keep the log of a call that may have been paid, or that cut its question; others leave an event."""
        self._event("no_answer", request, why=step.why, step=step.step, money=step.money)
        if step.money == "not_paid":
            await self.throttle.give_back(reply.pass_)
        else:
            await self.throttle.write_off(reply.pass_)
            self._progress.counts.add_call(Usage(), None)
        if step.money == "not_paid" and step.step != "cut":
            interactions.drop(reply.intent)
            return
        facts = {**request.facts, "duration_ms": reply.duration_ms, "money": step.money, "why": step.why}
        facts |= {"outcome": step.trouble or "no_answer", "timestamp": interactions.started_at(reply.intent)}
        if step.trouble == "timeout":
            facts["timeout_seconds"] = self._settings.segkit_timeout_seconds
        body = reply.response.body.decode(errors="replace")
        tail = {"response": body, "metadata": facts}
        interactions.finish(reply.intent, tail, compress=self._settings.segkit_compress_logs)

    async def _pause(self, request: ModelRequest, step: NextStep, tries: int, waited: float) -> float:
        self._progress.retry(f"{request.label}: {step.why}")
        longest = min(LONGEST_POLL if step.patient else LONGEST_BACKOFF, self._backoff(tries))
        own = longest * random.uniform(0.5, 1)  # noqa: S311 (jitter)
        # A wish that was honoured and did not help is believed once.
        pause = own if step.wait is None else max(step.wait, own if tries > 1 else 0.0)
        if step.step == "wait" or step.patient:
            tried = step.step == "wait" or tries >= self._most_tries
            if tried and waited + pause > self._patience(step):
                raise self._out_of_patience(step, pause, tries, waited)
            self.throttle.hold(pause if step.wait is None else step.wait, refused=step.step == "wait")
            if not step.down:
                self.throttle.slower()
        self._event("waits", request, seconds=round(pause, 3), why=step.why)
        await self._sleep(pause)
        return pause

    def _backoff(self, tries: int) -> float:
        return float(self._settings.segkit_backoff_seconds * 2 ** min(tries - 1, 30))

    def _patience(self, step: NextStep) -> float:
        longest = self._settings.segkit_max_wait_seconds
        return longest if self._reached or not step.down else min(longest, FIRST_PATIENCE)

    def _out_of_patience(self, step: NextStep, pause: float, tries: int, waited: float) -> Exception:
        if step.step == "again":
            return NoAnswerError(f"{step.why}, {tries} tries in {waited:.0f} s (SEGKIT_MAX_WAIT_SECONDS)", down=True)
        until = (datetime.now().astimezone() + timedelta(seconds=pause)).strftime("%H:%M")
        wish = f"asks to wait {step.wait:.0f} s" if step.wait == pause else f"is still busy after {waited:.0f} s"
        why = f"paused until {until}: {self._host} {wish} ({step.why})"
        return StoppedError(why, f"nothing is lost; then: segkit resume {self._run.id}")

    async def _sleep(self, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + seconds
        while clock() < until:
            self.raise_if_stopped()
            await asyncio.sleep(min(0.2, max(0.0, until - clock())))

    def _event(self, event: str, request: ModelRequest, **facts: Any) -> None:
        where = {"stage": request.facts["interaction_type"], "batch": request.batch, "attempt": request.attempt}
        log_event(self._run.folder, event, **where, **facts)


def asked_of(run: Run) -> tuple[str, str]:
    """Return what a run asks: the limits of a provider are those of a model at its address."""
    return run.parameters.model, run.parameters.endpoint


def _minute_of(home: Path, asked: Sequence[str]) -> SharedMinute:
    name = hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]
    return SharedMinute(home / "limits" / name)


def _raise_for_asker(step: NextStep) -> None:
    """Raise what the asker of a question has to know, since the same request would have the same end."""
    match step.step:
        case "cut":
            raise MustSplitError(step.trouble, step.why)
        case "invalid":
            raise BadAnswerError(step.why)
        case "stop":
            raise NotTakenError(step)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
