"""The catalogue of faults, docs/faults.md, names tests that exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^- \*\*(\S+)\*\* (.*\n(?:  - .*\n)*)", re.MULTILINE)
ROWS = ROW.findall((ROOT / "docs/faults.md").read_text())


@cache
def functions(file: str) -> set[str]:
    """Return the names of all functions of a file; none if there is no such file."""
    path = ROOT / file
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_named_test_exists() -> None:
    """Whoever renames, moves or deletes a test mends its lines in docs/faults.md."""
    named = {(row, *test) for row, text in ROWS for test in re.findall(r"`(tests/\S+\.py)::(test_\w+)`", text)}
    assert sorted(f"{row} {file}::{name}" for row, file, name in named if name not in functions(file)) == []


def test_every_fault_names_a_test_or_says_why_not() -> None:
    line = re.compile(r"  - (`tests/\S+\.py::test_\w+`|not tested: \w.*)")
    assert [
        row for row, text in ROWS if not (lines := text.splitlines()[1:]) or not all(map(line.fullmatch, lines))
    ] == []


def test_every_fault_has_its_own_name() -> None:
    names = [row for row, _ in ROWS]
    assert len(names) == len(set(names)) > 250
