"""Files in a bucket of S3, or of another server that speaks its protocol, through boto3's client.

A file is sent in one request that carries the MD5 of its body: buckets with Object Lock or a default retention demand
it, and every server knows it. What is stored is compared by SHA-256 when it is read back, never by an ETag.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.response import StreamingBody

from segkit.errors import StorageError

_ATTEMPTS = 5
_CONFIG = Config(
    retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
    max_pool_connections=64,
    connect_timeout=10,
    read_timeout=60,
    # Newer checksum headers and bodies in signed chunks are what servers other than Amazon's refuse.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
    s3={"payload_signing_enabled": True},
)
_CUT = (IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
_NOT_CONDITIONAL = {400, 405, 501}  # how servers refuse an If-None-Match that they do not know
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
    """Files by their name below `s3://bucket/prefix`, such as `RUN_…/segmentation/….json`; safe for many threads.

    The address of another server than Amazon's comes from AWS_ENDPOINT_URL. What fails raises StorageError.
    """

    def __init__(self, root: str, region: str) -> None:
        parts = urlsplit(root)
        self._bucket, self._prefix = parts.netloc, parts.path.strip("/")
        try:
            session = boto3.Session(region_name=region)
            self._client = session.client("s3", config=_CONFIG)
            found = session.get_credentials()
        except (BotoCoreError, ValueError) as error:
            raise StorageError(f"S3 cannot be used for {root}: {error}", _KEYS) from None
        if found is None:
            raise StorageError(f"S3 cannot be used for {root}: there are no credentials", _KEYS)

    def uri(self, name: str) -> str:
        """Return the address of a file: `s3://bucket/prefix/name`."""
        return f"s3://{self._bucket}/{self._key(name)}"

    def names(self, folder: str) -> dict[str, int]:
        """List the files below a folder: name → size in bytes."""
        found = self._list("Contents", Prefix=self._key(folder).rstrip("/") + "/")
        return {item["Key"][len(self._key("")) :]: item["Size"] for item in found}

    def folders(self) -> set[str]:
        """List the folders right below the root."""
        found = self._list("CommonPrefixes", Prefix=self._key(""), Delimiter="/")
        return {item["Prefix"][len(self._key("")) :].rstrip("/") for item in found}

    def read(self, name: str) -> bytes:
        """Return the content of a file; raises FileNotFoundError when there is none."""
        with self._mapped("GET", name):
            for _ in range(_ATTEMPTS - 1):
                body = self._open(name)
                with suppress(*_CUT):  # boto3 sends a request again, but not one whose answer broke off
                    return bytes(body.read())
            return bytes(self._open(name).read())

    def create(self, name: str, data: bytes, *, listed: bool = False) -> None:
        """Write a file that is not there yet; raises FileExistsError when it is, whatever it holds.

        On a server that cannot refuse to overwrite, the file is looked for first; a caller that has just `listed` the
        files and not seen it saves that request.
        """
        if self._refuses_to_overwrite:
            self._put_new(name, data)
        elif listed or not self._exists(name):
            self._put(name, data)
        else:
            raise FileExistsError(f"{self.uri(name)} is there already")

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, in place of the one that is there."""
        self._put(name, data)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        with self._mapped("DELETE", name):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def probe(self) -> None:
        """Raise StorageError if files cannot be written, read back, listed and removed."""
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
        """Find out once whether the server honours If-None-Match; some ignore it, others refuse the whole request."""
        name = f"segkit-probe-{secrets.token_hex(8)}/once"
        self._put(name, b"1")
        try:
            self._client.put_object(**self._parameters(name, b"2"), IfNoneMatch="*")
        except ClientError as error:
            status = _status(error)
            if status != 412 and status not in _NOT_CONDITIONAL:
                raise self._refused("PUT", name, error) from None
            return status == 412
        except BotoCoreError as error:
            raise self._failed("PUT", name, error) from None
        finally:
            self.remove(name)
        return False

    def _exists(self, name: str) -> bool:
        with suppress(FileNotFoundError):
            self.read(name)
            return True
        return False

    def _open(self, name: str) -> StreamingBody:
        return self._client.get_object(Bucket=self._bucket, Key=self._key(name))["Body"]

    def _put(self, name: str, data: bytes) -> None:
        with self._mapped("PUT", name):
            self._client.put_object(**self._parameters(name, data))

    def _put_new(self, name: str, data: bytes) -> None:
        with self._mapped("PUT", name):
            try:
                self._client.put_object(**self._parameters(name, data), IfNoneMatch="*")
            except ClientError as error:
                if _status(error) != 412:
                    raise
                # A request that was sent again may have stored the file the first time, when its answer was lost.
                again = error.response["ResponseMetadata"].get("RetryAttempts", 0)
                if not again or self.read(name) != data:
                    raise FileExistsError(f"{self.uri(name)} is there already") from None

    def _parameters(self, name: str, data: bytes) -> dict[str, Any]:
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        return {"Bucket": self._bucket, "Key": self._key(name), "Body": data, "ContentMD5": digest}

    def _list(self, what: str, **where: str) -> list[dict[str, Any]]:
        with self._mapped("LIST", ""):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, **where)
            return [item for page in pages for item in page.get(what, [])]

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextmanager
    def _mapped(self, method: str, name: str) -> Iterator[None]:
        """Raise FileNotFoundError or StorageError in place of boto3's errors."""
        try:
            yield
        except ClientError as error:
            raise self._refused(method, name, error) from None
        except BotoCoreError as error:
            raise self._failed(method, name, error) from None

    def _refused(self, method: str, name: str, error: ClientError) -> Exception:
        code, text = str(error.response["Error"].get("Code")), str(error.response["Error"].get("Message"))
        if code in ("NoSuchKey", "404"):
            return FileNotFoundError(f"there is no {self.uri(name)}")
        if again := error.response["ResponseMetadata"].get("RetryAttempts", 0):
            trouble = f"{again + 1} times: {_status(error)} {code}"
            return StorageError(f"S3 fails at {method} of {self.uri(name)}, {trouble}", _KEPT)
        return StorageError(f"S3 refuses {method} of {self.uri(name)}: {code}: {text}", _HINTS.get(code, _KEPT))

    def _failed(self, method: str, name: str, error: BotoCoreError) -> StorageError:
        return StorageError(f"S3 fails at {method} of {self.uri(name)}: {error}", _KEPT)


def _status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
