"""One question to a model: cache → intent → ask → record → check → correct, and many of them at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import orjson

from segkit.core.models import NO_ANSWER, STAGES, Answer, CheckedAnswer, Fault, Prompt, Question
from segkit.errors import EndpointError, SegkitError, StoppedError
from segkit.llm.cache import cache_key
from segkit.llm.completions import Completion, read_completion, request_body
from segkit.llm.event_loop import allow_open_files, await_all, in_own_loop
from segkit.llm.record import Recorder
from segkit.llm.send import ModelReply, ModelRequest, MustSplitError, NoAnswerError, RetryingClient
from segkit.llm.transports.choose import open_transport
from segkit.runs.events import log_event
from segkit.runs.interactions import Interaction
from segkit.runs.mirror import location
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings
from segkit.storage.disk import disk_error
from segkit.storage.locks import owned
from segkit.storage.redaction import redacted_logs, redactor

FAILURES_IN_A_ROW = 5
_UNANSWERED = {"filtered", "refused"}


def ask_all(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, *, planned: int = 0, done: int = 0
) -> list[Answer]:
    """Ask all questions of a stage and give all answers, those of cut parts after the question they came from.

    What the run's own logs or the cache already answer is not asked again. Raises RefusedError when asking is
    hopeless, EndpointError when the endpoint keeps failing, StoppedError when the run was told to stop; whatever
    was answered by then is kept. A stage that asks in rounds tells how many questions it has `planned` in all of
    them, and how many are `done`.
    """
    stop = threading.Event()
    try:
        with owned(run.folder / "calls.lock"), redacted_logs(redactor([settings.openai_api_key])):
            progress = Progress(run.folder, STAGES[stage], planned or len(questions), done)
            return in_own_loop(lambda: _ask_all(run, stage, questions, settings, progress, stop), stop)
    except OSError as error:
        raise disk_error(run.folder, error) from None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt gave: the text, what is valid so far, and the trouble if there is any."""

    content: str
    checked: CheckedAnswer
    trouble: str = ""
    why: str = ""


async def _ask_all(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, progress: Progress, stop: threading.Event
) -> list[Answer]:
    allow_open_files()
    desk = Desk(run, stage, settings, progress, stop)
    watcher = asyncio.create_task(desk.watch())
    try:
        return await desk.answer_all(questions)
    finally:
        watcher.cancel()
        await desk.close()


class Desk:
    """Where the questions of one stage are asked: it holds the logs, the cache, the sender and the counts."""

    def __init__(self, run: Run, stage: str, settings: Settings, progress: Progress, stop: threading.Event) -> None:
        self.run, self.settings, self.progress, self.stop = run, settings, progress, stop
        self.parameters = run.parameters
        self.recorder = Recorder(run, stage, settings, progress)
        self.transport = open_transport(self.parameters.model, self.parameters.endpoint, settings)
        self.client = RetryingClient(run, stage, self.transport, settings, self.progress, stop)
        self._fatal: Exception | None = None
        self._failures = self._unreached = 0
        self._asked_now: dict[str, asyncio.Lock] = {}
        # A disk takes little time, S3 a round trip.
        self._writer = ThreadPoolExecutor(32 if location(run.folder) else 4, thread_name_prefix="segkit-log")

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Work on the questions in their order, as many at once as the limits may let through."""
        if self.settings.database_url:
            keys = [
                cache_key(self.parameters.endpoint, self._body(q, q.prompt), self.parameters.repeat)
                for q in questions
            ]
            await self._off_loop(self.recorder.fill_cache, keys)
        answers: dict[int, list[Answer]] = {}
        waiting = iter(enumerate(questions))
        workers = min(self.settings.segkit_concurrency, len(questions))
        await asyncio.gather(*(self._work(waiting, answers) for _ in range(workers)))
        if self._fatal:
            raise self._fatal
        if questions and self._unreached == len(questions):
            raise self._unusable(self.progress.counts.problems[-1].partition(": ")[2])
        return [answer for number in sorted(answers) for answer in answers[number]]

    async def watch(self) -> None:
        """Write the progress, and see whether somebody wants the run to stop."""
        while True:
            try:
                self.progress.write()
            except SegkitError as error:  # the disk fails
                self._end(error)
            if (self.run.folder / "stop").exists():
                self.stop.set()
            await self.client.close_if_stopped()
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        await self.transport.close()
        self._writer.shutdown()
        try:
            self.progress.write()
        except (SegkitError, OSError):
            if not self._fatal:  # the first trouble says more
                raise

    async def _work(self, waiting: Iterator[tuple[int, Question]], answers: dict[int, list[Answer]]) -> None:
        for number, question in waiting:
            if self._fatal:
                return
            try:
                self.client.raise_if_stopped()
                answers[number] = await self.answer(question)
            except OSError as error:
                self._end(disk_error(self.run.folder, error))
            except Exception as error:
                self._end(error)
            else:
                self.progress.counts.done += 1

    def _end(self, error: Exception) -> None:
        """Ask nothing more; the other workers keep the answers that are in flight before the error is raised."""
        self._fatal = self._fatal or error
        self.client.halt(error if isinstance(error, SegkitError) else StoppedError("another question failed"))

    async def answer(self, question: Question) -> list[Answer]:
        """Answer one question: attempts with the faults told, then smaller questions, then none."""
        checked, asking, why = None, question.prompt, ""
        for attempt in range(1, self.parameters.max_retries + 1):
            try:
                outcome = await self._attempt(question, asking, attempt, checked)
            except NoAnswerError as failed:
                self._unreached += 1
                return [self._failed(question, checked, f"{NO_ANSWER}{failed}")]
            except MustSplitError as cut:
                return await self._cut(question, checked, cut.trouble, cut.why)
            checked, why = outcome.checked, outcome.why
            if checked.valid:
                self._failures = 0
                return [Answer(question, checked)]
            if outcome.trouble:
                return await self._cut(question, checked, outcome.trouble, why)
            asking = question.again(checked, outcome.content)
        return await self._cut(question, checked, "invalid", f"no valid answer in {attempt} attempts: {why}")

    async def _attempt(
        self, question: Question, asking: Prompt, attempt: int, before: CheckedAnswer | None
    ) -> Outcome:
        """Get one answer, from this run's logs, from the cache or from the model, and check it."""
        body = self._body(question, asking)
        key = cache_key(self.parameters.endpoint, body, self.parameters.repeat)
        if logged := self.recorder.own(key):
            return _replayed(question, logged, key, before)
        if attempt > 1:
            self.progress.counts.retries += 1
        request = {"endpoint": self.parameters.endpoint, **{name: body[name] for name in body if name != "messages"}}
        head = {"context": question.context, "prompt": asking.text, "request": request}
        facts = self.recorder.facts(question, attempt, key)
        async with self._asked_now.setdefault(key, asyncio.Lock()):
            if cached := self.recorder.cached(key, asking.text, request):
                return await self._reuse(question, cached, head, facts, before)
            longest = 200 + 40 * len(question.context["expected_ids"])
            letter = ModelRequest(question.batch, attempt, head, facts, orjson.dumps(body), longest)
            return await self._record(question, letter, await self.client.send(letter), before)

    async def _record(
        self, question: Question, letter: ModelRequest, sent: ModelReply, before: CheckedAnswer | None
    ) -> Outcome:
        """Judge what came back, and finish its log before anybody relies on it."""
        key = letter.facts["cache_key"]
        completion = read_completion(sent.response.body)
        outcome = _judged(question, completion, key, before)
        good = outcome.checked.valid and not completion.trouble and before is None
        cost = await self._off_loop(self.recorder.record, sent, letter, completion, outcome.checked, good)
        self.progress.counts.add_call(completion.usage, cost)
        await self.client.settle(sent, completion.usage, cost)
        self._tell(question, letter.attempt, outcome)
        return outcome

    async def _reuse(
        self,
        question: Question,
        cached: Interaction,
        head: dict[str, Any],
        facts: dict[str, Any],
        before: CheckedAnswer | None,
    ) -> Outcome:
        outcome = _judged(question, read_completion(cached.body), facts["cache_key"], before)
        await self._off_loop(self.recorder.record_reuse, cached, head, facts, outcome.checked)
        self.progress.counts.cached += 1
        return outcome

    async def _cut(self, question: Question, checked: CheckedAnswer | None, trouble: str, why: str) -> list[Answer]:
        """Ask smaller questions about what is missing; where nothing can be cut, say why there is no answer."""
        if question.itemwise and checked and not checked.missing:
            # Every product has a valid item, whatever else was wrong with the answers.
            self._event("accepted_with_faults", question, why=why)
            return [Answer(question, checked)]
        parts = question.cut(checked, trouble)
        if not parts:
            return [self._failed(question, checked, f"{trouble}: {why}")]
        self._event("question_cut", question, trouble=trouble, why=why, parts=len(parts))
        self.progress.counts.planned += len(parts)
        answers = await await_all(self.answer(part) for part in parts)
        self.progress.counts.done += len(parts)
        return [Answer(question, checked), *(answer for some in answers for answer in some)]

    def _failed(self, question: Question, checked: CheckedAnswer | None, reason: str) -> Answer:
        counts = self.progress.counts
        counts.failed += 1
        counts.problems = [*counts.problems, f"{question.label}: {reason}"][:20]
        self._event("question_failed", question, why=reason)
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise self._unusable(reason)
        return Answer(question, checked, reason)

    def _unusable(self, reason: str) -> EndpointError:
        return EndpointError(
            f"{self._failures} questions in a row had no usable answer; the last: {reason}",
            f"nothing is lost; when it is mended: segkit resume {self.run.id}",
        )

    def _body(self, question: Question, asking: Prompt) -> dict[str, Any]:
        p = self.parameters
        return request_body(asking, question.stage, p.model, p.temperature, p.response_format, p.max_output_tokens)

    def _tell(self, question: Question, attempt: int, outcome: Outcome) -> None:
        """Tell what was wrong with an answer; what was right stands in its log."""
        checked = outcome.checked
        if checked.faults or checked.warnings:
            faults = [f"{fault.kind}: {fault.text}" for fault in checked.faults]
            self._event("answer_not_clean", question, attempt=attempt, faults=faults, warnings=list(checked.warnings))

    def _event(self, event: str, question: Question, **facts: Any) -> None:
        where = {"stage": STAGES[question.stage], "batch": question.batch, "part": question.part}
        log_event(self.run.folder, event, **where, **facts)

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments)


def _replayed(question: Question, logged: Interaction, key: str, before: CheckedAnswer | None) -> Outcome:
    facts = logged.metadata
    if facts["money"] == "not_paid" and "cached_from" not in facts:
        raise MustSplitError(facts["outcome"], facts["why"])
    return _judged(question, read_completion(logged.body), key, before)


def _judged(question: Question, completion: Completion, key: str, before: CheckedAnswer | None) -> Outcome:
    """Check the text of a completion; one that is no answer leaves what was valid before as it is."""
    if completion.trouble in _UNANSWERED:
        nothing = question.check("", key, before)
        return Outcome("", nothing, completion.trouble, completion.why)
    checked = question.check(completion.content, key, before)
    if completion.trouble in ("empty", "malformed"):
        checked = CheckedAnswer(
            checked.value, (Fault("format", completion.why),), checked.missing, (), checked.sources
        )
    why = "; ".join(fault.text for fault in checked.faults)
    return Outcome(completion.content, checked, "truncated" if completion.trouble == "truncated" else "", why)
