"""JSON schemas of the answers, each made for the very prompt it goes with: only ids of that prompt are allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segkit.core.models import OUT_OF_SCOPE


def extract_schema(ids: Sequence[str]) -> dict[str, Any]:
    """Make the JSON schema of an extract answer for just these products."""
    names = [*(f"C_{i}" for i in range(len(ids))), OUT_OF_SCOPE]
    assignment = _object({"category": {"type": "string", "enum": names}, "confidence": {"type": "number"}})
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
            "confidence": {"type": "number"},
        }
    )
    return _object({"reassignments": {"type": "array", "items": change}})


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
        "name": {"type": "string"},
        "definition": {"type": "string"},
    }
    return {"type": "array", "items": _object(category)}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}
