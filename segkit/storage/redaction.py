"""Secrets taken out of texts: found by value, in every encoding in which a provider may send them back."""

from __future__ import annotations

import base64
import json
import logging
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

_SHORTEST = 6


def redactor(secrets: Iterable[SecretStr | None]) -> Callable[[bytes], bytes]:
    """Return a function that replaces secrets in bytes: plain, reversed, base64, URL-encoded, JSON-escaped or hex."""
    values = [secret.get_secret_value().strip() for secret in secrets if secret]
    # A very short value would tear holes into ordinary text.
    forms = sorted({d for value in values if len(value) >= _SHORTEST for d in _forms(value)}, key=len, reverse=True)

    def redact(data: bytes) -> bytes:
        for form in forms:
            if form in data:
                data = data.replace(form, b"[secret]")
        return data

    return redact


def safe_text(text: object, secrets: Iterable[SecretStr | None]) -> str:
    """Return an error or a text without the secrets in it; what cannot be encoded becomes a question mark."""
    return redactor(secrets)(str(text).encode(errors="replace")).decode(errors="replace")


@contextmanager
def redacted_logs(redact: Callable[[bytes], bytes]) -> Iterator[None]:
    """Take secrets out of what any library logs while the block runs: at DEBUG some write out whole headers."""
    if logging.getLogRecordFactory() is not _clean_record:
        _factory[0] = logging.getLogRecordFactory()
        logging.setLogRecordFactory(_clean_record)
    _redactors.append(redact)
    try:
        yield
    finally:
        _redactors.remove(redact)


_redactors: list[Callable[[bytes], bytes]] = []
_factory: list[Callable[..., logging.LogRecord]] = [logging.LogRecord]


def _clean_record(*arguments: Any, **named: Any) -> logging.LogRecord:
    record = _factory[0](*arguments, **named)
    for redact in list(_redactors):
        text = record.getMessage()
        if record.exc_info and record.exc_info[1]:
            text += "\n" + "".join(traceback.format_exception(record.exc_info[1]))
        clean = redact(text.encode(errors="replace")).decode()
        if clean != text.encode(errors="replace").decode():
            record.msg, record.args, record.exc_info = clean, (), None
    return record


def _forms(value: str) -> Iterable[bytes]:
    raw = value.encode()
    yield raw
    yield value[::-1].encode()
    yield raw.hex().encode()
    yield quote(value, safe="").encode()
    # A library that shows bytes doubles each backslash, and so does an error that shows the library's text.
    yield from (value.replace("\\", "\\" * 2**times).encode() for times in (1, 2, 3))
    # JSON in JSON in JSON escapes again and again; some writers escape the slash too.
    escaped = json.dumps(value)[1:-1]
    for form in (escaped, escaped.replace("/", "\\/")):
        for _ in range(4):
            yield form.encode()
            form = json.dumps(form)[1:-1]
    # In base64 a value has three faces, by where it begins; the characters at its ends belong to its neighbours too.
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + raw)
        inner = encoded[-(-lead * 8 // 6) : len(encoded) - 4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
