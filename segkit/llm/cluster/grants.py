"""The calls that shares may make: each is granted by the process that owns the run, from its limits and its caps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from decimal import Decimal
from typing import Any

from segkit.core.models import Usage
from segkit.llm.cluster.losses import GrantedCall
from segkit.llm.limits import ExhaustedError
from segkit.llm.send import Pass, Throttle
from segkit.runs.progress import Progress
from segkit.runs.status import StageFigures

#: A message from a worker: the execution that it is from, and what happened there since the last one.
Message = Mapping[str, Any]


@dataclass(slots=True)
class Granted:
    """A call that was granted: its pass, its place in the logs, and its flight as long as it is under way."""

    pass_: Pass
    call: GrantedCall
    flight: ExitStack
    is_under_way: bool = True


@dataclass(slots=True)
class Execution:
    """One attempt of a worker at a share; `calls` are those that have no answer yet."""

    name: str
    share: int
    worker: str
    calls: dict[int, Granted] = field(default_factory=dict)
    figures: StageFigures = field(default_factory=StageFigures)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    is_lost: bool = False
    is_first: bool = True


class Grants:
    """Answers the messages of shares from the one throttle of the run.

    `reply(execution, kind, value)` sends something to the worker of an execution. A share whose execution begins anew
    elsewhere is taken from the earlier one, which is granted nothing more.
    """

    def __init__(self, throttle: Throttle, progress: Progress, reply: Callable[[Execution, str, Any], None]) -> None:
        self._throttle, self._progress, self._reply = throttle, progress, reply
        self._executions: dict[str, Execution] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._at_first = StageFigures(**{each.name: getattr(progress.counts, each.name) for each in _COUNTED})
        #: Calls whose worker was gone before it reported what came of them.
        self.lost: list[GrantedCall] = []

    @property
    def workers(self) -> set[str]:
        """The workers that have asked something."""
        return {each.worker for each in self._executions.values()}

    @property
    def under_way(self) -> list[Execution]:
        """The executions that have neither ended nor been lost."""
        return [each for each in self._executions.values() if not each.ended.is_set() and not each.is_lost]

    def of_share(self, share: int) -> Execution | None:
        """Return the newest execution of a share, if one has begun."""
        found = [each for each in self._executions.values() if each.share == share]
        return found[-1] if found else None

    def receive(self, message: Message) -> None:
        """Act on what a worker reports of an execution."""
        execution = self._executions.get(message["execution"]) or self._begin(message)
        if execution.is_lost:
            self._reply(execution, "stop", "another worker has its share")
            return
        for kind, *values in message["items"]:
            _ACTIONS[kind](self, execution, *values)
        if figures := message.get("figures"):
            execution.figures = StageFigures(**{**figures, **_as_dollars(figures)})
            self._count()

    def lose(self, execution: Execution) -> None:
        """Count an execution as lost: what it was granted and did not report is spent."""
        if execution.is_lost or execution.ended.is_set():
            return
        execution.is_lost = True
        self._write_off_all(execution)

    def lose_gone(self, workers: Iterable[str]) -> None:
        """Count the executions as lost whose worker is not among those of the cluster any more."""
        there = set(workers)
        for execution in self.under_way:
            if execution.worker not in there:
                self.lose(execution)

    async def close(self) -> None:
        """Grant nothing more, and answer those who wait; what is under way still counts as spent."""
        for execution in self.under_way:
            self.lose(execution)
        await self._throttle.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # ── what a worker reports ────────────────────────────────────────────────────────────────────────────────────

    def _begin(self, message: Message) -> Execution:
        execution = Execution(message["execution"], message["share"], message["worker"])
        if before := self.of_share(execution.share):
            self.lose(before)
            execution.is_first = False
        self._executions[execution.name] = execution
        return execution

    def _welcome(self, execution: Execution) -> None:
        self._reply(execution, "welcome", execution.is_first)

    def _entered(self, execution: Execution, number: int, request: Mapping[str, Any]) -> None:
        self._do(self._grant(execution, number, request))

    async def _grant(self, execution: Execution, number: int, request: Mapping[str, Any]) -> None:
        largest = Decimal(request["largest"])
        await self._throttle.wait(urgent=request["urgent"])
        try:
            pass_ = await self._throttle.reserve(request["size"], request["output_tokens"], largest)
        except ExhaustedError as error:
            self._reply(execution, "refused", [number, str(error), error.option])
            return
        if pass_ is None:
            self._reply(execution, "closed", number)
            return
        if execution.is_lost:
            await self._throttle.leave(pass_)
            await self._throttle.give_back(pass_)
            return
        call = GrantedCall(execution.name, request["batch"], request["attempt"], request["largest"])
        flight = ExitStack()
        flight.enter_context(self._progress.flight(request["label"]))
        execution.calls[number] = Granted(pass_, call, flight)
        self._reply(execution, "granted", number)

    def _left(self, execution: Execution, number: int) -> None:
        self._do(self._leave(execution.calls[number]))

    def _settled(self, execution: Execution, number: int, usage: Mapping[str, Any], cost: str | None) -> None:
        granted = execution.calls.pop(number)
        self._do(self._throttle.settle(granted.pass_, Usage(**usage), None if cost is None else Decimal(cost)))

    def _given_back(self, execution: Execution, number: int) -> None:
        self._do(self._throttle.give_back(execution.calls.pop(number).pass_))

    def _written_off(self, execution: Execution, number: int) -> None:
        self._do(self._throttle.write_off(execution.calls.pop(number).pass_))

    def _hold(self, execution: Execution, seconds: float, refused: bool) -> None:
        self._throttle.hold(seconds, refused=refused)

    def _slower(self, execution: Execution) -> None:
        self._throttle.slower()

    def _ended(self, execution: Execution) -> None:
        execution.ended.set()
        self._write_off_all(execution)

    def _write_off_all(self, execution: Execution) -> None:
        """Count what an execution was granted and has not reported as spent: it may have been paid."""
        for granted in execution.calls.values():
            self.lost.append(granted.call)
            self._do(self._write_off(granted))
        execution.calls.clear()

    async def _write_off(self, granted: Granted) -> None:
        if granted.is_under_way:
            await self._leave(granted)
        await self._throttle.write_off(granted.pass_)

    async def _leave(self, granted: Granted) -> None:
        granted.is_under_way = False
        granted.flight.close()
        await self._throttle.leave(granted.pass_)

    # ── figures ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _count(self) -> None:
        """Let the progress of the stage show what all shares have done together."""
        counts = self._progress.counts
        for each in _COUNTED:
            counted = (e for e in self._executions.values() if not (e.is_lost and each.name in _OF_QUESTIONS))
            parts = (getattr(execution.figures, each.name) for execution in counted)
            setattr(counts, each.name, sum(parts, start=getattr(self._at_first, each.name)))
        counts.problems = [line for each in self._executions.values() for line in each.figures.problems][:20]

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


# What another worker counts again when it takes the share of one that is gone.
_OF_QUESTIONS = ("planned", "done", "failed")
_COUNTED = [each for each in fields(StageFigures) if each.name not in ("seconds", "problems")]
_ACTIONS: dict[str, Callable[..., None]] = {
    "begin": Grants._welcome,
    "enter": Grants._entered,
    "leave": Grants._left,
    "settle": Grants._settled,
    "give_back": Grants._given_back,
    "write_off": Grants._written_off,
    "hold": Grants._hold,
    "slower": Grants._slower,
    "end": Grants._ended,
}


def _as_dollars(figures: Mapping[str, Any]) -> dict[str, Decimal]:
    return {name: Decimal(figures[name]) for name in ("cost_usd", "saved_usd")}
