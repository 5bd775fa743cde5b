"""Files in a bucket of S3, or of a server that speaks its protocol.

boto3 finds the credentials, the region and the address of the bucket, and lists it. Files are sent and read by
requests of our own, signed by botocore: a call of boto3's client costs three times the CPU. Each request carries
the SHA-256 of its body, which the server checks; an ETag is never taken for a hash.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import time
from contextlib import suppress
from functools import cached_property
from random import uniform
from typing import Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies, proxy_bypass

import boto3
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from segkit.errors import StorageError

_ATTEMPTS = 5
_AGAIN_STATUSES = {429, 500, 502, 503, 504}
_AGAIN_CODES = {"RequestTimeout", "SlowDown", "ConditionalRequestConflict", "OperationAborted"}
_CONNECTIONS = 64
_KEPT = "nothing local was changed"
_RIGHTS = "the credentials need s3:ListBucket, s3:PutObject, s3:GetObject and s3:DeleteObject"
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_HINTS = {
    "NoSuchBucket": "make the bucket, or set S3_BUCKET to another one",
    "AccessDenied": _RIGHTS,
    "PermanentRedirect": "set S3_REGION to the region of the bucket",
    "AuthorizationHeaderMalformed": "set S3_REGION to the region of the bucket",
    "ExpiredToken": "get new credentials, then the same command again",
    "InvalidAccessKeyId": _KEYS,
    "SignatureDoesNotMatch": _KEYS,
}


class S3Storage:
    """Files below `s3://bucket/prefix`; the address of another server than Amazon's comes from AWS_ENDPOINT_URL."""

    def __init__(self, root: str, region: str) -> None:
        parts = urlsplit(root)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        try:
            session = boto3.Session(region_name=region)
            self._client = session.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 5}))
            self._address = self._bucket_address()
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"S3 cannot be used for {root}: {error}", _KEYS) from None
        self._credentials = session.get_credentials()
        self._region = self._client.meta.region_name
        self._pool = _pool(self._address)

    def uri(self, name: str) -> str:
        return f"s3://{self._bucket}/{self._key(name)}"

    def names(self, folder: str) -> dict[str, int]:
        found = self._list("Contents", Prefix=self._key(folder).rstrip("/") + "/")
        return {item["Key"][len(self._key("")) :]: item["Size"] for item in found}

    def folders(self) -> set[str]:
        found = self._list("CommonPrefixes", Prefix=self._key(""), Delimiter="/")
        return {item["Prefix"][len(self._key("")) :].rstrip("/") for item in found}

    def read(self, name: str) -> bytes:
        return self._send("GET", name).data

    def create(self, name: str, data: bytes, *, listed: bool = False) -> None:
        if not listed and not self._refuses_to_overwrite:
            self._require_new(name)
        try:
            self._send("PUT", name, data, {"If-None-Match": "*"})
        except _MaybeOursError:
            if self.read(name) != data:
                raise FileExistsError(f"{self.uri(name)} is there already") from None

    def replace(self, name: str, data: bytes) -> None:
        self._send("PUT", name, data)

    def remove(self, name: str) -> None:
        self._send("DELETE", name)

    def probe(self) -> None:
        name = f"segkit-probe-{secrets.token_hex(8)}/probe"
        data = secrets.token_bytes(16)
        self.create(name, data)
        same, listed = self.read(name) == data, name in self.names(name.partition("/")[0])
        self.remove(name)
        if not same or not listed:
            what = "gives other bytes than it was sent" if not same else "does not list what it holds"
            raise StorageError(f"the server of {self.uri('')} {what}", "nothing was moved; use another server")

    @cached_property
    def _refuses_to_overwrite(self) -> bool:
        """Find out once whether the server knows If-None-Match; one that does not is looked at before each write."""
        name = f"segkit-probe-{secrets.token_hex(8)}/once"
        self._send("PUT", name, b"1")
        try:
            self._send("PUT", name, b"2", {"If-None-Match": "*"})
        except FileExistsError:
            return True
        finally:
            self.remove(name)
        return False

    def _require_new(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.read(name)
            raise FileExistsError(f"{self.uri(name)} is there already")

    def _list(self, what: str, **where: str) -> list[dict[str, Any]]:
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **where)
            return [item for page in pages for item in page.get(what, [])]
        except ClientError as error:
            told = error.response["Error"]
            raise self._refused("LIST", "", str(told.get("Code")), str(told.get("Message"))) from None
        except BotoCoreError as error:
            raise StorageError(f"S3 cannot list {self.uri('')}: {error}", _KEPT) from None

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _bucket_address(self) -> str:
        """Ask boto3 where the bucket is: the region, the style of the path and AWS_ENDPOINT_URL all have a say."""
        signed = self._client.generate_presigned_url("get_object", Params={"Bucket": self._bucket, "Key": "x"})
        return str(signed).partition("?")[0].removesuffix("x")

    def _send(
        self, method: str, name: str, data: bytes = b"", headers: dict[str, str] | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, again where that may help; raises FileNotFoundError, FileExistsError or StorageError."""
        trouble = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(uniform(0.5, 1) * 0.2 * 2**attempt)  # noqa: S311
            try:
                response = self._request(method, name, data, headers or {})
            except urllib3.exceptions.HTTPError as error:
                trouble = str(error)
                continue
            if response.status < 300:
                return response
            code, text = _told(response)
            if response.status == 412:
                # A request whose answer was lost may have stored the file.
                raise _MaybeOursError if attempt else FileExistsError(f"{self.uri(name)} is there already")
            if response.status not in _AGAIN_STATUSES and code not in _AGAIN_CODES:
                raise self._refused(method, name, code, text)
            trouble = f"{response.status} {code}"
        raise StorageError(f"S3 fails at {method} of {self.uri(name)}, {_ATTEMPTS} times: {trouble}", _KEPT)

    def _request(self, method: str, name: str, data: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        digest = hashlib.sha256(data).hexdigest()
        url = self._address + quote(self._key(name), safe="/-_.~")
        request = AWSRequest(method, url, headers={"x-amz-content-sha256": digest, **headers}, data=data or None)
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        signed = dict(request.headers.items())
        return self._pool.request(method, url, body=data or None, headers=signed, redirect=False)

    def _refused(self, method: str, name: str, code: str, text: str) -> Exception:
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(f"there is no {self.uri(name)}")
        return StorageError(f"S3 refuses {method} of {self.uri(name)}: {code}: {text}", _HINTS.get(code, _KEPT))


class _MaybeOursError(FileExistsError):
    """The file is there, perhaps by a request of ours whose answer was lost."""


def _pool(address: str) -> urllib3.PoolManager:
    """Open connections as boto3 would: through the proxy of the environment, trusting AWS_CA_BUNDLE if it is set."""
    parts = urlsplit(address)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    timeout, authorities = urllib3.Timeout(connect=10, read=60), os.environ.get("AWS_CA_BUNDLE")
    if proxy:
        return urllib3.ProxyManager(proxy, maxsize=_CONNECTIONS, timeout=timeout, retries=False, ca_certs=authorities)
    return urllib3.PoolManager(maxsize=_CONNECTIONS, timeout=timeout, retries=False, ca_certs=authorities)


def _told(response: urllib3.BaseHTTPResponse) -> tuple[str, str]:
    """Read the code and the message of an error, which is a small XML document, or nothing at all."""
    text = response.data[:4000].decode(errors="replace")
    code, message = (re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL) for name in ("Code", "Message"))
    return (code[1] if code else str(response.status)), (message[1] if message else "")
