"""What the routes share: the service, the client that asks, the run in the path, and how bodies are read."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

import orjson
from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from segkit.errors import RequestError
from segkit.service.http.schemas import EXAMPLE_RUN, RUN_ID
from segkit.service.service import Service
from segkit.service.status import CachedStatus
from segkit.service.submissions import Client
from segkit.service.tokens import Token

_LARGE = 64_000  # bytes of a body that is parsed in a thread
_FIELDS = 50  # of a body; a start has seven

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


TheService = Annotated[Service, Depends(_service)]
TheToken = Annotated[Token, Depends(_token)]
TheClient = Annotated[Client, Depends(_client)]


async def _status(run_id: RunId, service: TheService, token: TheToken) -> CachedStatus:
    """Return the status of the run in the path; raise RequestError 404 where the token may not see it."""
    return await service.status(run_id, token)


TheStatus = Annotated[CachedStatus, Depends(_status)]


class JsonRoute(APIRoute):
    """Reads bodies with orjson: no NaN, no numbers beyond 64 bits, no depth that ends a parser.

    What a body may hold at most is checked before its items are, so that a huge wrong body is refused at once.
    """

    def get_route_handler(self) -> Any:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            read = _JsonRequest(request.scope, request.receive)
            await read.parse()
            response: Response = await handle(read)
            return response

        return handler


class _JsonRequest(Request):
    async def parse(self) -> None:
        """Parse the body, if there is one, and check its size."""
        data = await self.body()
        if not data:
            return
        try:
            value = await asyncio.to_thread(orjson.loads, data) if len(data) > _LARGE else orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise _unreadable(error) from None
        self._json = value
        if isinstance(value, dict):
            _check_size(value, self.scope["token"])


def _unreadable(error: orjson.JSONDecodeError) -> RequestValidationError:
    return RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": str(error)}])


def _check_size(body: Mapping[str, Any], token: Token) -> None:
    if len(body) > _FIELDS:
        raise RequestError("invalid-request", f"the body has {len(body):,} fields, {_FIELDS} are allowed")
    ids = body.get("product_ids")
    if isinstance(ids, list) and len(ids) > token.max_products:
        what = f"{len(ids):,} products are too many, {token.max_products:,} are allowed a run"
        raise RequestError("too-many-products", what, "send fewer products", allowed=token.max_products)
