"""What the questions of the stages share: filled-in prompts, lines with ids, halving, and answer schemas.

A schema is made for the very prompt that it goes with: it allows only the ids of that prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from segkit.core.catalogue.entries import Entry
from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, CheckedAnswer, Parameters, Prompt, Question
from segkit.core.prompts import fill, retry_section
from segkit.core.text import one_line


@dataclass(frozen=True, slots=True)
class Wording:
    """What the questions of a run have in common: its prompts and the product category."""

    prompts: Mapping[str, str]
    category: str
    language: str = ""
    target_categories: str = ""

    def ask(self, stage: str, schema: dict[str, Any], **parts: Sequence[str]) -> Prompt:
        texts = {name: "\n".join(lines) for name, lines in parts.items()}
        return Prompt(fill(self.prompts[stage], {**self._values, **texts}), schema)

    @property
    def _values(self) -> dict[str, str]:
        return {
            "product_category": one_line(self.category),
            "language": one_line(self.language) or "that of the department's name",
            "target_categories": self.target_categories or "as few as a shopper would still tell apart",
        }

    def ask_again(
        self, first: Prompt, schema: dict[str, Any], checked: CheckedAnswer, content: str, missing: list[str]
    ) -> Prompt:
        errors = [f"{fault.kind}: {fault.text}" for fault in checked.faults]
        return Prompt(
            f"{first.text}\n{retry_section(self.prompts['shared_retry'], errors, content, missing)}", schema
        )


class Questions(Sequence[Question]):
    """The questions of a stage, each made when it is needed: all prompts together would take gigabytes."""

    def __init__(self, makers: Sequence[Callable[[], Question]] = ()) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, number: int) -> Question: ...
    @overload
    def __getitem__(self, number: slice) -> Questions: ...
    def __getitem__(self, number: int | slice) -> Question | Questions:
        return Questions(self._makers[number]) if isinstance(number, slice) else self._makers[number]()

    def __add__(self, others: Questions) -> Questions:
        return Questions([*self._makers, *others._makers])


def wording_of(prompts: Mapping[str, str], parameters: Parameters) -> Wording:
    """Return the wording of a run."""
    return Wording(prompts, parameters.category, parameters.language, parameters.target_categories)


def id_lines(lines: Mapping[str, str]) -> list[str]:
    return [f"[{i}] {line}" for i, line in lines.items()]


def product_context(wording: Wording, entries: Sequence[Entry], ids: Iterable[str]) -> dict[str, Any]:
    return {
        "batch_size": len(entries),
        "expected_ids": list(ids),
        "product_ids": [entry.products[0] for entry in entries],
        "product_category": wording.category,
        "batch_products": [entry.line for entry in entries],
    }


def entry_lines(entries: Sequence[Entry]) -> dict[str, str]:
    """Number the lines of a batch: `P_0`, `P_1`, …."""
    return {f"P_{i}": entry.line for i, entry in enumerate(entries)}


def entry_products(entries: Sequence[Entry]) -> tuple[tuple[int, ...], ...]:
    return tuple(entry.products for entry in entries)


def halves(things: Sequence[Any]) -> list[Sequence[Any]]:
    middle = -(-len(things) // 2)
    return [things[:middle], things[middle:]] if len(things) > 1 else []


def part_name(part: str, number: int) -> str:
    return f"{part}.{number}" if part else str(number)


# A small model that decodes under a schema repeats itself wherever the schema lets it go on for ever, so every list
# and every text has an end. Validation allows longer names.
_LONGEST_NAME, _LONGEST_DEFINITION = 100, 500
_CONFIDENCE = {"type": "number", "minimum": 0, "maximum": 1}


def extract_schema(ids: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of an extract answer for just these products."""
    names = [*(f"C_{i}" for i in range(len(ids))), OUT_OF_SCOPE]
    assignment = _object({"category": {"type": "string", "enum": names}, "confidence": _CONFIDENCE})
    schema = _object(
        {"categories": _categories_schema(names[:-1]), "assignments": _object({i: _ref("assignment") for i in ids})}
    )
    return {**schema, "$defs": {"assignment": assignment}}


def consolidate_schema(ids: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of a consolidate answer for just these input categories."""
    names = [f"M_{i}" for i in range(len(ids))]
    schema = _object(
        {"categories": _categories_schema(names), "members": _object({i: _ref("category") for i in ids})}
    )
    return {**schema, "$defs": {"category": {"type": "string", "enum": names}}}


def refine_schema(product_ids: Sequence[str], category_ids: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of a refine answer for just these products and categories."""
    change = _object(
        {
            "product": {"type": "string", "enum": list(product_ids)},
            "category": {"type": "string", "enum": [*category_ids, OUT_OF_SCOPE]},
            "confidence": _CONFIDENCE,
        }
    )
    return _object({"reassignments": {"type": "array", "items": change, "maxItems": len(product_ids)}})


def assign_schema(product_ids: Sequence[str], category_ids: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of an assign answer for just these products and categories."""
    names = [*category_ids, NONE_FITS, OUT_OF_SCOPE]
    assignment = _object({"category": {"type": "string", "enum": names}, "confidence": {"type": "number"}})
    schema = _object({"assignments": _object({i: _ref("assignment") for i in product_ids})})
    return {**schema, "$defs": {"assignment": assignment}}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _categories_schema(names: Sequence[str]) -> dict[str, Any]:
    category = {
        "id": {"type": "string", "enum": list(names)},
        "name": {"type": "string", "minLength": 1, "maxLength": _LONGEST_NAME},
        "definition": {"type": "string", "minLength": 1, "maxLength": _LONGEST_DEFINITION},
    }
    return {"type": "array", "items": _object(category), "maxItems": len(names)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}
