"""The contract model: reads the id lines of a prompt and gives the one right answer to them.

It knows docs/contract.md and nothing of segkit, so a mistake in segkit's prompts cannot hide in its test double.
It reads the id lines and the JSON schema of a request, and no other word of the prompt.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from zlib import crc32

import orjson

EXTRACT, CONSOLIDATE, REFINE = "extract_taxonomy", "consolidate_taxonomy", "refine_assignments"
ASSIGN = "assign_products"
STAGES = (EXTRACT, CONSOLIDATE, REFINE, ASSIGN)
OUT_OF_SCOPE, NONE_FITS = "OUT_OF_SCOPE", "NONE_FITS"
MOST_EXTRACTED, MOST_CONSOLIDATED = 8, 40

ID_LINE = re.compile(r"^\[([A-Z]+_\d+)\] (.*)$", re.MULTILINE)
PLACED = re.compile(r"^(.*) → (S_\d+|OUT_OF_SCOPE)(?: \(.*\))?$")
WORD = re.compile(r"[^\W\d_]+")
# Names that segkit must refuse are no names for a right answer, whatever a title ends with.
NO_NAMES = {"", "others", "unknowns", "nas", "nulls", "nones", "miscs", "miscellaneous"}

JSON_TYPES: dict[str, Any] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}


@dataclass(frozen=True)
class Question:
    """One request as the model sees it: `lines` are all id lines, `ids` those an answer must place."""

    stage: str | None
    text: str = ""
    model: str = ""
    lines: dict[str, str] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    schema: dict[str, Any] | None = None

    def title(self, local_id: str) -> str:
        """The text of an id line, without the `→ S_3 (…)` that a refine prompt puts after it."""
        line = self.lines.get(local_id, "")
        placed = PLACED.match(line) if self.stage == REFINE else None
        return placed[1] if placed else line

    def placed_in(self, local_id: str) -> str | None:
        """The category that a refine prompt shows for a product, such as `S_3`."""
        placed = PLACED.match(self.lines.get(local_id, ""))
        return placed[2] if placed else None

    def targets(self, contains: str | None) -> list[str]:
        """The ids whose title contains a text (case does not matter), or else the last id alone."""
        found = [i for i in self.ids if contains and contains.casefold() in self.title(i).casefold()]
        return found or self.ids[-1:]


def read_question(body: dict[str, Any]) -> Question:
    """Read a chat completion request; anything that is not one gives a question without a stage."""
    text = prompt_text(body)
    lines: dict[str, str] = {}
    for local_id, line in ID_LINE.findall(text):
        lines.setdefault(local_id, line)  # a retry prompt shows lines a second time
    name, schema = asked_schema(body)
    stage = name if name in STAGES else stage_of(lines)
    ids = asked_ids(stage, lines, schema)
    return Question(stage, text, str(body.get("model", "")), lines, ids, schema)


def prompt_text(body: dict[str, Any]) -> str:
    """The content of all messages, joined by line breaks; parts that are not text are left out."""
    pieces: list[str] = []
    messages = body.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else [{"text": content}]
        pieces += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(pieces)


def asked_schema(body: dict[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    """The name and the schema of a `json_schema` response format, or two times None."""
    asked = body.get("response_format")
    if not isinstance(asked, dict) or asked.get("type") != "json_schema":
        return None, None
    inner = asked.get("json_schema") or {}
    return inner.get("name"), inner.get("schema") or {}


def stage_of(lines: dict[str, str]) -> str | None:
    """Tell the stage by the id lines: a consolidate prompt has `A_0`, refine and assign prompts then have `S_j`.

    A refine prompt also shows where each product is now.
    """
    ids = list(lines)
    if "A_0" in ids:  # asked first: the 16th taxonomy of a consolidate prompt is P, the 19th is S
        return CONSOLIDATE
    if any(i.startswith("S_") for i in ids):
        placed = [PLACED.match(line) for i, line in lines.items() if i.startswith("P_")]
        return REFINE if all(placed) else ASSIGN
    return EXTRACT if any(i.startswith("P_") for i in ids) else None


def asked_ids(stage: str | None, lines: dict[str, str], schema: dict[str, Any] | None) -> list[str]:
    """The ids an answer must place: those the schema spells out, or else those of the id lines."""
    named = schema_ids(stage, schema) if schema else None
    if named is not None:
        return named
    # A retry may show the categories already named as [C_0] or [M_0] lines; they are not asked for again.
    return [i for i in lines if stage == CONSOLIDATE or i.startswith("P_")]


def schema_ids(stage: str | None, schema: dict[str, Any]) -> list[str] | None:
    """The local ids that a schema requires (extract, consolidate) or allows (refine), None if it names none."""
    if stage == REFINE:
        return at(schema, "properties", "reassignments", "items", "properties", "product").get("enum")
    place = "members" if stage == CONSOLIDATE else "assignments"
    return at(schema, "properties", place).get("required")


def at(schema: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Walk down a schema, following `$ref`; an empty dict where the way ends."""
    node: Any = schema
    for key in keys:
        node = resolved(node.get(key, {}), schema) if isinstance(node, dict) else {}
    return node if isinstance(node, dict) else {}


def resolved(node: Any, root: dict[str, Any]) -> Any:
    """Follow a local `$ref` such as `#/$defs/category`."""
    while isinstance(node, dict) and "$ref" in node:
        target: Any = root
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        node = target
    return node


def correct_answer(question: Question) -> dict[str, Any] | None:
    """The right answer to a question, made anew at each call so that a fault may spoil it; None without a stage."""
    answers = {EXTRACT: extract, CONSOLIDATE: consolidate, REFINE: refine, ASSIGN: assign}
    return answers[question.stage](question) if question.stage else None


def answer_text(answer: Any) -> str:
    """The content of the message for an answer: JSON for an object or a list, a word when nothing was asked."""
    if answer is None:
        return "OK"
    return answer if isinstance(answer, str) else orjson.dumps(answer).decode()


def extract(question: Question) -> dict[str, Any]:
    """A category for each last word of a title, at most eight; `unrelated` titles are out of scope."""
    inside = [i for i in question.ids if "unrelated" not in question.title(i).casefold()]
    chosen = group({i: title_name(question.title(i)) for i in inside}, MOST_EXTRACTED)
    ids = category_ids(chosen.values(), "C", question)
    first = {fold(name): question.title(i) for i, name in reversed(chosen.items())}
    categories = [category(ids[fold(name)], name, first[fold(name)]) for name in distinct(chosen.values())]
    assignments = {i: ids[fold(chosen[i])] if i in chosen else OUT_OF_SCOPE for i in question.ids}
    return {
        "categories": categories,
        "assignments": {i: {"category": c, "confidence": 0.9} for i, c in assignments.items()},
    }


def consolidate(question: Question) -> dict[str, Any]:
    """Categories of equal folded name become one, at most forty; every input id has a place."""
    chosen = group({i: question.title(i).split(": ", 1)[0] for i in question.ids}, MOST_CONSOLIDATED)
    ids = category_ids(chosen.values(), "M", question)
    categories = [category(ids[fold(name)], name, name) for name in distinct(chosen.values())]
    return {"categories": categories, "members": {i: ids[fold(name)] for i, name in chosen.items()}}


def refine(question: Question) -> dict[str, Any]:
    """Nothing moves, except that titles with `moveme` go to the last subcategory if they are not there."""
    last = max((i for i in question.lines if i.startswith("S_")), key=id_number, default=None)
    moved = [i for i in question.ids if "moveme" in question.title(i).casefold()]
    reassignments = [
        {"product": i, "category": last, "confidence": 0.9} for i in moved if last and question.placed_in(i) != last
    ]
    return {"reassignments": reassignments}


def assign(question: Question) -> dict[str, Any]:
    """The subcategory that is named as a title ends; `unrelated` titles are out of scope, the others fit none."""
    named = {fold(line.split(": ", 1)[0]): i for i, line in question.lines.items() if i.startswith("S_")}
    ends = {i: named.get(fold(title_name(question.title(i))), NONE_FITS) for i in question.ids}
    ends |= {i: OUT_OF_SCOPE for i in question.ids if "unrelated" in question.title(i).casefold()}
    return {"assignments": {i: {"category": category, "confidence": 0.9} for i, category in ends.items()}}


def title_name(title: str) -> str:
    """The category name of a title: its last alphabetic word, `Rotary dimmer SWITCH 3` giving `Switchs`."""
    words = WORD.findall(title)
    word = fold(words[-1])[:60] if words else ""
    name = word.removesuffix("s").capitalize() + "s" if word else ""
    return "Goods" if fold(name) in NO_NAMES else name


def group(names: dict[str, str], most: int) -> dict[str, str]:
    """Give equal folded names one spelling, and hash all names after the first `most` into these."""
    kept = distinct(names.values())[:most]
    spelling = {fold(name): name for name in kept}
    return {i: spelling.get(fold(n)) or kept[crc32(fold(n).encode()) % len(kept)] for i, n in names.items()}


def distinct(names: Iterable[str]) -> list[str]:
    """The names in order of appearance, one of each folded form."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(fold(name), name)
    return list(found.values())


def category_ids(names: Iterable[str], letter: str, question: Question) -> dict[str, str]:
    """Ids by folded name: those a retry prompt already named as `[C_0] name: …` lines stay, new ones follow."""
    shown = {i: line for i, line in question.lines.items() if i.startswith(f"{letter}_") and i not in question.ids}
    ids = {fold(line.split(": ", 1)[0]): i for i, line in shown.items()}
    free = max(map(id_number, shown), default=-1) + 1
    for name in distinct(names):
        if fold(name) not in ids:
            ids[fold(name)] = f"{letter}_{free}"
            free += 1
    return ids


def category(local_id: str, name: str, example: str) -> dict[str, str]:
    """One entry of `categories`."""
    return {"id": local_id, "name": name, "definition": f"Products sold as {name}, e.g. {example[:80]}"}


def id_number(local_id: str) -> int:
    """The number of a local id: 3 for `S_3`."""
    return int(local_id.rpartition("_")[2])


@lru_cache(maxsize=16_384)
def fold(name: str) -> str:
    """One form for names that count as equal: NFKC, case folded, white space collapsed."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def satisfies(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """Whether a value fits a schema; knows only the keywords that strict response formats may use."""
    node = resolved(schema, root)
    if "anyOf" in node:
        return any(satisfies(value, option, root) for option in node["anyOf"])
    if "enum" in node and value not in node["enum"]:
        return False
    if "const" in node and value != node["const"]:
        return False
    return fits_type(value, node) and fits_object(value, node, root) and fits_array(value, node, root)


def fits_type(value: Any, node: dict[str, Any]) -> bool:
    """Check `type` (one name or a list), `pattern` and `maxLength`."""
    names = node.get("type", list(JSON_TYPES))
    names = [names] if isinstance(names, str) else names
    if isinstance(value, bool):
        return "boolean" in names
    if isinstance(value, str) and not re.search(node.get("pattern", ""), value):
        return False
    if isinstance(value, str) and len(value) > node.get("maxLength", len(value)):
        return False
    return any(isinstance(value, JSON_TYPES[name]) for name in names)


def fits_object(value: Any, node: dict[str, Any], root: dict[str, Any]) -> bool:
    """Check `required`, `additionalProperties: false` and every property."""
    if not isinstance(value, dict):
        return True
    properties = node.get("properties", {})
    if not set(node.get("required", [])) <= set(value):
        return False
    if node.get("additionalProperties") is False and not set(value) <= set(properties):
        return False
    return all(satisfies(value[key], properties[key], root) for key in value if key in properties)


def fits_array(value: Any, node: dict[str, Any], root: dict[str, Any]) -> bool:
    """Check `items`, `minItems` and `maxItems`."""
    if not isinstance(value, list):
        return True
    if not node.get("minItems", 0) <= len(value) <= node.get("maxItems", len(value)):
        return False
    return "items" not in node or all(satisfies(item, node["items"], root) for item in value)


def schema_ok(question: Question) -> bool | None:
    """Whether the right answer fits the schema of the request: None without a schema, False if it is no schema."""
    if question.schema is None or question.stage is None:
        return None
    try:
        return satisfies(correct_answer(question), question.schema, question.schema)
    except (AttributeError, KeyError, TypeError, re.error):
        return False


def load_json(body: bytes) -> Any:
    """Parse JSON fast, and slowly where orjson is stricter than the world (lone surrogates)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body)
