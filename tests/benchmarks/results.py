"""The tables of all benchmarks in one file, each script its own section."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

FILE = Path(__file__).parent / "results.md"


def write_section(title: str, what: str, rows: Sequence[tuple[str, str, str]], *, keep: bool = True) -> None:
    """Print a table (what was measured, the figure, what it must be), and put it into `results.md` if `keep`."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = [f"Measured by `make bench` on {machine}.", "", f"| {what} | measured | must |", "|---|---|---|"]
    text = "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
    print(f"{text}\n")
    if keep:
        old = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
        sections = dict(re.findall(r"^# (.+)\n\n((?:(?!^# ).*\n?)*)", old, re.MULTILINE)) | {title: text}
        told = [f"# {name}\n\n{section.strip()}\n" for name, section in sections.items()]
        FILE.write_text("\n".join(told), encoding="utf-8")
