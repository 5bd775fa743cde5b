"""Files of checksums as `sha256sum` writes them: a SHA-256 and the name of a file a line."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from segkit.errors import RunError


def as_lines(hashes: Mapping[str, str]) -> bytes:
    """Write names and hashes as `sha256sum` does."""
    return "".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()


def read_hashes(path: Path) -> dict[str, str]:
    """Read a file of checksums as `sha256sum` writes it; raises RunError for a line that is none."""
    if not path.exists():
        return {}
    hashes = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, gap, name = line.partition("  ")
        if not gap or len(digest) != 64 or not is_inside(name):
            raise RunError(f"{path}, line {number} is no checksum: {line[:80]!r}", "restore it from a copy")
        hashes[name] = digest
    return hashes


def is_inside(name: str) -> bool:
    """Report whether a name from elsewhere is a relative path that stays below its folder."""
    return bool(name) and not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))


def hash_of(path: Path) -> str:
    """Hash a file, whatever its size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
