"""The provider's side of batches: files and batches through the OpenAI SDK, with errors as segkit words them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
import openai
from openai.types import Batch, FileObject

from segkit.errors import EndpointError, RefusedError
from segkit.llm.batches.requests import CHAT
from segkit.llm.responses import NextStep, classify_response
from segkit.llm.send import LONGEST_BACKOFF
from segkit.llm.transports.base import NotSentError, Response
from segkit.llm.transports.choose import require_key
from segkit.llm.transports.openai_sdk import mapped_error, open_client
from segkit.runs.run import Run
from segkit.settings import Settings
from segkit.storage.redaction import redactor, safe_text

_ABSENT = (404, 405, 501)
_A_DAY, _PAGE = 86_400.0, 100
T = TypeVar("T")


class UnsureError(Exception):
    """A request to create a batch has no answer: it may have been created."""


class _NotYetError(Exception):
    """A call failed in a way that another try may mend; `absent` says that what was asked for is not there."""

    def __init__(self, step: NextStep, *, absent: bool = False) -> None:
        super().__init__(step.why)
        self.step = step
        self.absent = absent


class BatchProvider:
    """Uploads, creates, finds, polls, cancels and downloads; what a second try can mend is tried again.

    `pause` waits for some seconds, and raises an error when the user wants to stop. Each call raises RefusedError for
    what only the user can mend, and EndpointError where it fails for longer than SEGKIT_MAX_WAIT_SECONDS.
    """

    def __init__(self, run: Run, settings: Settings, pause: Callable[[float], Awaitable[None]]) -> None:
        endpoint = run.parameters.endpoint
        self._run, self._settings, self._pause = run, settings, pause
        self.host = urlsplit(endpoint).hostname or endpoint
        self._client = open_client(
            endpoint, settings, require_key(endpoint, settings), seconds=settings.segkit_timeout_seconds
        )

    async def upload(self, path: Path, name: str) -> str:
        """Upload a file of requests and return its id; an upload that is cut is repeated, since it costs nothing."""

        async def once() -> FileObject:
            file = await asyncio.to_thread(path.open, "rb")  # read as it is sent: it may have 200 MB
            with file:
                return await self._client.files.create(file=(name, file), purpose="batch")

        uploaded = await self._until_done("POST /files", once, FileObject)
        return uploaded.id

    async def create(self, file_id: str, metadata: Mapping[str, str]) -> Batch:
        """Create a batch; raise UnsureError where it is not known whether it was created."""

        async def once() -> Batch:
            return await self._client.batches.create(
                input_file_id=file_id,
                endpoint=CHAT,
                completion_window="24h",
                metadata=dict(metadata),
            )

        return await self._until_done("POST /batches", once, Batch, unsure=True)

    async def batches_of_run(self) -> list[Batch]:
        """Return the batches that carry the id of the run in their metadata, whoever created them."""
        since = datetime.fromisoformat(self._run.document["created_at"]).timestamp() - _A_DAY

        async def once() -> list[Batch]:
            found: list[Batch] = []
            older = 0
            async for batch in self._client.batches.list(limit=_PAGE):  # the newest first, as far as is known
                older = older + 1 if (batch.created_at or since) < since else 0
                if older > _PAGE:
                    break
                if (batch.metadata or {}).get("run_id") == self._run.id:
                    found.append(batch)
            return found

        return await self._until_done("GET /batches", once, list)

    async def retrieve(self, batch_id: str) -> Batch:
        """Return a batch as it is now."""
        return await self._until_done(
            f"GET /batches/{batch_id}", lambda: self._client.batches.retrieve(batch_id), Batch
        )

    async def cancel(self, batch_id: str) -> Batch:
        """Ask the provider to stop a batch; what is answered by then is paid."""
        return await self._until_done(
            f"POST /batches/{batch_id}/cancel", lambda: self._client.batches.cancel(batch_id), Batch
        )

    async def download(self, file_id: str, path: Path) -> None:
        """Write the content of a file to `path`, whole or not at all; a file that is not there yet is waited for."""
        temporary = path.with_name(f".{path.name}.tmp")

        async def once() -> bool:
            try:
                async with self._client.files.with_streaming_response.content(file_id) as response:
                    await response.stream_to_file(temporary)
            except openai.NotFoundError as error:
                raise _NotYetError(self._step(error), absent=True) from None
            return True

        try:
            await self._until_done(f"GET /files/{file_id}/content", once, bool)
            await asyncio.to_thread(self._remove_secrets, temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _remove_secrets(self, path: Path) -> None:
        """Take out the key where a provider repeats it in an error."""
        data = path.read_bytes()
        clean = redactor(self._settings.secrets)(data)
        if clean != data:
            path.write_bytes(clean)

    async def close(self) -> None:
        await self._client.close()

    async def _until_done(
        self, call: str, once: Callable[[], Awaitable[T]], kind: type, *, unsure: bool = False
    ) -> T:
        tries, waited = 0, 0.0
        while True:
            tries += 1
            try:
                return await self._mapped(call, once, kind)
            except _NotYetError as failed:
                if unsure and failed.step.money == "unknown":
                    raise UnsureError(str(failed)) from None
                pause = self.backoff(tries) if failed.step.wait is None else failed.step.wait
                if waited + pause > self._settings.segkit_max_wait_seconds:
                    raise self._gave_up(call, failed, tries, waited) from None
                await self._pause(pause)
                waited += pause

    def backoff(self, tries: int) -> float:
        """Return the seconds until the next try."""
        longest: float = self._settings.segkit_backoff_seconds * 2 ** min(tries - 1, 30)
        return min(LONGEST_BACKOFF, longest) * random.uniform(0.5, 1)  # noqa: S311 (jitter)

    async def _mapped(self, call: str, once: Callable[[], Awaitable[T]], kind: type) -> T:
        try:
            got = await once()
        except openai.APIStatusError as error:
            raise self._refused(call, error) from None
        except openai.APIConnectionError as error:
            raise self._lost(error) from None
        except (openai.APIError, httpx2.HTTPError, OSError, ValueError, AttributeError) as error:
            raise _NotYetError(self._again(f"{call}: {error}")) from None
        if not isinstance(got, kind) or getattr(got, "id", "there") is None:
            raise _NotYetError(self._again(f"{call}: the answer is no {kind.__name__}"))
        return got

    def _lost(self, error: openai.APIConnectionError) -> _NotYetError:
        lost = mapped_error(error, self._settings.segkit_timeout_seconds, used=True)
        sent = not isinstance(lost, NotSentError)
        why = f"{self.host}: {self.text(lost)}"
        return _NotYetError(NextStep("again", why, money="unknown" if sent else "not_paid"))

    def _again(self, why: str) -> NextStep:
        return NextStep("again", f"{self.host}: {self.text(why)}", money="unknown")

    def _refused(self, call: str, error: openai.APIStatusError) -> Exception:
        step, status = self._step(error), error.status_code
        if status in _ABSENT and call in ("POST /files", "GET /batches", "POST /batches"):
            what = f"{self.host} has no Batch API ({call}: HTTP {status})"
            return RefusedError(what, f"ask one by one: segkit resume {self._run.id} --no-batch")
        if step.step in ("again", "wait"):
            return _NotYetError(step)
        hint = step.hint if status == 401 else f"or ask one by one: segkit resume {self._run.id} --no-batch"
        return RefusedError(f"{call}: {step.why}", hint)

    def _step(self, error: openai.APIStatusError) -> NextStep:
        reply = error.response
        try:
            body = reply.content
        except Exception:  # a streamed reply that was not read
            body = b""
        response = Response(reply.status_code, {k.lower(): v for k, v in reply.headers.items()}, body)
        step = classify_response(response, self._run.parameters.model, self.host)
        return NextStep(step.step, self.text(step.why), step.hint, step.wait, money=step.money)

    def text(self, error: object) -> str:
        """Word what a provider says, without secrets."""
        return safe_text(str(error), self._settings.secrets)

    def _gave_up(self, call: str, failed: _NotYetError, tries: int, waited: float) -> EndpointError:
        what = f"{call}: {failed}, {tries} tries in {waited:.0f} s (SEGKIT_MAX_WAIT_SECONDS)"
        return EndpointError(what, f"nothing is lost; when it is mended: segkit resume {self._run.id}")
