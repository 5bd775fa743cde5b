"""Signals to stop: the first one is a request, the second one ends the work."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from segkit.errors import StoppedError
from segkit.llm.event_loop import StopRequest, in_own_loop, on_stop_signals

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def hangups_arrive() -> Iterator[None]:
    """Whoever runs the tests under nohup ignores SIGHUP, and what segkit finds ignored it leaves alone."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_answers_in_flight_arrive(number: signal.Signals) -> None:
    stop = StopRequest()

    async def answer() -> bool:
        os.kill(os.getpid(), number)
        await asyncio.to_thread(stop.wait, 30)
        await asyncio.sleep(0.1)
        return stop.is_set()

    before = signal.getsignal(number)
    assert in_own_loop(answer, stop)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_the_second_signal_discards_them(number: signal.Signals) -> None:
    stop, ended = StopRequest(), threading.Event()

    async def answer() -> None:
        os.kill(os.getpid(), number)
        await asyncio.to_thread(stop.wait, 30)
        os.kill(os.getpid(), number)
        await asyncio.to_thread(ended.wait, 0.5)

    with pytest.raises(StoppedError, match="discarded"):
        in_own_loop(answer, stop)


def test_a_signal_is_named_once() -> None:
    names: list[str] = []
    with on_stop_signals(names.append):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
    assert names == ["SIGTERM"]


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    names: list[str] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_stop_signals(names.append):
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert names == []


def test_another_thread_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def work() -> None:
        with on_stop_signals(lambda name: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
