"""One question to a model: cache → intent → ask → record → check → correct, and smaller questions where needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import orjson

from segkit.core.models import FOLDERS, NO_ANSWER, Answer, CheckedAnswer, Fault, Parameters, Prompt, Question
from segkit.core.text import quantity, shortened
from segkit.errors import EndpointError
from segkit.llm.breaker import Breaker
from segkit.llm.cache import cache_key
from segkit.llm.completions import PROMPT_FIELDS, Completion, RequestShape, messages_of, read_completion
from segkit.llm.event_loop import await_all
from segkit.llm.record import Recorder
from segkit.llm.responses import NextStep
from segkit.llm.send import (
    BadAnswerError,
    ModelReply,
    ModelRequest,
    MustSplitError,
    NoAnswerError,
    NotTakenError,
    OutdatedError,
    RetryingClient,
)
from segkit.llm.transports.decisions import decision_body, is_decided
from segkit.runs.events import log_event, read_events
from segkit.runs.interactions import Interaction
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings

_UNANSWERED = {"filtered", "refused"}
# What the endpoint did not take, at no cost.
_UNPAID = {"too_long", "refused_request"}
# A server that has read less of a prompt than a token for every eight characters has cut it.
_CHARACTERS_A_TOKEN, _LEAST_TOKENS = 8.0, 128


class RefusedRequestError(Exception):
    """The endpoint refuses a request for a reason that nobody knows."""

    def __init__(self, step: NextStep) -> None:
        super().__init__(step.why)
        self.step = step


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt gave: the text, what is valid so far, and the trouble if there is any.

    `empty` says that there was no answer in the text at all, as with thoughts only.
    """

    content: str
    checked: CheckedAnswer
    trouble: str = ""
    why: str = ""
    empty: bool = False


class QuestionAsker:
    """Asks the questions of one stage, one at a time or many, with what they share: client, logs, counts, wording."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        progress: Progress,
        client: RetryingClient,
        recorder: Recorder,
        breaker: Breaker,
        shape: RequestShape,
    ) -> None:
        self.run, self.settings, self.progress = run, settings, progress
        self.client, self.recorder, self.breaker, self.shape = client, recorder, breaker, shape
        self.parameters = run.parameters
        self._most_products = run.most_products
        self._accepted = False
        self._smallest_ratio = 0.0
        self.unreached: list[NoAnswerError] = []
        self._asked_now: dict[str, asyncio.Lock] = {}
        self._writer = ThreadPoolExecutor(recorder.writers, thread_name_prefix="segkit-log")

    def close(self) -> None:
        """Wait for the logs that are being written."""
        self._writer.shutdown()

    def keys(self, questions: Sequence[Question]) -> list[str]:
        """Return the cache keys of the first requests of some questions."""
        p = self.parameters
        return [cache_key(p.endpoint, body_of(q, q.prompt, self.shape, p), p.repeat) for q in questions]

    async def answer(self, question: Question, *, urgent: bool = False) -> list[Answer]:
        """Answer one question: attempts that report the faults, then smaller questions, then none."""
        await self.breaker.begin()
        try:
            return await self._answer(question, urgent)
        finally:
            await self.breaker.end()

    async def _answer(self, question: Question, urgent: bool) -> list[Answer]:
        checked, prompt, outcome, why = None, question.prompt, None, ""
        if self._is_too_large(question):
            return await self._split(
                question, None, "too_long", f"more than {quantity(self._most_products, 'product')}"
            )
        if self._has_too_many_properties(question) and self._parts(question):
            why = f"its schema has more properties than the {self.shape.most_properties:,} that the provider takes"
            return await self._split(question, None, "too_long", why)
        for attempt in range(1, self.parameters.max_retries + 1):
            grown = self.shape.grown
            try:
                outcome = await self._attempt(question, prompt, attempt, checked, urgent)
            except NoAnswerError as failed:
                return [await self._unreached(question, checked, failed)]
            except MustSplitError as split:
                return await self._split(question, checked, split.trouble, split.why)
            except RefusedRequestError as refusal:
                return await self._examine(question, checked, refusal, urgent)
            checked, why = outcome.checked, outcome.why
            if checked.valid or (question.itemwise and checked.sources):
                await self.breaker.succeeded()
            if checked.valid:
                return [Answer(question.asked, checked)]
            if outcome.trouble and outcome.empty and self._grow(grown):
                continue
            if outcome.trouble:
                return await self._split(question, checked, outcome.trouble, why, empty=outcome.empty)
            prompt = question.again(checked, outcome.content)
        why = f"no valid answer in {attempt} attempts: {why}"
        return await self._split(question, checked, "invalid", why, empty=bool(outcome and outcome.empty))

    async def _attempt(
        self, question: Question, prompt: Prompt, attempt: int, before: CheckedAnswer | None, urgent: bool
    ) -> Outcome:
        """Return one outcome, from this run's logs, from the cache or from the model; reword what is not taken."""
        while True:
            shape = self.shape
            try:
                return await self._ask(question, prompt, attempt, before, shape, urgent)
            except OutdatedError:
                continue
            except NotTakenError as refusal:
                if refusal.step.unknown:
                    raise RefusedRequestError(refusal.step) from None
                self._reword(question, shape, refusal.step)
            except BadAnswerError as bad:
                nothing = question.check("", "", before)
                checked = CheckedAnswer(
                    nothing.value, (Fault("format", str(bad)),), nothing.missing, (), nothing.sources
                )
                return Outcome("", checked, "", str(bad))

    async def _ask(
        self,
        question: Question,
        prompt: Prompt,
        attempt: int,
        before: CheckedAnswer | None,
        shape: RequestShape,
        urgent: bool,
    ) -> Outcome:
        body = body_of(question, prompt, shape, self.parameters)
        key = cache_key(self.parameters.endpoint, body, self.parameters.repeat)
        if logged := self.recorder.own(key, prompt.text, lambda log: self._led_on(question, log, before)):
            self._accept()
            return _replayed(question, logged, before)
        if attempt > 1:
            faults = before.faults if before else ()
            self.progress.retry(f"{question.label}: {faults[0].text if faults else 'no valid answer'}")
        sent = {name: body[name] for name in body if name not in PROMPT_FIELDS}
        fields = {"endpoint": self.parameters.endpoint, **sent}
        fields |= {"one_message": True} if shape.one_message else {}
        head = {"context": question.context, "prompt": prompt.text, "request": fields}
        facts = self.recorder.facts(question, attempt, key)
        # Only first attempts get into the cache.
        others = self.client.turn(key) if attempt == 1 else nullcontext()
        async with self._asked_now.setdefault(key, asyncio.Lock()), others:
            if cached := self.recorder.cached(key, prompt.text, fields):
                return await self._reuse(question, cached, head, facts, before)
            request = self._request(question, attempt, head, facts, body, shape, urgent)
            reply = await self.client.send(request)
            return await self._record(question, request, reply, before)

    def _request(
        self,
        question: Question,
        attempt: int,
        head: dict[str, Any],
        facts: dict[str, Any],
        body: dict[str, Any],
        shape: RequestShape,
        urgent: bool,
    ) -> ModelRequest:
        items = len(question.context["expected_ids"])
        return ModelRequest(
            question.batch,
            attempt,
            head,
            facts,
            orjson.dumps(body),
            200 + 40 * items,
            self._output_limit(question, shape, items),
            lambda step: self._can_mend(question, shape, step, urgent),
            lambda: self.shape is not shape,
            urgent,
        )

    async def _record(
        self, question: Question, request: ModelRequest, reply: ModelReply, before: CheckedAnswer | None
    ) -> Outcome:
        """Judge what came back, and finish its log before anybody relies on it."""
        self._accept()
        completion = read_completion(reply.response.body)
        unread = self._unread(len(request.head["prompt"]), completion)
        outcome = _judged(question, completion, request.facts["cache_key"], before)
        good = outcome.checked.valid and not completion.trouble and before is None and not unread
        cost = await self._off_loop(self.recorder.record, reply, request, completion, outcome.checked, good, unread)
        self.progress.counts.add_call(completion.usage, cost)
        await self.client.settle(reply, completion.usage, cost)
        if unread:
            error = EndpointError(unread, f"nothing of it is used; {_CONTEXT_HINT.format(run=self.run.id)}")
            self.client.halt(error)
            raise error
        self._report(question, request.attempt, outcome)
        return outcome

    def _accept(self) -> None:
        """Note that the endpoint takes requests like these."""
        self._accepted = True
        self.client.throttle.release()

    def _unread(self, characters: int, completion: Completion) -> str:
        """Return a sentence where the server stated far fewer tokens than it was sent: it has cut the prompt."""
        tokens = completion.usage.input
        if not tokens or tokens < _LEAST_TOKENS:  # no prompt is that short: a counter that counts something else
            return ""
        ratio = characters / tokens
        if ratio <= _CHARACTERS_A_TOKEN or (self._smallest_ratio and ratio < 1.5 * self._smallest_ratio):
            self._smallest_ratio = min(self._smallest_ratio or ratio, ratio)
            return ""
        about = round(characters / (self._smallest_ratio or 4))
        return f"the server cut the prompt: it read {tokens:,} tokens of about {about:,} ({characters:,} characters)"

    async def _reuse(
        self,
        question: Question,
        cached: Interaction,
        head: dict[str, Any],
        facts: dict[str, Any],
        before: CheckedAnswer | None,
    ) -> Outcome:
        outcome = _judged(question, read_completion(cached.body), facts["cache_key"], before)
        saved = await self._off_loop(self.recorder.record_reuse, cached, head, facts, outcome.checked)
        self.progress.counts.add_reuse(saved)
        return outcome

    async def _split(
        self, question: Question, checked: CheckedAnswer | None, trouble: str, why: str, *, empty: bool = False
    ) -> list[Answer]:
        """Ask smaller questions about what is missing; where nothing can be cut, say why there is no answer."""
        if question.itemwise and checked and not checked.missing:
            # Every product has a valid item, whatever else was wrong with the answers.
            self._event("accepted_with_faults", question, why=why)
            return [Answer(question.asked, checked)]
        reason = f"{trouble}: {why}"
        if trouble == "timeout":
            reason += " (raise SEGKIT_TIMEOUT_SECONDS, or ask for fewer products a prompt)"
        counted = trouble not in _UNPAID | {"filtered"}
        useful = not counted or await self.breaker.failed("empty" if empty else trouble, reason)
        parts = question.cut(checked, trouble) if useful and not self._is_settled(question, checked, trouble) else []
        if parts and trouble not in _UNPAID and not self.breaker.may_add(len(parts)):
            self._event("cutting_ended", question, why=why, extra=self.breaker.extra)
            reason, parts = f"{reason}; not cut further: {self.breaker.extra} extra questions were asked", []
        if not parts and trouble in _UNPAID:
            await self.breaker.failed(trouble, reason)
        if not parts:
            return [self._failed(question, checked, reason)]
        self._event("question_cut", question, trouble=trouble, why=why, parts=len(parts))
        return self._with_whole(question, checked, await self._answer_parts(parts))

    def _is_settled(self, question: Question, checked: CheckedAnswer | None, trouble: str) -> bool:
        """Report whether smaller questions have no use: a decision refuses each product by itself.

        Where it refused all of them at once, one may be the reason for all.
        """
        is_refused = trouble == "refused" and checked is not None and bool(checked.sources)
        return is_refused and is_decided(question.stage, self.parameters)

    async def _answer_parts(self, parts: Sequence[Question]) -> list[Answer]:
        """Answer the parts of a question, which itself is asked no more."""
        self.progress.counts.planned += len(parts)
        await self.breaker.end()
        try:
            answers = await await_all(self.answer(part) for part in parts)
        finally:
            await self.breaker.begin()
        self.progress.counts.done += len(parts)
        return [answer for some in answers for answer in some]

    def _with_whole(self, question: Question, checked: CheckedAnswer | None, answers: list[Answer]) -> list[Answer]:
        return [Answer(question.asked, checked), *answers]

    async def _examine(
        self, question: Question, checked: CheckedAnswer | None, refusal: RefusedRequestError, urgent: bool
    ) -> list[Answer]:
        """Find out whether a refusal that nobody knows is about this question or about all of them.

        Where other questions were accepted, it is about this one. Otherwise one half is tried, and one product of
        the other half, in case what is refused stands in the first; if they are refused too, the run is given up.
        """
        why = refusal.step.why
        if self._accepted:
            return await self._split(question, checked, "refused_request", why)
        parts = self._parts(question)
        if urgent or not parts:
            if urgent:
                raise refusal
            raise self._give_up(refusal.step)
        self._event("refusal_examined", question, why=why)
        await self.breaker.end()
        try:
            async with self.client.throttle.alone():
                first, rest = await self._try_half(parts, refusal.step)
        finally:
            await self.breaker.begin()
        self._accepted = True
        return self._with_whole(question, checked, [*first, *await self._answer_parts(rest)])

    async def _try_half(self, parts: list[Question], step: NextStep) -> tuple[list[Answer], list[Question]]:
        """Return the answers about one half, and the parts that are still to be asked."""
        try:
            return await self.answer(parts[0], urgent=True), parts[1:]
        except RefusedRequestError:
            await self._try_one(parts[-1], step)
            return [], parts

    async def _try_one(self, question: Question, step: NextStep) -> None:
        """Ask about one product; raise RefusedError when that is refused as well."""
        while parts := self._parts(question):
            question = parts[-1]
        try:
            await self._attempt(question, question.prompt, 1, None, True)
        except RefusedRequestError:
            raise self._give_up(step) from None
        except MustSplitError:
            pass

    def _give_up(self, step: NextStep) -> Exception:
        error = self.client.refusal(step)
        self.client.halt(error)
        return error

    async def _unreached(self, question: Question, checked: CheckedAnswer | None, failed: NoAnswerError) -> Answer:
        """Give up a question that the endpoint did not answer; the stage ends before a later one is paid."""
        kind = "empty" if failed.page else "down" if failed.down else "no_answer"
        await self.breaker.failed(kind, f"{NO_ANSWER}{failed}")
        self.unreached.append(failed)
        return self._failed(question, checked, f"{NO_ANSWER}{failed}")

    def _failed(self, question: Question, checked: CheckedAnswer | None, reason: str) -> Answer:
        counts = self.progress.counts
        counts.failed += 1
        counts.problems = [*counts.problems, f"{question.label}: {reason}"][:20]
        self._event("question_failed", question, why=reason)
        return Answer(question.asked, checked, reason)

    def _reword(self, question: Question, shape: RequestShape, step: NextStep) -> None:
        reworded = self._reworded(question, shape, step)
        if reworded is None:
            raise self._give_up(step)
        if self.shape is shape:
            self.shape = reworded
            facts = {"why": step.why, "parameter": step.parameter, "shape": reworded.as_facts()}
            facts["endpoint"] = self.parameters.endpoint
            self._event("request_reworded", question, **facts)

    def _can_mend(self, question: Question, shape: RequestShape, step: NextStep, urgent: bool) -> bool:
        """Report whether a refusal may be mended by another wording or a smaller question."""
        if step.unknown:
            return self._accepted or urgent or bool(self._parts(question))
        return self._reworded(question, shape, step) is not None

    def _reworded(self, question: Question, shape: RequestShape, step: NextStep) -> RequestShape | None:
        """Return the shape that takes the place of one that was refused; None where only the user can mend it."""
        if not step.parameter or is_decided(question.stage, self.parameters):
            return None
        if self.shape is not shape:
            return self.shape  # another question has met the same refusal
        items = len(question.context["expected_ids"])
        derived = not self.parameters.max_output_tokens and shape.limits
        limit = shape.output_limit(question.stage, self.parameters, items) if derived else None
        return shape.adapted(step.parameter, step.text, step.keywords, limit)

    def _grow(self, before: int) -> bool:
        """Allow longer answers once, for a model whose thoughts took all of the derived limit."""
        if not self.parameters.max_output_tokens:
            self.shape = self.shape.grow() or self.shape
        return self.shape.grown > before

    def _is_too_large(self, question: Question) -> bool:
        size = len(question.context.get("product_ids", ()))
        return (
            bool(self._most_products) and size > self._most_products and not self.recorder.knows(question.prompt.text)
        )

    def _output_limit(self, question: Question, shape: RequestShape, items: int) -> int:
        """Return the most tokens of an answer; a decision has no more than a chat model would write in its place."""
        if is_decided(question.stage, self.parameters):
            return shape.output_limit(question.stage, replace(self.parameters, max_output_tokens=None), items)
        return shape.output_limit(question.stage, self.parameters, items) if shape.limits else 0

    def _has_too_many_properties(self, question: Question) -> bool:
        if is_decided(question.stage, self.parameters):  # no schema is sent
            return False
        return self.shape.has_too_many_properties(question.prompt, self.parameters)

    def _parts(self, question: Question) -> list[Question]:
        return list(question.cut(None, "too_long"))

    def _led_on(self, question: Question, logged: Interaction, before: CheckedAnswer | None) -> bool:
        """Report whether an answer to another wording of a request was valid, or whether what followed is logged."""
        try:
            outcome = _replayed(question, logged, before)
        except MustSplitError as split:
            parts = question.cut(before, split.trouble)
            return any(self.recorder.knows(part.prompt.text) for part in parts)
        except BadAnswerError:
            return False
        checked = outcome.checked
        if checked.valid:
            return True
        following = [] if outcome.trouble else [question.again(checked, outcome.content).text]
        following += [part.prompt.text for part in question.cut(checked, outcome.trouble or "invalid")]
        return any(map(self.recorder.knows, following))

    def _report(self, question: Question, attempt: int, outcome: Outcome) -> None:
        """Write down what was wrong with an answer; what was right stands in its log."""
        checked = outcome.checked
        if checked.faults or checked.warnings:
            faults = [f"{fault.kind}: {fault.text}" for fault in checked.faults]
            self._event("answer_not_clean", question, attempt=attempt, faults=faults, warnings=list(checked.warnings))

    def _event(self, event: str, question: Question, **facts: Any) -> None:
        where = {"stage": FOLDERS[question.stage], "batch": question.batch, "part": question.part}
        log_event(self.run.folder, event, **where, **facts)

    async def _off_loop(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, function, *arguments)


def body_of(question: Question, prompt: Prompt, shape: RequestShape, parameters: Parameters) -> dict[str, Any]:
    """Return the body of the request that asks a question."""
    if is_decided(question.stage, parameters):
        return decision_body(prompt, messages_of(prompt.text, one=shape.one_message), parameters.model)
    return shape.body(prompt, question.stage, parameters, len(question.context["expected_ids"]))


def remembered(run: Run, shape: RequestShape) -> RequestShape:
    """Return the shape that an earlier stage has learned from what this endpoint refused."""
    path = run.folder / "events.jsonl"
    if not path.exists() or b'"request_reworded"' not in path.read_bytes():
        return shape
    for event in read_events(run.folder):
        if event["event"] == "request_reworded" and event.get("endpoint") == run.parameters.endpoint:
            shape = shape.with_facts(event["shape"])
    return shape


_CONTEXT_HINT = "give the server a longer context, or fewer products: segkit resume {run} --products-per-prompt N"


def _replayed(question: Question, logged: Interaction, before: CheckedAnswer | None) -> Outcome:
    facts = logged.metadata
    if facts["outcome"] == "bad_answer":
        raise BadAnswerError(facts["why"])
    if facts["outcome"] in ("too_long", "timeout") or (facts["money"] == "not_paid" and "cached_from" not in facts):
        raise MustSplitError(facts["outcome"], facts["why"])
    return _judged(question, read_completion(logged.body), facts["cache_key"], before)


def _judged(question: Question, completion: Completion, key: str, before: CheckedAnswer | None) -> Outcome:
    """Check the text of a completion; one that is no answer leaves what was valid before as it is."""
    if completion.trouble in _UNANSWERED:
        nothing = question.check("", key, before)
        return Outcome("", nothing, completion.trouble, completion.why)
    checked = question.check(completion.content, key, before)
    if completion.trouble in ("empty", "malformed"):
        fault = Fault("format", completion.why)
        checked = CheckedAnswer(checked.value, (fault,), checked.missing, (), checked.sources)
    why = shortened([fault.text for fault in checked.faults], 5, "; ")
    truncated = completion.trouble == "truncated"
    empty = completion.trouble in ("empty", "malformed") or (truncated and not completion.content.strip())
    if truncated and empty:
        why = completion.why
    return Outcome(completion.content, checked, "truncated" if truncated else "", why, empty)
