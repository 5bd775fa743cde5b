"""Who may use the service: tokens, of which a file keeps the hashes, and what each of them may do."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from segkit.core.text import one_line
from segkit.errors import SettingsError
from segkit.storage.disk import write_atomic

Money = Decimal | None


class Token(BaseModel):
    """One token: its name owns runs, `sha256` is the hash of what its holder sends, the rest are its limits."""

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
    callback_url: str | None = Field(None, pattern=r"^https?://[^\s@]+$")
    callback_secret: str | None = Field(None, pattern=r"^whsec_[A-Za-z0-9+/]{43}=$")

    @property
    def is_expired(self) -> bool:
        return self.expires is not None and self.expires <= datetime.now(UTC)


class TokenFile(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    tokens: tuple[Token, ...]


# Whoever reaches the service on loopback without tokens: the person at the machine.
LOCAL = Token.model_construct(
    name="(this machine)", sha256="", max_products=100_000, max_active=100_000, all_runs=True
)


class TokenStore:
    """The tokens of a file, read again when it changes, so that a token can be withdrawn while the service runs.

    Without a file (`path` is None) there is one token, that of the person at the machine.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.fault = path, ""
        self._stamp = _stamp(path)
        self._use(read_tokens(path) if path else (LOCAL,))

    def _use(self, tokens: tuple[Token, ...]) -> None:
        self._tokens, self._by_hash = tokens, {token.sha256: token for token in tokens}

    def reload(self) -> None:
        """Read the file again if it changed; raises SettingsError, once a change, and keeps the tokens it has.

        Where the file is gone, or holds no token any more, nobody is let in. `fault` describes a file that is gone or
        cannot be used, until it can.
        """
        if self.path and (stamp := _stamp(self.path)) != self._stamp:
            self._stamp = stamp
            if stamp is None:
                self._use(())
                self.fault = f"{self.path} is gone; nobody is let in until it is back"
                return
            try:
                self._use(read_tokens(self.path, may_be_empty=True))
                self.fault = ""
            except SettingsError as error:
                self.fault = f"{error.message}; the tokens it held before stay valid"
                raise

    def find(self, secret: str) -> Token | None:
        """Return the valid token a client sent, found by its hash: the time reveals nothing about any token."""
        found = self._by_hash.get(_hash(secret))
        return None if found is None or found.is_expired else found

    def named(self, name: str) -> Token | None:
        """Return the valid token of a name; None if it was withdrawn or has expired."""
        return next((token for token in self._tokens if token.name == name and not token.is_expired), None)

    def is_withdrawn(self, owner: str) -> bool:
        """Report whether the owner of a run has no valid token any more; the person at the machine needs none.

        While the file cannot be read nobody is withdrawn: an editor may be about to write it again.
        """
        return bool(self.path and not self.fault and owner and owner != LOCAL.name and self.named(owner) is None)

    def is_valid(self, token: Token) -> bool:
        """Report whether a token that was let in once still would be; one that was made anew is another token."""
        current = self.named(token.name)
        return current is not None and current.sha256 == token.sha256


def _stamp(path: Path | None) -> tuple[int, int] | None:
    try:
        facts = path.stat() if path else None
    except OSError:
        return None
    return (facts.st_mtime_ns, facts.st_ino) if facts else None


def read_tokens(path: Path, *, may_be_empty: bool = False) -> tuple[Token, ...]:
    """Read a file of tokens; raise SettingsError with what is wrong in it, never with a hash."""
    hint = "segkit token create NAME creates a token and the file"
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
        raise SettingsError(
            f"{path} has several tokens with the same name: {', '.join(twice)}", "names must be unique"
        )
    if not tokens and not may_be_empty:
        raise SettingsError(f"{path} holds no token", hint)
    return tokens


def add_token(path: Path, name: str, **limits: Any) -> str:
    """Create a token, add its hash to the file, and return the token itself, which is stored nowhere.

    Limits that are None keep their default. Raises SettingsError when the name is taken or a limit cannot be used.
    """
    with _edited(path) as tokens:
        if any(token.name == name for token in tokens):
            raise SettingsError(f"{path} has a token {name} already", f"segkit token rotate {name}, or another name")
        secret = _new_secret()
        given = {key: value for key, value in limits.items() if value is not None}
        if "callback_url" in given:
            given["callback_secret"] = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        try:
            token = Token(name=name, sha256=_hash(secret), **given)
        except ValidationError as error:
            first = error.errors()[0]
            raise SettingsError(f"{'.'.join(map(str, first['loc']))} = {first['input']!r}: {first['msg']}") from None
        tokens.append(token)
    return secret


def callback_secret(path: Path, name: str) -> str:
    """Return the secret that signs the callbacks of a token; empty for one without callbacks."""
    tokens = read_tokens(path)
    return tokens[_position(path, tokens, name)].callback_secret or ""


def rotate_token(path: Path, name: str) -> str:
    """Replace the secret of a token, which keeps its limits and runs, and return the new one.

    Raises SettingsError when the file has no token of this name.
    """
    secret = _new_secret()
    with _edited(path) as tokens:
        position = _position(path, tokens, name)
        tokens[position] = tokens[position].model_copy(update={"sha256": _hash(secret)})
    return secret


def remove_token(path: Path, name: str) -> None:
    """Remove a token from the file; raises SettingsError when it has none of this name."""
    with _edited(path) as tokens:
        del tokens[_position(path, tokens, name)]


def _position(path: Path, tokens: Sequence[Token], name: str) -> int:
    for position, token in enumerate(tokens):
        if token.name == name:
            return position
    raise SettingsError(f"{path} has no token {one_line(name)!r}", "segkit token list shows their names")


@contextmanager
def _edited(path: Path) -> Iterator[list[Token]]:
    """Lend the tokens of a file to one process at a time, and write them back after the block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = list(read_tokens(path, may_be_empty=True)) if path.exists() else []
        yield tokens
        _write(path, tokens)


def _write(path: Path, tokens: Sequence[Token]) -> None:
    rows = [token.model_dump(mode="json", exclude_defaults=True) for token in tokens]
    write_atomic(path, orjson.dumps({"tokens": rows}, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _new_secret() -> str:
    return f"segkit_{secrets.token_urlsafe(32)}"


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()
