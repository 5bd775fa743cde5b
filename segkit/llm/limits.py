"""Limits kept before sending: requests and tokens a minute, a concurrency that adapts, a cap on calls and money."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from statistics import fmean

FALL, RISE = 0.7, 0.125
# Clocks of two machines and the way between them: a request may arrive a little later than it was sent.
WINDOW = 61.0
PROBE_SECONDS = 0.5
# Where fewer than this share of the latest answers, about twenty, are refusals, the others go on during a short wait.
_OFTEN, _LATEST, _SHORT = 0.2, 1 / 20, 1.0

# Answers after the first ones that are enough to see whether those had to wait less.
_LEAST_LATER, _LATER = 3, 32
# Answers of an endpoint with a queue take so many times as long once the queue is full; of others they do not.
_SLOWER = 1.4
# A number that is not clearly below what is asked for is no finding.
_CLEARLY_FEWER = 0.6
# The part of a call that does not depend on the length of its answer, in tokens.
_FIXED_TOKENS = 50


@dataclass
class Ticket:
    """What one request has reserved; `settle` replaces the estimate by what was told."""

    at: float
    amount: int
    second: int = 0


@dataclass
class Window:
    """At most `most` units in any sliding minute; None is no limit."""

    most: int | None
    clock: Callable[[], float] = time.monotonic
    _tickets: deque[Ticket] = field(default_factory=deque)
    _sum: int = 0

    def delay(self, amount: int) -> float:
        """Give the seconds until `amount` fits; an amount beyond the limit waits for an empty window."""
        if self.most is None:
            return 0.0
        now = self.clock()
        while self._tickets and self._tickets[0].at <= now - WINDOW:
            self._sum -= self._tickets.popleft().amount
        excess = self._sum + min(amount, self.most) - self.most
        for ticket in self._tickets:
            if excess <= 0:
                break
            excess -= ticket.amount
            if excess <= 0:
                return max(ticket.at + WINDOW - now, 0.001)
        return 0.0

    def take(self, amount: int, second: int = 0) -> Ticket:
        ticket = Ticket(self.clock(), amount, second)
        if self.most is not None:
            self._tickets.append(ticket)
            self._sum += amount
        return ticket

    def settle(self, ticket: Ticket, amount: int) -> None:
        if self.most is not None and ticket.at > self.clock() - WINDOW:
            self._sum += amount - ticket.amount
            ticket.amount = amount


class SharedMinute:
    """What all processes of this machine have sent to an endpoint in the last minute, by the second, in a small file.

    So the limits hold for runs at the same time too. A file that cannot be used is no reason to stop: each run then
    keeps the limits by itself.
    """

    _SLOTS, _ROW = 64, struct.Struct("<4q")  # second, requests, input tokens, output tokens

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, amounts: Sequence[int], most: Sequence[int | None]) -> tuple[float, int]:
        """Count a request, if it fits: return 0 and its second; else the seconds to wait."""
        try:
            with self._opened() as file:
                now = time.monotonic()
                rows = self._rows(file, int(now))
                for kind, (amount, limit) in enumerate(zip(amounts, most, strict=True), start=1):
                    if limit is not None and (delay := _until_it_fits(rows, kind, min(amount, limit), limit, now)):
                        return delay, 0
                self._add(file, int(now), amounts)
                return 0.0, int(now)
        except OSError:
            return 0.0, 0

    def correct(self, second: int, more: Sequence[int]) -> None:
        """Add to what was counted in a second: answers take other amounts than were estimated."""
        with contextlib.suppress(OSError), self._opened() as file:
            if self._row(file, second)[0] == second:
                self._add(file, second, more)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)

    def _row(self, file: int, second: int) -> tuple[int, ...]:
        size = self._ROW.size
        return self._ROW.unpack(os.pread(file, size, second % self._SLOTS * size).ljust(size, b"\0"))

    def _rows(self, file: int, now: int) -> list[tuple[int, ...]]:
        """Return the seconds of the last minute, oldest first; those of before the machine was started are none."""
        size = self._ROW.size * self._SLOTS
        rows = self._ROW.iter_unpack(os.pread(file, size, 0).ljust(size, b"\0"))
        return sorted(row for row in rows if now - WINDOW <= row[0] <= now)

    def _add(self, file: int, second: int, amounts: Sequence[int]) -> None:
        before = self._row(file, second)
        counted = before[1:] if before[0] == second else (0, 0, 0)
        row = self._ROW.pack(second, *(max(0, a + b) for a, b in zip(counted, amounts, strict=True)))
        os.pwrite(file, row, second % self._SLOTS * self._ROW.size)


def _until_it_fits(rows: Sequence[tuple[int, ...]], kind: int, amount: int, most: int, now: float) -> float:
    """Return the seconds until so many seconds are older than the window that an amount fits."""
    excess = sum(row[kind] for row in rows) + amount - most
    for row in rows:
        if excess <= 0:
            break
        excess -= row[kind]
        if excess <= 0:
            return max(row[0] + 1 + WINDOW - now, 0.001)
    return 0.0


class Limits:
    """Lets a request through when every limit allows it, and holds all back when the endpoint says so.

    The concurrency falls by three tenths on a refusal or a time-out, at most once a second, and rises by one, or an
    eighth if that is more, after as many good answers as it allows (additive increase, multiplicative decrease:
    Chiu and Jain 1989; the factor is that of CUBIC, RFC 9438).
    """

    def __init__(
        self,
        concurrency: int,
        requests: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        shared: SharedMinute | None = None,
    ) -> None:
        self.most = concurrency
        self.allowed = float(concurrency)
        self.closed = False
        self._clock = clock
        self._windows = [Window(most, clock) for most in (requests, input_tokens, output_tokens)]
        self._shared = shared if any((requests, input_tokens, output_tokens)) else None
        self._busy = 0
        self._held_until = 0.0
        self._refused = 0.0
        self._lowered_at = -1e9
        self._turn = asyncio.Condition()

    async def enter(self, input_tokens: int, output_tokens: int) -> list[Ticket] | None:
        """Wait until a request of this size may be sent, and count it; None once the limits are closed."""
        amounts = (1, input_tokens, output_tokens)
        while True:
            async with self._turn:
                await self._turn.wait_for(lambda: self.closed or self._busy < int(self.allowed))
                if self.closed:
                    return None
                delay, second = self._delay(amounts), 0
                if delay <= 0 and self._shared:
                    delay, second = self._shared.take(amounts, [window.most for window in self._windows])
                if delay <= 0:
                    self._busy += 1
                    return [w.take(amount, second) for w, amount in zip(self._windows, amounts, strict=True)]
            await asyncio.sleep(min(delay, 0.2))

    async def leave(self) -> None:
        """Count a request as no longer under way."""
        async with self._turn:
            self._busy -= 1
            # One for the place that is free now, and one for each that has become free by a higher concurrency.
            self._turn.notify(max(1, int(self.allowed) - self._busy))

    def settle(self, tickets: list[Ticket], input_tokens: int | None, output_tokens: int | None) -> None:
        """Replace estimates by the tokens that the server told, where it told any."""
        stated = (None, input_tokens, output_tokens)
        more = [0 if a is None else a - ticket.amount for a, ticket in zip(stated, tickets, strict=True)]
        if self._shared and tickets and any(more):
            self._shared.correct(tickets[0].second, more)
        for window, ticket, amount in zip(self._windows, tickets, stated, strict=True):
            if amount is not None:
                window.settle(ticket, amount)

    async def close(self) -> None:
        """Let nobody through any more, and send those away who wait."""
        self.closed = True
        async with self._turn:
            self._turn.notify_all()

    def hold(self, seconds: float) -> None:
        """Let no request of any worker through for some seconds."""
        self._held_until = max(self._held_until, self._clock() + seconds)

    def refused(self, seconds: float) -> None:
        """Hold all requests back after a refusal, unless refusals are rare and its wait is short."""
        self._refused += _LATEST * (1 - self._refused)
        if self._refused >= _OFTEN or seconds >= _SHORT:
            self.hold(seconds)

    def slower(self) -> None:
        now = self._clock()
        if now - self._lowered_at >= 1:
            self._lowered_at = now
            self.allowed = max(1.0, self.allowed * FALL)

    def faster(self) -> None:
        self._refused -= _LATEST * self._refused
        self.allowed = min(float(self.most), self.allowed + max(1 / self.allowed, RISE))

    def _delay(self, amounts: tuple[int, int, int]) -> float:
        waits = (window.delay(amount) for window, amount in zip(self._windows, amounts, strict=True))
        return max(self._held_until - self._clock(), *waits)


class Width:
    """Finds the places of an endpoint with a queue from the times of its answers.

    The first answers of a burst did not wait. By Little's law (1961) the places that are busy are the answers a
    second times the seconds that one takes without waiting. That the endpoint has a queue at all shows in the answers
    after the burst: each of them has waited for a whole queue.
    """

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._burst: list[tuple[float, float]] = []
        self._later: deque[tuple[float, float]] = deque(maxlen=_LATER)
        self._usual = 0.0
        self.found = 0

    def add(self, began: float, ended: float, tokens: int | None) -> bool:
        """Take in one answer, and return whether the number is found now or has changed."""
        if self._concurrency < 2 or ended <= began:  # an answer of a batch took no time of its own
            return False
        length = (tokens or 0) + _FIXED_TOKENS
        answer = ended, (ended - began) / length
        if len(self._burst) < self._concurrency:
            self._burst.append(answer)
            self._usual += length / self._concurrency
            return False
        self._later.append(answer)
        before, self.found = self.found, self._places()
        return self.found not in (0, before)

    def _places(self) -> int:
        if len(self._later) < _LEAST_LATER:
            return self.found
        first = [seconds for _, seconds in self._burst]
        if fmean([seconds for _, seconds in self._later]) < _SLOWER * fmean(first):
            return 0
        places = max(1, round(min(first) * self._usual * self._answers_a_second()))
        return places if places <= _CLEARLY_FEWER * self._concurrency else 0

    def _answers_a_second(self) -> float:
        """Return the throughput while the endpoint was full: between the first and the last of the newest answers."""
        ends = sorted(end for end, _ in [*self._burst, *self._later])[-_LATER:]
        return (len(ends) - 1) / max(ends[-1] - ends[0], 1e-9)


class Probe:
    """Lets the first request go alone for a moment: a hopeless error then costs one request, not all at once."""

    def __init__(self) -> None:
        self._answered = asyncio.Event()
        self._first = True

    async def wait(self) -> None:
        if self._first:
            self._first = False
            return
        if not self._answered.is_set():
            try:
                await asyncio.wait_for(self._answered.wait(), PROBE_SECONDS)
            except TimeoutError:
                self._answered.set()

    def open(self) -> None:
        self._answered.set()


class ExhaustedError(Exception):
    """The next call could exceed the cap; the message says what is spent, `option` which cap it is."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


@dataclass(frozen=True, slots=True)
class Reservation:
    """The largest cost of one call that is under way."""

    cost: Decimal


class Budget:
    """Spend never exceeds the caps: a call that might is kept back until those in flight are settled, or for good."""

    def __init__(self, most_calls: int | None, most_cost: Decimal | None, calls: int, cost: Decimal) -> None:
        self.most_calls, self.most_cost = most_calls, most_cost
        self.calls, self.cost = calls, cost
        self._in_flight: list[Reservation] = []
        self._turn = asyncio.Condition()

    async def reserve(self, largest: Decimal) -> Reservation:
        """Reserve a call and its largest cost; raise ExhaustedError when it does not fit and nothing is in flight."""
        reservation = Reservation(largest)
        async with self._turn:
            await self._turn.wait_for(lambda: self._fits(largest) or not self._in_flight)
            if not self._fits(largest):
                raise self._exhausted(largest)
            self._in_flight.append(reservation)
        return reservation

    async def settle(self, reservation: Reservation, calls: int, cost: Decimal | None) -> None:
        """Replace a reservation by what the call took; an unknown cost counts as the largest."""
        async with self._turn:
            self._in_flight.remove(reservation)
            self.calls += calls
            self.cost += reservation.cost if cost is None else cost
            self._turn.notify_all()

    def _fits(self, largest: Decimal) -> bool:
        if self.most_calls is not None and self.calls + len(self._in_flight) >= self.most_calls:
            return False
        if self.most_cost is None:
            return True
        return self.cost + largest + sum((held.cost for held in self._in_flight), Decimal(0)) <= self.most_cost

    def _exhausted(self, largest: Decimal) -> ExhaustedError:
        if self.most_calls is not None and self.calls >= self.most_calls:
            return ExhaustedError(f"budget: {self.calls} of {self.most_calls} calls are made", "--max-calls")
        told = f"${self.cost:.4f} of ${self.most_cost} are spent, and the next call may cost ${largest:.4f}"
        return ExhaustedError(f"budget: {told}", "--max-cost-usd")
