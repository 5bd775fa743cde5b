"""The answers that are there before a run asks: in its own logs, in the cache, and in the index of all runs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from segkit.core.models import STAGES, Answer, Parameters, Question
from segkit.errors import SegkitError
from segkit.llm.ask import shape_of
from segkit.llm.breaker import Breaker
from segkit.llm.event_loop import StopRequest, in_own_loop
from segkit.llm.question import QuestionAsker, remembered
from segkit.llm.record import Recorder
from segkit.llm.send import ModelReply, ModelRequest, RetryingClient
from segkit.runs import interactions
from segkit.runs.interactions import Interaction
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Lookup:
    """What is known about some questions: `answers` has None where a question has to be asked.

    `calls` counts the requests that will be sent, if every answer to them is valid; `saved_usd` is the price of the
    answers from the cache, which the run does not pay.
    """

    answers: list[list[Answer] | None]
    calls: int
    saved_usd: Decimal = Decimal(0)


def nothing_known(stage: str, questions: Sequence[Question]) -> Lookup:
    """Look up questions where no answer is known: each takes a call."""
    return Lookup([None] * len(questions), len(questions))


class KnownAnswers:
    """Looks up the answers to the questions of a run as the run itself would, but sends and writes nothing.

    The questions go through the very code that asks them (attempts, corrections, smaller questions), so that a plan
    counts what the run will do.
    """

    def __init__(self, run: Run, settings: Settings, runs_dir: Path | None = None) -> None:
        self._run, self._settings = run, settings
        self._runs_dir = runs_dir or run.folder.parent

    def look_up(self, stage: str, questions: Sequence[Question]) -> Lookup:
        """Return what is known about some questions of a stage."""
        if not questions:
            return Lookup([], 0)
        recorder = _Reader(self._run, stage, self._settings, self._runs_dir)
        client = _Unsent()
        asker = self._asker(stage, recorder, client, len(questions))
        if self._settings.database_url:
            recorder.fill_cache(asker.keys(questions))
        try:
            answers = in_own_loop(lambda: _answered(asker, client, questions), StopRequest())
        finally:
            asker.close()
        return Lookup(answers, client.count(once=self._settings.segkit_cache), recorder.saved_usd)

    def _asker(self, stage: str, recorder: _Reader, client: _Unsent, planned: int) -> QuestionAsker:
        run, settings = self._run, self._settings
        progress = Progress(run.folder, STAGES[stage], planned)
        breaker = Breaker(run.id, settings.segkit_concurrency, planned, settings.segkit_max_extra_calls)
        shape = remembered(run, shape_of(run, settings))
        return _Asker(run, settings, progress, cast(RetryingClient, client), recorder, breaker, shape)


@contextmanager
def known_before(parameters: Parameters, settings: Settings) -> Iterator[KnownAnswers]:
    """Look up answers to a run with these parameters that is not made yet."""
    with tempfile.TemporaryDirectory(prefix="segkit-plan-") as folder:
        document = {"run_id": "RUN_planned", "parameters": asdict(parameters), "prompts": {}, "segkit_version": ""}
        yield KnownAnswers(Run(Path(folder), document), settings, settings.storage_root)


class _UnansweredError(Exception):
    """A request has no answer yet."""


class _Unsent:
    """Stands where requests are sent, and keeps the key of each instead."""

    def __init__(self) -> None:
        self.throttle = self
        self._keys: list[str] = []

    def count(self, *, once: bool) -> int:
        """Count the requests; with `once`, equal ones are one, since the cache answers the second."""
        return len(set(self._keys) if once else self._keys)

    def add(self, key: str) -> None:
        """Count a request that will be sent."""
        self._keys.append(key)

    async def send(self, request: ModelRequest) -> ModelReply:
        self.add(request.facts["cache_key"])
        raise _UnansweredError

    def turn(self, key: str) -> AbstractAsyncContextManager[None]:
        """Wait for nobody: nothing is sent."""
        return nullcontext()

    def release(self) -> None:
        """Hold nobody back: nothing is sent."""

    def halt(self, error: SegkitError) -> None:
        """End nothing: other questions are looked up all the same."""


class _Reader(Recorder):
    """Reads the logs of a stage and the cache, and changes neither."""

    def __init__(self, run: Run, stage: str, settings: Settings, runs_dir: Path) -> None:
        super().__init__(run, stage, settings, Progress(run.folder, STAGES[stage], 0))
        self._runs_dir = runs_dir
        self.saved_usd = Decimal(0)

    def record_reuse(self, cached: Interaction, *arguments: Any) -> Decimal | None:
        saved = self.saved(cached)
        self.saved_usd += saved or 0
        return saved

    def _logs(self) -> list[Interaction]:
        logs = interactions.scan(self._folder)[0]
        return logs + [log for path in interactions.intents(self._folder) if (log := self._left_behind(path))]

    def _left_behind(self, path: Path) -> Interaction | None:
        """Read an answer that a crash has left in an intent, as the log that it becomes when the run goes on."""
        found = self.recovered(path)
        return interactions.in_memory(path, found[0] | found[1]) if found else None


class _Asker(QuestionAsker):
    def _event(self, event: str, question: Question, **facts: Any) -> None:
        """Write no event: nothing happens."""


async def _answered(
    asker: QuestionAsker, client: _Unsent, questions: Sequence[Question]
) -> list[list[Answer] | None]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(question: Question) -> list[Answer] | None:
        async with gate:
            try:
                return await asker.answer(question)
            except _UnansweredError:
                return None
            except SegkitError:  # the logs hold failures alone: it is asked again
                client.add(question.label)
                return None

    return list(await asyncio.gather(*map(one, questions)))
