"""The routes of runs: start, list, cancel and resume them, build on them, and see how far they are."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AwareDatetime, BeforeValidator

from segkit.errors import RequestError, StorageError
from segkit.runs.events import timestamp
from segkit.runs.run import open_run
from segkit.service.http import schemas
from segkit.service.http.dependencies import JsonRoute, PolledRoute, RunId, TheClient, TheService, TheStatus, TheToken
from segkit.service.http.problems import Responses, responses
from segkit.service.records import Filters, Listed, Record
from segkit.service.service import Service
from segkit.service.starts.request import Client, StartRequest, derived_start
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

router = APIRouter(prefix="/api/segmentation", route_class=JsonRoute)

Key = Annotated[
    str | None, Header(alias="Idempotency-Key", pattern=schemas.KEY, description="One key makes one run.")
]
_SAME_TERMS = schemas.ResumeBody()
_OF_RUN = responses(404, 409, 503)
_OF_BODY = responses(400, 402, 408, 409, 413, 415, 422, 503)
_LINKS = {
    name: {"operationId": name, "parameters": {"run_id": "$response.body#/run_id"}}
    for name in (
        "status",
        "results",
        "cancel",
        "resume",
        "events",
        "report",
        "report_link",
        "extend",
        "assign",
        "taxonomy",
        "check_taxonomy",
    )
}
_STARTED: Responses = {200: {"links": _LINKS, "headers": {"Location": {"schema": {"type": "string"}}}}}


def _written_out(moment: str) -> str:
    """Refuse seconds since 1970, which pydantic would take for a time: the document promises RFC 3339."""
    if not moment[:11].count("-") == 2:
        raise ValueError("it is no time such as 2025-06-18T12:03:01Z")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]


def _filters(
    state: Annotated[schemas.State | None, Query()] = None,
    category: Annotated[str | None, Query(max_length=200)] = None,
    model: Annotated[str | None, Query(max_length=128)] = None,
    created_after: Annotated[Moment | None, Query(description="At or after this time.")] = None,
    created_before: Annotated[Moment | None, Query(description="Before this time.")] = None,
) -> tuple[str | None, Filters]:
    return state, Filters(category, model, _utc(created_after), _utc(created_before))


def _utc(moment: datetime | None) -> str | None:
    try:
        return timestamp(moment.astimezone(UTC)) if moment else None
    except OverflowError:
        raise RequestError("invalid-request", "the time is out of range") from None


async def status(run_id: RunId, request: Request) -> Response:
    """Return how far a run is."""
    service: Service = request.app.state.service
    current = await service.status(run_id, request.scope["token"])
    return Response(orjson.dumps(current.shown_to(request.scope["token"])), media_type="application/json")


router.add_api_route(
    "/{run_id}/status",
    status,
    operation_id="status",
    responses=_OF_RUN,
    response_model=schemas.RunStatus,
    route_class_override=PolledRoute,
)


@router.post("/start", operation_id="start", responses=_STARTED | _OF_BODY, response_model=schemas.Started)
async def start(body: schemas.StartBody, service: TheService, client: TheClient, key: Key = None) -> Response:
    """Start a run over products of `amazon_products`. The same Idempotency-Key returns the same run again."""
    model, no_temperature = body.model or service.settings.default_model, body.is_null("temperature")
    wanted = StartRequest(
        tuple(body.product_ids), body.category, model, body.temperature, no_temperature, _money(body.max_cost_usd),
        body.max_unassigned, body.prompts, body.products_per_prompt, body.ask_duplicates,
        extract_sample=str(body.extract_sample or ""), most_unseen=body.most_unseen, cascade=body.cascade,
    )  # fmt: skip
    return _started(await service.submissions.start(wanted, key, client))


@router.get("/runs", operation_id="runs", responses=responses(422, 503), response_model=schemas.RunList)
async def runs(
    service: TheService,
    token: TheToken,
    filters: Annotated[tuple[str | None, Filters], Depends(_filters)],
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[str | None, Query(pattern=schemas.RUN_ID, description="The `next` of the last page.")] = None,
    idempotency_key: Annotated[str | None, Query(pattern=schemas.KEY)] = None,
) -> Response:
    """List runs, the one created last first."""
    state, wanted = filters

    def find() -> dict[str, Any]:
        rows = service.listed(token, wanted, before)
        if idempotency_key:
            record = service.records.by_key(token.name, idempotency_key)
            rows = [row for row in rows if record and row.run_id == record.run_id]
        return _page(service, rows, token, limit, state)

    return JSONResponse(await asyncio.to_thread(find))


@router.post(
    "/{run_id}/cancel",
    operation_id="cancel",
    responses=_OF_RUN | responses(413, 415, 422),
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
    if current.state not in ("failed", "cancelled"):
        what = f"{run_id} is {current.state}, so there is nothing to resume"
        raise RequestError("wrong-state", what, state=current.state)
    await service.submissions.resume(run_id, body.model_dump(exclude_none=True), client)
    service.statuses.forget(run_id)
    return JSONResponse({"run_id": run_id, "status": "queued"})


@router.post(
    "/{run_id}/extend", operation_id="extend", responses=_STARTED | _OF_RUN | _OF_BODY, response_model=schemas.Started
)
async def extend(
    body: schemas.ExtendBody, current: TheStatus, service: TheService, client: TheClient, key: Key = None
) -> Response:
    """Start a run that adds products to a completed one, and asks only what that changes, as `segkit extend` does."""
    return await _start_from(current, body, "extend", service, client, key)


@router.post(
    "/{run_id}/assign", operation_id="assign", responses=_STARTED | _OF_RUN | _OF_BODY, response_model=schemas.Started
)
async def assign(
    body: schemas.AssignBody, current: TheStatus, service: TheService, client: TheClient, key: Key = None
) -> Response:
    """Start a run that puts more products into the categories of a completed one, as `segkit assign` does.

    With a `taxonomy`, which `GET …/taxonomy` returned and a person has edited, the edits are applied first.
    """
    return await _start_from(current, body, "assign", service, client, key)


async def _start_from(
    current: CachedStatus,
    body: schemas.ExtendBody | schemas.AssignBody,
    how: Literal["extend", "assign"],
    service: Service,
    client: Client,
    key: str | None,
) -> Response:
    if current.state != "completed":
        what = f"{current.run_id} is {current.state}, and only a completed run can be built on"
        raise RequestError("wrong-state", what, state=current.state)
    given = body.model_dump(exclude={"product_ids", "taxonomy"})
    if isinstance(body, schemas.AssignBody) and body.taxonomy:
        given["taxonomy"] = orjson.dumps(body.taxonomy.document).decode()
    money, ids = _money(given.pop("max_cost_usd")), tuple(body.product_ids or ())
    run = await asyncio.to_thread(open_run, current.run_id, service.runs_dir)
    derive = partial(derived_start, run, service.workers, how, ids, max_cost_usd=money, **given)
    wanted = await asyncio.to_thread(derive)
    return _started(await service.submissions.start(wanted, key, client))


def _started(made: tuple[Record, bool]) -> Response:
    record, is_new = made
    answer = {"run_id": record.run_id, "status": "started", "total_products": record.products}
    headers = {"location": f"/api/segmentation/{record.run_id}/status"}
    return JSONResponse(answer, headers=headers if is_new else headers | {"idempotency-replayed": "true"})


def _page(service: Service, rows: list[Listed], token: Token, limit: int, state: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for row in rows:
        try:
            current = service.statuses.read(row.run_id)
        except (RequestError, StorageError):
            continue  # its folder was removed
        if state in (None, current.state):
            facts = {"category": row.category, "model": row.model, "created_at": row.created_at}
            found.append(current.shown_to(token) | facts)
        if len(found) > limit:
            break
    return {"runs": found[:limit], "next": found[limit - 1]["run_id"] if len(found) > limit else None}


def _money(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))
