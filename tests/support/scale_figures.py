"""The arithmetic of docs/scale.md: what 1, 10 and 100 million products take in each mode, and what a cluster does.

Calls are those of segkit's own planning functions. Tokens a call, processor time and bytes were measured; rate limits
and the speed of the model are assumptions that the page names.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

from segkit.core.batching import (
    AUDITED,
    asked_twice,
    calls_of,
    cascade_calls,
    cascade_sizes,
    consolidation_rounds,
    reading_calls,
    reading_ends,
)
from segkit.core.models import Parameters
from segkit.core.taxonomy.unseen import least_batches
from segkit.llm.limits import Limits
from segkit.llm.send import LONGEST_BACKOFF
from segkit.settings import Settings

SIZES = (1_000_000, 10_000_000, 100_000_000)
PINNED = (1_000, 10_000, 1_000_000)
TODAY = Parameters("Fashion", "gpt-4.1-mini", 0.2, "https://api.openai.com/v1", ask_twice=200, ask_duplicates=False)
SAMPLED = replace(TODAY, extract_sample="auto", products_per_assignment=100)
CASCADE = replace(SAMPLED, cascade=0.97)
MODES = {"today": TODAY, "sample + assign": SAMPLED, "batch": SAMPLED, "cascade": CASCADE}

#: Tokens of prompt and answer, measured in runs on 50,000 titles of the fashion catalogue: a call.
TOKENS = {
    "segmentation": (1_096, 1_175),
    "consolidate_taxonomy": (7_518, 2_501),
    "refine_assignments": (2_168, 97),
    "assign_products": (2_344, 1_247),
}
#: Of the products that a cascade has not asked first, the share that the classifier places (`make bench`: 76 %).
PLACED = 0.76
#: Dollars of a million tokens of prompt and answer (gpt-4.1-mini), and what the Batch API leaves of them.
PRICES, BATCH_SHARE = (0.40, 1.60), 0.5
#: Assumed of the model and the account: seconds to the first token, tokens a second, and limits a minute.
FIRST_TOKEN, SPEED = 1.0, 60.0
REQUESTS, PROMPT_TOKENS = 10_000, 10_000_000
AT_ONCE = 256
#: The tokens that may wait in the batches of a model at once, and the hours in which a batch is answered.
ENQUEUED, BATCH_HOURS = 1_000_000_000, 24
BACKOFF = Settings.model_fields["segkit_backoff_seconds"].default
#: Measured: processor seconds of a question, and bytes of a log and of a product in the other files of a run.
CPU, LOG_BYTES, PRODUCT_BYTES = 0.0027, 26_000, 220


def calls(products: int, mode: str) -> dict[str, int]:
    """Return the calls of each stage, if every answer is valid at once and every product has a line of its own.

    A sample is the least that is read; of a cascade the classifier places the share `PLACED`.
    """
    parameters = MODES[mode]
    batches = -(-products // parameters.products_per_prompt)
    if not parameters.extract_sample:
        merges = consolidation_rounds([batches], parameters.taxonomies_per_consolidation)
        twice = -(-asked_twice(products, parameters) // parameters.products_per_refinement)
        again = -(-products // parameters.products_per_refinement) + twice
        return {"segmentation": batches, "consolidate_taxonomy": calls_of(merges), "refine_assignments": again}
    read = reading_calls(least_batches(products, batches, parameters.most_unseen), parameters)
    if parameters.cascade and (first := cascade_sizes(products)):
        asked = math.ceil((1 - PLACED + AUDITED * PLACED) * (products - sum(first)))
        return {**read, "assign_products": cascade_calls(first, asked, parameters)}
    return {**read, "assign_products": -(-products // parameters.products_per_assignment)}


def rounds(products: int, mode: str) -> int:
    """Return in how many rounds, one after another, the questions of a run are asked."""
    parameters = MODES[mode]
    batches = -(-products // parameters.products_per_prompt)
    if not parameters.extract_sample:
        return 2 + len(consolidation_rounds([batches], parameters.taxonomies_per_consolidation))
    looks = [end for end in reading_ends(batches) if end <= least_batches(products, batches, parameters.most_unseen)]
    return 2 * len(looks) + 1


@dataclass(frozen=True, slots=True)
class Needs:
    """What so many products take in a mode. Hours are those of each thing by itself; the largest binds."""

    calls: int
    prompt: int
    answer: int
    dollars: float
    hours: Mapping[str, float]
    cores: float
    disk: int
    rows: int
    rounds: int

    @property
    def binding(self) -> str:
        return max(self.hours, key=lambda name: self.hours[name])


def needs(products: int, mode: str) -> Needs:
    """Compute what so many products take."""
    by_stage = calls(products, mode)
    total = sum(by_stage.values())
    prompt, answer = (sum(TOKENS[stage][i] * count for stage, count in by_stage.items()) for i in (0, 1))
    price = (prompt * PRICES[0] + answer * PRICES[1]) / 1e6 * (BATCH_SHARE if mode == "batch" else 1)
    if mode == "batch":
        hours = {"waiting": BATCH_HOURS * max(rounds(products, mode), prompt / ENQUEUED)}
    else:
        one = total * FIRST_TOKEN + answer / SPEED
        hours = {
            f"{AT_ONCE} at once": one / AT_ONCE / 3600,
            "requests": total / REQUESTS / 60,
            "tokens": prompt / PROMPT_TOKENS / 60,
        }
    slowest = max(hours.values()) * 3600
    rows = products * 4 + total  # the product itself, in the run, its category before and after refinement
    disk = total * LOG_BYTES + products * PRODUCT_BYTES
    return Needs(total, prompt, answer, price, hours, total * CPU / slowest, disk, rows, rounds(products, mode))


class _NoWaiting(selectors.DefaultSelector):
    """A selector that never waits: the time that it should wait passes on the clock of its loop at once."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.passed += max(0.0, timeout)
        return []


def at_once(work: Callable[[], Any]) -> float:
    """Run a coroutine in a loop in which time passes by itself, and return the seconds that it took there."""
    selector = _NoWaiting()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.passed  # type: ignore[method-assign]
    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
    return selector.passed


class _Provider:
    """Admits so many requests in any sliding window, like the test server's option `limits`."""

    def __init__(self, most: int | None, seconds: float) -> None:
        self.most, self.seconds, self.admitted = most, seconds, deque[float]()
        self.refused = 0

    def wait(self, now: float) -> float:
        """Admit a request (0), or return the seconds after which it should be repeated."""
        while self.admitted and self.admitted[0] <= now - self.seconds:
            self.admitted.popleft()
        if self.most is None or len(self.admitted) < self.most:
            self.admitted.append(now)
            return 0.0
        self.refused += 1
        return self.admitted[0] + self.seconds - now


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers that share the questions of a stage: each is segkit's own `Limits`, on a processor of its own.

    `limit` is what the provider admits in `seconds`, `share` what each worker allows itself in a minute; None is no
    limit. `cpu` is the processor time of a question in seconds.
    """

    workers: int
    concurrency: int
    latency: float
    limit: int | None = None
    seconds: float = 60.0
    share: int | None = None
    cpu: float = CPU


def simulate(cluster: Cluster, questions: int) -> tuple[float, int]:
    """Return the seconds that a cluster takes for so many questions, and the requests that are refused."""
    provider = _Provider(cluster.limit, cluster.seconds)
    left = iter(range(questions))

    async def work() -> None:
        await asyncio.gather(*(_worker(cluster, provider, left) for _ in range(cluster.workers)))

    return at_once(work), provider.refused


async def _worker(cluster: Cluster, provider: _Provider, left: Iterator[int]) -> None:
    clock = asyncio.get_running_loop().time
    limits, core, chance = Limits(cluster.concurrency, cluster.share, clock=clock), asyncio.Lock(), Random(0)

    async def ask() -> None:
        for _ in left:
            for tries in count():
                await limits.enter(0, 0)
                async with core:
                    await asyncio.sleep(cluster.cpu)
                wait = provider.wait(clock())
                await asyncio.sleep(cluster.latency)
                if not wait:
                    break
                limits.hold(wait)
                limits.slower()
                await limits.leave()
                own = min(LONGEST_BACKOFF, BACKOFF * 2**tries) * chance.uniform(0.5, 1)
                await asyncio.sleep(max(wait, own if tries else 0.0))
            limits.faster()
            await limits.leave()

    await asyncio.gather(*(ask() for _ in range(cluster.concurrency)))


def page() -> str:
    """Return the tables of docs/scale.md."""
    return f"{_calls_table()}\n\n{_needs_table()}"


def _calls_table() -> str:
    """Return the calls of the sizes that `segkit plan` is compared with."""
    head = ["mode", *(f"{products:,} products" for products in PINNED)]
    rows = [[mode, *(_summed(calls(products, mode)) for products in PINNED)] for mode in MODES if mode != "batch"]
    return _table(head, rows)


def _summed(by_stage: Mapping[str, int]) -> str:
    parts = " + ".join(f"{count:,}" for count in by_stage.values())
    return f"{parts} = **{sum(by_stage.values()):,}**"


def _needs_table() -> str:
    """Return what each size takes in each mode."""
    head = [
        "products",
        "mode",
        "calls",
        "tokens in, out",
        "dollars",
        "hours (what binds)",
        "cores",
        "rounds",
        "disk",
        "rows",
    ]
    return _table(head, [_needs_row(products, mode) for products in SIZES for mode in MODES])


def _needs_row(products: int, mode: str) -> list[str]:
    found = needs(products, mode)
    hours = f"{_short(found.hours[found.binding])} ({found.binding})"
    tokens = f"{_millions(found.prompt)}, {_millions(found.answer)}"
    sizes = [_short(found.cores), str(found.rounds), f"{_short(found.disk / 1e9)} GB", _millions(found.rows)]
    return [_millions(products), mode, f"{found.calls:,}", tokens, f"{found.dollars:,.0f}", hours, *sizes]


def _millions(count: float) -> str:
    return f"{_short(count / 1e6)} M"


def _short(value: float) -> str:
    """Write a number with two digits that count, or more where it is large."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
