"""The gate before the service: who asks, how often, how much; and no error leaves it unworded.

Plain ASGI, so that it costs little: a thousand status requests a second pass through it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from segkit.errors import RequestError
from segkit.service.http.problem_details import MEDIA_TYPE, fault, refusal
from segkit.service.tokens import LOCAL, Token, TokenBook

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN = ("/health",)  # what is told to anybody
_PAGES = ("/docs", "/openapi.json")  # what a browser opens, where a token can be given as a password
_BRACKETS = 1000  # a start holds two; more than this is no start, and could be nested too deep for a parser
_BODY_SECONDS = 30
_HEADERS = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))


class Gate:
    """Lets requests through to an ASGI app: `scope["token"]` and `scope["request_id"]` say for whom.

    `observe(scope, status, seconds)` hears of every answer, `report(scope, error)` of every error nobody expected.
    `known(scope)` may give the JSON of an answer that is at hand, which then needs no routing. Without a book of
    tokens everybody on this machine is let in, but no page of another site.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        book: TokenBook | None,
        body_bytes: int,
        observe: Callable[[Scope, int, float], None],
        report: Callable[[Scope, BaseException], None],
        known: Callable[[Scope], bytes | None] = lambda scope: None,
    ) -> None:
        self._app, self._book, self._most = app, book, body_bytes
        self._observe, self._report, self._known = observe, report, known
        self._buckets: dict[str, tuple[float, float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, request_id, status = time.perf_counter(), secrets.token_hex(8), 0
        scope["request_id"] = request_id

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            self._admit(scope)
            if scope["method"] == "GET" and (body := self._known(scope)) is not None:
                await _answer(sending, 200, body, {"content-type": "application/json"})
                return
            await self._app(scope, await self._whole_body(scope, receive), sending)
        except RequestError as error:
            await _answer(sending, error.status, refusal(error, request_id), error.headers)
        except Exception as error:
            if not status:
                await _answer(sending, 500, fault(request_id), {})
            self._report(scope, error)
        finally:
            self._observe(scope, status, time.perf_counter() - began)

    def _admit(self, scope: Scope) -> None:
        """Find the token of a request; raise RequestError 401, 403 or 429 before anything is done for it."""
        headers = dict(scope["headers"])
        scope["token"] = None
        if self._book is None:
            _check_local(headers)
            scope["token"] = LOCAL
        elif scope["path"] not in OPEN:
            scope["token"] = token = self._book.find(_secret(scope, headers))
            if token is None:
                more = ', Basic realm="segkit: the token is the password"' if scope["path"] in _PAGES else ""
                raise RequestError(401, "a valid token is needed", www_authenticate=f'Bearer realm="segkit"{more}')
            self._take_turn(token)

    def _take_turn(self, token: Token) -> None:
        """Count a request against the token's rate: a bucket that holds two seconds of it."""
        now, rate = time.monotonic(), token.requests_per_second
        left, then = self._buckets.get(token.name, (2 * rate + 1, now))
        left = min(2 * rate + 1, left + (now - then) * rate)
        if left < 1:
            self._buckets[token.name] = (left, now)
            raise RequestError(429, f"more than {rate:g} requests a second", retry_after="1")
        self._buckets[token.name] = (left - 1, now)

    async def _whole_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body of a POST up to the limit, so that nothing behind the gate can be flooded."""
        if scope["method"] != "POST":
            return receive
        headers = dict(scope["headers"])
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise RequestError(415, "bodies come as they are, not compressed")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most:
            raise RequestError(413, f"a body holds at most {self._most:,} bytes", connection="close")
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await self._read(receive)
        except TimeoutError:
            raise RequestError(408, "the body did not come", connection="close") from None
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if body and kind != b"application/json":  # nor can a form on another site send one without being asked
            raise RequestError(415, "a body is JSON: Content-Type: application/json")
        if body.count(b"[") + body.count(b"{") > _BRACKETS:
            raise RequestError(422, "the body is nested too deeply, or holds too many lists")
        return _replayed(body, receive)

    async def _read(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RequestError(400, "the client went away before its body had come")
            body += message.get("body", b"")
            if len(body) > self._most:
                raise RequestError(413, f"a body holds at most {self._most:,} bytes", connection="close")
            if not message.get("more_body", False):
                return bytes(body)


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address leads to this machine only."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # such as a bracket that does not close
        return ""


def _check_local(headers: dict[bytes, bytes]) -> None:
    """Without tokens, a page of another site must not reach the service through the browser of its user."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not is_loopback(_name_of(host)):
        raise RequestError(403, "without tokens, only this machine is answered")
    if any(name in headers for name in (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")):
        raise RequestError(403, "without tokens, nobody is answered through a proxy")
    origin = headers.get(b"origin", b"").decode("latin-1")
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") or (
        origin and origin.partition("://")[2] != host
    ):
        raise RequestError(403, "pages of other sites are not answered")


def _secret(scope: Scope, headers: dict[bytes, bytes]) -> str:
    """Take the token out of a header; as a password only where a browser opens a page that changes nothing."""
    scheme, _, value = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic" and scope["path"] in _PAGES and scope["method"] in ("GET", "HEAD"):
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _replayed(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    told = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **headers}
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in told.items()]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
