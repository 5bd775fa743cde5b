"""What stands before the routes: who asks, how often, how much; and every error becomes a problem."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import itertools
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from segkit.errors import RequestError
from segkit.service.http.links import Links
from segkit.service.http.problems import ProblemResponse, fault, log_failure, refusal, route_of
from segkit.service.service import Service
from segkit.service.tokens import LOCAL, Token

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/health", "/ready")  # paths that need no token
_PAGES = ("/docs", "/openapi.json", "/report.html")  # paths a browser opens end so: a password may be the token
_METHODS = {"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}
_BRACKETS = 1000  # a start holds two; a body with more holds too much
_OF_SHEETS = {"check": 3000, "assign": 3000}  # two a category
_BODY_SECONDS = 30
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
# What a request costs beside the status of a run: files are read, runs are planned, all runs are looked at.
_COSTS = {"start": 10, "extend": 10, "assign": 10, "results": 10, "results.csv": 10, "results.parquet": 10}
_COSTS |= {"taxonomy": 10, "taxonomy.csv": 10, "taxonomy.xlsx": 10, "check": 10}
_COSTS |= {"runs": 5, "metrics": 20, "report.html": 2}
_BYTES = 10_000  # of a body that cost as much as a request
_CLOSE = {"connection": "close"}  # the rest of the body is not read


class ApiMiddleware:
    """Lets requests through to an ASGI app: `scope["token"]` and `scope["request_id"]` identify who asks.

    Without tokens everybody on this machine is let in, but no page of another site.
    """

    def __init__(
        self, app: Callable[[Scope, Receive, Send], Awaitable[None]], service: Service, links: Links
    ) -> None:
        self._app, self._service, self._links = app, service, links
        self._buckets: dict[str, tuple[float, float]] = {}
        self._prefix, self._numbers = secrets.token_hex(4), itertools.count(1)  # of ids of requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, request_id, status = time.perf_counter(), f"{self._prefix}{next(self._numbers):08x}", 0
        scope["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        async def answer(problem: ProblemResponse) -> None:
            await problem(scope, receive, send_with_headers)

        try:
            self._admit(scope)
            await self._app(scope, await self._with_body(scope, receive), send_with_headers)
        except _RefusedError as error:
            await answer(refusal(error, request_id, error.headers))
        except Exception as error:  # also one that was answered before: the framework raises it again
            log_failure(self._service, scope, error)
            if not status:
                await answer(fault(request_id))
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"  # else strangers fill the memory
            self._service.metrics.observe(method, route_of(scope), status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        """Find the token of a request; refuse with 401, 403 or 429 before anything is done for it."""
        headers = dict(scope["headers"])
        scope["token"] = None
        if self._service.tokens.path is None:
            _check_local(headers)
            scope["token"] = LOCAL
        elif scope["path"] not in OPEN:
            scope["token"] = token = self._service.tokens.find(_secret(scope, headers)) or self._by_link(scope)
            if token is None:
                more = ', Basic realm="segkit: the token is the password"' if scope["path"].endswith(_PAGES) else ""
                realm = {"www-authenticate": f'Bearer realm="segkit"{more}'}
                raise _RefusedError("token-needed", "a valid token is needed", realm)
            self._count(token, _COSTS.get(scope["path"].rpartition("/")[2], 1))

    def _by_link(self, scope: Scope) -> Token | None:
        """Return the token whose signed link opens a report."""
        if scope["method"] != "GET" or not scope["path"].endswith("/report.html"):
            return None
        return self._links.token_of(scope["path"], dict(parse_qsl(scope["query_string"].decode("latin-1"))))

    def _count(self, token: Token, cost: float) -> None:
        """Count what a request costs against the token's rate: a bucket that holds two seconds of it.

        A costly request is let in while anything is left, and those after it wait until it is paid off.
        """
        now, rate = time.monotonic(), token.requests_per_second
        left, then = self._buckets.get(token.name, (2 * rate + 1, now))
        left = min(2 * rate + 1, left + (now - then) * rate)
        if left < 1:
            self._buckets[token.name] = (left, now)
            raise _RefusedError("rate-limit", f"more than {rate:g} requests a second")
        self._buckets[token.name] = (left - cost, now)

    async def _with_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body of a POST up to the limit, so that nothing behind can be flooded."""
        if scope["method"] != "POST":
            return receive
        headers, most = dict(scope["headers"]), self._service.settings.segkit_serve_body_bytes
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise _RefusedError("not-json", "compressed request bodies are not supported")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > most:
            raise _RefusedError("body-too-large", f"a request body has at most {most:,} bytes", _CLOSE)
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _read(receive, most)
        except TimeoutError:
            raise _RefusedError("body-timeout", "timed out waiting for the request body", _CLOSE) from None
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if body and kind != b"application/json":  # nor can a form on another site send one without being asked
            raise _RefusedError("not-json", "a request body must be JSON, with Content-Type: application/json")
        if body.count(b"[") + body.count(b"{") > _OF_SHEETS.get(scope["path"].rpartition("/")[2], _BRACKETS):
            raise _RefusedError("invalid-request", "the body is nested too deeply, or holds too many lists")
        if token := scope["token"]:
            left, then = self._buckets.get(token.name, (0.0, time.monotonic()))
            self._buckets[token.name] = (left - len(body) / _BYTES, then)
        return _replayed(body, receive)


class _RefusedError(RequestError):
    """A request that is refused before it reaches a route, with headers of the answer."""

    def __init__(self, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(kind, message)
        self.headers = headers or {}


async def _read(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _RefusedError("unreadable-request", "the client closed the connection before its body had arrived")
        body += message.get("body", b"")
        if len(body) > most:
            raise _RefusedError("body-too-large", f"a request body has at most {most:,} bytes", _CLOSE)
        if not message.get("more_body", False):
            return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first gives a body which was read already."""
    pending = [body]

    async def replay() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


def is_loopback(host: str) -> bool:
    """Report whether a host name or address leads to this machine only."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_local(headers: dict[bytes, bytes]) -> None:
    """Refuse, without tokens, what a page of another site sends through the browser of its user."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_loopback(_name_of(host)):
        raise _RefusedError("local-only", "without tokens, only this machine is answered")
    if any(name in headers for name in (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")):
        raise _RefusedError("local-only", "without tokens, requests through a proxy are refused")
    origin = headers.get(b"origin", b"").decode("latin-1")
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") or (
        origin and origin.partition("://")[2] != host
    ):
        raise _RefusedError("local-only", "without tokens, requests from pages of other sites are refused")


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # such as a bracket that does not close
        return ""


def _secret(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """Return the token in a header; as a password only where a browser opens a page that changes nothing."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and scope["path"].endswith(_PAGES) and scope["method"] in ("GET", "HEAD"):
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""
