"""The entries of prompts: products whose line is the same for a model share one entry, and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from segkit.core.catalogue.gate import first_runs
from segkit.core.catalogue.lines import product_lines
from segkit.core.catalogue.titles import untitled
from segkit.core.models import Parameters


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a prompt, and the ids of the products that it stands for; logs name the first of them.

    `first_run` is the run in which that product came in; it is empty if the run extends no other.
    """

    products: tuple[int, ...]
    line: str
    first_run: str = ""


def product_entries(products: pd.DataFrame, parameters: Parameters) -> list[Entry]:
    """Return the entries of all products that have a title, each with the line that a model sees of them."""
    titled = products[~untitled(products)]
    lines = dict(zip(titled["product_id"], product_lines(titled, parameters.product_line), strict=True))
    return entries_of(lines, first_runs(titled), parameters)


def entries_of(
    lines: Mapping[int, str],
    first_runs: Mapping[int, str],
    parameters: Parameters,
    groups: Mapping[int, str] | None = None,
) -> list[Entry]:
    """Return the entries of products, given their lines; with `ask_duplicates` each product has its own.

    Products that share an entry are ordered by their first run and their id, so that the entries of an earlier run
    stay as they are when products are added to it. Products of different `groups` share none. The order of the
    entries says nothing.
    """
    ordered = sorted(sorted(lines), key=first_runs.__getitem__)
    if parameters.ask_duplicates:
        return [Entry((int(product),), lines[product], first_runs[product]) for product in ordered]
    # Most lines are there once, and a list for each would take a third of the room.
    found: dict[str, dict[str, int | list[int]]] = {}
    for product in ordered:
        of_group, line = found.setdefault(groups[product] if groups else "", {}), lines[product]
        same = of_group.setdefault(line, int(product))
        if isinstance(same, list):
            same.append(int(product))
        elif same != product:
            of_group[line] = [same, int(product)]
    shared = (ids if isinstance(ids, list) else [ids] for same in found.values() for ids in same.values())
    return [Entry(tuple(ids), lines[ids[0]], first_runs[ids[0]]) for ids in shared]


def shared_entries(entries: Sequence[Entry]) -> dict[int, int]:
    """Return for each product that has no entry of its own the product whose line is the same, and asked about."""
    return {product: entry.products[0] for entry in entries for product in entry.products[1:]}
