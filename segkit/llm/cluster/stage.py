"""The questions of a stage split over the workers of a cluster; their answers come back in the logs.

Dask places the shares, and gives the share of a worker that is gone to another one. Each call is granted here (see
`grants`), so that the limits and caps of the run hold for all workers together.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import cloudpickle
from distributed import Client, KilledWorker

from segkit.core.models import STAGES, Question
from segkit.core.text import quantity
from segkit.errors import EndpointError, SegkitError, SettingsError, StoppedError
from segkit.llm.ask import shape_of
from segkit.llm.breaker import LEAST_EXTRA
from segkit.llm.cache import cache_key
from segkit.llm.cluster.grants import Execution, Grants
from segkit.llm.cluster.losses import lost_calls, record_lost
from segkit.llm.cluster.machine import Terms, check_worker, terms_of
from segkit.llm.cluster.scheduler import cluster_of, connected, unreachable
from segkit.llm.cluster.share import SILENCE, ShareOrder, ShareResult, ask_share, replies_to
from segkit.llm.event_loop import StopRequest, in_own_loop
from segkit.llm.question import body_of, remembered
from segkit.llm.record import Recorder
from segkit.llm.send import Throttle, asked_of
from segkit.runs.events import append_events, log_event
from segkit.runs.mirror import LOCATION, fetch_all, location
from segkit.runs.progress import Progress
from segkit.runs.run import Run, is_stopping
from segkit.runs.status import update_status
from segkit.settings import Settings
from segkit.storage.redaction import safe_text

#: A share has so many questions at most, so that the work of a worker that is gone is soon with another one.
MOST_QUESTIONS = 400
#: A worker gets so many shares of a stage, if there are enough questions, so that all end at about the same time.
SHARES_A_WORKER = 4
_BETWEEN_REPLIES, _BETWEEN_LOOKS = 0.005, 1.0
# Seconds until the last messages of a share have come whose result is there.
_LAST_MESSAGES = 5.0


def ask_on_cluster(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, progress: Progress, stop: StopRequest
) -> None:
    """Let workers answer the questions of a stage; what they leave open is to be asked here.

    Raises RefusedError, BudgetError and StoppedError as asking here does, and SettingsError where a worker does not
    fit to this machine.
    """
    recorder = Recorder(run, stage, settings, progress)
    questions = [question for question in questions if not recorder.has_valid(question)]
    if len(questions) < 2:
        return
    if settings.database_url:
        recorder.fill_cache(_keys(run, questions, settings))
    batches = {question.batch for question in questions}
    is_far = bool(location(run.folder))
    logs = {path.name: path.read_bytes() for path in recorder.files_of(batches)} if is_far else {}
    del recorder  # it holds every log of the stage
    with cluster_of(settings) as started:
        on_cluster = StageOnCluster(run, stage, questions, logs, started, progress, stop)
        in_own_loop(on_cluster.answer, stop)


def _keys(run: Run, questions: Sequence[Question], settings: Settings) -> list[str]:
    """Return the cache keys of the first requests of some questions."""
    p, shape = run.parameters, remembered(run, shape_of(run, settings))
    return [cache_key(p.endpoint, body_of(each, each.prompt, shape, p), p.repeat) for each in questions]


def _rpc(client: Client) -> Any:
    """Return what calls the scheduler; it is None after the connection was lost."""
    return client.scheduler


class StageOnCluster:
    """The questions of one stage on their way through the workers, and the first error of all."""

    def __init__(
        self,
        run: Run,
        stage: str,
        questions: Sequence[Question],
        logs: dict[str, bytes],
        settings: Settings,
        progress: Progress,
        stop: StopRequest,
    ) -> None:
        self._run, self._stage, self._settings = run, stage, settings
        self._progress, self._stop = progress, stop
        self._questions, self._logs = questions, logs
        self._session = secrets.token_hex(8)
        self._topic = f"segkit/{run.id}"
        self._error: SegkitError | None = None
        self._is_over = False
        self._replies: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
        self._has_replies = asyncio.Event()
        self._last_workers = 0.0

    async def answer(self) -> None:
        """Have all questions asked; raise the first error once all shares have ended."""
        async with connected(self._settings, self._run.id) as client:
            p = self._run.parameters
            terms = terms_of(self._session, self._topic, p.model, p.endpoint, self._settings)
            workers = await self._workers_that_fit(client, terms)
            throttle = Throttle(self._settings, self._progress, lost_calls(self._run), asked_of(self._run))
            self._grants = Grants(throttle, self._progress, self._reply)
            client.subscribe_topic(self._topic, self._receive)
            orders = self._orders(terms, workers, throttle.caps_cost)
            facts = {"executor": self._settings.segkit_executor, "workers": workers, "shares": len(orders)}
            log_event(self._run.folder, "cluster_joined", stage=STAGES[self._stage], **facts)
            helpers = [asyncio.create_task(work) for work in (self._send_replies(client), self._watch(client))]
            try:
                await self._ask_all(client, orders, most=2 * workers)
            finally:
                await self._grants.close()
                self._is_over = True
                for helper in helpers:
                    helper.cancel()
                self._note_end()
        if self._error:
            raise self._error

    async def _workers_that_fit(self, client: Client, terms: Terms) -> int:
        """Wait for the first worker, and raise SettingsError where one does not fit to this machine."""
        patience = self._settings.segkit_max_wait_seconds
        waited = 0.0
        while not await self._look(client):
            self._raise_if_stopped()
            if waited >= patience:
                raise self._no_workers()
            await asyncio.sleep(0.2)
            waited += 0.2
        try:
            found = await client.run(check_worker, terms)
        except SegkitError:
            raise
        except Exception as error:
            why = safe_text(error, self._settings.secrets)
            what = f"a worker cannot run segkit: {type(error).__name__}: {why}"
            raise SettingsError(what, f"install segkit {terms.versions['segkit']} on the workers") from None
        if problems := sorted(filter(None, found.values())):
            raise SettingsError(problems[0], f"then: segkit resume {self._run.id}")
        return len(found)

    def _orders(self, terms: Terms, workers: int, caps_cost: bool) -> list[ShareOrder]:
        """Cut the questions into shares that follow each other."""
        run, questions = self._run, self._questions
        size = max(1, min(MOST_QUESTIONS, -(-len(questions) // (SHARES_A_WORKER * workers))))
        extra = self._settings.segkit_max_extra_calls
        most_extra = max(2 * len(questions), LEAST_EXTRA) if extra is None else extra
        place = run.folder / LOCATION
        orders: list[ShareOrder] = []
        for start in range(0, len(questions), size):
            part = questions[start : start + size]
            batches = {question.batch for question in part}
            orders.append(
                ShareOrder(
                    number=len(orders) + 1,
                    stage=self._stage,
                    questions=cloudpickle.dumps(list(part)),
                    folder=str(run.folder.resolve()),
                    owner=(run.folder / "calls.lock").read_text(encoding="utf-8"),
                    location=place.read_bytes() if place.exists() else b"",
                    document=run.document,
                    logs={n: data for n, data in self._logs.items() if int(n.split("_")[1][1:]) in batches},
                    batches=tuple(sorted(batches)),
                    most_extra=most_extra * len(part) // len(questions),
                    caps_cost=caps_cost,
                    terms=terms,
                )
            )
        return orders

    # ── shares ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ask_all(self, client: Client, orders: Sequence[ShareOrder], most: int) -> None:
        """Have all shares asked, a few more at once than there are workers, so that the scheduler stays small."""
        gate = asyncio.Semaphore(most)

        async def one(order: ShareOrder) -> None:
            async with gate:
                if not self._error:
                    await self._ask(client, order)

        await asyncio.gather(*map(one, orders))

    async def _ask(self, client: Client, order: ShareOrder) -> None:
        key = f"segkit-{self._run.id}-{self._session}-{order.number}"
        future = client.submit(ask_share, order, key=key, pure=False)
        try:
            result = await self._result(future)
        except KilledWorker:
            what = "workers ended again and again while they asked the same questions"
            self._end(StoppedError(what, f"all answers are kept; segkit resume {self._run.id}"))
        except (asyncio.CancelledError, concurrent.futures.CancelledError, OSError):
            self._end(unreachable(self._settings.segkit_executor, self._run.id))
        except Exception as error:
            what = f"a worker failed: {type(error).__name__}: {safe_text(error, self._settings.secrets)}"
            self._end(StoppedError(what, f"segkit resume {self._run.id}"))
        else:
            await self._take(order, result)

    async def _result(self, future: Any) -> ShareResult:
        """Wait for a share; one that nobody can end any more is not waited for."""
        waiting = asyncio.ensure_future(future.result())
        while not waiting.done() and not self._is_over:
            await asyncio.wait([waiting], timeout=0.5)
        if not waiting.done():
            waiting.cancel()
            raise OSError("the cluster is gone")
        result: ShareResult = waiting.result()
        return result

    async def _take(self, order: ShareOrder, result: ShareResult) -> None:
        """Take in how a share ended."""
        execution = self._grants.of_share(order.number)
        if execution:
            with suppress(TimeoutError):
                await asyncio.wait_for(execution.ended.wait(), _LAST_MESSAGES)
            self._grants.lose(execution)  # nothing, where its last message has come
        if result.events:
            append_events(self._run.folder, result.events)
        # Where the endpoint fails, the questions are asked here: who sees all of them decides whether to give up.
        if isinstance(result.error, EndpointError):
            log_event(self._run.folder, "share_left_open", share=order.number, why=str(result.error))
        elif result.error:
            self._end(result.error)

    def _end(self, error: SegkitError) -> None:
        """Have nothing more asked; the answers in flight are waited for."""
        if not self._error:
            self._error = error
            for execution in self._grants.under_way:
                self._reply(execution, "stop", "")

    async def _watch(self, client: Client) -> None:
        """Look after what is at work: the wish to stop, workers that are gone, the scheduler, the progress."""
        loop = asyncio.get_running_loop()
        looked_at = seen_at = loop.time()
        while True:
            await asyncio.sleep(0.2)
            try:
                self._progress.write()
                self._raise_if_stopped()
            except SegkitError as error:
                self._end(error)
            if loop.time() - looked_at < _BETWEEN_LOOKS:
                continue
            looked_at = loop.time()
            self._note_workers()
            workers = await self._look(client)
            if workers:
                seen_at = loop.time()
                self._grants.lose_gone(workers)
            elif loop.time() - seen_at > self._patience(workers):
                self._end(self._no_workers() if workers is not None else self._unreachable())
                self._is_over = True
            for execution in self._grants.under_way:
                self._reply(execution, "beat", 0)

    def _patience(self, workers: list[str] | None) -> float:
        """Return how long there may be no worker, or no scheduler: then every worker has stopped by itself."""
        return SILENCE / 2 if workers is None else self._settings.segkit_max_wait_seconds

    async def _look(self, client: Client) -> list[str] | None:
        """Return the addresses of the workers; None while the scheduler does not answer."""
        try:
            info = await asyncio.wait_for(_rpc(client).identity(n_workers=-1), 5)
        except (OSError, TimeoutError, AttributeError):
            return None
        return list(info["workers"])

    def _raise_if_stopped(self) -> None:
        if self._stop.is_set() or is_stopping(self._run):
            by = f"by {self._stop.by}" if self._stop.by else "on request"
            raise StoppedError(f"stopped {by}; all answers are kept", f"segkit resume {self._run.id}")

    def _no_workers(self) -> StoppedError:
        what = f"the scheduler {self._settings.segkit_executor} has no workers"
        return StoppedError(what, f"all answers are kept; without a cluster: segkit resume {self._run.id}")

    def _unreachable(self) -> StoppedError:
        return unreachable(self._settings.segkit_executor, self._run.id)

    def _note_workers(self) -> None:
        """Write down who has asked, in all stages of the run."""
        before = self._run.status.document.get("workers") or []
        workers = sorted({*before, *self._grants.workers})
        if workers != before:
            update_status(self._run.folder, workers=workers)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _receive(self, event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        if message["session"] == self._session and not self._is_over:
            self._grants.receive(message)
            if self._error:
                for execution in self._grants.under_way:
                    self._reply(execution, "stop", "")

    def _reply(self, execution: Execution, kind: str, value: Any) -> None:
        self._replies[execution.worker][execution.name].append([kind, value])
        self._has_replies.set()

    async def _send_replies(self, client: Client) -> None:
        """Send replies to the workers, all that have come within a few milliseconds in one message a worker."""
        while True:
            await self._has_replies.wait()
            await asyncio.sleep(_BETWEEN_REPLIES)
            self._has_replies.clear()
            replies, self._replies = self._replies, defaultdict(lambda: defaultdict(list))
            for worker, to in replies.items():
                with suppress(OSError, AttributeError):  # the scheduler is gone: the watcher ends the stage
                    await client.log_event(
                        replies_to(self._topic, worker), {"to": {n: list(i) for n, i in to.items()}}
                    )

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _note_end(self) -> None:
        """Write down who has asked, and which granted calls nobody has reported."""
        lost = self._grants.lost
        if lost:
            record_lost(self._run, self._stage, lost)
        self._progress.write(ended=True)
        self._note_workers()
        workers = quantity(len(self._grants.workers), "worker")
        log_event(self._run.folder, "cluster_left", stage=STAGES[self._stage], asked_by=workers, lost=len(lost))
        if location(self._run.folder):
            fetch_all(self._run.folder, self._run.stage_folder(self._stage).name)
