"""Cutting products into batches: even, and in an order that the input's own order never changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def calculate_optimal_batch_sizes(total: int, most: int) -> list[int]:
    """Give the sizes of the fewest even batches of at most `most`: 59 at 40 give 30 and 29."""
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


def letters(number: int) -> str:
    """Number a taxonomy with letters: 0 is A, 25 is Z, 26 is AA."""
    name = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        name = chr(ord("A") + rest) + name
    return name


def consolidation_rounds(taxonomies: int, most: int) -> list[list[int]]:
    """Give the sizes of the groups merged in each round: 250 at 20 give 13 groups, then one of 13.

    A group of one needs no call and passes to the next round as it is.
    """
    if most < 2:
        raise ValueError(f"cannot merge taxonomies {most} at a time")
    rounds = []
    while taxonomies > 1:
        rounds.append(calculate_optimal_batch_sizes(taxonomies, most))
        taxonomies = len(rounds[-1])
    return rounds
