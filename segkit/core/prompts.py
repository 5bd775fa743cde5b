"""The prompt files: found by the name of their set, checked before any call, filled in one pass."""

from __future__ import annotations

import hashlib
import json
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
#: The placeholders that a prompt may have beside these; each is filled by the parameter of the run of that name.
OPTIONAL = {
    "extract_taxonomy": ("language",),
    "consolidate_taxonomy": ("language", "target_categories"),
}
#: The line that ends the instructions of a prompt: they are sent as a system message, and the rest as the user's.
END_OF_INSTRUCTIONS = "=== DATA ==="
#: The prompts of a run that finds its own taxonomy, and of one that is given one.
EXTRACTING = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments", "shared_retry")
ASSIGNING = ("assign_products", "extract_taxonomy", "consolidate_taxonomy", "shared_retry")
MOST_BYTES = 200_000
DEFAULT_SET = "v0"  # the set that the package ships
SET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_PLACEHOLDER = re.compile(r"\$(?:\{(?P<braced>[^}\n]*)\}?|(?P<named>[A-Za-z_][A-Za-z0-9_]*)|(?P<escaped>\$)|)")


def load_prompts(name: str = "v0", folder: Path | None = None, keys: Sequence[str] = EXTRACTING) -> dict[str, str]:
    """Read prompts of a set, by key (`extract_taxonomy`, …, `shared_retry`).

    `./prompts` is looked into first, then the prompts that segkit ships. A set may hold only the files that differ:
    the others are those of the set that it was copied from. Raises PromptError naming file and line for a misspelt or
    missing placeholder.
    """
    check_set_name(name)
    return {key: _load(key, name, folder) for key in keys}


def check_set_name(name: str) -> None:
    """Raise PromptError for a name that cannot be part of a file name."""
    if not SET_NAME.fullmatch(name):
        raise PromptError(f"prompt set {name[:80]!r} is no plain name", "use letters, digits, - and _, like v1")


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


def require_placeholders(prompts: Mapping[str, str], parameters: Parameters) -> None:
    """Raise PromptError for a parameter that fills a placeholder which none of the prompts has."""
    for name in dict.fromkeys(name for names in OPTIONAL.values() for name in names):
        if getattr(parameters, name) and not any(_has(text, name) for text in prompts.values()):
            option = f"--{name.replace('_', '-')}"
            raise PromptError(
                f"no prompt of the set {parameters.prompts!r} has ${name}: {option} would change nothing",
                f"use a set that has it, such as --prompts v1, or leave {option} out",
            )


def _has(text: str, name: str) -> bool:
    return any(name in (match["named"], match["braced"]) for match in _PLACEHOLDER.finditer(text))


def split_instructions(prompt: str) -> tuple[str, str]:
    """Cut a prompt at its first line `=== DATA ===`: the instructions (maybe none), and the rest.

    What is filled in stands behind that line, so no title can move it.
    """
    instructions, mark, rest = prompt.partition(f"\n{END_OF_INSTRUCTIONS}\n")
    return (f"{instructions}\n", rest) if mark else ("", prompt)


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
    path = find_prompt(key, name, folder)
    text = read_prompt(path)
    for fault in faults_of(path, text, key):
        raise fault
    return text


def read_prompt(path: Path) -> str:
    """Read the text of a prompt as it is used; raise PromptError where it is too large or not UTF-8."""
    if path.stat().st_size > MOST_BYTES:
        raise PromptError(f"{path}: {path.stat().st_size} bytes, a prompt has at most {MOST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 at byte {error.start}") from None
    # Line ends and trailing spaces differ between editors and mean nothing: they must not change a hash.
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


def find_prompt(key: str, name: str, folder: Path | None = None) -> Path:
    """Find the file of a prompt; one that the set does not hold comes from the set that it was copied from.

    Raises PromptError for an unknown set, and for a file of the set that is no prompt, such as a misspelt one.
    """
    file, folders = prompt_file(key, name), [folder] if folder else prompt_folders()
    for directory in folders:
        path = directory / file
        if path.is_file():
            if directory.resolve() not in path.resolve().parents:
                raise PromptError(f"{path} leads out of {directory}", "put the file itself into the folder")
            return path
        if (directory / set_file(name)).is_file():
            break  # a copy of the user's, not the set of that name that the package ships
    own = [path for directory in folders for path in directory.glob(f"*_prompt_{name}.txt")]
    if not own or name == DEFAULT_SET:
        known = sorted({p.stem.rpartition("_prompt_")[2] for each in folders for p in each.glob("*_prompt_*.txt")})
        raise PromptError(f"prompt set {name!r} has no {file}", f"sets are {', '.join(known) or '(none)'}")
    for path in own:
        if path.name.partition("_prompt_")[0] not in PLACEHOLDERS:
            raise PromptError(f"{path} is no prompt of segkit", f"prompts are {', '.join(PLACEHOLDERS)}")
    # The notes of sets may name each other; the set of the package ends every chain.
    base = copied_from(name, folders)
    if base == name or (base != DEFAULT_SET and copied_from(base, folders) == name):
        base = DEFAULT_SET
    return find_prompt(key, base, None if base == DEFAULT_SET else folder)


def prompt_folders() -> list[Path]:
    """Return the folders in which prompts are looked for, in this order."""
    return [Path("prompts"), project_folder("prompts")]


def set_file(name: str) -> str:
    """Return the name of the file that says where a prompt set comes from."""
    return f"set_{name}.json"


def copied_from(name: str, folders: Sequence[Path]) -> str:
    """Return the set that a set was copied from, by its note; the set of the package where there is none."""
    for folder in folders:
        try:
            base = json.loads((folder / set_file(name)).read_bytes())["copied_from"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(base, str) and SET_NAME.fullmatch(base):
            return base
    return DEFAULT_SET


def faults_of(path: Path, text: str, key: str) -> list[PromptError]:
    """Return what is wrong with the placeholders of a prompt: unknown ones with their line, then missing ones."""
    needed = PLACEHOLDERS[key]
    allowed = (*needed, *OPTIONAL.get(key, ()))
    names = ", ".join(f"${name}" for name in allowed)
    faults, found = [], set()
    for number, line in enumerate(text.splitlines(), start=1):
        for match in _PLACEHOLDER.finditer(line):
            if match["escaped"]:
                continue
            placeholder = match["named"] or match["braced"]
            unclosed = match["braced"] is not None and not match.group().endswith("}")
            if placeholder not in allowed or unclosed:
                what = f"{path}, line {number}: unknown placeholder {match.group()!r}"
                faults.append(PromptError(what, f"known are {names}; $$ is a $"))
            else:
                found.add(placeholder)
    missing = [f"${name}" for name in needed if name not in found]
    if missing:
        wanted = ", ".join(f"${name}" for name in needed)
        faults.append(PromptError(f"{path}: {', '.join(missing)} missing", f"a {path.stem} needs {wanted}"))
    return faults
