"""Links that open the report of a run in a browser, for a few minutes: signed, so that no token stands in them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from segkit.service.tokens import Token, TokenStore
from segkit.storage.disk import write_atomic

SECONDS = 300  # that a link opens its report


class Links:
    """Signs and checks links; the key is a file of the service, so that links outlive a restart."""

    def __init__(self, home: Path, tokens: TokenStore) -> None:
        self._path, self._tokens, self._key = home / "links.key", tokens, b""

    def sign(self, path: str, token: Token) -> tuple[str, int]:
        """Return the query that opens a path with the rights of a token, and the Unix time until which it does."""
        expires = int(time.time()) + SECONDS
        signature = self._signature(path, token, expires)
        return urlencode({"by": token.name, "expires": expires, "signature": signature}), expires

    def token_of(self, path: str, query: Mapping[str, str]) -> Token | None:
        """Return the token whose link this is; None if it is no link, has expired, or its token is not valid now."""
        token, expires = self._tokens.named(query.get("by", "")), query.get("expires", "")
        if token is None or not (expires.isascii() and expires.isdigit() and len(expires) < 20):
            return None
        is_right = hmac.compare_digest(self._signature(path, token, int(expires)), query.get("signature", ""))
        return token if is_right and time.time() < int(expires) else None

    def _signature(self, path: str, token: Token, expires: int) -> str:
        """Sign a path for a token; one that is made anew has another hash, and its links end."""
        text = "\n".join((path, token.name, token.sha256, str(expires)))
        return hmac.new(self._read_key(), text.encode(), hashlib.sha256).hexdigest()

    def _read_key(self) -> bytes:
        if not self._key:
            if not self._path.exists():
                write_atomic(self._path, secrets.token_bytes(32))
                self._path.chmod(0o600)
            self._key = self._path.read_bytes()
        return self._key
