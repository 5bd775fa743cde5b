"""The REST service as an ASGI app: its routes, what stands before them, and the document that describes them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from segkit.service.http.links import Links
from segkit.service.http.middleware import OPEN, ApiMiddleware
from segkit.service.http.problems import add_handlers, responses
from segkit.service.http.routes import operations, results, runs, taxonomy
from segkit.service.http.schemas import Problem
from segkit.service.http.spools import Spools
from segkit.service.service import Service


def make_app(service: Service) -> ApiMiddleware:
    """Return the ASGI app of a service."""
    app = FastAPI(
        title="segkit",
        summary="Market segments from a list of products.",
        version="1",
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
        responses=responses(401, 403, 429),
    )
    app.state.service = service
    app.state.links = links = Links(service.journal.home, service.tokens)
    app.state.spools = Spools(service.journal.home / "answers")
    add_handlers(app)
    runs.add_status(app)
    for routes in (runs, results, taxonomy, operations):
        app.include_router(routes.router)
    _describe(app)
    return ApiMiddleware(app, service, links)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    loops = [asyncio.create_task(work()) for work in (service.look_after_runs, service.deliver_callbacks)]
    for loop in loops:
        loop.add_done_callback(lambda task: None if task.cancelled() else _end(service, task.exception()))
    yield
    for loop in loops:
        loop.cancel()


def _end(service: Service, error: BaseException | None) -> None:
    """End the process: without the loops that look after runs and callbacks, both would wait for ever."""
    service.failure = f"a loop of the service has ended: {error!r}"
    os.kill(os.getpid(), signal.SIGTERM)


def _describe(app: FastAPI) -> None:
    """Complete the OpenAPI document: every route but the open ones needs a token, and problems are described once."""
    document = app.openapi()
    schemas = document["components"]["schemas"]
    schemas["Problem"] = Problem.model_json_schema()
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    document["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    for path, methods in document["paths"].items():
        for route in methods.values():
            route["security"] = [] if path in OPEN else [{"token": []}]
            if "application/json" in route["responses"].get("422", {}).get("content", {}):
                del route["responses"]["422"]
