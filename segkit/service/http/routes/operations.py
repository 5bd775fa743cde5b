"""The routes for operators: health, figures for Prometheus, and the page that describes the API."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from segkit.errors import RequestError
from segkit.service.http import schemas
from segkit.service.http.dependencies import TheService, TheToken
from segkit.service.http.docs_page import page
from segkit.service.http.problems import Responses, responses
from segkit.service.metrics import CONTENT_TYPE

router = APIRouter()
_READY_SECONDS = 5

_TEXT: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.head("/health", include_in_schema=False)
@router.get("/health", operation_id="health", response_model=schemas.Health, responses=responses(503))
async def health(service: TheService) -> Response:
    """Report that the service lives: it answers, and looks after its runs. Where it does not, restart it."""
    if not service.is_alive:
        raise RequestError("not-alive", "the service no longer looks after its runs", "restart it")
    return JSONResponse({"status": "ok"})


@router.head("/ready", include_in_schema=False)
@router.get("/ready", operation_id="ready", response_model=schemas.Ready, responses={503: {"model": schemas.Ready}})
async def ready(service: TheService) -> Response:
    """Report whether a run can be started now: the state of the database, the disk, S3, the log and the tokens."""
    checks = await service.readiness.checks(_READY_SECONDS) | {"runs": service.is_alive}
    words = {name: "ok" if is_good else "failing" for name, is_good in checks.items()}
    is_ready = all(checks.values())
    body = {"status": "ready" if is_ready else "not ready", "checks": words}
    return JSONResponse(body, status_code=200 if is_ready else 503)


@router.get("/metrics", operation_id="metrics", response_class=Response, responses=responses(503) | _TEXT)
async def metrics(service: TheService, token: TheToken) -> Response:
    """Return the figures of the runs this token may see, for Prometheus."""

    def collect() -> bytes:
        states = [(run_id, state) for run_id in service.run_ids(token) if (state := service.statuses.state(run_id))]
        return service.metrics.page(states, whole=token.all_runs)

    return Response(await asyncio.to_thread(collect), media_type=CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    return HTMLResponse(page(request.app.openapi(), str(request.base_url).rstrip("/")))
