"""The REST service as an ASGI app: its routes, what stands before them, and the document that describes them."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from segkit.service.http.links import Links
from segkit.service.http.middleware import OPEN, ApiMiddleware
from segkit.service.http.problems import add_handlers, responses
from segkit.service.http.routes import operations, results, runs, taxonomy
from segkit.service.http.schemas import Problem
from segkit.service.http.spools import Spools
from segkit.service.service import Service

_SILENCE = 60.0  # seconds


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
    for routes in (runs, results, taxonomy, operations):
        app.include_router(routes.router)
    _describe(app)
    return ApiMiddleware(app, service, links)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    asyncio.get_running_loop().set_exception_handler(Complaints().handle)
    loops = [asyncio.create_task(work()) for work in (service.look_after_runs, service.deliver_callbacks)]
    for loop in loops:
        loop.add_done_callback(lambda task: None if task.cancelled() else _end(service, task.exception()))
    yield
    for loop in loops:
        loop.cancel()


class Complaints:
    """Prints what the event loop complains about; that descriptors have run out, not more than once a minute.

    While they have, the loop says so for each connection that waits, a hundred times a second, with a stack.
    """

    def __init__(self) -> None:
        self._said_at = -_SILENCE

    def handle(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if getattr(context.get("exception"), "errno", None) in (errno.EMFILE, errno.ENFILE):
            if loop.time() - self._said_at > _SILENCE:
                self._said_at = loop.time()
                print("warning: no descriptor is left for new connections", file=sys.stderr, flush=True)
        else:
            loop.default_exception_handler(context)


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
