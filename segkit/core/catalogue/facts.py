"""What is recorded of the products that a run was given."""

from __future__ import annotations

from typing import Any

from segkit.core.catalogue.gate import Catalogue
from segkit.core.catalogue.titles import cut_titles, untitled


def input_facts(catalogue: Catalogue, source: str = "") -> dict[str, Any]:
    """Return what `run.json` records of the input: what happened, not what was asked for."""
    facts = {
        "source": source or catalogue.source,
        "where": dict(catalogue.where),
        "untitled": int(untitled(catalogue.products).sum()),
        "understood": catalogue.understood,
        "refused": len(catalogue.refused),
        "cut_titles": cut_titles(catalogue.products),
        "left_out": catalogue.left_out,
    }
    return {name: value for name, value in facts.items() if value or name in ("source", "where", "untitled")}
