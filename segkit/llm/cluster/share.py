"""What a worker does: it asks its share of the questions of a stage, and is granted each call by the run's machine.

A share reads the logs of its questions first and asks what they do not answer, as a resume does. It hears from the
machine of the run every few seconds; when it hears nothing any more, it sends nothing any more.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import cloudpickle
import orjson
from distributed import Client, Worker, get_client, get_worker

from segkit.core.models import FOLDERS, Question, Usage
from segkit.errors import RunError, SegkitError, StoppedError
from segkit.llm.ask import StageAsker
from segkit.llm.cluster.machine import Terms, check_machine, worker_settings
from segkit.llm.event_loop import StopRequest, allow_open_files
from segkit.llm.limits import ExhaustedError, Reservation, Width
from segkit.llm.record import Recorder
from segkit.llm.send import ModelRequest, Pass, Throttle
from segkit.runs.interactions import ENDINGS
from segkit.runs.mirror import LOCATION, remote
from segkit.runs.progress import Progress
from segkit.runs.run import Run
from segkit.runs.status import StageFigures
from segkit.settings import Settings
from segkit.storage.redaction import redacted_logs, redactor, safe_text

#: Seconds without a word from the machine of the run after which a share sends nothing any more.
SILENCE = 20.0
_BETWEEN_MESSAGES, _BETWEEN_FIGURES, _BETWEEN_BEGINNINGS = 0.01, 0.5, 0.5


@dataclass(frozen=True, slots=True)
class ShareOrder:
    """A share of the questions of a stage, and where they are asked.

    `questions` are pickled, `folder` is that of the run on its machine and `owner` the content of its lock, by which
    a worker knows that it sees the same folder; `location` is the `location.json` of a run in S3. `logs` holds the
    logs about these questions by name, for a worker that does not see the folder. No secret is in it.
    """

    number: int
    stage: str
    questions: bytes
    folder: str
    owner: str
    location: bytes
    document: dict[str, Any]
    logs: dict[str, bytes]
    batches: tuple[int, ...]
    most_extra: int
    caps_cost: bool
    terms: Terms


@dataclass(frozen=True, slots=True)
class ShareResult:
    """How a share ended: the error that ended it, if one did, and the events of a folder that nobody else sees."""

    error: SegkitError | None = None
    events: bytes = b""


def ask_share(order: ShareOrder) -> ShareResult:
    """Ask a share on this worker; what goes wrong is returned, since Dask would log the arguments of what raises."""
    worker = get_worker()
    name, secrets = str(worker.name), []
    try:
        settings = worker_settings(order.terms)
        secrets = settings.secrets
        check_machine(order.terms, settings, name)
        with redacted_logs(redactor([settings.openai_api_key])), _folder_of(order, name) as folder:
            line = Line(worker, get_client(), order)
            try:
                error = asyncio.run(_ask(order, Run(folder, order.document), _part_of(settings, order), line))
            finally:
                line.close()
            return ShareResult(error, _events(order, folder))
    except SegkitError as error:
        return ShareResult(error)
    except Exception as error:
        what = f"worker {name}: {type(error).__name__}: {safe_text(error, secrets)}"
        return ShareResult(StoppedError(what, f"segkit resume {order.document['run_id']}"))


def _part_of(settings: Settings, order: ShareOrder) -> Settings:
    """Return the settings with the extra questions that this share may ask."""
    return settings.model_copy(update={"segkit_max_extra_calls": order.most_extra})


@contextmanager
def _folder_of(order: ShareOrder, worker: str) -> Iterator[Path]:
    """Yield the folder of the run where this worker sees it, else one of its own for a run in S3."""
    shared = Path(order.folder)
    if _text(shared / "calls.lock") == order.owner:
        yield shared
        return
    if not order.location:
        what = f"worker {worker} does not see {shared}"
        raise RunError(what, "use a folder that all machines share (--runs-dir), or STORAGE_BACKEND=s3")
    own = Path(tempfile.mkdtemp(prefix="segkit-share-")) / shared.name
    try:
        folder = own / Run(own, order.document).stage_folder(order.stage).name
        folder.mkdir(parents=True)
        (own / LOCATION).write_bytes(order.location)
        (own / "run.json").write_bytes(orjson.dumps(order.document))
        for name, data in order.logs.items():
            (folder / name).write_bytes(data)
        yield own
    finally:
        shutil.rmtree(own.parent, ignore_errors=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _events(order: ShareOrder, folder: Path) -> bytes:
    path = folder / "events.jsonl"
    return path.read_bytes() if folder != Path(order.folder) and path.exists() else b""


async def _ask(order: ShareOrder, run: Run, settings: Settings, line: Line) -> SegkitError | None:
    """Ask the questions of a share, and return the error that ended it."""
    allow_open_files()
    questions: list[Question] = cloudpickle.loads(order.questions)
    stop = StopRequest()
    is_first = await line.open(stop)
    if not is_first and run.folder != Path(order.folder):
        await asyncio.to_thread(_fetch_logs, run, order)
    progress = ShareProgress(run.folder, order.stage, len(questions), line)
    recorder = Recorder(run, order.stage, settings, progress, set(order.batches))
    progress.begin()
    throttle = GrantedThrottle(settings, progress, line, caps_cost=order.caps_cost)
    asker = ShareAsker(run, order.stage, settings, progress, stop, recorder, throttle)
    watcher = asyncio.create_task(asker.watch())
    listener = asyncio.create_task(line.watch(asker))
    try:
        await asker.answer_all(questions)
    except SegkitError as error:
        return error
    finally:
        listener.cancel()
        watcher.cancel()
        await asker.close()
        line.report("end")
        line.flush()
    return None


def _fetch_logs(run: Run, order: ShareOrder) -> None:
    """Bring the logs of an earlier execution of this share from S3."""
    storage, folder = remote(run.folder), run.stage_folder(order.stage)
    wanted = {f"b{batch}" for batch in order.batches}
    for name in storage.names(f"{run.id}/{folder.name}"):
        file = name.rpartition("/")[2]
        if file.endswith(ENDINGS) and wanted.intersection(file.split("_")[1:2]) and not (folder / file).exists():
            (folder / file).write_bytes(storage.read(name))


class ShareAsker(StageAsker):
    """The pool of one share; whether the endpoint is unusable is decided where all questions are seen."""

    def _raise_if_unusable(self, questions: Any) -> None:
        pass


class ShareProgress(Progress):
    """Reports what a share does to the machine of the run, which writes `status.json`."""

    def __init__(self, folder: Path, stage: str, planned: int, line: Line) -> None:
        super().__init__(folder, FOLDERS[stage], planned)
        self._line, self._reported_at = line, 0.0
        self._at_first = StageFigures()

    def begin(self) -> None:
        """Count from here: what was logged before is counted by the machine of the run."""
        self._at_first = StageFigures(**{each.name: getattr(self.counts, each.name) for each in fields(StageFigures)})

    def write(self, *, ended: bool = False) -> None:
        now = time.monotonic()
        if ended or now - self._reported_at >= _BETWEEN_FIGURES:
            self._reported_at = now
            self._line.figures = self._since_first()
            self._line.send_soon()

    def _since_first(self) -> dict[str, Any]:
        found: dict[str, Any] = {"problems": self.counts.problems}
        for each in fields(StageFigures):
            if each.name not in ("problems", "seconds"):
                value = getattr(self.counts, each.name) - getattr(self._at_first, each.name)
                found[each.name] = str(value) if isinstance(value, Decimal) else value
        return found


@dataclass(frozen=True, slots=True)
class GrantedPass(Pass):
    """The leave to send one request, by the number under which it was granted."""

    number: int


class GrantedThrottle(Throttle):
    """Asks the machine of the run before a request is sent, and reports what came of it."""

    def __init__(self, settings: Settings, progress: Progress, line: Line, *, caps_cost: bool) -> None:
        super().__init__(settings, progress)
        self._line, self._caps_cost = line, caps_cost
        self.origin = {"asked_by": line.execution}
        self.width = Width(1)  # a share sees too little of the endpoint to measure it

    @property
    def caps_cost(self) -> bool:
        return self._caps_cost

    async def wait(self, urgent: bool) -> None:
        if not urgent:
            await self._others.wait()

    async def enter(self, request: ModelRequest, largest: Decimal) -> Pass | None:
        number = await self._line.ask(
            size=len(request.data),
            output_tokens=request.output_tokens,
            largest=str(largest),
            urgent=request.urgent,
            label=request.label,
            batch=request.batch,
            attempt=request.attempt,
        )
        return None if number is None else GrantedPass([], Reservation(largest), number)

    async def leave(self, pass_: Pass) -> None:
        self._line.report("leave", _number(pass_))

    async def settle(self, pass_: Pass, usage: Usage, cost: Decimal | None) -> None:
        stated = {each.name: getattr(usage, each.name) for each in fields(Usage)}
        self._line.report("settle", _number(pass_), stated, None if cost is None else str(cost))

    async def give_back(self, pass_: Pass) -> None:
        self._line.report("give_back", _number(pass_))

    async def write_off(self, pass_: Pass) -> None:
        self._line.report("write_off", _number(pass_))

    def hold(self, seconds: float, *, refused: bool) -> None:
        self._line.report("hold", seconds, refused)

    def slower(self) -> None:
        self._line.report("slower")

    async def close(self) -> None:
        await super().close()
        self._line.refuse_all()


def _number(pass_: Pass) -> int:
    assert isinstance(pass_, GrantedPass)
    return pass_.number


class Line:
    """The messages between one execution of a share and the machine of the run, through the scheduler.

    Several go at once where they come within a hundredth of a second.
    """

    def __init__(self, worker: Worker, client: Client, order: ShareOrder) -> None:
        self._worker, self._order = worker, order
        self.execution = f"{worker.name}/{order.terms.session}/{order.number}/{time.time_ns():x}"
        self.figures: dict[str, Any] = {}
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._items: list[list[Any]] = []
        self._is_due = self._is_closed = False
        self._heard_at = time.monotonic()
        self._topic = replies_to(order.terms.topic, str(worker.address))
        _LINES[self.execution] = self
        client.subscribe_topic(self._topic, _deliver)

    async def open(self, stop: StopRequest) -> bool:
        """Report that the share has begun, and return whether it is for the first time; raise where nobody answers.

        It is reported again and again: the scheduler may not yet know where the answer goes.
        """
        self._loop, self._stop = asyncio.get_running_loop(), stop
        self._welcome: asyncio.Future[bool] = self._loop.create_future()
        for _ in range(round(SILENCE / _BETWEEN_BEGINNINGS)):
            self.report("begin")
            await asyncio.wait([self._welcome], timeout=_BETWEEN_BEGINNINGS)
            if self._welcome.done():
                return self._welcome.result()
        raise self._silent()

    def close(self) -> None:
        """Take in no more messages."""
        _LINES.pop(self.execution, None)

    async def ask(self, **request: Any) -> int | None:
        """Return the number of a call that was granted, None when nothing is granted any more."""
        if self._is_closed:
            return None
        number = next(self._numbers)
        answer = self._waiting[number] = self._loop.create_future()
        self.report("enter", number, request)
        return number if await answer else None

    def report(self, *item: Any) -> None:
        """Send an item with the next message."""
        self._items.append(list(item))
        self.send_soon()

    def send_soon(self) -> None:
        """Send a message a little later, with all that comes until then."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(_BETWEEN_MESSAGES, self.flush)

    def flush(self) -> None:
        """Send what has come together."""
        self._is_due = False
        if self._items or self.figures:
            message = {
                "session": self._order.terms.session,
                "execution": self.execution,
                "share": self._order.number,
                "worker": str(self._worker.address),
                "items": self._items,
                "figures": self.figures,
            }
            self._items, self.figures = [], {}
            self._worker.log_event(self._order.terms.topic, message)

    def refuse_all(self) -> None:
        """Send those away who wait for a call to be granted."""
        self._is_closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_result(False)

    async def watch(self, asker: StageAsker) -> None:
        """End the share when the machine of the run is not heard any more: nobody would grant it anything."""
        while (left := self._heard_at + SILENCE - time.monotonic()) > 0:  # noqa: ASYNC110 (time passes, no event)
            await asyncio.sleep(left)
        asker.end(self._silent())
        self.refuse_all()

    def _silent(self) -> StoppedError:
        run_id = self._order.document["run_id"]
        return StoppedError(f"the machine that works on {run_id} is not heard any more", f"segkit resume {run_id}")

    def deliver(self, message: Mapping[str, Any]) -> None:
        """Take in a message, in a thread of the worker."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._receive, message)

    def _receive(self, message: Mapping[str, Any]) -> None:
        self._heard_at = time.monotonic()
        for kind, value in message["items"]:
            if kind == "welcome" and not self._welcome.done():
                self._welcome.set_result(bool(value))
            elif kind == "granted":
                self._answer(value, True)
            elif kind == "closed":
                self._answer(value, False)
            elif kind == "refused":
                number, why, option = value
                self._fail(number, ExhaustedError(why, option))
            elif kind == "stop":
                self._stop.ask(value)

    def _answer(self, number: int, granted: bool) -> None:
        answer = self._waiting.pop(number, None)
        if answer and not answer.done():
            answer.set_result(granted)
        elif granted:  # nobody waits for it any more
            self.report("leave", number)
            self.report("give_back", number)

    def _fail(self, number: int, error: ExhaustedError) -> None:
        answer = self._waiting.pop(number, None)
        if answer and not answer.done():
            answer.set_exception(error)


_LINES: dict[str, Line] = {}


def replies_to(topic: str, worker: str) -> str:
    """Name the topic of the messages to a worker."""
    return f"{topic}/{worker}"


def _deliver(event: tuple[float, Mapping[str, Any]]) -> None:
    """Take a message of the machine of the run to the line of its execution."""
    _, message = event
    for execution, items in message["to"].items():
        if line := _LINES.get(execution):
            line.deliver({"items": items})
