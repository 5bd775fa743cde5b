"""Limits under a clock of the test's own: never above the limit in any sliding minute, and no needless wait."""

import asyncio
import random
import selectors
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.llm.limits import FALL, WINDOW, Limits, SharedMinute, Window


@dataclass
class Clock:
    """A clock that a test moves by hand."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


class SkippingSelector(selectors.DefaultSelector):
    """Waits for nothing: the time that would have been waited is added to the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        self.skipped += timeout or 0.0
        return super().select(0)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop on which an hour of sleeping takes no time."""

    def __init__(self) -> None:
        self.selector = SkippingSelector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.skipped


def run_fast(work: Callable[[], Awaitable[Any]]) -> Any:
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        return runner.run(work())  # type: ignore[arg-type]


def loop_time() -> float:
    return asyncio.get_running_loop().time()


@dataclass
class Ledger:
    """What an endpoint sees: when each request came and what it brought, and how many were there at once."""

    entries: list[tuple[float, int, int]] = field(default_factory=list)
    now: int = 0
    most: int = 0

    def most_in_a_minute(self, part: int) -> int:
        """The largest sum in any window of 60 s that begins with a request."""
        starts = [at for at, *_ in self.entries]
        return max(sum(e[part] for e in self.entries if start <= e[0] < start + 60) for start in starts)


async def work_off(
    limits: Limits, sizes: list[tuple[int, int]], workers: int, seconds: float = 0.5, ledger: Ledger | None = None
) -> Ledger:
    """Send requests of some sizes (input and output tokens) with some workers; each takes `seconds`."""
    ledger = ledger or Ledger()
    waiting = iter(sizes)

    async def worker() -> None:
        for tokens_in, tokens_out in waiting:
            if await limits.enter(tokens_in, tokens_out) is None:
                return
            ledger.entries.append((loop_time(), tokens_in, tokens_out))
            ledger.now += 1
            ledger.most = max(ledger.most, ledger.now)
            await asyncio.sleep(seconds)
            ledger.now -= 1
            await limits.leave()

    await asyncio.gather(*(worker() for _ in range(workers)))
    return ledger


def test_32_workers_at_60_a_minute() -> None:
    """Never more than the limit in any sliding minute, and all requests are sent."""

    async def work() -> Ledger:
        return await work_off(Limits(32, requests=60, clock=loop_time), [(1, 1)] * 180, 32)

    ledger = run_fast(work)
    times = [at for at, *_ in ledger.entries]
    assert len(times) == 180
    assert max(sum(start <= at < start + 60 for at in times) for start in times) == 60
    # 180 at 60 a minute are two whole waits: more than one window and a second each would be idle time.
    assert max(times) <= 2 * (WINDOW + 1) + 5


@pytest.mark.parametrize("seed", range(4))
def test_tokens_of_random_requests_stay_below_their_limits(seed: int) -> None:
    """Input and output tokens are limited like requests, whatever the sizes."""
    chance = random.Random(seed)
    sizes = [(chance.randint(1, 900), chance.randint(1, 300)) for _ in range(40)]

    async def work() -> Ledger:
        limits = Limits(16, 50, input_tokens=5000, output_tokens=1500, clock=loop_time)
        return await work_off(limits, sizes, 6, chance.random() * 3)

    ledger = run_fast(work)
    assert sorted(entry[1:] for entry in ledger.entries) == sorted(sizes)
    assert ledger.most_in_a_minute(1) <= 5000
    assert ledger.most_in_a_minute(2) <= 1500


def test_a_request_beyond_the_limit_goes_alone() -> None:
    """What never fits waits for an empty window instead of for ever."""

    async def work() -> Ledger:
        return await work_off(Limits(4, input_tokens=100, clock=loop_time), [(60, 1), (500, 1), (60, 1)], 1)

    ledger = run_fast(work)
    first, large, last = (at for at, *_ in ledger.entries)
    assert large - first >= 60
    assert last - large >= 60


def test_no_limit_means_no_wait() -> None:
    """Without limits nothing waits but for the concurrency."""

    async def work() -> tuple[Ledger, float]:
        return await work_off(Limits(10, clock=loop_time), [(10**6, 10**6)] * 100, 10), loop_time()

    ledger, ended = run_fast(work)
    assert ledger.most == 10
    assert ended == pytest.approx(100 / 10 * 0.5, abs=0.1)


def test_concurrency_is_never_exceeded() -> None:
    """More workers than places wait for a place."""

    async def work() -> Ledger:
        return await work_off(Limits(3, clock=loop_time), [(1, 1)] * 50, 20)

    assert run_fast(work).most == 3


def test_a_hold_holds_back_all_workers() -> None:
    """After a 429 nobody sends before the time that the server wished, and then all go on."""

    async def work() -> Ledger:
        limits = Limits(8, clock=loop_time)
        limits.hold(7)
        limits.hold(2)  # a shorter wish never shortens a longer one
        return await work_off(limits, [(1, 1)] * 20, 8)

    times = [at for at, *_ in run_fast(work).entries]
    assert min(times) >= 7
    assert max(times) < 7 + 20 / 8 * 0.5 + 1.5


@pytest.mark.parametrize(
    ("good", "refused", "seconds", "waits"),
    [(19, 1, 0.2, 0.0), (19, 1, 5.0, 5.0), (0, 1, 5.0, 5.0), (0, 8, 0.2, 0.2), (40, 8, 0.2, 0.2)],
)
def test_a_refusal_holds_back_all_unless_it_is_rare_and_its_wait_short(
    good: int, refused: int, seconds: float, waits: float
) -> None:
    """One of twenty with a fifth of a second is left to its own request; a long wait or many refusals are for all."""

    async def work() -> Ledger:
        limits = Limits(4, clock=loop_time)
        for _ in range(3):  # however long it goes on
            for _ in range(good):
                limits.faster()
            for _ in range(refused):
                limits.refused(seconds)
        return await work_off(limits, [(1, 1)] * 4, 4)

    assert min(at for at, *_ in run_fast(work).entries) == pytest.approx(waits, abs=0.05)


def test_a_hold_in_the_middle_lets_nobody_new_through() -> None:
    """A request that waits for a place when the hold comes is held back too."""

    async def work() -> Ledger:
        limits = Limits(2, clock=loop_time)

        async def refuse() -> None:
            await asyncio.sleep(2.2)
            limits.hold(30)

        ledger, _ = await asyncio.gather(work_off(limits, [(1, 1)] * 20, 6), refuse())
        return ledger

    times = [at for at, *_ in run_fast(work).entries]
    assert [at for at in times if 2.2 < at < 32.2] == []
    assert len(times) == 20


def test_a_clock_set_back_makes_no_negative_wait() -> None:
    """The limits use a clock that only runs forward, and even one set back makes nothing crash or pass."""
    clock = Clock()
    window = Window(1, clock)
    window.take(1)
    clock.now -= 3600
    assert window.delay(1) > 0


def test_concurrency_falls_at_most_once_a_second_and_never_below_one() -> None:
    """Many refusals of one moment are one reason to slow down."""
    clock = Clock()
    limits = Limits(16, clock=clock)
    for _ in range(10):
        limits.slower()
    assert limits.allowed == 16 * FALL
    for _ in range(10):
        clock.now += 1
        limits.slower()
    assert limits.allowed == 1


def test_concurrency_rises_by_one_after_as_many_good_answers_as_it_allows() -> None:
    """Additive increase, and never above what was asked for."""
    limits = Limits(16, clock=Clock())
    limits.allowed = 4.0
    for _ in range(5):
        limits.faster()
    assert 5 <= limits.allowed < 6
    for _ in range(500):
        limits.faster()
    assert limits.allowed == 16


def test_workers_that_wait_take_the_places_that_open() -> None:
    """When the concurrency rises again, all who wait for a place may use it, not one a time."""

    async def work() -> float:
        limits = Limits(16, clock=loop_time)
        limits.allowed = 1.0
        ledger = Ledger()
        await limits.enter(1, 1)
        waiting = asyncio.create_task(work_off(limits, [(1, 1)] * 16, 16, 1.0, ledger))
        await asyncio.sleep(0.1)
        assert ledger.entries == []
        limits.allowed = 16.0
        await limits.leave()
        await waiting
        return ledger.most

    assert run_fast(work) == 16


def test_what_was_told_replaces_the_estimate() -> None:
    """Tokens told by the server settle the reservation; unknown ones leave the estimate."""

    async def work() -> list[float]:
        limits = Limits(4, input_tokens=100, clock=loop_time)
        times = []
        for told in (10, 90, None):
            tickets = await limits.enter(50, 1)
            await limits.leave()
            limits.settle(tickets, told, None)
            times.append(loop_time())
        return times

    first, second, third = run_fast(work)
    assert second - first < 1, "50 were settled as 10, so 50 more fit"
    assert third - second > 60, "10 + 90 are all of the minute"


def test_closed_limits_send_everybody_away() -> None:
    """Who waits for a place, for a minute or for a hold goes home at once, and nobody new gets through."""

    async def work() -> tuple[Ledger, float]:
        limits = Limits(2, requests=4, clock=loop_time)

        async def close() -> None:
            await asyncio.sleep(1.2)
            limits.hold(600)
            await limits.close()

        ledger, _ = await asyncio.gather(work_off(limits, [(1, 1)] * 50, 10), close())
        assert await limits.enter(1, 1) is None
        return ledger, loop_time()

    ledger, ended = run_fast(work)
    assert len(ledger.entries) == 4
    assert ended < 3


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.floats(0, 40), st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=40),
)
@settings(deadline=None)
def test_a_window_never_overflows_and_never_waits_in_vain(most: int, steps: list[tuple[float, int, int]]) -> None:
    """Whoever waits as long as told always fits, and no told wait is longer than the window."""
    clock = Clock()
    window = Window(most, clock)
    sent: list[tuple[float, int]] = []
    for pause, amount, told in steps:
        clock.now += pause
        while (delay := window.delay(amount)) > 0:
            assert delay <= WINDOW + 1e-6
            clock.now += delay
        ticket = window.take(amount)
        window.settle(ticket, min(told, amount))
        sent.append((clock.now, min(told, amount)))
        recent = sum(size for at, size in sent if at > clock.now - 60)
        alone = [size for at, size in sent if at > clock.now - 60 and size]
        assert recent <= most or len(alone) == 1, f"{recent} in a minute where {most} are allowed"


def test_a_minute_is_shared_by_all_runs_of_a_machine(tmp_path: Path) -> None:
    """Two runs count in one file: what one has sent is missing to the other, and corrections count for both."""
    one, other = SharedMinute(tmp_path / "limits" / "a"), SharedMinute(tmp_path / "limits" / "a")
    most = (3, 1000, None)
    delay, second = one.take((1, 600, 50), most)
    assert delay == 0
    assert other.take((1, 300, 50), most)[0] == 0
    assert 60 < other.take((1, 300, 50), most)[0] <= WINDOW + 1  # tokens
    one.correct(second, (0, -500, 0))
    assert other.take((1, 300, 50), most)[0] == 0
    assert 60 < one.take((1, 1, 50), most)[0] <= WINDOW + 1  # requests
    assert SharedMinute(tmp_path / "limits" / "b").take((1, 600, 50), most)[0] == 0


def test_a_minute_that_cannot_be_shared_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "limits").write_text("a file where a folder should be")
    assert SharedMinute(tmp_path / "limits" / "a").take((1, 1, 1), (1, 1, 1))[0] == 0


def test_what_was_counted_before_the_machine_was_started_is_past(tmp_path: Path) -> None:
    path = tmp_path / "a"
    later = int(time.monotonic()) + 1_000_000
    path.write_bytes(b"".join(SharedMinute._ROW.pack(later + i, 9, 9, 9) for i in range(SharedMinute._SLOTS)))
    assert SharedMinute(path).take((1, 1, 1), (1, 1, 1))[0] == 0
