"""`segkit serve` and `segkit token`: the service as a process, and who may use it."""

from __future__ import annotations

import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from segkit.errors import SettingsError
from segkit.settings import Settings, load_settings

_GRACE = 3  # seconds that open answers have when the service is stopped


def serve(host: str, port: int, tokens: Path | None, no_token: bool, runs_dir: Path | None) -> None:
    """Answer requests until SIGTERM or SIGINT; the runs it started go on.

    Raises SettingsError when the extra `api` is missing, the address cannot be had, or nobody would need a token.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"the service needs {', '.join(missing)}", "pip install 'segkit[api]'")
    from segkit.service.tokens import TokenBook

    settings = load_settings()
    tokens = tokens or settings.segkit_tokens
    _check_doors(host, tokens, no_token)
    book = None if no_token or tokens is None else TokenBook(tokens)
    with _listening(host, port) as door:
        _answer(settings, door, book, runs_dir or settings.storage_root)


def _check_doors(host: str, tokens: Path | None, no_token: bool) -> None:
    """Refuse to open a door to somebody else's money."""
    from segkit.service.http.middleware import is_loopback

    if no_token and not is_loopback(host):
        raise SettingsError(f"--no-token on {host} would let anybody spend your money", "--host 127.0.0.1, or tokens")
    if not no_token and tokens is None:
        raise SettingsError(
            "the service has no tokens",
            "segkit token NAME makes one, then --tokens FILE or SEGKIT_TOKENS; on this machine alone: --no-token",
        )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named, asyncio sends each piece at once, and no answer waits 40 ms for a receipt.
        door = socket.socket(family, kind, protocol)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        door.bind(address)
        door.listen(1024)
    except OSError as error:
        raise SettingsError(f"{host}:{port}: {error.strerror or error}", "take another --host or --port") from None
    return door


def _answer(settings: Settings, door: socket.socket, book: Any, place: Path) -> None:
    import uvicorn

    from segkit.service.http.app import make_app
    from segkit.service.http.one_write import OneWriteProtocol
    from segkit.service.service import opened

    # While a thread makes or plans a large run, a status would else wait 5 ms each time it needs the interpreter.
    sys.setswitchinterval(0.0005)
    with opened(settings, place, book) as service:
        config = uvicorn.Config(
            make_app(service),
            http=OneWriteProtocol,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_graceful_shutdown=_GRACE,
        )
        host, port = door.getsockname()[:2]
        typer.echo(f"segkit serves http://{f'[{host}]' if ':' in host else host}:{port}", err=True)
        for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn handles them, and raises them again when it is done
            signal.signal(number, lambda *_: None)
        server = uvicorn.Server(config)
        end = server.handle_exit

        def stop(sig: int, frame: FrameType | None) -> None:
            service.stopping.set()
            end(sig, frame)

        server.handle_exit = stop  # type: ignore[method-assign]
        server.run(sockets=[door])


def make_token(name: str, tokens: Path | None, limits: dict[str, Any]) -> None:
    """Make a token and show it, this once."""
    from segkit.service.tokens import add_token

    path = tokens or load_settings().segkit_tokens or load_settings().segkit_home / "tokens.json"
    secret = add_token(path, name, **limits)
    typer.echo(f"{path} holds its hash; the token is shown this once:", err=True)
    typer.echo(secret)
