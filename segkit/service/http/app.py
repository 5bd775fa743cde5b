"""The REST service as an app: its routes, the gate before them, and the page that describes them.

Only this module, `api_runs` and `api_handlers` know FastAPI.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, Response

from segkit.errors import RequestError, StorageError
from segkit.service.http import schemas as models
from segkit.service.http.docs_page import page
from segkit.service.http.middleware import Gate
from segkit.service.http.problems import JsonRoute, add_handlers, json_answer
from segkit.service.http.routes import add_answers, add_starts
from segkit.service.metrics import CONTENT_TYPE
from segkit.service.service import Service
from segkit.service.submissions import may_see

_EVERYWHERE = models.problems(401, 403, 429)
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
_STATUS = re.compile("/api/segmentation/(RUN_[0-9TZ]+_[0-9a-f]+)/status")


def make_app(service: Service) -> Gate:
    """Make the ASGI app of a service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keeper = asyncio.create_task(service.look_after_runs())
        yield
        keeper.cancel()

    app = FastAPI(
        title="segkit",
        summary="Market segments from a list of products.",
        version="1",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=_EVERYWHERE,
    )
    app.router.route_class = JsonRoute
    add_handlers(app)
    add_starts(app, service)
    add_answers(app, service)
    _add_lists(app, service)
    _add_pages(app, service)
    _describe(app)

    def observe(scope: Any, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"  # else anybody could fill the memory
        service.metrics.observe(method, _route(scope), status, seconds)

    def report(scope: Any, error: BaseException) -> None:
        service.report(error, scope["request_id"], _route(scope))

    def known(scope: Any) -> bytes | None:
        """Give a status that was looked up a moment ago: a back end asks for the same one again and again."""
        found = _STATUS.fullmatch(scope["path"])
        if not found or not may_see(scope["token"], service.desk.owners.get(found[1])):
            return None
        standing = service.board.fresh(found[1])
        if standing is None:
            return None
        scope["route"] = SimpleNamespace(path="/api/segmentation/{run_id}/status")
        return standing.data

    return Gate(app, service.book, service.settings.segkit_serve_body_bytes, observe, report, known)


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get(
        "/api/segmentation/runs",
        operation_id="runs",
        responses=models.problems(422, 503),
        response_model=models.RunList,
    )
    async def runs(
        request: Request,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        before: Annotated[str | None, Query(pattern=models.RUN_ID)] = None,
        state: Annotated[models.State | None, Query()] = None,
        idempotency_key: Annotated[str | None, Query(pattern=models.KEY)] = None,
    ) -> Response:
        """List runs, the newest first."""
        token = request.scope["token"]

        def find() -> dict[str, Any]:
            if idempotency_key:
                record = service.records.by_key(token.name, idempotency_key)
                known = [record.run_id] if record else []
            else:
                known = [run_id for run_id in service.run_ids(token) if before is None or run_id < before]
            return _listed(service, known, limit, state)

        return json_answer(await asyncio.to_thread(find))

    @app.get("/health", operation_id="health", response_model=models.Health)
    async def health() -> Response:
        """Say that the service answers."""
        return json_answer({"status": "ok"})

    @app.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={**models.problems(503), 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics(request: Request) -> Response:
        """Give the figures of the runs this token may see, for Prometheus."""
        token = request.scope["token"]

        def collect() -> bytes:
            states = [(run_id, told) for run_id in service.run_ids(token) if (told := service.board.state(run_id))]
            return service.metrics.page(states, whole=token.all_runs)

        return Response(await asyncio.to_thread(collect), media_type=CONTENT_TYPE)


def _add_pages(app: FastAPI, service: Service) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        return HTMLResponse(page(app.openapi(), str(request.base_url).rstrip("/")))


def _listed(service: Service, known: list[str], limit: int, state: str | None) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for run_id in known:
        try:
            told = service.board.standing(run_id).told
        except (RequestError, StorageError):
            continue  # its folder was removed
        if state in (None, told["status"]):
            found.append(told)
        if len(found) > limit:
            break
    return {"runs": found[:limit], "next": found[limit - 1]["run_id"] if len(found) > limit else None}


def _describe(app: FastAPI) -> None:
    """Complete the OpenAPI page: every route but /health wants the token, and problems are described once."""
    told = app.openapi()
    schemas = told["components"]["schemas"]
    schemas["Problem"] = models.Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    told["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in told["paths"].items():
        for route in methods.values():
            route["security"] = [] if path == "/health" else [{"token": []}]
            if "application/json" in route["responses"].get("422", {}).get("content", {}):
                del route["responses"]["422"]


def _route(scope: Any) -> str:
    route = scope.get("route")
    return str(getattr(route, "path", "other"))
