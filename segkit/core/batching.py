"""Batches of products: even in size, and independent of the order of the input."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import pandas as pd

from segkit.core.catalogue.entries import Entry, product_entries
from segkit.core.models import Parameters

#: Answers of the model that a classifier is judged by, and the fewest and the most that it is trained on.
HELD_BACK, LEAST_TRAINING, MOST_TRAINING = 2_000, 1_000, 20_000
#: Of the lines that the classifier is sure of, the share that is asked about all the same.
AUDITED = 0.01
T = TypeVar("T")


def calculate_optimal_batch_sizes(total: int, most: int) -> list[int]:
    """Return the sizes of the fewest even batches of at most `most`: 30 and 29 for 59 at 40."""
    if total < 0 or most < 1:
        raise ValueError(f"cannot cut {total} into batches of {most}")
    count = -(-total // most)
    return [total // count + (i < total % count) for i in range(count)]


def cut(things: Sequence[T], most: int) -> list[Sequence[T]]:
    """Cut a sequence into the fewest even batches of at most `most`, keeping its order."""
    batches, start = [], 0
    for size in calculate_optimal_batch_sizes(len(things), most):
        batches.append(things[start : start + size])
        start += size
    return batches


def shuffled(ids: Sequence[int], seed: int) -> list[int]:
    """Sort ids and shuffle them with `seed`, so that a batch sees all corners of a sorted catalogue."""
    ordered = sorted(ids)
    random.Random(seed).shuffle(ordered)  # noqa: S311 (an order, not a secret)
    return ordered


def batches_of(first_runs: Mapping[int, str], seed: int, most: int) -> list[list[int]]:
    """Cut products into even batches, those of each first run apart, so that an extended run keeps its batches.

    `first_runs` holds for each id the run in which its product came in; it is empty if the run extends no other.
    """
    groups: dict[str, list[int]] = {}
    for product, first_run in first_runs.items():
        groups.setdefault(first_run, []).append(int(product))
    return [list(batch) for name in sorted(groups) for batch in cut(shuffled(groups[name], seed), most)]


def entry_batches(entries: Sequence[Entry], seed: int, most: int) -> list[list[Entry]]:
    """Cut entries of prompts into even batches, as `batches_of` does with the product that each is named by."""
    by_id = {entry.products[0]: entry for entry in entries}
    batches = batches_of({product: entry.first_run for product, entry in by_id.items()}, seed, most)
    return [[by_id[product] for product in batch] for batch in batches]


def letters(number: int) -> str:
    """Number a taxonomy with letters: 0 is A, 25 is Z, 26 is AA."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def consolidation_rounds(taxonomies: Sequence[int], most: int, *, apart: bool = False) -> list[list[int]]:
    """Return the sizes of the groups merged in each round: for 250 at 20 there are 13 groups, then one of 13.

    `taxonomies` counts them for each first run of their products; those of one first run become one taxonomy before
    they meet the others, or stay `apart` from them. A group of one needs no call and passes to the next round.
    """
    if most < 2:
        raise ValueError(f"cannot merge taxonomies {most} at a time")
    rounds = []
    left = [count for count in taxonomies if count]
    while sum(left) > 1:
        if max(left) == 1 and apart:
            break
        if max(left) == 1:
            left = [len(left)]
        groups = [calculate_optimal_batch_sizes(count, most) for count in left]
        rounds.append([size for sizes in groups for size in sizes])
        left = [len(sizes) for sizes in groups]
    return rounds


def calls_of(rounds: Iterable[Iterable[int]]) -> int:
    """Count the calls that rounds of merges take: a group of one needs none."""
    return sum(size > 1 for sizes in rounds for size in sizes)


def extraction_batches(products: pd.DataFrame, parameters: Parameters) -> list[list[Entry]]:
    """Return the batches of the first stage: of the entries of all products, or of a random sample of them.

    A sample is drawn from the whole catalogue, whatever run its products came in. Its unit is the product, also where
    lines are the same, since it bounds the share of products of an unseen kind.
    """
    if not (sample := parameters.extract_sample):
        entries = product_entries(products, parameters)
    else:
        entries = product_entries(products, replace(parameters, ask_duplicates=True))
        by_id = {entry.products[0]: replace(entry, first_run="") for entry in entries}
        ids = shuffled(list(by_id), parameters.seed)
        entries = [by_id[product] for product in (ids if sample == "auto" else ids[: int(sample)])]
    return entry_batches(entries, parameters.seed, parameters.products_per_prompt)


def reading_ends(batches: int) -> list[int]:
    """Return after how many batches a growing sample is looked at: 5, 10, …, 20, 25, 31, each a quarter more."""
    ends = [0]
    while ends[-1] < batches:
        ends.append(min(batches, ends[-1] + max(5, ends[-1] // 4)))
    return ends[1:]


def looks(batches: int, parameters: Parameters) -> list[int]:
    """Return after how many batches the sample of a run is looked at; one of a fixed size is at its end alone."""
    return reading_ends(batches) if parameters.extract_sample == "auto" else [batches]


def sample_rounds(taxonomies: Sequence[int], most: int) -> list[list[int]]:
    """Return the rounds in which the taxonomies of a growing sample are merged, as `consolidation_rounds` does.

    `taxonomies` counts those that each look at the sample added; they are merged with the taxonomy of all before.
    Those that come later wait, each as a group of its own.
    """
    rounds, merged, waiting = [], 0, sum(taxonomies)
    for added in taxonomies:
        waiting -= added
        rounds += [[*sizes, *[1] * waiting] for sizes in consolidation_rounds([merged + added], most)]
        merged = min(1, merged + added)
    return rounds


def batches_by_first_run(entries: Sequence[Entry], most: int) -> list[int]:
    """Count the batches of at most `most` entries, for each first run."""
    counted = Counter(entry.first_run for entry in entries)
    return [-(-counted[first_run] // most) for first_run in sorted(counted)]


def planned_calls(products: pd.DataFrame, parameters: Parameters) -> dict[str, int]:
    """Count the calls of each stage when every answer is valid at once: 1,000 products at 40 give 25, 3 and 25.

    Where a taxonomy is given, `products` are only put into it; what fits nowhere takes more calls, which depend on
    the answers. A sample that is read until it is enough takes these calls at most.
    """
    entries = product_entries(products, parameters)
    if parameters.taxonomy:
        return {"assign_products": assignment_calls(entries, parameters)}
    if parameters.extract_sample:
        batches = len(extraction_batches(products, parameters))
        return {**reading_calls(batches, parameters), "assign_products": assignment_calls(entries, parameters)}
    by_first_run = batches_by_first_run(entries, parameters.products_per_prompt)
    rounds = consolidation_rounds(by_first_run, parameters.taxonomies_per_consolidation)
    return {
        "segmentation": sum(by_first_run),
        "consolidate_taxonomy": calls_of(rounds),
        "refine_assignments": refinement_calls(entries, parameters),
    }


def assignment_calls(entries: Sequence[Entry], parameters: Parameters) -> int:
    """Count the calls that put entries into a taxonomy; with a cascade those that it takes at most."""
    if parameters.cascade and (first := cascade_sizes(len(entries))):
        return cascade_calls(first, len(entries) - sum(first), parameters)
    return sum(batches_by_first_run(entries, parameters.products_per_assignment))


def least_assignment_calls(entries: Sequence[Entry], parameters: Parameters) -> int:
    """Count the calls that put entries into a taxonomy, if a cascade has to ask about no more than it audits."""
    if not parameters.cascade or not (first := cascade_sizes(len(entries))):
        return assignment_calls(entries, parameters)
    return cascade_calls(first, math.ceil(AUDITED * (len(entries) - sum(first))), parameters)


def cascade_calls(first: tuple[int, int], rest: int, parameters: Parameters) -> int:
    """Count the calls of a cascade that asks about `rest` entries, after those of `cascade_sizes`."""
    parts = (*first, asked_twice(first[0], parameters), rest)
    return sum(-(-part // parameters.products_per_assignment) for part in parts)


def cascade_sizes(entries: int) -> tuple[int, int] | None:
    """Return about how many entries a cascade asks first: to judge the classifier by, and to train it on.

    None where entries are too few: what the classifier could save would not be worth what it takes.
    """
    training = min(max(entries // 8, LEAST_TRAINING), MOST_TRAINING)
    return (HELD_BACK, training) if entries >= 2 * (HELD_BACK + training) else None


def reading_calls(batches: int, parameters: Parameters) -> dict[str, int]:
    """Count the calls that extract a taxonomy from so many batches of a sample."""
    return {"segmentation": batches, "consolidate_taxonomy": calls_of(reading_rounds(batches, parameters))}


def reading_rounds(batches: int, parameters: Parameters) -> list[list[int]]:
    """Return the rounds in which the taxonomies of a sample of so many batches are merged."""
    ends = [0, *looks(batches, parameters)]
    return sample_rounds([end - start for start, end in pairwise(ends)], parameters.taxonomies_per_consolidation)


def refinement_calls(entries: Sequence[Entry], parameters: Parameters) -> int:
    """Count the calls of the last stage, with those that ask some entries twice."""
    twice = asked_twice(len(entries), parameters)
    once = sum(batches_by_first_run(entries, parameters.products_per_refinement))
    return once + -(-twice // parameters.products_per_refinement)


def asked_twice(entries: int, parameters: Parameters) -> int:
    """Return how many of so many entries are asked twice: at most `ask_twice`, and a fifth of them."""
    return min(parameters.ask_twice, entries // 5)
