"""One question to a model: cache → intent → ask → record → check → correct, and many of them at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from segkit import cache, interactions
from segkit.costs import cost_usd
from segkit.errors import EndpointError, SegkitError, StoppedError
from segkit.events import log_event, timestamp
from segkit.interactions import Interaction
from segkit.llm import open_transport
from segkit.llm.completions import Completion, read_completion, request_body, user_messages
from segkit.models import STAGES, Answer, Asking, Checked, Fault, Question
from segkit.progress import Progress
from segkit.redaction import redacted_logs, redactor
from segkit.runs import Run
from segkit.sending import CutError, FailedError, Letter, Sender, Sent
from segkit.settings import Settings
from segkit.storage.local import disk_error, owned

FAILURES_IN_A_ROW = 5
_UNANSWERED = {"filtered", "refused"}
_RAW = ("http_status", "body", "body_base64")


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
            return _in_own_loop(lambda: _ask_all(run, stage, questions, settings, progress, stop), stop)
    except OSError as error:
        raise disk_error(run.folder, error) from None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt gave: the text, what is valid so far, and the trouble if there is any."""

    content: str
    checked: Checked
    trouble: str = ""
    why: str = ""


async def _ask_all(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, progress: Progress, stop: threading.Event
) -> list[Answer]:
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
        self.folder = run.stage_folder(stage)
        self.replays = self._replays()
        self.transport = open_transport(self.parameters.model, self.parameters.endpoint, settings)
        self.sender = Sender(run, stage, self.transport, settings, self.progress, stop)
        self._fatal: Exception | None = None
        self._failures = 0
        self._asked_now: dict[str, asyncio.Lock] = {}
        self._writer = ThreadPoolExecutor(4, thread_name_prefix="segkit-log")

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Work on the questions in their order, as many at once as the limits may let through."""
        answers: dict[int, list[Answer]] = {}
        waiting = iter(enumerate(questions))
        workers = min(self.settings.segkit_concurrency, len(questions))
        await asyncio.gather(*(self._work(waiting, answers) for _ in range(workers)))
        if self._fatal:
            raise self._fatal
        return [answer for number in sorted(answers) for answer in answers[number]]

    async def watch(self) -> None:
        """Write the progress, and see whether somebody wants the run to stop."""
        while True:
            with contextlib.suppress(SegkitError, OSError):  # what cannot be written now is tried again at the end
                self.progress.write()
            if (self.run.folder / "stop").exists():
                self.stop.set()
            await self.sender.close_if_stopped()
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
                self.sender.raise_if_stopped()
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
        self.sender.halt(error if isinstance(error, SegkitError) else StoppedError("another question failed"))

    async def answer(self, question: Question) -> list[Answer]:
        """Answer one question: attempts with the faults told, then smaller questions, then none."""
        checked, asking, why = None, question.asking, ""
        for attempt in range(1, self.parameters.max_retries + 1):
            try:
                outcome = await self._attempt(question, asking, attempt, checked)
            except FailedError as failed:
                return [self._failed(question, checked, f"endpoint: {failed}")]
            except CutError as cut:
                return await self._cut(question, checked, cut.trouble, cut.why)
            checked, why = outcome.checked, outcome.why
            if checked.valid:
                self._failures = 0
                return [Answer(question, checked)]
            if outcome.trouble:
                return await self._cut(question, checked, outcome.trouble, why)
            asking = question.again(checked, outcome.content)
        return await self._cut(question, checked, "invalid", f"no valid answer in {attempt} attempts: {why}")

    async def _attempt(self, question: Question, asking: Asking, attempt: int, before: Checked | None) -> Outcome:
        """Get one answer, from this run's logs, from the cache or from the model, and check it."""
        body = self._body(question, asking)
        key = cache.cache_key(self.parameters.endpoint, body)
        if self.replays.get(key):
            return _replayed(question, self.replays[key].pop(0), key, before)
        if attempt > 1:
            self.progress.counts.retries += 1
        request = {"endpoint": self.parameters.endpoint, **{name: body[name] for name in body if name != "messages"}}
        head = {"context": question.context, "prompt": asking.prompt, "request": request}
        async with self._asked_now.setdefault(key, asyncio.Lock()):
            cached = self._cached(key, asking.prompt, request)
            if cached:
                return await self._reuse(question, attempt, key, head, cached, before)
            letter = Letter(
                question.batch,
                attempt,
                head,
                self._facts(question, attempt, key),
                orjson.dumps(body),
                200 + 40 * len(question.context["expected_ids"]),
            )
            return await self._record(question, letter, await self.sender.send(letter), key, before)

    async def _record(
        self, question: Question, letter: Letter, sent: Sent, key: str, before: Checked | None
    ) -> Outcome:
        """Judge what came back, and finish its log before anybody relies on it."""
        completion = read_completion(sent.response.body)
        outcome = _judged(question, completion, key, before)
        cost = self._cost(completion)
        facts = {
            **letter.facts,
            "timestamp": interactions.started_at(sent.intent),
            "duration_ms": sent.duration_ms,
            "money": "paid",
            "cost_usd": None if cost is None else str(cost),
            **_told(completion, outcome),
        }
        tail = {"response": _storable(completion.content), "metadata": facts}
        path = await self._off_loop(interactions.finish, sent.intent, tail)
        self.progress.counts.add_call(completion.usage, cost)
        await self.sender.settle(sent, completion.usage, cost)
        if facts["outcome"] == "valid" and self.settings.segkit_cache and before is None:
            cache.remember(self.settings.segkit_home, key, path, self.run.folder)
        self._tell(question, letter.attempt, outcome)
        return outcome

    async def _reuse(
        self,
        question: Question,
        attempt: int,
        key: str,
        head: dict[str, Any],
        cached: Interaction,
        before: Checked | None,
    ) -> Outcome:
        """Answer from the cache, with a log that makes this run folder whole by itself."""
        completion = read_completion(interactions.raw_body(cached.log))
        outcome = _judged(question, completion, key, before)
        facts = {
            **self._facts(question, attempt, key),
            "timestamp": timestamp(),
            "duration_ms": 0,
            "money": "not_paid",
            "cost_usd": "0",
            "cached_from": f"{cached.log['metadata']['run_id']}/{cached.path.stem}",
            **_told(completion, outcome),
        }
        raw: dict[str, Any] = {name: cached.log[name] for name in _RAW if name in cached.log}
        log = {**head, **raw, "response": cached.log["response"], "metadata": facts}
        await self._off_loop(interactions.write_whole, self.folder, question.batch, attempt, log)
        self.progress.counts.cached += 1
        return outcome

    async def _cut(self, question: Question, checked: Checked | None, trouble: str, why: str) -> list[Answer]:
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
        answers = await _all(self.answer(part) for part in parts)
        self.progress.counts.done += len(parts)
        return [Answer(question, checked), *(answer for some in answers for answer in some)]

    def _failed(self, question: Question, checked: Checked | None, reason: str) -> Answer:
        counts = self.progress.counts
        counts.failed += 1
        counts.problems = [*counts.problems, f"{question.label}: {reason}"][:20]
        self._event("question_failed", question, why=reason)
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise EndpointError(
                f"{self._failures} questions in a row had no usable answer; the last: {reason}",
                f"nothing is lost; when it is mended: segkit resume {self.run.id}",
            )
        return Answer(question, checked, reason)

    def _replays(self) -> dict[str, list[Interaction]]:
        """Index the answers that this run already has, by cache key, in the order they came."""
        interactions.fetch(self.folder)
        logs, damaged = interactions.scan(self.folder)
        for path in damaged:
            log_event(self.run.folder, "damaged_log_passed_over", file=path.name)
        logs += [adopted for path in interactions.intents(self.folder) if (adopted := self._adopt(path))]
        found: dict[str, list[Interaction]] = {}
        for logged in logs:
            facts = logged.log["metadata"]
            self.progress.add_logged(facts)
            if facts["outcome"] == "no_answer":
                continue
            found.setdefault(facts["cache_key"], []).append(logged)
        return found

    def _adopt(self, path: Path) -> Interaction | None:
        """Make a log of an intent whose answer was on disk when its process died; tell of those without one."""
        begun = interactions.recover(path) or {}
        if not 200 <= (begun.get("http_status") or 0) < 300:
            log_event(self.run.folder, "outcome_unknown", file=path.name)
            return None
        batch, attempt = interactions.place_of(path)
        completion = read_completion(interactions.raw_body(begun))
        cost = self._cost(completion)
        body = {"messages": user_messages(begun["prompt"]), **begun["request"]}
        facts = {
            "run_id": self.run.id,
            "interaction_type": self.folder.name,
            "batch_id": batch,
            "attempt": attempt,
            "model": self.parameters.model,
            "temperature": self.parameters.temperature,
            "category": self.parameters.category,
            "cache_key": cache.cache_key(body.pop("endpoint"), body),
            "timestamp": timestamp(),
            "money": "paid",
            "cost_usd": None if cost is None else str(cost),
            **_envelope_facts(completion),
            "outcome": "recovered",
        }
        log = interactions.finish(interactions.reopened(path, begun), {"response": "", "metadata": facts})
        log_event(self.run.folder, "answer_recovered", file=path.name, log=log.name)
        return interactions.read(log)

    def _cached(self, key: str, prompt: str, request: dict[str, Any]) -> Interaction | None:
        if not self.settings.segkit_cache:
            return None
        return cache.look_up(self.settings.segkit_home, key, prompt, request, self.run.folder)

    def _cost(self, completion: Completion) -> Decimal | None:
        p = self.parameters
        return cost_usd(completion.usage, p.model, p.endpoint, self.settings.segkit_prices)

    def _body(self, question: Question, asking: Asking) -> dict[str, Any]:
        p = self.parameters
        return request_body(asking, question.stage, p.model, p.temperature, p.response_format, p.max_output_tokens)

    def _facts(self, question: Question, attempt: int, key: str) -> dict[str, Any]:
        return {
            "run_id": self.run.id,
            "interaction_type": STAGES[question.stage],
            "batch_id": question.batch,
            "part": question.part,
            "attempt": attempt,
            "model": self.parameters.model,
            "temperature": self.parameters.temperature,
            "category": self.parameters.category,
            "cache_key": key,
            "segkit_version": self.run.document["segkit_version"],
        }

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


def _replayed(question: Question, logged: Interaction, key: str, before: Checked | None) -> Outcome:
    facts = logged.log["metadata"]
    if facts["money"] == "not_paid" and "cached_from" not in facts:
        raise CutError(facts["outcome"], facts["why"])
    return _judged(question, read_completion(interactions.raw_body(logged.log)), key, before)


def _judged(question: Question, completion: Completion, key: str, before: Checked | None) -> Outcome:
    """Check the text of a completion; one that is no answer leaves what was valid before as it is."""
    if completion.trouble in _UNANSWERED:
        nothing = question.check("", key, before)
        return Outcome("", nothing, completion.trouble, completion.why)
    checked = question.check(completion.content, key, before)
    if completion.trouble in ("empty", "malformed"):
        checked = Checked(checked.value, (Fault("format", completion.why),), checked.missing, (), checked.sources)
    why = "; ".join(fault.text for fault in checked.faults)
    return Outcome(completion.content, checked, "truncated" if completion.trouble == "truncated" else "", why)


def _told(completion: Completion, outcome: Outcome) -> dict[str, Any]:
    """Say what came back and what it was worth, as the log tells it."""
    return {
        **_envelope_facts(completion),
        "outcome": completion.trouble or ("valid" if outcome.checked.valid else "invalid"),
        "faults": [f"{fault.kind}: {_storable(fault.text)}" for fault in outcome.checked.faults],
        "warnings": [_storable(warning) for warning in outcome.checked.warnings],
    }


def _envelope_facts(completion: Completion) -> dict[str, Any]:
    return {
        "finish_reason": completion.finish_reason,
        "response_model": completion.model,
        "request_id": completion.request_id,
        "usage": asdict(completion.usage),
    }


async def _all(parts: Iterable[Coroutine[Any, Any, list[Answer]]]) -> list[list[Answer]]:
    """Await all parts before the first error is raised, so that no answer in flight is abandoned."""
    ended = await asyncio.gather(*parts, return_exceptions=True)
    errors = [end for end in ended if isinstance(end, BaseException)]
    if errors:
        raise errors[0]
    return [end for end in ended if not isinstance(end, BaseException)]


def _storable(text: str) -> str:
    """Replace what no file can hold (half a surrogate pair); the raw body beside it stays exact."""
    return text.encode(errors="replace").decode()


def _in_own_loop(work: Callable[[], Coroutine[Any, Any, list[Answer]]], stop: threading.Event) -> list[Answer]:
    """Run asynchronous work in a thread of its own, since a notebook's thread already runs a loop.

    The first interrupt asks the work to stop and waits for the answers in flight; the second leaves them.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="segkit-calls") as thread:
        future = thread.submit(lambda: asyncio.run(work()))
        try:
            return future.result()
        except KeyboardInterrupt:
            stop.set()
            try:
                return future.result()
            except KeyboardInterrupt:
                raise StoppedError("stopped at once; answers in flight are lost", "their intents are kept") from None
