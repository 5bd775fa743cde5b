"""All questions of a stage, as many at once as the limits let through, until they are answered or asking ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from segkit.core.models import FOLDERS, STAGES, Answer, Question
from segkit.core.text import quantity
from segkit.errors import EndpointError, SegkitError, SettingsError, StoppedError, WaitingError
from segkit.llm.batches.records import FOLDER as BATCHES
from segkit.llm.breaker import Breaker
from segkit.llm.completions import RequestShape, shape_for
from segkit.llm.event_loop import StopRequest, allow_open_files, in_own_loop
from segkit.llm.question import QuestionAsker, remembered
from segkit.llm.record import Recorder
from segkit.llm.send import RetryingClient, Throttle
from segkit.llm.transports.choose import open_transport
from segkit.llm.transports.decisions import is_decided, path_of
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.settings import Settings
from segkit.storage.disk import disk_error
from segkit.storage.locks import is_held, owned
from segkit.storage.memory import release_memory
from segkit.storage.redaction import redacted_logs, redactor


def ask_all(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, *, planned: int = 0, done: int = 0
) -> list[Answer]:
    """Ask all questions of a stage and return all answers, those of cut parts after the question they came from.

    What the run's own logs or the cache already answer is not asked again. With `SEGKIT_EXECUTOR`, the workers of a
    cluster ask first, and what they leave open is asked here. Raises RefusedError when asking is
    hopeless, EndpointError when the endpoint keeps failing, StoppedError when the run was told to stop, and
    WaitingError while the batches of the stage are at work (`SEGKIT_BATCH`); whatever was answered by then is kept. A
    stage that asks in rounds states how many questions it has `planned` in all of them, and how many are `done`.
    """
    release_memory()  # what made the questions is done, and asking may take hours
    stop, settings = StopRequest(), run.capped(settings)
    begin = partial(Progress, run.folder, FOLDERS[stage], planned or len(questions), done)
    try:
        with (
            owned(run.folder / "calls.lock"),
            redacted_logs(redactor([settings.openai_api_key])),
            _stating_its_end(run),
        ):
            if is_sent_in_batches(run, stage, questions, settings):
                in_own_loop(lambda: _send_batches(run, stage, questions, settings, stop, planned, done), stop)
            if settings.segkit_executor and len(questions) > 1 and settings.segkit_max_calls != 0:
                from segkit.llm.cluster.stage import ask_on_cluster  # imports Dask, which is an extra

                ask_on_cluster(run, stage, questions, settings, begin(), stop)
            progress = begin()
            return in_own_loop(lambda: _ask_all(run, stage, questions, settings, progress, stop), stop)
    except OSError as error:
        raise disk_error(run.folder, error) from None


def is_sent_in_batches(run: Run, stage: str, questions: Sequence[Question], settings: Settings) -> bool:
    """Report whether questions are sent as batches of the provider, or have been.

    Raises SettingsError where decisions are to be sent in batches.
    """
    if not questions or stage not in STAGES or settings.segkit_max_calls == 0:
        return False
    if is_decided(stage, run.parameters):
        if settings.segkit_batch:
            what = "batches take no requests for decisions (SEGKIT_BATCH)"
            raise SettingsError(what, f"segkit resume {run.id} --no-batch")
        return False
    return bool(settings.segkit_batch) or (run.folder / BATCHES).is_dir()


async def _send_batches(
    run: Run,
    stage: str,
    questions: Sequence[Question],
    settings: Settings,
    stop: StopRequest,
    planned: int,
    done: int,
) -> None:
    from segkit.llm.batches.stage import StageBatches  # imports the OpenAI SDK, which takes a second

    batches = StageBatches(run, stage, questions, settings, stop, planned, done)
    try:
        await batches.answer()
    finally:
        await batches.close()


@contextmanager
def _stating_its_end(run: Run) -> Iterator[None]:
    """Let `status.json` say why a stage ended, where its notebook is executed by itself and nobody else does."""
    if is_held(run.folder / "run.lock"):  # `segkit run` looks after it
        yield
        return
    status = run.status
    if status.state == "failed" and not status.summary:
        update_status(run.folder, state="running", reason="", error="")
    try:
        yield
    except WaitingError:
        raise
    except SegkitError as error:
        with suppress(SegkitError):  # a disk that fails
            update_status(run.folder, state="failed", reason=str(error), error=type(error).__name__)
        raise


async def _ask_all(
    run: Run, stage: str, questions: Sequence[Question], settings: Settings, progress: Progress, stop: StopRequest
) -> list[Answer]:
    allow_open_files()
    asker = StageAsker(run, stage, settings, progress, stop)
    watcher = asyncio.create_task(asker.watch())
    try:
        return await asker.answer_all(questions)
    finally:
        watcher.cancel()
        await asker.close()


class StageAsker:
    """The pool of one stage: workers that take question after question, a watcher, and the first error of all."""

    def __init__(
        self,
        run: Run,
        stage: str,
        settings: Settings,
        progress: Progress,
        stop: StopRequest,
        recorder: Recorder | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._run, self._settings, self._progress, self._stop = run, settings, progress, stop
        p = run.parameters
        recorder = recorder or Recorder(run, stage, settings, progress)
        self._transport = open_transport(p.model, p.endpoint, settings, path_of(stage, p))
        self._client = RetryingClient(run, stage, self._transport, settings, progress, stop, throttle)
        planned, most_extra = progress.counts.planned, settings.segkit_max_extra_calls
        self._breaker = Breaker(run.id, settings.segkit_concurrency, planned, most_extra)
        shape = remembered(run, shape_of(run, settings))
        self._recorder = recorder
        self._asker = QuestionAsker(run, settings, progress, self._client, recorder, self._breaker, shape)
        self._fatal: Exception | None = None

    async def answer_all(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answers to all questions, in their order; raise the first error once all workers have ended."""
        if self._settings.database_url:
            keys = self._asker.keys(questions)
            await asyncio.to_thread(self._recorder.fill_cache, keys)
        answers: dict[int, list[Answer]] = {}
        waiting = iter(enumerate(questions))
        workers = min(self._settings.segkit_concurrency, len(questions))
        await asyncio.gather(*(self._work(waiting, answers) for _ in range(workers)))
        if self._fatal:
            raise self._fatal
        self._raise_if_unusable(questions)
        return [answer for number in sorted(answers) for answer in answers[number]]

    async def watch(self) -> None:
        """Write the progress, and see whether somebody wants the run to stop."""
        while True:
            try:
                self._progress.write()
            except SegkitError as error:  # the disk fails
                self.end(error)
            if (self._run.folder / "stop").exists():
                self._stop.set()
            await self._client.close_if_stopped()
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        """Close the connections and the logs, and write the last figures."""
        await self._transport.close()
        self._asker.close()
        try:
            self._progress.write(ended=True)
        except (SegkitError, OSError):
            if not self._fatal:  # the first trouble says more
                raise

    async def _work(self, waiting: Iterator[tuple[int, Question]], answers: dict[int, list[Answer]]) -> None:
        for number, question in waiting:
            if self._fatal:
                return
            try:
                self._client.raise_if_stopped()
                answers[number] = await self._asker.answer(question)
            except OSError as error:
                self.end(disk_error(self._run.folder, error))
            except Exception as error:
                self.end(error)
            else:
                self._progress.counts.done += 1

    def end(self, error: Exception) -> None:
        """Ask nothing more; the other workers keep the answers that are in flight before the error is raised."""
        self._fatal = self._fatal or error
        self._client.halt(error if isinstance(error, SegkitError) else StoppedError("another question failed"))

    def _raise_if_unusable(self, questions: Sequence[Question]) -> None:
        """End the run here where later stages would be paid without the answers that they need."""
        if not questions:
            return
        unreached, down = self._asker.unreached, [error for error in self._asker.unreached if error.down]
        nothing = not self._breaker.proven and any(question.itemwise for question in questions)
        if len(unreached) == len(questions) or (nothing and self._progress.counts.failed):
            raise self._breaker.unusable(self._breaker.last_reason)
        if down:
            count = f"{len(down)} of {quantity(len(questions), 'question')}"
            raise EndpointError(
                f"{count} had no answer from the endpoint; the last: {down[-1]}",
                f"all other answers are kept; when it is mended: segkit resume {self._run.id}",
            )


def shape_of(run: Run, settings: Settings) -> RequestShape:
    """Return how the requests of a run are worded, before an endpoint has refused anything."""
    p = run.parameters
    return shape_for(p.model, p.endpoint, settings.segkit_output_limit_name, settings.segkit_stream)
