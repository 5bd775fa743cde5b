"""The routes of what came of a run: its results, its progress, its report, and how a product got its category."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse

from segkit.errors import ProductsError, RequestError
from segkit.runs.run import open_run
from segkit.service.http import schemas
from segkit.service.http.dependencies import JsonRoute, TheService, TheSpools, TheStatus, TheToken
from segkit.service.http.problems import Responses, responses
from segkit.service.http.results import accepts_gzip, explanation, exported_file, gzipped, results_json
from segkit.service.http.spools import Spools
from segkit.service.http.streams import DOWNLOADS, STREAMS, follow, is_seen
from segkit.service.service import Service
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

router = APIRouter(prefix="/api/segmentation/{run_id}", route_class=JsonRoute)

LastEvent = Annotated[str | None, Header(alias="Last-Event-ID", description="The id of the last event received.")]
Encodings = Annotated[str, Header(alias="Accept-Encoding", include_in_schema=False)]
_OF_RUN = responses(404, 409, 503)
OF_RESULTS = _OF_RUN | responses(429)
_TEXT = {"schema": {"type": "string"}}
_HTML: Responses = {200: {"content": {"text/html": _TEXT}}}
CSV: Responses = {200: {"content": {"text/csv": _TEXT}}}
FILE: Responses = {200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}}
_BINARY = "application/octet-stream"
_TYPES = {"json": "application/json", "csv": "text/csv; charset=utf-8", "parquet": _BINARY, "xlsx": _BINARY}
_EVENTS: Responses = {
    200: {"content": {"text/event-stream": {}}},
    204: {"description": "The run has ended, and its last status was received."},
}


@router.get("/results", operation_id="results", responses=OF_RESULTS, response_model=schemas.Results)
async def results(
    current: TheStatus, service: TheService, token: TheToken, spools: TheSpools, encodings: Encodings = ""
) -> Response:
    """Return the categories of a run and the category of each product, however many there are."""
    require_ended(current)
    make = partial(results_json, service.runs_dir, current, service.settings)
    return await download(spools.pieces((current.run_id, "json", current.state), make), token, encodings)


@router.get("/results.csv", operation_id="results_csv", responses=OF_RESULTS | CSV, response_class=Response)
async def results_csv(
    current: TheStatus, service: TheService, token: TheToken, spools: TheSpools, encodings: Encodings = ""
) -> Response:
    """Return a row for each product as CSV, as `segkit export` writes it: title, category, confidence, state."""
    pieces = _exported(current, service, spools, "csv")
    return await download(pieces, token, encodings, f"{current.run_id}.csv", "csv")


@router.get("/results.parquet", operation_id="results_parquet", responses=OF_RESULTS | FILE, response_class=Response)
async def results_parquet(current: TheStatus, service: TheService, token: TheToken, spools: TheSpools) -> Response:
    """Return a row for each product as Parquet, as `segkit export` writes it."""
    pieces = _exported(current, service, spools, "parquet")
    return await download(pieces, token, "", f"{current.run_id}.parquet", "parquet")


def _exported(current: CachedStatus, service: Service, spools: Spools, kind: str) -> AsyncGenerator[bytes]:
    require_ended(current)
    make = partial(exported_file, service.workers, service.runs_dir, current, kind)
    return spools.pieces((current.run_id, kind, current.state), make)


async def download(
    pieces: AsyncGenerator[bytes], token: Token, encodings: str, file: str = "", kind: str = "json"
) -> Response:
    """Answer with the pieces of a download; `file` is the name under which a browser saves it."""
    headers = {"vary": "accept-encoding"}
    if file:
        headers["content-disposition"] = f'attachment; filename="{file}"'
    if accepts_gzip(encodings):
        pieces, headers["content-encoding"] = gzipped(pieces), "gzip"
    return StreamingResponse(await DOWNLOADS.admit(token, pieces), media_type=_TYPES[kind], headers=headers)


@router.get(
    "/products/{product_id}",
    operation_id="explain",
    responses=_OF_RUN,
    response_model=schemas.Explanation,
)
async def explain(
    current: TheStatus, service: TheService, product_id: Annotated[str, Path(min_length=1, max_length=255)]
) -> Response:
    """Explain how a product got its category: its batch, the merges, the refinement, as `segkit explain` does."""
    require_ended(current)
    try:
        explain = partial(service.workers.call, explanation, service.runs_dir, current.run_id, product_id)
        found = await asyncio.to_thread(partial(explain, products=current.products))
    except ProductsError as error:
        raise RequestError("no-such-product", error.message) from None
    return JSONResponse(found)


@router.get(
    "/events", operation_id="events", responses=_OF_RUN | responses(429) | _EVENTS, response_class=StreamingResponse
)
async def events(current: TheStatus, service: TheService, token: TheToken, last: LastEvent = None) -> Response:
    """Stream the status of a run whenever it changes (server-sent events), until the run ends."""
    if current.state != "running" and is_seen(current, last):
        return Response(status_code=204)  # so that a browser does not come again and again
    pieces = follow(service, current.run_id, token, last or "")
    return StreamingResponse(await STREAMS.admit(token, pieces), media_type="text/event-stream")


@router.get("/report.html", operation_id="report", responses=_OF_RUN | _HTML, response_class=HTMLResponse)
async def report(current: TheStatus, service: TheService) -> Response:
    """Return the report of a run: one page that loads nothing and runs nothing."""
    run_id = current.run_id
    path = await asyncio.to_thread(lambda: open_run(run_id, service.runs_dir, service.settings).file("report.html"))
    if path.is_symlink() or not path.is_file():  # segkit writes no link: one leads out of the folder
        raise RequestError("no-report", f"{run_id} has no report yet")
    return FileResponse(path, headers={"content-security-policy": "sandbox"}, media_type="text/html")


@router.post(
    "/report-link",
    operation_id="report_link",
    responses=_OF_RUN | responses(413, 415, 422),
    response_model=schemas.Link,
)
async def report_link(current: TheStatus, request: Request, service: TheService, token: TheToken) -> Response:
    """Return a link that opens the report in a browser for five minutes, without a token."""
    path = f"/api/segmentation/{current.run_id}/report.html"
    query, expires = await asyncio.to_thread(partial(request.app.state.links.sign, path, token))
    until = datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return JSONResponse({"url": f"{str(request.base_url).rstrip('/')}{path}?{query}", "expires_at": until})


def require_ended(current: CachedStatus) -> None:
    """Raise RequestError 409 for a run that still works."""
    if current.state == "running":
        what = f"{current.run_id} has no results yet"
        raise RequestError("no-results-yet", what, "wait for its status", retry_after=5)
