"""The prompt files: found by the name of their set, checked before any call, filled in one pass."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from segkit.core.models import Parameters
from segkit.core.text import one_line
from segkit.errors import PromptError
from segkit.settings import project_folder

#: The placeholders of each prompt. All of them must stand in the file, and no other.
PLACEHOLDERS = {
    "extract_taxonomy": ("product_category", "products"),
    "consolidate_taxonomy": ("product_category", "taxonomies"),
    "refine_assignments": ("product_category", "subcategories", "products"),
    "assign_products": ("product_category", "subcategories", "products"),
    "shared_retry": ("errors", "previous_answer", "missing"),
}
#: The prompts of a run that finds its own taxonomy, and of one that is given one.
EXTRACTING = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments", "shared_retry")
ASSIGNING = ("assign_products", "extract_taxonomy", "consolidate_taxonomy", "shared_retry")
MOST_BYTES = 200_000
_SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PLACEHOLDER = re.compile(r"\$(?:\{(?P<braced>[^}\n]*)\}?|(?P<named>[A-Za-z_][A-Za-z0-9_]*)|(?P<escaped>\$)|)")


def load_prompts(name: str = "v0", folder: Path | None = None, keys: Sequence[str] = EXTRACTING) -> dict[str, str]:
    """Read prompts of a set, by key (`extract_taxonomy`, …, `shared_retry`).

    `./prompts` is looked into first, then the prompts that segkit ships. Raises PromptError naming file and line
    for a misspelt or missing placeholder.
    """
    if not _SET_NAME.fullmatch(name):
        raise PromptError(f"prompt set {name[:80]!r} is no plain name", "use letters, digits, - and _, like v0")
    return {key: _load(key, name, folder) for key in keys}


def prompt_keys(parameters: Parameters) -> tuple[str, ...]:
    """Return the keys of the prompts that a run needs."""
    return ASSIGNING if parameters.taxonomy else (*parameters.stages, "shared_retry")


def prompt_file(key: str, name: str) -> str:
    """Return the file name of one prompt of a set."""
    return f"{key}_prompt_{name}.txt"


def prompt_hash(text: str) -> str:
    """Hash a prompt as it is used: 64 hex digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values into a prompt once; a `$` inside a value stays what it is."""
    return Template(template).substitute(values)


def retry_section(template: str, errors: list[str], previous: str, missing: list[str], budget: int = 2000) -> str:
    """Word the part that follows the original prompt when an answer was not valid.

    The previous answer is untrusted: it goes on one line, cut to `budget` characters, so that no line of it can
    pass for a line of the prompt.
    """
    return fill(
        template,
        {
            "errors": "\n".join(f"- {one_line(error, 500)}" for error in errors),
            "previous_answer": "> " + one_line(previous, budget),
            "missing": "\n".join(missing),
        },
    )


def _load(key: str, name: str, folder: Path | None) -> str:
    path = _find(prompt_file(key, name), name, folder)
    if path.stat().st_size > MOST_BYTES:
        raise PromptError(f"{path}: {path.stat().st_size} bytes, a prompt has at most {MOST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 at byte {error.start}") from None
    # Line ends and trailing spaces differ between editors and mean nothing: they must not change a hash.
    text = "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"
    _check(path, text, PLACEHOLDERS[key])
    return text


def _find(file: str, name: str, folder: Path | None) -> Path:
    folders = [folder] if folder else [Path("prompts"), project_folder("prompts")]
    for directory in folders:
        path = directory / file
        if path.is_file():
            if directory.resolve() not in path.resolve().parents:
                raise PromptError(f"{path} leads out of {directory}", "put the file itself into the folder")
            return path
    sets = sorted(
        {p.stem.rpartition("_prompt_")[2] for directory in folders for p in directory.glob("*_prompt_*.txt")}
    )
    raise PromptError(f"prompt set {name!r} has no {file}", f"sets are {', '.join(sets) or '(none)'}")


def _check(path: Path, text: str, allowed: tuple[str, ...]) -> None:
    names = ", ".join(f"${name}" for name in allowed)
    found = set()
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _PLACEHOLDER.finditer(line):
            if match["escaped"]:
                continue
            placeholder = match["named"] or match["braced"]
            unclosed = match["braced"] is not None and not match.group().endswith("}")
            if placeholder not in allowed or unclosed:
                raise PromptError(
                    f"{path}, line {number}: unknown placeholder {match.group()!r}", f"known are {names}; $$ is a $"
                )
            found.add(placeholder)
    missing = [f"${name}" for name in allowed if name not in found]
    if missing:
        raise PromptError(f"{path}: {', '.join(missing)} missing", f"a {path.stem} needs {names}")
