"""Where the files of runs are kept: folders on the local disk, or a bucket of S3."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """Files by their name below one root, such as `RUN_…/segmentation/….json`; safe to use from many threads.

    What cannot be done raises StorageError (S3) or OSError (the local disk).
    """

    def uri(self, name: str) -> str:
        """Give the address of a file that people and other programs can use."""

    def names(self, folder: str) -> dict[str, int]:
        """List the files below a folder: name → size in bytes."""

    def folders(self) -> set[str]:
        """List the folders right below the root."""

    def read(self, name: str) -> bytes:
        """Give the content of a file; raises FileNotFoundError when there is none."""

    def create(self, name: str, data: bytes, *, listed: bool = False) -> None:
        """Write a file that is not there yet; raises FileExistsError when it is, whatever it holds.

        A caller that has just `listed` the files and not seen it spares a server, which cannot refuse, a look.
        """

    def replace(self, name: str, data: bytes) -> None:
        """Write a file, in place of the one that is there."""

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""

    def probe(self) -> None:
        """Find out whether files can be written, read, listed and removed; raises what they would raise."""


@cache
def open_storage(root: str, region: str = "us-east-1") -> Storage:
    """Open the storage of a root: `s3://bucket/prefix`, else a folder; once in a process."""
    if root.startswith("s3://"):
        from segkit.storage.s3 import S3Storage

        return S3Storage(root, region)
    from segkit.storage.disk import LocalStorage

    return LocalStorage(Path(root))
