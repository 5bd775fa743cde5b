"""The answers a stage has already and the logs of those it gets: nothing that was paid for is asked again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from segkit.core.models import CheckedAnswer, Question
from segkit.errors import DatabaseError, StorageError
from segkit.llm import cache
from segkit.llm.batches.answers import FoundAnswer
from segkit.llm.completions import Completion, messages_of, prompt_of, read_completion
from segkit.llm.prices import call_cost_usd, has_own_price, stated_cost
from segkit.llm.send import ModelReply, ModelRequest
from segkit.llm.transports.base import Response
from segkit.runs import interactions
from segkit.runs.events import log_event, timestamp
from segkit.runs.interactions import Interaction
from segkit.runs.mirror import WORKERS, location, push_log, read_log
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.settings import Settings

# What is logged as an answer and is none: the question is asked again.
_UNUSED = ("no_answer", "prompt_cut")
_RAW = ("http_status", "body", "body_base64")


class Recorder:
    """The logs of one stage of a run, and the cache that all runs share."""

    def __init__(
        self,
        run: Run,
        stage: str,
        settings: Settings,
        progress: Progress,
        batches: Collection[int] | None = None,
    ) -> None:
        """Take in the logs of the stage, or those of some of its batches, while others ask about the rest."""
        self._run, self._settings, self._progress, self._batches = run, settings, progress, batches
        self._folder, self._runs_dir = run.stage_folder(stage), run.folder.parent
        self._parameters = run.parameters
        #: The answers of the provider's batches that are logged: the id of the batch, and that of the request in it.
        self.origins: set[tuple[str, str]] = set()
        self._own = self._index()
        self._asked: set[str] = set()

    @property
    def writers(self) -> int:
        """How many threads may write logs at once: a disk syncs several files together, S3 takes a round trip."""
        return 32 if location(self._run.folder) else 16

    def own(self, key: str, prompt: str, led_on: Callable[[Interaction], bool]) -> Interaction | None:
        """Return the next answer to a request that this run has logged, in the order they came.

        A request in another wording (another temperature, limit or endpoint) counts too, where `led_on` says that
        its answer led to something: what is answered stays answered when only the wording changes.
        """
        while logs := self._own.get(key):
            logged = logs.pop(0)
            if not self._has_more_time(logged) or led_on(logged):
                return logged
        logs = self._by_prompt.get(prompt, [])
        for number, logged in enumerate(logs):
            if logged.metadata["cache_key"] not in self._asked and led_on(logged):
                return logs.pop(number)
        self._asked.add(key)
        return None

    def _has_more_time(self, logged: Interaction) -> bool:
        """Report whether a request that ran out of time may take longer now."""
        facts = logged.metadata
        limit = float(facts.get("timeout_seconds", 0))
        return bool(facts["outcome"] == "timeout") and self._settings.segkit_timeout_seconds > limit

    def knows(self, prompt: str) -> bool:
        """Report whether this run has logged a request with this prompt."""
        return prompt in self._by_prompt

    def has_valid(self, question: Question) -> bool:
        """Report whether a valid answer about the batch of a question, or a part of it, is logged."""
        return (question.batch, question.part) in self._valid

    @cached_property
    def _valid(self) -> set[tuple[int, str]]:
        facts = [log.metadata for logs in self._own.values() for log in logs]
        return {(each["batch_id"], each.get("part", "")) for each in facts if each["outcome"] == "valid"}

    def files_of(self, batches: Collection[int]) -> list[Path]:
        """Return the logs about some batches."""
        found = [log for logs in self._own.values() for log in logs]
        return [log.path for log in found if log.metadata["batch_id"] in batches]

    @cached_property
    def _by_prompt(self) -> dict[str, list[Interaction]]:
        found: dict[str, list[Interaction]] = {}
        for logs in self._own.values():
            for logged in logs:
                found.setdefault(str(logged.log["prompt"]), []).append(logged)
        return found

    def cached(self, key: str, prompt: str, request: Mapping[str, Any]) -> Interaction | None:
        """Find a valid answer to the same request in the cache."""
        if not self._settings.segkit_cache:
            return None
        return cache.look_up(self._settings.segkit_home, key, prompt, dict(request), self._run.folder)

    def fill_cache(self, keys: Sequence[str]) -> None:
        """Bring answers of other machines into the cache: the index in Postgres tells where their logs are."""
        url = self._settings.database_url.get_secret_value() if self._settings.database_url else ""
        home = self._settings.segkit_home
        wanted = [key for key in keys if key not in self._own and not cache.holds(home, key)]
        if not (url and wanted and self._settings.segkit_cache):
            return
        from segkit.database.interaction_index import find_logs

        try:
            found = find_logs(url, wanted)
        except DatabaseError as error:
            log_event(self._run.folder, "shared_index_not_asked", why=error.message)
            return
        with ThreadPoolExecutor(WORKERS) as threads:
            list(threads.map(self._take_in, found, found.values()))

    def _take_in(self, key: str, paths: Sequence[str]) -> None:
        for path in paths[:3]:
            try:
                data = read_log(path, self._runs_dir, self._settings)
                if cache.adopt(self._settings.segkit_home, key, data):
                    return
            except (StorageError, OSError, interactions.DamagedError) as error:
                log_event(self._run.folder, "indexed_answer_not_used", key=key, file=path, why=str(error))

    def facts(self, question: Question, attempt: int, key: str) -> dict[str, Any]:
        """Give the metadata of an interaction that is known before it is asked."""
        return self._facts(question.batch, attempt, key) | {"part": question.part}

    def record(
        self,
        reply: ModelReply,
        request: ModelRequest,
        completion: Completion,
        checked: CheckedAnswer,
        good: bool,
        unread: str = "",
    ) -> Decimal | None:
        """Finish the log of an answer, let other runs have it if it is `good`, and return what it cost.

        `unread` says that the server did not read the whole prompt: the answer is kept and never used.
        """
        cost = self.cost(completion, reply.response, in_batch="provider_batch" in request.facts)
        facts = {
            **request.facts,
            "timestamp": interactions.started_at(reply.intent),
            "duration_ms": reply.duration_ms,
            "money": "paid",
            "cost_usd": None if cost is None else str(cost),
            **({"cost_from": "endpoint"} if cost is not None and cost == _stated(reply.response) else {}),
            **_judgement(completion, checked),
            **({"outcome": "prompt_cut", "why": unread} if unread else {}),
        }
        log = self._finish(reply.intent, {"response": _storable(completion.content), "metadata": facts})
        if good and self._settings.segkit_cache:
            cache.remember(self._settings.segkit_home, request.facts["cache_key"], log, self._run.folder)
        return cost

    def record_reuse(
        self, cached: Interaction, head: Mapping[str, Any], facts: Mapping[str, Any], checked: CheckedAnswer
    ) -> Decimal | None:
        """Write a log for an answer from the cache, so that this run folder is whole by itself.

        Returns what the answer cost when it was paid for.
        """
        saved = self.saved(cached)
        told = {
            **facts,
            "timestamp": timestamp(),
            "duration_ms": 0,
            "money": "not_paid",
            "cost_usd": "0",
            "saved_usd": None if saved is None else str(saved),
            "cached_from": f"{cached.metadata['run_id']}/{cached.path.stem}",
            **_judgement(read_completion(cached.body), checked),
        }
        raw: dict[str, Any] = {name: cached.log[name] for name in _RAW if name in cached.log}
        log = {**head, **raw, "response": cached.log["response"], "metadata": told}
        place = (self._folder, facts["batch_id"], facts["attempt"])
        written = interactions.write_whole(*place, log, compress=self._settings.segkit_compress_logs)
        push_log(self._run.folder, written)
        return saved

    def _finish(self, intent: interactions.Intent, tail: dict[str, Any]) -> Path:
        log = interactions.finish(intent, tail, compress=self._settings.segkit_compress_logs)
        push_log(self._run.folder, log)
        return log

    def record_found(self, found: FoundAnswer, body: Mapping[str, Any]) -> None:
        """Write a log for a paid answer of a batch that no question asks for now; `body` is that of its request."""
        prompt = prompt_of(body.get("messages", ()))
        request = {name: value for name, value in body.items() if name != "messages"}
        head = {"context": {}, "prompt": prompt, "request": {"endpoint": self._parameters.endpoint, **request}}
        intent = interactions.begin(self._folder, found.batch, found.attempt, {**found.origin, **head}, room=0)
        interactions.keep_raw(intent, 200, found.body)
        facts = self._facts(found.batch, found.attempt, found.key)
        self._finish(intent, self._found(found.body, {**facts, **found.origin}))

    def _found(self, body: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the last part of the log of an answer that was paid for, and that nobody has judged yet."""
        completion = read_completion(body)
        cost = self.cost(completion, in_batch="provider_batch" in facts)
        found = {
            **facts,
            "timestamp": timestamp(),
            "money": "paid",
            "cost_usd": None if cost is None else str(cost),
            **_envelope(completion),
            "outcome": "recovered",
        }
        return {"response": "", "metadata": found}

    def cost(
        self, completion: Completion, response: Response | None = None, *, in_batch: bool = False
    ) -> Decimal | None:
        """Return what an answer cost: by the user's prices, by what a proxy states, or by the price list."""
        p, prices = self._parameters, self._settings.segkit_prices
        stated = _stated(response)
        if stated is not None and not has_own_price(p.model, prices):
            return stated
        return call_cost_usd(completion.usage, p.model, p.endpoint, self._settings, in_batch=in_batch)

    def saved(self, cached: Interaction) -> Decimal | None:
        """Return what an answer from the cache cost when it was paid for; None where that is not known."""
        facts = cached.metadata
        logged = facts.get("saved_usd" if "cached_from" in facts else "cost_usd")
        return self.cost(read_completion(cached.body)) if logged is None else Decimal(logged)

    def _index(self) -> dict[str, list[Interaction]]:
        found: dict[str, list[Interaction]] = {}
        for logged in self._logs():
            facts = logged.metadata
            self._progress.add_logged(facts)
            if "provider_batch" in facts:
                self.origins.add((facts["provider_batch"], facts["custom_id"]))
            if facts["outcome"] not in _UNUSED:
                found.setdefault(facts["cache_key"], []).append(logged)
        return found

    def _logs(self) -> list[Interaction]:
        """Return the logs of the stage; answers that a crash has left in intents become logs."""
        interactions.sweep(self._folder, self._batches)
        logs, damaged = interactions.scan(self._folder, self._batches)
        for path in damaged:
            log_event(self._run.folder, "damaged_log_passed_over", file=path.name)
        intents = interactions.intents(self._folder, self._batches)
        return logs + [adopted for path in intents if (adopted := self._adopt(path))]

    def _adopt(self, path: Path) -> Interaction | None:
        """Make a log of an intent whose answer was on disk when its process died; tell of those without one."""
        if interactions.is_being_written(path):
            return None
        if batch := (interactions.recover(path) or {}).get("provider_batch"):
            path.unlink()  # nothing was sent for it: the answer stands in the files of the batch, and is read again
            log_event(self._run.folder, "answer_of_batch_read_again", file=path.name, batch_id=batch)
            return None
        found = self.recovered(path)
        if found is None:
            log_event(self._run.folder, "outcome_unknown", file=path.name)
            return None
        begun, tail = found
        log = self._finish(interactions.reopened(path, begun), tail)
        log_event(self._run.folder, "answer_recovered", file=path.name, log=log.name)
        return interactions.read(log)

    def recovered(self, path: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Return the two parts of the log that an intent becomes; None where no answer was on disk."""
        begun = interactions.recover(path) or {}
        if "provider_batch" in begun or not 200 <= (begun.get("http_status") or 0) < 300:
            return None
        body = dict(begun["request"])
        field = "input" if "questions" in body else "messages"
        body[field] = messages_of(begun["prompt"], one=body.pop("one_message", False))
        key = cache.cache_key(body.pop("endpoint"), body, self._parameters.repeat)
        facts = self._facts(*interactions.place_of(path), key)
        return begun, self._found(interactions.raw_body(begun), facts)

    def _facts(self, batch: int, attempt: int, key: str) -> dict[str, Any]:
        return {
            "run_id": self._run.id,
            "interaction_type": self._folder.name,
            "batch_id": batch,
            "attempt": attempt,
            "model": self._parameters.model,
            "temperature": self._parameters.temperature,
            "category": self._parameters.category,
            "cache_key": key,
            "segkit_version": self._run.document["segkit_version"],
        }


def _stated(response: Response | None) -> Decimal | None:
    return stated_cost(response.body, response.headers) if response else None


def _judgement(completion: Completion, checked: CheckedAnswer) -> dict[str, Any]:
    """Say what came back and what it was worth."""
    return {
        **_envelope(completion),
        "outcome": completion.trouble or ("valid" if checked.valid else "invalid"),
        "faults": [f"{fault.kind}: {_storable(fault.text)}" for fault in checked.faults],
        "warnings": [_storable(warning) for warning in checked.warnings],
    }


def _envelope(completion: Completion) -> dict[str, Any]:
    return {
        "finish_reason": completion.finish_reason,
        "response_model": completion.model,
        "request_id": completion.request_id,
        "usage": asdict(completion.usage),
    }


def _storable(text: str) -> str:
    """Replace what no file can hold (half a surrogate pair); the raw body beside it stays exact."""
    return text.encode(errors="replace").decode()
