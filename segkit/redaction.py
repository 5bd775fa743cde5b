"""Taking secrets out of what is written down: by value, in every dress a provider may send them back in."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from urllib.parse import quote

from pydantic import SecretStr

_SHORTEST = 6


def redactor(secrets: Iterable[SecretStr | None]) -> Callable[[bytes], bytes]:
    """Give a function that replaces the secrets in bytes: plain, base64, URL-encoded, JSON-escaped or hex."""
    values = [secret.get_secret_value().strip() for secret in secrets if secret]
    # A very short value would tear holes into ordinary text.
    dresses = sorted(
        {d for value in values if len(value) >= _SHORTEST for d in _dresses(value)}, key=len, reverse=True
    )

    def redact(data: bytes) -> bytes:
        for dress in dresses:
            if dress in data:
                data = data.replace(dress, b"[secret]")
        return data

    return redact


def _dresses(value: str) -> Iterable[bytes]:
    raw = value.encode()
    yield raw
    yield raw.hex().encode()
    yield quote(value, safe="").encode()
    yield json.dumps(value)[1:-1].encode()
    # In base64 a value has three faces, by where it begins; the characters at its ends belong to its neighbours too.
    for lead in range(3):
        encoded = base64.b64encode(b"\0" * lead + raw)
        inner = encoded[-(-lead * 8 // 6) : len(encoded) - 4]
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
