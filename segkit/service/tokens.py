"""Who may use the service: tokens, of which a file keeps the hashes, and what each of them may do."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from segkit.errors import SettingsError
from segkit.storage.disk import write_atomic

Money = Decimal | None


class Token(BaseModel):
    """One token: its name owns runs; `sha256` is the hash of what its holder sends; the rest are its limits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    expires: AwareDatetime | None = None
    max_products: int = Field(10_000, ge=1, le=100_000, strict=True)
    max_cost_usd: Money = Field(None, ge=0, allow_inf_nan=False)
    max_total_cost_usd: Money = Field(None, ge=0, allow_inf_nan=False)
    max_active: int = Field(10, ge=1, strict=True)
    requests_per_second: float = Field(2000, gt=0, allow_inf_nan=False)
    models: tuple[str, ...] | None = None
    unpriced_models: bool = Field(False, strict=True)
    all_runs: bool = Field(False, strict=True)


class TokenFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    tokens: tuple[Token, ...]


# Whoever reaches the service on loopback without tokens: the person at the machine.
LOCAL = Token.model_construct(
    name="(this machine)", sha256="", max_products=100_000, max_active=100_000, all_runs=True
)


class TokenBook:
    """The tokens of a file, read again when it changes, so that a token can be withdrawn while the service runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._changed = self._stamp()
        self._tokens = read_tokens(path)

    def reload(self) -> None:
        """Read the file again if it changed; raises SettingsError, once a change, and keeps what it knew.

        Where the file is gone, or holds no token any more, nobody is let in.
        """
        stamp = self._stamp()
        if stamp != self._changed:
            self._changed = stamp
            self._tokens = read_tokens(self.path, none_is_fine=True) if stamp else ()

    def find(self, secret: str) -> Token | None:
        """Find the token a client sent; every hash is compared, so that time tells nothing."""
        digest, found = _hash(secret), None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return None if found and found.expires and found.expires <= datetime.now(UTC) else found

    def _stamp(self) -> tuple[int, int] | None:
        try:
            told = self.path.stat()
        except OSError:
            return None
        return told.st_mtime_ns, told.st_ino


def read_tokens(path: Path, *, none_is_fine: bool = False) -> tuple[Token, ...]:
    """Read a file of tokens; raise SettingsError with what is wrong in it, never with a hash."""
    hint = "segkit token NAME makes a token and the file"
    try:
        tokens = TokenFile.model_validate_json(path.read_bytes()).tokens
    except OSError as error:
        raise SettingsError(f"the tokens in {path} cannot be read: {error.strerror}", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise SettingsError(f"the tokens in {path} cannot be used: {where or 'it'}: {first['msg']}", hint) from None
    names = [token.name for token in tokens]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{path} has tokens of one name: {', '.join(twice)}", "a name owns runs, so it is unique")
    if not tokens and not none_is_fine:
        raise SettingsError(f"{path} holds no token", hint)
    return tokens


def add_token(path: Path, name: str, **limits: Any) -> str:
    """Make a token, add its hash to the file, and give the token itself, which is stored nowhere.

    Raises SettingsError when the name is taken or a limit cannot be used.
    """
    known = read_tokens(path) if path.exists() else ()
    if any(token.name == name for token in known):
        raise SettingsError(
            f"{path} has a token {name} already", "take another name, or remove that one from the file"
        )
    secret = f"segkit_{secrets.token_urlsafe(32)}"
    given = {key: value for key, value in limits.items() if value is not None}
    try:
        token = Token(name=name, sha256=_hash(secret), **given)
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}") from None
    told = [each.model_dump(mode="json", exclude_defaults=True) for each in (*known, token)]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, orjson.dumps({"tokens": told}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return secret


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
