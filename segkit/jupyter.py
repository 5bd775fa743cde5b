"""What notebooks need around them: the place to work from, and quick imports of Jupyter's parts."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SLOW = "rfc3987_syntax"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import nbformat, nbconvert or papermill inside this block in a fraction of the time.

    All of them import jsonschema, which builds a grammar of IRIs for two seconds where it finds `rfc3987_syntax`.
    It does without, and no notebook has a field that is checked as an IRI.
    """
    hidden = _SLOW not in sys.modules
    if hidden:
        sys.modules[_SLOW] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules[_SLOW]


def set_up_notebook() -> None:
    """Work from the project's folder, also where Jupyter started the kernel in `notebooks/`.

    So `runs`, `prompts`, `.env` and the cache are the same for a notebook, for papermill and for the command line.
    """
    here = Path.cwd()
    beside = ("pyproject.toml", "prompts", "runs")
    if here.name == "notebooks" and any((here.parent / name).exists() for name in beside):
        os.chdir(here.parent)
