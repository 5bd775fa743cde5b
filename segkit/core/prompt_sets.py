"""Prompt sets: which there are, where each comes from, whether a run used them as shipped, and how two differ."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from segkit.core.prompts import (
    DEFAULT_SET,
    PLACEHOLDERS,
    copied_from,
    find_prompt,
    prompt_folders,
    prompt_hash,
    read_prompt,
    set_file,
)

#: The hashes of the prompts that the package ships. The files themselves may have been edited in a checkout.
SHIPPED: Mapping[str, Mapping[str, str]] = {
    "v0": {
        "extract_taxonomy": "d0a67ac8aadd2d96f68b62dc97a9ced43fdf913fb17ab9a160f7eec7ba26a939",
        "consolidate_taxonomy": "6ee228dc1b09a7d547e23f2e51726d6439916f1b8d1f321fa3863ce1c51b6895",
        "refine_assignments": "600ee5a1aba05f035cfc210a5c715bd340b6f5027c0ea7e35c017875fcef0369",
        "assign_products": "a75f1dc5d154a4b635ea618503d5da359c7b47177eecc6b2dac0cbbe89abaa4e",
        "shared_retry": "44af75aa3143113e80803d5aca469c2e336a60d09a84be3255b76f8c1d969661",
    },
    "v1": {
        "extract_taxonomy": "82b6c7d024430a9011b3b6bd49cc666948024a02e942a82bf00dcd2baf2d97d0",
        "consolidate_taxonomy": "1ed2a5d3f043c867d00a3ba098e2ca9c59be5eba5a68691ec67ada1d0c9353bd",
        "refine_assignments": "b14ae61135b72d9a9295cf0f06bd09d2fcf0892671ef737308c98c33f4d9c2da",
        "assign_products": "465de87d2823155b67dfa1cd5d01991a761500b31efd0414b1b8a891d4801946",
        "shared_retry": "6030bb024be2033d1217f984dee92f45316a7376776d25762ec8248a8a39fe59",
    },
}
_PROMPT = re.compile(r"([a-z_]+)_prompt_([A-Za-z0-9_-]+)\.txt")
_FEW = 2  # so many words between two changes count as changed
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class PromptSet:
    """A prompt set: the files that it holds itself by key, the set it was copied from, and a note of its author."""

    name: str
    files: Mapping[str, Path]
    base: str = ""
    note: str = ""

    def texts(self) -> dict[str, str]:
        """Return all prompts of the set as they are used, those of its base included, without checking them."""
        return {key: read_prompt(find_prompt(key, self.name)) for key in PLACEHOLDERS}

    @property
    def content(self) -> str:
        """Eight hex digits that are the same for equal texts."""
        return prompt_hash("\0".join(self.texts().values()))[:8]


def prompt_sets() -> dict[str, PromptSet]:
    """Return the prompt sets by name; a file of ./prompts hides that of the package."""
    found: dict[str, dict[str, Path]] = {}
    for folder in reversed(prompt_folders()):
        for path in sorted(folder.glob("*_prompt_*.txt")):
            if (match := _PROMPT.fullmatch(path.name)) and match[1] in PLACEHOLDERS:
                found.setdefault(match[2], {})[match[1]] = path
    return {name: _set(name, files) for name, files in sorted(found.items())}


def _set(name: str, files: Mapping[str, Path]) -> PromptSet:
    folder = next(iter(files.values())).parent
    own = name == DEFAULT_SET or (name in SHIPPED and not (folder / set_file(name)).exists())
    base = "" if own else copied_from(name, prompt_folders())
    try:
        note = str(json.loads((folder / set_file(name)).read_bytes()).get("note", ""))
    except (OSError, ValueError, AttributeError):
        note = ""
    return PromptSet(name, files, base, note)


def set_note(base: str, note: str = "", **facts: str) -> str:
    """Return the content of the file that says where a prompt set comes from."""
    return json.dumps({"copied_from": base, "note": note, **facts}, indent=2, ensure_ascii=False) + "\n"


def shown_name(name: str, hashes: Mapping[str, str]) -> str:
    """Return the name of a set as runs show it: `v0*` where a text differs from the one that the package ships."""
    shipped = SHIPPED.get(name, {})
    differs = any(shipped.get(key, value) != value for key, value in hashes.items())
    return f"{name}*" if differs else name


def abridged(diff: Sequence[tuple[str, str]], around: int = 2) -> list[tuple[str, str]]:
    """Keep a few lines around each change of a `word_diff`, and replace what is the same between them by `…`."""
    shown = []
    for number, (kind, text) in enumerate(diff):
        lines = text.split("\n")
        if kind == "same" and len(lines) > 2 * around + 2:
            head = lines[: around + 1] if number else []
            tail = lines[-around - 1 :] if number < len(diff) - 1 else []
            text = "\n".join([*head, "…", *tail])
        shown.append((kind, text))
    return shown


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """Return how one text becomes another, word by word: pairs of `same`, `removed` or `added`, and the words.

    A word or two that stay between two changes count as changed too, or the changes could not be read.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    parts: list[tuple[str, str]] = []
    removed = added = ""
    matches = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for number, (kind, i, j, k, m) in enumerate(matches):
        inside = 0 < number < len(matches) - 1
        if kind != "equal" or (inside and _is_short(old[i:j])):
            removed, added = removed + "".join(old[i:j]), added + "".join(new[k:m])
            continue
        parts += [*_changed(removed, added), ("same", "".join(old[i:j]))]
        removed = added = ""
    return parts + _changed(removed, added)


def _is_short(words: Sequence[str]) -> bool:
    return "\n" not in "".join(words) and sum(word.isalnum() for word in words) <= _FEW


def _changed(removed: str, added: str) -> list[tuple[str, str]]:
    return [(kind, text) for kind, text in (("removed", removed), ("added", added)) if text]
