"""What the routes share: the service, the client that asks, the run in the path, and how bodies are read."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import Depends, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute

from segkit.errors import RequestError
from segkit.service.http import schemas
from segkit.service.http.schemas import EXAMPLE_RUN, RUN_ID
from segkit.service.http.spools import Spools
from segkit.service.service import Service
from segkit.service.status import CachedStatus
from segkit.service.submissions import Client
from segkit.service.tokens import Token

_LARGE = 64_000  # bytes of a body that is parsed in a thread
_FIELDS = 50  # of a body
_VALUES = 2000  # of a body beside its products
_NUMBERS = b"0123456789, \t\r\n"  # the bytes of a list of ids
_PART = 65_536  # bytes of a list that are parsed at once
_FEW = 5000  # ids that are checked at once
_SHOWN = 40  # characters of a key that a refusal shows

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
        """Parse the body, if there is one, and check its size; a large one in a thread."""
        data = await self.body()
        if not data:
            return
        read = partial(read_body, data, self.scope["token"])
        self._json = await asyncio.to_thread(read) if len(data) > _LARGE else read()


def read_body(data: bytes, token: Token) -> Any:
    """Parse a body and check what is cheap to check before its fields are looked at.

    A parser keeps all other threads waiting, so what holds more values than a body of this token may is not parsed.
    """
    most = token.max_products
    if data.count(b",") > most + _VALUES:
        what = f"the body holds more values than a run with {most:,} products, which are allowed, needs"
        raise RequestError("too-many-products", what, "send fewer products", allowed=most)
    bounds = _list_of_ids(data)
    try:
        value = _parsed(data, bounds)
    except orjson.JSONDecodeError as error:
        raise _unreadable(error) from None
    if isinstance(value, dict):
        _check_size(value, token)
        _check_keys(data, bounds)
        _check_ids(value)
    return value


def _list_of_ids(data: bytes) -> tuple[int, int] | None:
    """Return where the brackets of the only list in a body stand if it holds nothing but numbers."""
    first, last = data.find(b"["), data.rfind(b"]")
    is_plain = 0 <= first < last and not data[first + 1 : last].translate(None, _NUMBERS)
    return (first, last) if is_plain else None


def _parsed(data: bytes, bounds: tuple[int, int] | None) -> Any:
    """Parse a body, a long list of ids in parts: while one is parsed, all other threads wait."""
    if bounds is None or len(data) < _LARGE:
        return orjson.loads(data)
    first, last = bounds
    ids: list[int] = []
    start = first + 1
    while start <= last:
        end = data.find(b",", min(start + _PART, last), last)
        end = last if end < 0 else end
        part: list[int] = orjson.loads(b"[" + data[start:end] + b"]")
        if not part:
            return orjson.loads(data)  # a comma too many, or no item: the parser says where
        ids += part
        start = end + 1
    value = orjson.loads(data[: first + 1] + data[last:])
    if isinstance(value, dict) and value.get("product_ids") == []:
        value["product_ids"] = ids
        return value
    return orjson.loads(data)


def _check_ids(body: dict[str, Any]) -> None:
    """Mark long lists of ids that are right, so that they are not looked at again, one by one."""
    ids = body.get("product_ids")
    if not isinstance(ids, list) or not _FEW < len(ids) <= schemas.MOST_PRODUCTS:
        return
    parts = [ids[start : start + _FEW] for start in range(0, len(ids), _FEW)]
    if all(type(each) is int and 0 < each < 2**63 for part in parts for each in part):
        numbers = np.concatenate([np.fromiter(part, np.int64, len(part)) for part in parts])
        numbers.sort()
        if (numbers[1:] != numbers[:-1]).all():
            body["product_ids"] = schemas.ProductIds(ids)


def _unreadable(error: orjson.JSONDecodeError) -> RequestValidationError:
    return RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": str(error)}])


def _check_size(body: dict[str, Any], token: Token) -> None:
    if len(body) > _FIELDS:
        raise RequestError("invalid-request", f"the body has {len(body):,} fields, {_FIELDS} are allowed")
    ids = body.get("product_ids")
    if isinstance(ids, list) and len(ids) > token.max_products:
        what = f"{len(ids):,} products are too many, {token.max_products:,} are allowed a run"
        raise RequestError("too-many-products", what, "send fewer products", allowed=token.max_products)


def _check_keys(data: bytes, bounds: tuple[int, int] | None) -> None:
    """Refuse a body that names a key twice: a proxy may have read the first value, the service reads the last."""
    if bounds:
        data = data[: bounds[0] + 1] + data[bounds[1] :]  # ids have no keys
    json.loads(data, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, each in pairs:
        if key in value:
            raise RequestError("invalid-request", f"the body names the key {key[:_SHOWN]!r} more than once")
        value[key] = each
    return value
