"""Delivering callbacks: signed as Standard Webhooks says, and tried again for a day and a half."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import orjson

from segkit.runs.events import timestamp
from segkit.service.callbacks.outbox import Callback, Outbox
from segkit.service.journal import Journal
from segkit.service.tokens import Token, TokenStore

#: Seconds after each failed attempt; after the last one a callback is given up.
PAUSES = (10, 60, 300, 1800, 7200, 21_600, 43_200, 43_200)
_SECONDS = 10.0  # that a receiver has to answer
_AT_ONCE = 8
_GONE = 410  # the receiver wants no more of it


class Deliveries:
    """Sends what is due; `read` returns the status of a run as clients see it, or None if it works again."""

    def __init__(
        self, outbox: Outbox, tokens: TokenStore, journal: Journal, read: Callable[[str], dict[str, Any] | None]
    ) -> None:
        self._outbox, self._tokens, self._journal, self._read = outbox, tokens, journal, read
        self._senders = ThreadPoolExecutor(_AT_ONCE, "callback")

    def close(self) -> None:
        self._senders.shutdown(wait=False, cancel_futures=True)

    def tick(self) -> None:
        """Send the oldest callback of each owner that is due, several at once, since one may hang."""
        list(self._senders.map(self._deliver, self._outbox.due(time.time(), max(PAUSES))))

    def _deliver(self, callback: Callback) -> None:
        token = self._tokens.named(callback.owner)
        body = callback.body or self._written(callback)
        if token is None or token.callback_url is None or body is None:
            self._outbox.remove(callback)
            return
        answer = _post(callback.id, body, token)
        if answer.isdecimal() and 200 <= int(answer) < 300:
            self._end(callback, "callback_delivered", answer)
        elif answer == str(_GONE) or callback.attempts >= len(PAUSES):
            self._end(callback, "callback_given_up", answer)
        else:
            self._outbox.put_off(callback, time.time() + PAUSES[callback.attempts])
            self._note(callback, "callback_failed", answer)

    def _end(self, callback: Callback, event: str, answer: str) -> None:
        self._outbox.remove(callback)
        self._note(callback, event, answer)

    def _note(self, callback: Callback, event: str, answer: str) -> None:
        facts = {"run_id": callback.run_id, "owner": callback.owner, "attempt": callback.attempts + 1}
        self._journal.note(event, **facts, answer=answer)

    def _written(self, callback: Callback) -> bytes | None:
        """Write the body of a callback; None for a run that was resumed meanwhile, or is gone."""
        document = self._read(callback.run_id)
        if document is None:
            return None
        body = orjson.dumps({"type": f"run.{document['status']}", "timestamp": timestamp(), "data": document})
        self._outbox.write(callback, body)
        return body


def _post(key: str, body: bytes, token: Token) -> str:
    """Send a callback; return the status of the answer, or the name of the error."""
    moment = str(int(time.time()))
    headers = {
        "content-type": "application/json", "webhook-id": key, "webhook-timestamp": moment,
        "webhook-signature": signature(str(token.callback_secret), key, moment, body),
    }  # fmt: skip
    try:
        with httpx.stream(
            "POST", str(token.callback_url), content=body, headers=headers, timeout=_SECONDS, follow_redirects=False
        ) as answer:
            return str(answer.status_code)  # what else it says is not read
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        return type(error).__name__


def signature(secret: str, key: str, moment: str, body: bytes) -> str:
    """Sign a callback: HMAC-SHA256 of its id, its time and its body, with the secret of the token."""
    signed = b"%b.%b.%b" % (key.encode(), moment.encode(), body)
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
