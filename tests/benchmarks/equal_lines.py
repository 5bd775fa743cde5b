"""Calls saved by asking equal lines once, on a real catalogue. `python tests/benchmarks/equal_lines.py`"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from catalogues import DATA
from results import write_section

from segkit.core.batching import planned_calls
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.load import load_products
from segkit.core.models import Parameters

CATALOGUE = DATA / "fashion_catalogue.csv"
ONCE = Parameters("Fashion", "offline", 0.2, "offline@4", ask_duplicates=False)


def main() -> None:
    """Count the calls of the whole catalogue both ways (tests show that a run makes the calls planned)."""
    if not CATALOGUE.exists():
        print(f"skipped: {CATALOGUE.name} is not in ../shared/data")
        return
    products = load_products(CATALOGUE)
    each, once = (sum(planned_calls(products, p).values()) for p in (replace(ONCE, ask_duplicates=True), ONCE))
    shared = len(shared_entries(product_entries(products, ONCE)))
    rows = [
        ("products whose line another has too", f"{shared / len(products):.1%}", ""),
        ("planned calls, each product by itself", f"{each:,}", ""),
        ("planned calls, equal lines once", f"{once:,}", ""),
        ("… saved", f"{1 - once / each:.1%}", "> 0 %"),
    ]
    write_section("Equal lines", f"{len(products):,} products of the fashion catalogue", rows)


if __name__ == "__main__":
    main()
