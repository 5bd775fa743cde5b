"""What the questions of the three stages have in common: the prompts filled in, the id lines, the cutting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkit.core.models import Asking, Checked
from segkit.core.prompts import fill, retry_section
from segkit.core.text import one_line


@dataclass(frozen=True, slots=True)
class Wording:
    """What the questions of a run have in common: its prompts and the product category."""

    prompts: Mapping[str, str]
    category: str

    def ask(self, stage: str, schema: dict[str, Any], **parts: Sequence[str]) -> Asking:
        texts = {name: "\n".join(lines) for name, lines in parts.items()}
        return Asking(fill(self.prompts[stage], {"product_category": one_line(self.category), **texts}), schema)

    def ask_again(
        self, first: Asking, schema: dict[str, Any], checked: Checked, content: str, missing: list[str]
    ) -> Asking:
        errors = [f"{fault.kind}: {fault.text}" for fault in checked.faults]
        return Asking(
            f"{first.prompt}\n{retry_section(self.prompts['shared_retry'], errors, content, missing)}", schema
        )


def id_lines(lines: Mapping[str, str]) -> list[str]:
    return [f"[{i}] {line}" for i, line in lines.items()]


def product_context(
    wording: Wording, products: Sequence[tuple[Any, ...]], lines: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "batch_size": len(products),
        "expected_ids": list(lines),
        "product_ids": [product[0] for product in products],
        "product_category": wording.category,
        "batch_products": [product[1] for product in products],
    }


def halves(things: Sequence[Any]) -> list[Sequence[Any]]:
    middle = -(-len(things) // 2)
    return [things[:middle], things[middle:]] if len(things) > 1 else []


def part_name(part: str, number: int) -> str:
    return f"{part}.{number}" if part else str(number)
