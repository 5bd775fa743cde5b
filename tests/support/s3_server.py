"""An S3 server over real HTTP that keeps a history, checks every hash, and breaks on command.

It is moto behind a strict layer: a body that is not what `x-amz-content-sha256` says is refused, as Amazon does.
"""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

REGION, KEY, SECRET = "us-east-1", "AKIATESTTESTTESTTEST", "not-a-real-secret"
#: What can be ordered for a request: a status to answer instead, or what happens to the body on its way.
Fault = int | str
Order = Callable[[str, str], Fault | None]
#: What the server refuses by the headers of a request: a status and the code of an error.
Rule = Callable[[str, dict[str, str]], tuple[int, str] | None]


def s3_environment(url: str, bucket: str) -> dict[str, str]:
    """The settings of a user of this server, or of another one with the same keys."""
    keys = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    return {"AWS_ENDPOINT_URL": url, "S3_BUCKET": bucket, "S3_REGION": REGION, **keys}


class S3Server:
    """moto in a thread; `order(method, key)` returns a fault or None: 503, "corrupt", "drop", "reset", "cut", "lost".

    `path` is where it begins: what is asked for elsewhere is not there.
    """

    def __init__(self) -> None:
        # Each process of the tests imports this module to collect the tests; few of them need a server.
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.1"

            def log(self, *message: object) -> None:
                pass

        self._moto = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._lock = threading.Lock()
        self.history: list[tuple[str, str]] = []
        self.headers: list[dict[str, str]] = []  # of each request, and its QUERY_STRING
        self.order: Order = lambda method, key: None
        self.rule: Rule = lambda method, headers: None
        self.path = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> S3Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        self.history, self.headers, self.order = [], [], lambda method, key: None
        self.rule, self.path = lambda method, headers: None, ""

    def make_bucket(self, name: str) -> None:
        import boto3

        client = boto3.client(
            "s3", REGION, endpoint_url=self.url, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )
        client.create_bucket(Bucket=name)
        self.reset()

    def count(self, method: str) -> int:
        return sum(1 for told, _ in self.history if told == method)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if not environ["PATH_INFO"].startswith(self.path):
            return _answer(start, 404, "NoSuchBucket")
        for name in ("PATH_INFO", "RAW_URI", "REQUEST_URI"):
            environ[name] = environ[name].removeprefix(self.path)
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].lstrip("/").partition("/")[2]
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        with self._lock:
            self.history.append((method, key))
            told = {name: str(environ[name]) for name in environ if name.startswith(("HTTP_", "QUERY_"))}
            self.headers.append(told)
            fault = self.order(method, key)
        digest = environ.get("HTTP_X_AMZ_CONTENT_SHA256", "")
        if body and len(digest) == 64 and hashlib.sha256(body).hexdigest() != digest:
            return _answer(start, 400, "XAmzContentSHA256Mismatch")
        if refused := self.rule(method, told):
            return _answer(start, *refused)
        if isinstance(fault, int):
            return _answer(start, fault, {503: "SlowDown", 403: "AccessDenied"}.get(fault, "InternalError"))
        if fault == "reset":
            return _hang_up(environ)
        if fault == "drop":
            start("200 OK", [("ETag", '"00000000000000000000000000000000"')])
            return [b""]
        if fault == "corrupt" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        environ["wsgi.input"] = io.BytesIO(body)
        answer = list(self._moto(environ, start))
        if fault == "cut":  # less than the length that was announced
            return [answer[0][:-1]]
        if fault == "lost":  # done, and nobody is told
            return _hang_up(environ)
        return answer


def _hang_up(environ: dict[str, Any]) -> list[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionResetError


def _answer(start: Callable[..., Any], status: int, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>as ordered</Message></Error>".encode()
    start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]
