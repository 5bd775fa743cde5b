"""The door to S3: boto3 is imported only when a bucket is opened."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segkit.storage.s3 import S3Storage


@cache
def open_storage(root: str, region: str = "us-east-1") -> S3Storage:
    """Open the storage of a root, `s3://bucket/prefix`; once in a process."""
    from segkit.storage.s3 import S3Storage

    return S3Storage(root, region)
