"""What the routes share: the service, the client that asks, the run in the path, and how bodies are read."""

from __future__ import annotations

import asyncio
import re
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Path, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from segkit.service.http.bodies import THREADED, read_body
from segkit.service.http.schemas import EXAMPLE_RUN, RUN_ID
from segkit.service.http.spools import Spools
from segkit.service.service import Service
from segkit.service.starts.request import Client
from segkit.service.status import CachedStatus
from segkit.service.tokens import Token

_WITH_SHEETS = ("/assign", "/taxonomy/check")  # paths whose bodies may hold an edited taxonomy

RunId = Annotated[str, Path(pattern=RUN_ID, examples=[EXAMPLE_RUN])]


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _token(request: Request) -> Token:
    token: Token = request.scope["token"]
    return token


async def _client(request: Request) -> Client:
    address = request.client.host if request.client else ""
    return Client(request.scope["token"], address, request.scope["request_id"])


async def _spools(request: Request) -> Spools:
    spools: Spools = request.app.state.spools
    return spools


TheSpools = Annotated[Spools, Depends(_spools)]
TheService = Annotated[Service, Depends(_service)]
TheToken = Annotated[Token, Depends(_token)]
TheClient = Annotated[Client, Depends(_client)]


async def _status(run_id: RunId, service: TheService, token: TheToken) -> CachedStatus:
    """Return the status of the run in the path; raise RequestError 404 where the token may not see it."""
    return await service.status(run_id, token)


TheStatus = Annotated[CachedStatus, Depends(_status)]


class JsonRoute(APIRoute):
    """Reads bodies as `bodies.read_body` does."""

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()
        if "POST" not in (self.methods or ()):
            return handle

        async def handler(request: Request) -> Response:
            read = _JsonRequest(request.scope, request.receive)
            await read.parse()
            response: Response = await handle(read)
            return response

        return handler


class PolledRoute(APIRoute):
    """Calls its endpoint with the run and the request: what FastAPI does for each request takes longer than a status.

    A run that cannot be one is left to FastAPI, which refuses it as on every route.
    """

    def get_route_handler(self) -> Any:
        endpoint, refuse, is_run = self.endpoint, super().get_route_handler(), re.compile(RUN_ID).fullmatch

        async def handler(request: Request) -> Response:
            run_id = request.path_params["run_id"]
            response: Response = await (endpoint(run_id, request) if is_run(run_id) else refuse(request))
            return response

        return handler


class _JsonRequest(Request):
    async def parse(self) -> None:
        """Parse the body, if there is one, and check its size; unless it is small, in a thread."""
        data = await self.body()
        if not data:
            return
        with_sheet = self.scope["path"].endswith(_WITH_SHEETS)
        read = partial(read_body, data, self.scope["token"], with_sheet=with_sheet)
        self._json = await asyncio.to_thread(read) if len(data) > THREADED else read()
