"""What a refused request is told: problem details of RFC 9457, without a word about the inside of the service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson

from segkit.errors import RequestError

MEDIA_TYPE = "application/problem+json"
_SHOWN = 20


def problem(status: int, detail: str, request_id: str, **more: Any) -> bytes:
    """Write the body of a problem; what is empty is left out."""
    told = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "request_id": request_id,
    }
    return orjson.dumps(told | {name: value for name, value in more.items() if value})


def fault(request_id: str) -> bytes:
    """Write the problem of an error that nobody expected; what it was stands in the events of the service."""
    return problem(500, "the service has a fault; it is logged", request_id)


def refusal(error: RequestError, request_id: str) -> bytes:
    """Write the problem of a request that was refused on purpose."""
    return problem(error.status, error.message, request_id, hint=error.hint)


def faults_of(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Name what is wrong in a body, each fault with its JSON pointer; what was sent is not sent back."""
    return [
        {"pointer": "#" + "".join(f"/{part}" for part in error["loc"][1:]), "detail": str(error["msg"])}
        for error in errors[:_SHOWN]
    ]
