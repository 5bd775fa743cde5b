"""The REST service: its routes, each of which asks one part of the service and words the answer as the seed does.

This is the only module that knows FastAPI.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import chain
from types import SimpleNamespace
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from segkit import api_models as models
from segkit.api_page import page
from segkit.errors import RequestError, RunError
from segkit.gate import Gate
from segkit.metrics import CONTENT_TYPE
from segkit.problems import MEDIA_TYPE, fault, faults_of, problem, refusal
from segkit.result_stream import results_json
from segkit.service import Service
from segkit.starts import Client, Wish, may_see

RunId = Annotated[str, Path(pattern=models.RUN_ID, examples=[models.EXAMPLE_RUN])]
Key = Annotated[str | None, Header(alias="Idempotency-Key", pattern=models.KEY, description="One key makes one run.")]
_EVERYWHERE = models.problems(401, 403, 429)
_OF_RUN = models.problems(404)
_OF_BODY = models.problems(400, 402, 409, 413, 415, 422, 503)
_LINKS = {
    name: {"operationId": name, "parameters": {"run_id": "$response.body#/run_id"}}
    for name in ("status", "results", "cancel", "resume", "events", "report")
}
_EVENT = {"type": "object", "properties": {name: {"type": "string"} for name in ("id", "event", "data")}}
_STATUS = re.compile("/api/segmentation/(RUN_[0-9TZ]+_[0-9a-f]+)/status")
_HEARTBEAT = 15.0  # seconds
_LOOK = 0.25


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
    app.router.route_class = _Route
    _add_handlers(app)
    _add_starts(app, service)
    _add_answers(app, service)
    _add_lists(app, service)
    _add_pages(app, service)
    _describe(app)

    def observe(scope: Any, status: int, seconds: float) -> None:
        service.metrics.observe(scope["method"][:10], _route(scope), status, seconds)

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


def _add_starts(app: FastAPI, service: Service) -> None:
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
        return _json(told, headers | ({} if is_new else {"idempotency-replayed": "true"}))

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
        return _json({"run_id": run_id, "status": "stopping"})

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
        return _json({"run_id": run_id, "status": "queued"})


def _add_answers(app: FastAPI, service: Service) -> None:
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
        return StreamingResponse(_follow(service, run_id, token, last or ""), media_type="text/event-stream")

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
        if not path.is_file():
            raise RequestError(404, f"{run_id} has no report yet")
        return FileResponse(path, headers={"content-security-policy": "sandbox"}, media_type="text/html")


def _add_lists(app: FastAPI, service: Service) -> None:
    @app.get(
        "/api/segmentation/runs", operation_id="runs", responses=models.problems(422), response_model=models.RunList
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

        return _json(await asyncio.to_thread(find))

    @app.get("/health", operation_id="health", response_model=models.Health)
    async def health() -> Response:
        """Say that the service answers."""
        return _json({"status": "ok"})

    @app.get(
        "/metrics",
        operation_id="metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
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
        except RequestError:
            continue  # its folder was removed
        if state in (None, told["status"]):
            found.append(told)
        if len(found) > limit:
            break
    return {"runs": found[:limit], "next": found[limit - 1]["run_id"] if len(found) > limit else None}


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
        if standing.state != "running":
            return
        await asyncio.sleep(_LOOK)
        quiet += _LOOK
        if quiet >= _HEARTBEAT:
            yield b": still here\n\n"
            quiet = 0.0


def _mark(told: dict[str, Any]) -> str:
    """Name a status by what is in it, but for the estimate, which moves all the time."""
    return f"{zlib.crc32(orjson.dumps({**told, 'estimated_completion': None})):08x}"


class _Route(APIRoute):
    """Reads bodies with orjson: no NaN, no numbers beyond 64 bits, no depth that ends a parser."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            response: Response = await handle(_Request(request.scope, request.receive))
            return response

        return handler


class _Request(Request):
    async def json(self) -> Any:
        return orjson.loads(await self.body())


def _add_handlers(app: FastAPI) -> None:
    async def refused(request: Request, error: Any) -> Response:
        return _problem(error.status, refusal(error, request.scope["request_id"]), error.headers)

    async def damaged(request: Request, error: Any) -> Response:
        return _problem(409, problem(409, "the folder of the run is damaged", request.scope["request_id"]))

    async def wrong(request: Request, error: Any) -> Response:
        errors = error.errors()
        if any(each["loc"][0] == "path" for each in errors):
            return _problem(404, problem(404, "there is no such run", request.scope["request_id"]))
        told = problem(422, "the request cannot be used", request.scope["request_id"], errors=faults_of(errors))
        return _problem(422, told)

    async def other(request: Request, error: Any) -> Response:
        told = problem(error.status_code, str(error.detail), request.scope["request_id"])
        return _problem(error.status_code, told, error.headers)

    async def broken(request: Request, error: Any) -> Response:
        return _problem(500, fault(request.scope["request_id"]))

    for kind, handler in (
        (RequestError, refused), (RunError, damaged), (RequestValidationError, wrong), (HTTPException, other),
        (Exception, broken),
    ):  # fmt: skip
        app.add_exception_handler(kind, handler)


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


def _client(request: Request) -> Client:
    return Client(request.scope["token"], request.client.host if request.client else "", request.scope["request_id"])


def _route(scope: Any) -> str:
    route = scope.get("route")
    return str(getattr(route, "path", "other"))


def _money(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def _json(told: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(told), media_type="application/json", headers=headers)


def _problem(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
