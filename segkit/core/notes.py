"""Notes about an answer while it is read: what is wrong with it, in words that a log and the next prompt can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segkit.core.json_text import holds_invalid
from segkit.core.models import Fault

_SHOWN = 20
_MOST_NOTES = 50


class Notes:
    """Collects faults and warnings while one answer is read; an endless answer gives no endless list."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.warnings: list[str] = []

    def fault(self, kind: str, text: str, ids: Sequence[str] = ()) -> None:
        if len(self.faults) < _MOST_NOTES:
            self.faults.append(Fault(kind, _storable(f"{text}: {listed(ids)}" if ids else text)))

    def warn(self, text: str) -> None:
        if len(self.warnings) < _MOST_NOTES:
            self.warnings.append(_storable(text))


def short(value: Any) -> str:
    """Show a value in at most 80 characters."""
    text = ascii(value) if isinstance(value, str) and holds_invalid(value) else repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _storable(text: str) -> str:
    """Replace lone surrogates, which no file can hold."""
    return text.encode(errors="replace").decode()


def listed(ids: Sequence[str]) -> str:
    """Name the first ids, and how many more there are."""
    shown = ", ".join(ids[:_SHOWN])
    return f"{shown} and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else shown
