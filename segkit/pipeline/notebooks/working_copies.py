"""Working copies of the notebooks for JupyterLab: kept up to date, without losing what somebody wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path

_ORIGINS = ".origins"  # what each copy was made from


def update_copies(notebooks: Path, work: Path) -> list[str]:
    """Copy notebooks to a folder to work in, and return a sentence for each that was replaced.

    A copy whose notebook has changed since is replaced. If its cells were edited, it is kept under another name.
    """
    origins = work / _ORIGINS
    origins.mkdir(parents=True, exist_ok=True)
    return [said for path in sorted(notebooks.glob("[0-9][0-9]_*.ipynb")) if (said := _update(path, work, origins))]


def _update(path: Path, work: Path, origins: Path) -> str:
    copy, origin, now = work / path.name, origins / path.name, path.read_bytes()
    is_current = origin.exists() and origin.read_bytes() == now
    if copy.exists() and (is_current or _cells(copy) == _cells(path)):
        origin.write_bytes(now)
        return ""
    said = ""
    if copy.exists():
        is_edited = not origin.exists() or _cells(copy) != _cells(origin)
        said = f"{copy} is the new version" + (f"; yours is now {_set_aside(copy)}" if is_edited else "")
    copy.write_bytes(now)
    origin.write_bytes(now)
    return said


def _cells(path: Path) -> list[tuple[str, str]] | None:
    """Return what somebody may have written, without outputs; None for a file that is no notebook."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
        return [(str(cell["cell_type"]), "".join(cell["source"])) for cell in cells]
    except (ValueError, KeyError, TypeError):
        return None


def _set_aside(copy: Path) -> Path:
    number = 1
    while (kept := copy.with_name(f"{copy.stem}-mine-{number}.ipynb")).exists():
        number += 1
    return copy.rename(kept)


if __name__ == "__main__":
    for sentence in update_copies(Path(sys.argv[1]), Path(sys.argv[2])):
        print(sentence)
