"""The routes of a run: start, cancel and resume it; its status, its results, its progress, its report."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from itertools import chain
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Header, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from segkit.errors import RequestError
from segkit.runs.mirror import fetch
from segkit.service.http import schemas as models
from segkit.service.http.problems import json_answer
from segkit.service.http.results import results_json
from segkit.service.service import Service
from segkit.service.submissions import Client, Wish

RunId = Annotated[str, Path(pattern=models.RUN_ID, examples=[models.EXAMPLE_RUN])]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=models.KEY, description="One key makes one run.")]
_OF_RUN = models.problems(404, 503)
_OF_BODY = models.problems(400, 402, 409, 413, 415, 422, 503)
_LINKS = {
    name: {"operationId": name, "parameters": {"run_id": "$response.body#/run_id"}}
    for name in ("status", "results", "cancel", "resume", "events", "report")
}
_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
_STREAMS = 50  # of a token at once: each is looked after several times a second
_HEARTBEAT = 15.0  # seconds
_LOOK = 0.25


def add_starts(app: FastAPI, service: Service) -> None:
    """Add the routes that change something."""
    started: dict[int | str, dict[str, Any]] = {
        200: {"links": _LINKS, "headers": {"Location": {"schema": {"type": "string"}}}}
    }

    @app.post(
        "/api/segmentation/start",
        operation_id="start",
        responses={**started, **_OF_BODY},
        response_model=models.Started,
    )
    async def start(body: models.StartBody, request: Request, key: Key = None) -> Response:
        """Start a run over products of `amazon_products`. The same Idempotency-Key gives the same run again."""
        wish = Wish(
            tuple(body.product_ids), body.category, body.model or service.settings.default_model, body.temperature,
            _money(body.max_cost_usd), body.max_unassigned,
        )  # fmt: skip
        record, is_new = await service.desk.start(wish, key, _client(request))
        told = {"run_id": record.run_id, "status": "started", "total_products": record.products}
        headers = {"location": f"/api/segmentation/{record.run_id}/status"}
        return json_answer(told, headers | ({} if is_new else {"idempotency-replayed": "true"}))

    @app.post(
        "/api/segmentation/{run_id}/cancel",
        operation_id="cancel",
        responses=_OF_RUN | models.problems(409, 413, 415, 422),
        response_model=models.Asked,
    )
    async def cancel(run_id: RunId, request: Request) -> Response:
        """Stop a run in an orderly way: answers in flight are kept, and it can be resumed."""
        standing = await service.standing(run_id, request.scope["token"])
        if standing.state != "running":
            raise RequestError(409, f"{run_id} is {standing.state}, so there is nothing to stop")
        await service.desk.cancel(run_id, _client(request))
        service.board.forget(run_id)
        return json_answer({"run_id": run_id, "status": "stopping"})

    @app.post(
        "/api/segmentation/{run_id}/resume",
        operation_id="resume",
        responses=_OF_RUN | _OF_BODY,
        response_model=models.Asked,
    )
    async def resume(run_id: RunId, request: Request, body: models.ResumeBody | None = None) -> Response:
        """Go on with a run that failed, was stopped or broke off; what is answered is not asked again."""
        standing = await service.standing(run_id, request.scope["token"])
        if standing.state != "failed":
            raise RequestError(409, f"{run_id} is {standing.state}, so there is nothing to resume")
        given = body.model_dump(exclude_none=True) if body else {}
        await service.desk.resume(run_id, given, _client(request))
        service.board.forget(run_id)
        return json_answer({"run_id": run_id, "status": "queued"})


def add_answers(app: FastAPI, service: Service) -> None:
    """Add what tells of a run: its status, results, events and report."""
    streams: Counter[str] = Counter()

    @app.get(
        "/api/segmentation/{run_id}/status", operation_id="status", responses=_OF_RUN, response_model=models.RunStatus
    )
    async def status(run_id: RunId, request: Request) -> Response:
        """Tell how a run stands."""
        standing = await service.standing(run_id, request.scope["token"])
        return Response(standing.data, media_type="application/json")

    @app.get(
        "/api/segmentation/{run_id}/results",
        operation_id="results",
        responses=_OF_RUN | models.problems(409),
        response_model=models.Results,
    )
    async def results(run_id: RunId, request: Request) -> Response:
        """Give the categories of a run and the one of each product, however many there are."""
        standing = await service.standing(run_id, request.scope["token"])
        if standing.state == "running":
            raise RequestError(409, f"{run_id} has no results yet", "see its status", retry_after="5")
        more = {} if standing.state == "completed" else {"partial": True, "reason": standing.told["reason"]}
        pieces = results_json(service.place / run_id, run_id, standing.state, **more)
        head = await asyncio.to_thread(next, pieces)  # what cannot be read is known before the answer begins
        return StreamingResponse(chain([head], pieces), media_type="application/json")

    @app.get(
        "/api/segmentation/{run_id}/events",
        operation_id="events",
        responses={
            **_OF_RUN,
            200: {"content": {"text/event-stream": {"schema": _EVENT}}},
            204: {"description": "The run has ended, and its last status was received."},
        },
        response_class=StreamingResponse,
    )
    async def events(
        run_id: RunId,
        request: Request,
        last: Annotated[str | None, Header(alias="Last-Event-ID")] = None,
    ) -> Response:
        """Stream the status of a run whenever it changes (server-sent events), until the run ends."""
        token = request.scope["token"]
        standing = await service.standing(run_id, token)
        if standing.state != "running" and _mark(standing.told) == last:
            return Response(status_code=204)  # so that a browser does not come again and again
        if streams[token.name] >= _STREAMS:
            raise RequestError(429, f"{_STREAMS} event streams of this token are open", retry_after="5")
        told = _counted(streams, token.name, _follow(service, run_id, token, last or ""))
        await anext(told)  # counted before anybody else is looked at
        return StreamingResponse(told, media_type="text/event-stream")

    @app.get(
        "/api/segmentation/{run_id}/report.html",
        operation_id="report",
        responses={**_OF_RUN, 200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
        response_class=HTMLResponse,
    )
    async def report(run_id: RunId, request: Request) -> Response:
        """Give the report of a run: one page that loads nothing and runs nothing."""
        service.check_sight(run_id, request.scope["token"])
        path = service.place / run_id / "report.html"
        await asyncio.to_thread(fetch, path.parent, path.name)
        if path.is_symlink() or not path.is_file():  # segkit writes no link: one leads out of the folder
            raise RequestError(404, f"{run_id} has no report yet")
        return FileResponse(path, headers={"content-security-policy": "sandbox"}, media_type="text/html")


async def _counted(streams: Counter[str], name: str, stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Count a stream from its first, empty piece on, until nobody reads it any more."""
    streams[name] += 1
    try:
        yield b""
        async for piece in stream:
            yield piece
    finally:
        streams[name] -= 1


async def _follow(service: Service, run_id: str, token: Any, last: str) -> AsyncIterator[bytes]:
    """Write the status of a run when more of it changed than its estimate; a comment when nothing does."""
    quiet = 0.0
    yield b"retry: 2000\n\n"
    while True:
        standing = await service.standing(run_id, token)
        mark = _mark(standing.told)
        if mark != last:
            yield b"event: status\nid: %b\ndata: %b\n\n" % (mark.encode(), standing.data)
            last, quiet = mark, 0.0
        if standing.state != "running" or service.stopping.is_set():
            return
        await asyncio.sleep(_LOOK)
        quiet += _LOOK
        if quiet >= _HEARTBEAT:
            yield b": still here\n\n"
            quiet = 0.0


def _mark(told: dict[str, Any]) -> str:
    """Name a status by what is in it, but for the estimate, which moves all the time."""
    return f"{zlib.crc32(orjson.dumps({**told, 'estimated_completion': None})):08x}"


def _client(request: Request) -> Client:
    return Client(request.scope["token"], request.client.host if request.client else "", request.scope["request_id"])


def _money(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
