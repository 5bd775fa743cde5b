"""Refusals and errors as problem details of RFC 9457, without a word about the inside of the service."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from segkit.errors import RequestError, RunError, StorageError
from segkit.service.service import Service

MEDIA_TYPE = "application/problem+json"
_SHOWN = 20  # faults of a body
_RETRY_AFTER = {429: 1, 503: 30}  # seconds, where the refusal names none

# The kinds of problems: the status of each and what it means. `type` of a problem is "/problems/" and its kind.
PROBLEMS: dict[str, tuple[int, str]] = {
    "unreadable-request": (400, "The request cannot be read."),
    "token-needed": (401, "A valid token is needed."),
    "budget-needed": (402, "A model that costs money needs a budget."),
    "budget-above-limit": (402, "The budget is above what the token or the operator allows a run."),
    "plan-above-budget": (402, "The run may cost more than its budget."),
    "total-budget-used": (402, "The budget of all runs of the token does not suffice."),
    "price-unknown": (402, "The price of the model is not known."),
    "local-only": (403, "Without tokens, only this machine is answered."),
    "no-such-run": (404, "There is no such run, or it belongs to somebody else."),
    "no-such-product": (404, "The run has no such product."),
    "no-report": (404, "The run has no report yet."),
    "no-such-path": (404, "There is nothing at this path."),
    "method-not-allowed": (405, "The path does not have this method."),
    "body-timeout": (408, "The request body did not arrive in time."),
    "key-reused": (409, "The Idempotency-Key was used with another body."),
    "wrong-state": (409, "The run is not in a state for this."),
    "no-results-yet": (409, "The run has no results yet."),
    "owned-elsewhere": (409, "Another machine works on the run."),
    "run-damaged": (409, "The folder of the run is damaged."),
    "body-too-large": (413, "The request body is too large."),
    "not-json": (415, "A request body must be plain JSON."),
    "invalid-request": (422, "The request cannot be used; `errors` says where."),
    "too-many-products": (422, "There are more products than the token allows."),
    "unknown-products": (422, "Products are not in `amazon_products`, or cannot be used."),
    "untitled-products": (422, "More products have no title than the run allows."),
    "unusable-taxonomy": (422, "The edited taxonomy cannot be used, or its edits contradict each other."),
    "unknown-prompts": (422, "The operator has no such prompt set, or it cannot be used."),
    "model-not-allowed": (422, "The token may not use this model."),
    "model-unavailable": (422, "The service is not set up for this model."),
    "rate-limit": (429, "The token has sent too many requests."),
    "queue-full": (429, "The queue of the service is full."),
    "too-many-runs": (429, "Too many runs of the token are active."),
    "too-many-streams": (429, "Too many event streams of the token are open."),
    "too-many-downloads": (429, "Too many results are being downloaded with the token."),
    "internal": (500, "The service has a fault."),
    "not-alive": (503, "The service no longer looks after its runs."),
    "start-failed": (503, "The first request with this key failed."),
    "database-unavailable": (503, "The database cannot be reached."),
    "storage-unavailable": (503, "S3 cannot be reached."),
    "disk-unavailable": (503, "The disk of the service fails."),
}
_KINDS = {404: "no-such-path", 405: "method-not-allowed", 400: "unreadable-request"}  # of what the framework refuses


class ProblemResponse(Response):
    """A refusal: its kind and what is wrong, and more fields for programs; fields that are empty are left out."""

    def __init__(
        self, kind: str, detail: str, request_id: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        status, title = PROBLEMS[kind]
        wait = more.pop("retry_after", _RETRY_AFTER.get(status))
        body = {
            "type": f"/problems/{kind}", "title": title, "status": status, "detail": detail, "request_id": request_id
        }  # fmt: skip
        body |= {name: value for name, value in more.items() if value not in (None, "", [])}
        found = dict(headers or {}) | ({"retry-after": str(wait)} if wait else {})
        super().__init__(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=found)


def refusal(error: RequestError, request_id: str, headers: Mapping[str, str] | None = None) -> ProblemResponse:
    """Return the problem of a request that was refused on purpose."""
    return ProblemResponse(error.kind, error.message, request_id, headers, hint=error.hint, **error.details)


def fault(request_id: str) -> ProblemResponse:
    """Return the problem of an unexpected error, which only the log of the service describes."""
    return ProblemResponse("internal", "the service has a fault; it is logged", request_id)


def add_handlers(app: FastAPI) -> None:
    """Answer every refusal and every error of an app with a problem."""
    handlers: dict[type[Exception], Any] = {
        RequestError: _refused,
        RunError: _damaged,
        RequestValidationError: _invalid,
        HTTPException: _http_error,
        Exception: _unexpected,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _refused(request: Request, error: RequestError) -> Response:
    return refusal(error, request.scope["request_id"])


async def _damaged(request: Request, error: RunError) -> Response:
    return ProblemResponse("run-damaged", "the folder of the run is damaged", request.scope["request_id"])


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    errors = error.errors()
    if any(each["loc"][0] == "path" for each in errors):
        return ProblemResponse("no-such-run", "there is no such run", request.scope["request_id"])
    if any(each["type"] == "json_invalid" for each in errors):
        return ProblemResponse("unreadable-request", "the body is not JSON", request.scope["request_id"])
    what, faults = "the request cannot be used", faults_of(errors)
    return ProblemResponse("invalid-request", what, request.scope["request_id"], errors=faults)


async def _http_error(request: Request, error: HTTPException) -> Response:
    kind = _KINDS.get(error.status_code, "internal")
    detail = str(error.detail) or HTTPStatus(error.status_code).phrase
    return ProblemResponse(kind, detail, request.scope["request_id"], error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    log_failure(request.app.state.service, request.scope, error)
    if isinstance(error, StorageError):
        what = "the storage cannot be read"
        return ProblemResponse("storage-unavailable", what, request.scope["request_id"], hint="try again later")
    return fault(request.scope["request_id"])


def log_failure(service: Service, scope: MutableMapping[str, Any], error: Exception) -> None:
    """Log an error that nobody expected, once a request."""
    if not scope.get("is_logged"):
        scope["is_logged"] = True
        facts = {"request_id": scope["request_id"], "route": route_of(scope)}
        service.journal.note_error("request_failed", error, **facts)


def route_of(scope: Mapping[str, Any]) -> str:
    """Return the path of the route that answers a request, with its parameters' names."""
    return str(getattr(scope.get("route"), "path", "other"))


def faults_of(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Describe what is wrong in a request, each fault with its place; what was sent is not sent back.

    A place is a JSON pointer into the body (`pointer`), or the name of a query parameter or header (`parameter`).
    """
    return [_fault(error["loc"], str(error["msg"]).removeprefix("Value error, ")) for error in errors[:_SHOWN]]


def _fault(place: Sequence[Any], detail: str) -> dict[str, str]:
    if place[0] == "body":
        return {"pointer": "#" + "".join(f"/{part}" for part in place[1:]), "detail": detail}
    return {"parameter": str(place[-1]), "detail": detail}


Responses = dict[int | str, dict[str, Any]]


def responses(*statuses: int) -> Responses:
    """Describe the refusals of a route for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _described(status), "content": content} for status in statuses}


def _described(status: int) -> str:
    lines = [f"`{kind}`: {title}" for kind, (code, title) in PROBLEMS.items() if code == status]
    return "\n\n".join(lines)
