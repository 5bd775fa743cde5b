"""The HTTP transport beside what the faults show: proxies of the environment, and no credentials of others."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from catalogues import KEY
from endpoint import Endpoint

from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.run import Run

NewRun = Callable[..., Run]


@pytest.fixture
def proxy(endpoint: Endpoint) -> tuple[int, list[bytes]]:
    """A proxy that notes what it is asked for and passes everything to the endpoint."""
    listener, seen = socket.create_server(("127.0.0.1", 0)), list[bytes]()

    def pump(source: socket.socket, sink: socket.socket, note: bool) -> None:
        while data := source.recv(65536):
            if note:
                seen.append(data)
                data = data.replace(b"POST http://segkit.invalid", b"POST ")
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        while True:
            client, upstream = listener.accept()[0], socket.create_connection(("127.0.0.1", endpoint.port))
            threading.Thread(target=pump, args=(client, upstream, True), daemon=True).start()
            threading.Thread(target=pump, args=(upstream, client, False), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listener.getsockname()[1], seen


def test_a_proxy_of_the_environment_is_used(
    new_run: NewRun, endpoint: Endpoint, proxy: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    port, seen = proxy
    monkeypatch.setenv("OPENAI_BASE_URL", "http://segkit.invalid/v1")
    monkeypatch.setenv("http_proxy", f"http://user:word@127.0.0.1:{port}")
    extract_taxonomy(new_run(6))
    assert endpoint.count() == 1
    assert seen[0].startswith(b"POST http://segkit.invalid/v1/chat/completions ")
    assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in seen[0]


def test_no_proxy_is_used_for_hosts_that_want_none(
    new_run: NewRun, endpoint: Endpoint, proxy: tuple[int, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy[0]}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    extract_taxonomy(new_run(6))
    assert (endpoint.count(), proxy[1]) == (1, [])


def test_credentials_of_other_programs_are_never_sent(
    new_run: NewRun, endpoint: Endpoint, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiohttp would read `.netrc`, in a thread for every request."""
    (place / ".netrc").write_text("machine 127.0.0.1 login somebody password secret\n")
    (place / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.delenv("OPENAI_API_KEY")
    endpoint.configure(api_key=KEY)
    with pytest.raises(Exception, match="refuses the API key"):
        extract_taxonomy(new_run(6))
    assert [entry["authorized"] for entry in endpoint.ledger()] == [False]
