"""How many questions an endpoint answers at once, found in simulated endpoints with and without a queue."""

from __future__ import annotations

import heapq
from random import Random

import pytest

from segkit.llm.limits import Width


def found(places: int, concurrency: int, answers: int = 60, spread: float = 0.2, seed: int = 1) -> int:
    """Ask an endpoint with so many places, first come first served, and return what is found."""
    random, free, width = Random(seed), [0.0] * places, Width(concurrency)
    clients = [(0.0 if number == 0 else 0.05, number) for number in range(concurrency)]
    done = []
    for _ in range(answers):
        sent, client = heapq.heappop(clients)
        tokens = max(5, round(random.gauss(300, 300 * spread)))
        seconds = (tokens + 50) / 350 * random.uniform(1 - spread / 3, 1 + spread / 3)
        ended = max(heapq.heappop(free), sent) + seconds
        heapq.heappush(free, ended)
        heapq.heappush(clients, (ended, client))
        done.append((ended, sent, tokens))
    for ended, sent, tokens in sorted(done):
        width.add(sent, ended, tokens)
    return width.found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("answers", [20, 60, 200])
@pytest.mark.parametrize("places", [1, 2, 4])
def test_the_places_of_an_endpoint_with_a_queue_are_found(places: int, answers: int, seed: int) -> None:
    assert abs(found(places, 16, answers, seed=seed) - places) <= (1 if places == 4 else 0)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [0.0, 0.2, 0.5])
@pytest.mark.parametrize(("places", "concurrency"), [(16, 16), (64, 16), (64, 64), (200, 64), (1, 1)])
def test_nothing_is_found_where_there_is_no_queue(places: int, concurrency: int, spread: float, seed: int) -> None:
    assert found(places, concurrency, 200, spread, seed) == 0
