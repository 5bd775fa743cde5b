"""How the REST service reads bodies and words refusals: orjson on the way in, problem details on the way out."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from segkit.errors import RequestError, RunError, StorageError
from segkit.service.http.problem_details import MEDIA_TYPE, fault, faults_of, problem, refusal


class JsonRoute(APIRoute):
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


def add_handlers(app: FastAPI) -> None:
    """Word every refusal and every error of an app as a problem."""

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
        if isinstance(error, StorageError):  # handled here, where it goes on to the log
            told = problem(503, "the storage cannot be read", request.scope["request_id"], hint="try again later")
            return _problem(503, told, {"retry-after": "30"})
        return _problem(500, fault(request.scope["request_id"]))

    for kind, handler in (
        (RequestError, refused), (RunError, damaged), (RequestValidationError, wrong), (HTTPException, other),
        (Exception, broken),
    ):  # fmt: skip
        app.add_exception_handler(kind, handler)


def json_answer(told: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Write an answer as JSON."""
    return Response(orjson.dumps(told), media_type="application/json", headers=headers)


def _problem(status: int, body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)
