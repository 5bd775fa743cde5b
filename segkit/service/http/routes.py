"""The routes of runs: start, list, cancel and resume them; their status, results, progress and report."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse

from segkit.errors import RequestError, StorageError
from segkit.runs.mirror import fetch
from segkit.service.http import schemas
from segkit.service.http.dependencies import JsonRoute, RunId, TheClient, TheService, TheStatus, TheToken
from segkit.service.http.problems import Responses, responses
from segkit.service.http.results import results_json
from segkit.service.http.streams import DOWNLOADS, STREAMS, follow, is_seen
from segkit.service.service import Service
from segkit.service.submissions import StartRequest
from segkit.service.tokens import Token

router = APIRouter(prefix="/api/segmentation", route_class=JsonRoute)

Key = Annotated[
    str | None, Header(alias="Idempotency-Key", pattern=schemas.KEY, description="One key makes one run.")
]
LastEvent = Annotated[str | None, Header(alias="Last-Event-ID", description="The id of the last event received.")]
_SAME_TERMS = schemas.ResumeBody()
_OF_RUN = responses(404, 503)
_OF_BODY = responses(400, 402, 408, 409, 413, 415, 422, 503)
_LINKS = {
    name: {"operationId": name, "parameters": {"run_id": "$response.body#/run_id"}}
    for name in ("status", "results", "cancel", "resume", "events", "report")
}
_STARTED: Responses = {200: {"links": _LINKS, "headers": {"Location": {"schema": {"type": "string"}}}}}
_HTML: Responses = {200: {"content": {"text/html": {"schema": {"type": "string"}}}}}
_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
_EVENTS: Responses = {
    200: {"content": {"text/event-stream": {"schema": _EVENT}}},
    204: {"description": "The run has ended, and its last status was received."},
}


@router.post("/start", operation_id="start", responses=_STARTED | _OF_BODY, response_model=schemas.Started)
async def start(body: schemas.StartBody, service: TheService, client: TheClient, key: Key = None) -> Response:
    """Start a run over products of `amazon_products`. The same Idempotency-Key returns the same run again."""
    model, no_temperature = body.model or service.settings.default_model, body.is_null("temperature")
    wanted = StartRequest(
        tuple(body.product_ids), body.category, model, body.temperature, no_temperature, _money(body.max_cost_usd),
        body.max_unassigned,
    )  # fmt: skip
    record, is_new = await service.submissions.start(wanted, key, client)
    answer = {"run_id": record.run_id, "status": "started", "total_products": record.products}
    headers = {"location": f"/api/segmentation/{record.run_id}/status"}
    return JSONResponse(answer, headers=headers if is_new else headers | {"idempotency-replayed": "true"})


@router.get("/runs", operation_id="runs", responses=responses(422, 503), response_model=schemas.RunList)
async def runs(
    service: TheService,
    token: TheToken,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(pattern=schemas.RUN_ID, description="The `next` of the last page.")] = None,
    state: Annotated[schemas.State | None, Query()] = None,
    idempotency_key: Annotated[str | None, Query(pattern=schemas.KEY)] = None,
) -> Response:
    """List runs, the newest first."""

    def find() -> dict[str, Any]:
        if idempotency_key:
            record = service.records.by_key(token.name, idempotency_key)
            return _page(service, [record.run_id] if record else [], token, limit, state)
        ids = [run_id for run_id in service.run_ids(token) if before is None or run_id < before]
        return _page(service, ids, token, limit, state)

    return JSONResponse(await asyncio.to_thread(find))


@router.get("/{run_id}/status", operation_id="status", responses=_OF_RUN, response_model=schemas.RunStatus)
async def status(current: TheStatus, token: TheToken) -> Response:
    """Return how far a run is."""
    return JSONResponse(current.shown_to(token))


@router.post(
    "/{run_id}/cancel",
    operation_id="cancel",
    responses=_OF_RUN | responses(409, 413, 415, 422),
    response_model=schemas.Accepted,
)
async def cancel(run_id: RunId, current: TheStatus, service: TheService, client: TheClient) -> Response:
    """Stop a run in an orderly way: answers in flight are kept, and it can be resumed."""
    if current.state != "running":
        what = f"{run_id} is {current.state}, so there is nothing to stop"
        raise RequestError("wrong-state", what, state=current.state)
    await service.submissions.cancel(run_id, client)
    service.statuses.forget(run_id)
    return JSONResponse({"run_id": run_id, "status": "stopping"})


@router.post("/{run_id}/resume", operation_id="resume", responses=_OF_RUN | _OF_BODY, response_model=schemas.Accepted)
async def resume(
    run_id: RunId,
    current: TheStatus,
    service: TheService,
    client: TheClient,
    body: schemas.ResumeBody = _SAME_TERMS,
) -> Response:
    """Continue a run that failed, was stopped or was interrupted; answered questions are not asked again."""
    if current.state != "failed":
        what = f"{run_id} is {current.state}, so there is nothing to resume"
        raise RequestError("wrong-state", what, state=current.state)
    await service.submissions.resume(run_id, body.model_dump(exclude_none=True), client)
    service.statuses.forget(run_id)
    return JSONResponse({"run_id": run_id, "status": "queued"})


@router.get(
    "/{run_id}/results",
    operation_id="results",
    responses=_OF_RUN | responses(409, 429),
    response_model=schemas.Results,
)
async def results(run_id: RunId, current: TheStatus, service: TheService, token: TheToken) -> Response:
    """Return the categories of a run and the category of each product, however many there are."""
    if current.state == "running":
        raise RequestError("no-results-yet", f"{run_id} has no results yet", "wait for its status", retry_after=5)
    pieces = results_json(service.runs_dir / run_id, current, service.settings)
    return StreamingResponse(await DOWNLOADS.admit(token, pieces), media_type="application/json")


@router.get(
    "/{run_id}/events",
    operation_id="events",
    responses=_OF_RUN | responses(429) | _EVENTS,
    response_class=StreamingResponse,
)
async def events(current: TheStatus, service: TheService, token: TheToken, last: LastEvent = None) -> Response:
    """Stream the status of a run whenever it changes (server-sent events), until the run ends."""
    if current.state != "running" and is_seen(current, last):
        return Response(status_code=204)  # so that a browser does not come again and again
    pieces = follow(service, current.run_id, token, last or "")
    return StreamingResponse(await STREAMS.admit(token, pieces), media_type="text/event-stream")


@router.get("/{run_id}/report.html", operation_id="report", responses=_OF_RUN | _HTML, response_class=HTMLResponse)
async def report(run_id: RunId, service: TheService, token: TheToken) -> Response:
    """Return the report of a run: one page that loads nothing and runs nothing."""
    service.check_visible(run_id, token)
    path = service.runs_dir / run_id / "report.html"
    await asyncio.to_thread(fetch, path.parent, path.name)
    if path.is_symlink() or not path.is_file():  # segkit writes no link: one leads out of the folder
        raise RequestError("no-report", f"{run_id} has no report yet")
    return FileResponse(path, headers={"content-security-policy": "sandbox"}, media_type="text/html")


def _page(service: Service, ids: list[str], token: Token, limit: int, state: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for run_id in ids:
        try:
            current = service.statuses.read(run_id)
        except (RequestError, StorageError):
            continue  # its folder was removed
        if state in (None, current.state):
            found.append(current.shown_to(token))
        if len(found) > limit:
            break
    return {"runs": found[:limit], "next": found[limit - 1]["run_id"] if len(found) > limit else None}


def _money(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
