"""Request bodies: parsed and checked so that the other threads of the service wait for none of them.

What a body may hold at most is checked before its items are, so that a huge wrong body is refused at once. A parser
in C keeps all other threads waiting, so a large body is parsed by the one of the standard library that is in Python.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from json.decoder import scanstring  # type: ignore[attr-defined]
from json.scanner import py_make_scanner  # type: ignore[attr-defined]
from typing import Any, NoReturn

import orjson
from fastapi.exceptions import RequestValidationError

from segkit.core.text import quantity
from segkit.errors import RequestError
from segkit.service.http.schemas import LISTED_TWICE, ProductIds, given_id
from segkit.service.tokens import Token

THREADED = 4000  # bytes of a body from which on it is read in a thread
_AT_ONCE = 64_000  # bytes that the parser in C takes at once
_FIELDS = 50  # of a body
_VALUES = 2000  # of a body beside its products
_OF_SHEETS = 100_000  # of a body with an edited taxonomy; commas in its texts count too
_LONG = 200  # ids of a list that is checked here, and not on the event loop
_PART = 5000  # ids that are put into a set at once
_DIGITS = 20  # of an integer
_SHOWN = 40  # characters of a key that a refusal shows


def read_body(data: bytes, token: Token, *, with_sheet: bool = False) -> Any:
    """Parse a body, which may hold the sheet of a taxonomy, and check its size, its keys and its long lists of ids.

    There is no NaN, no number beyond 64 bits, no text that is no Unicode, and no key that stands there twice. Raises
    RequestError or RequestValidationError.
    """
    most, values = token.max_products, _OF_SHEETS if with_sheet else _VALUES
    if data.count(b",") > most + values:
        what = f"the body holds more values than a run with {most:,} products, which are allowed, needs"
        raise RequestError("too-many-products", what, "send fewer products", allowed=most)
    if data.count(b'":') > values:
        raise RequestError("invalid-request", f"the body has too many fields, {_FIELDS} are allowed")
    value = _parse(data)
    if isinstance(value, dict):
        _check_size(value, token)
        ids = value.get("product_ids")
        if isinstance(ids, list) and len(ids) > _LONG:
            value["product_ids"] = _checked(ids)
    return value


def _parse(data: bytes) -> Any:
    try:
        if len(data) > _AT_ONCE:
            return _Parser().decode(data.decode())
        json.loads(data, object_pairs_hook=_unique)
        return orjson.loads(data)
    except RecursionError:
        raise RequestError("invalid-request", "the body is nested too deeply") from None
    except ValueError as error:  # of JSON, or of Unicode
        details: dict[str, Any] = {"type": "json_invalid", "loc": ("body",), "msg": str(error)}
        raise RequestValidationError([details]) from None


class _Parser(json.JSONDecoder):
    """Parses what orjson does, slowly, and refuses what it refuses."""

    parse_string: Callable[..., tuple[str, int]]

    def __init__(self) -> None:
        super().__init__(object_pairs_hook=_unique, parse_int=_integer, parse_constant=_refuse)
        self.parse_string = _text
        self.scan_once = py_make_scanner(self)


def _text(*where: Any) -> tuple[str, int]:
    value, end = scanstring(*where)
    value.encode()  # half a surrogate pair is no text
    return value, end


def _integer(digits: str) -> int:
    return int(digits) if len(digits) <= _DIGITS else _refuse(digits[:_DIGITS])


def _refuse(value: str) -> NoReturn:
    raise ValueError(f"{value} is not allowed")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a body that names a key twice: a proxy may have read the first value, the service reads the last."""
    value: dict[str, Any] = {}
    for key, each in pairs:
        if key in value:
            raise RequestError("invalid-request", f"the body names the key {key[:_SHOWN]!r} more than once")
        key.encode()
        value[key] = each
    return value


def _check_size(body: dict[str, Any], token: Token) -> None:
    if len(body) > _FIELDS:
        raise RequestError("invalid-request", f"the body has {len(body):,} fields, {_FIELDS} are allowed")
    ids = body.get("product_ids")
    if isinstance(ids, list) and len(ids) > token.max_products:
        what = f"{quantity(len(ids), 'product', 'are')} too many, {token.max_products:,} are allowed a run"
        raise RequestError("too-many-products", what, "send fewer products", allowed=token.max_products)


def _checked(ids: list[Any]) -> ProductIds:
    """Check a long list of ids as the schema does; raise RequestValidationError at the first one that is wrong."""
    checked: list[int | str] = []
    seen: set[int | str] = set()
    for start in range(0, len(ids), _PART):
        for each in ids[start : start + _PART]:
            try:
                checked.append(given_id(each))
            except ValueError as error:
                raise _wrong(str(error), len(checked)) from None
        seen.update(checked[start:])
        if len(seen) < len(checked):
            raise _wrong(LISTED_TWICE)
    return ProductIds(checked)


def _wrong(what: str, *position: int) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", "product_ids", *position), "msg": what}])
