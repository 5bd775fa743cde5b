"""The routes for operators: health, figures for Prometheus, and the page that describes the API."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from segkit.service.http import schemas
from segkit.service.http.dependencies import TheService, TheToken
from segkit.service.http.docs_page import page
from segkit.service.http.problems import Responses, responses
from segkit.service.metrics import CONTENT_TYPE

router = APIRouter()

_TEXT: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}


@router.get("/health", operation_id="health", response_model=schemas.Health)
async def health() -> Response:
    """Report that the service answers."""
    return JSONResponse({"status": "ok"})


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
