"""Answers of batches given to the questions that wait for them, by the very code that asks online.

Every question goes its way (logs, cache, attempts, corrections, smaller questions) as far as there are answers; the
request that has none yet is collected for the next batch.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from segkit.core.models import FOLDERS, Question
from segkit.errors import SegkitError
from segkit.llm.batches.answers import Answers
from segkit.llm.batches.records import FOLDER
from segkit.llm.batches.requests import OpenRequests
from segkit.llm.breaker import Breaker
from segkit.llm.completions import shape_for
from segkit.llm.event_loop import StopRequest, await_all
from segkit.llm.question import QuestionAsker, remembered
from segkit.llm.record import Recorder
from segkit.llm.responses import NextStep
from segkit.llm.send import ModelReply, ModelRequest, RetryingClient
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings

_AT_ONCE = 64
# Events logged while answers are distributed; all others are logged when the rest is asked.
_SAID_NOW = ("request_reworded", "answer_not_clean")
_NO_LIMITS = dict.fromkeys(
    (
        "segkit_max_calls",
        "segkit_max_cost_usd",
        "segkit_requests_per_minute",
        "segkit_input_tokens_per_minute",
        "segkit_output_tokens_per_minute",
    )
)


class OpenError(Exception):
    """A request has no answer yet."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """What came of giving answers to questions: the requests that are open, and whether any answer was valid.

    `error` is what ends the run: something that only the user can mend.
    """

    open: OpenRequests
    proven: bool
    error: SegkitError | None


class BatchClient(RetryingClient):
    """Stands where requests are sent: takes the answer from a batch, or keeps the request for the next one."""

    def __init__(self, run: Run, stage: str, answers: Answers, settings: Settings, progress: Progress) -> None:
        # What was answered is paid, whatever the limits are now.
        free = settings.model_copy(update=_NO_LIMITS)
        super().__init__(run, stage, answers, free, progress, StopRequest())
        self._answers = answers
        self.open = OpenRequests(run.folder / FOLDER, once=settings.segkit_cache)

    @property
    def error(self) -> SegkitError | None:
        return self._refused

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Wait for nobody: what is logged here has been asked."""
        yield

    async def send(self, request: ModelRequest) -> ModelReply:
        key = request.facts["cache_key"]
        if not self._answers.has(key):
            self.open.add(request)
            raise OpenError
        origin = self._answers.origin_of(key)
        request.facts.update(origin)
        # Written first, so that a torn intent too shows that nothing was sent for it.
        reply = await super().send(replace(request, head={**origin, **request.head}))
        return replace(reply, duration_ms=0)  # nobody knows how long the model took

    def raise_if_stopped(self) -> None:
        """Let every answer be logged, also after one that ends the run."""

    async def _pause(self, request: ModelRequest, step: NextStep, tries: int, waited: float) -> float:
        """Ask again in the next batch."""
        self.open.add(request)
        raise OpenError


class _Asker(QuestionAsker):
    def _event(self, event: str, question: Question, **facts: Any) -> None:
        if event in _SAID_NOW:
            super()._event(event, question, **facts)


async def distribute(
    run: Run,
    stage: str,
    questions: Sequence[Question],
    settings: Settings,
    answers: Answers,
    bodies: Callable[[], Mapping[str, dict[str, Any]]],
    planned: int,
    done: int,
) -> Distribution:
    """Give answers to the questions of a stage, log them, and return the requests that are open.

    A paid answer that no question asks for is logged too, with its request from `bodies` (by custom id): requests may
    have been worded anew since, and then its question finds it by its prompt.
    """
    progress = Progress(run.folder, FOLDERS[stage], planned or len(questions), done)
    recorder = Recorder(run, stage, settings, progress)
    client = BatchClient(run, stage, answers, settings, progress)
    asker = _asker(run, settings, progress, client, recorder)
    try:
        if settings.database_url:
            await asyncio.to_thread(recorder.fill_cache, asker.keys(questions))
        answers.leave_out(recorder.origins)
        ended = await _answered(asker, questions)
    finally:
        asker.close()
    if left := list(answers.left()):
        asked = bodies()
        for found in left:
            recorder.record_found(found, asked.get(found.origin["custom_id"], {}))
        if not client.error:
            return await distribute(run, stage, questions, settings, answers, bodies, planned, done)
    progress.counts.done += ended
    progress.write()
    return Distribution(client.open, asker.breaker.proven, client.error)


def _asker(
    run: Run, settings: Settings, progress: Progress, client: BatchClient, recorder: Recorder
) -> QuestionAsker:
    planned, p = progress.counts.planned, run.parameters
    breaker = Breaker(run.id, settings.segkit_concurrency, planned, settings.segkit_max_extra_calls)
    shape = remembered(run, shape_for(p.model, p.endpoint, settings.segkit_output_limit_name, stream=False))
    return _Asker(run, settings, progress, client, recorder, breaker, shape)


async def _answered(asker: QuestionAsker, questions: Sequence[Question]) -> int:
    """Let every question go as far as there are answers; return how many have come to their end."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(question: Question) -> bool:
        async with gate:
            try:
                await asker.answer(question)
            except (OpenError, SegkitError):  # what ends the run is kept by the client
                return False
            return True

    return sum(await await_all(one(question) for question in questions))
