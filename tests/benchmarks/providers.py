"""What endpoints that are not OpenAI's cost: until one is given up, and what is told of the bill of another.

python tests/benchmarks/providers.py
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import orjson
from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from catalogues import catalogue
from endpoint import Endpoint

from segkit.errors import EndpointError
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import extract_taxonomy

# Dollars a million tokens, all different, so that tokens in the wrong place cost something else.
PRICES = {"input": 3, "cached": 0.3, "written": 3.75, "output": 15}
CONCURRENCY, CALLS = 16, 5

# How each provider states the tokens that it bills: fresh, read from its cache, written to it, answered, thought.
Form = Callable[[int, int, int, int, int], dict[str, Any]]
FORMS: dict[str, Form] = {
    "OpenAI": lambda f, c, w, a, t: {
        "prompt_tokens": f + c,
        "completion_tokens": a + t,
        "total_tokens": f + c + a + t,
        "prompt_tokens_details": {"cached_tokens": c},
        "completion_tokens_details": {"reasoning_tokens": t},
    },
    "OpenAI, responses": lambda f, c, w, a, t: {
        "input_tokens": f + c,
        "output_tokens": a + t,
        "total_tokens": f + c + a + t,
        "input_tokens_details": {"cached_tokens": c},
    },
    "Gemini": lambda f, c, w, a, t: {
        "prompt_tokens": f,
        "completion_tokens": a,
        "total_tokens": f + a + t,
    },
    "xAI": lambda f, c, w, a, t: {
        "prompt_tokens": f + c,
        "completion_tokens": a,
        "total_tokens": f + c + a + t,
        "prompt_tokens_details": {"cached_tokens": c},
        "completion_tokens_details": {"reasoning_tokens": t},
    },
    "Anthropic": lambda f, c, w, a, t: {
        "input_tokens": f,
        "output_tokens": a + t,
        "cache_creation_input_tokens": w,
        "cache_read_input_tokens": c,
    },
    "LiteLLM": lambda f, c, w, a, t: {
        "prompt_tokens": f + c + w,
        "completion_tokens": a + t,
        "total_tokens": f + c + w + a + t,
        "cache_creation_input_tokens": w,
        "cache_read_input_tokens": c,
    },
    "OpenRouter": lambda f, c, w, a, t: {
        "prompt_tokens": f + c + w,
        "completion_tokens": a + t,
        "total_tokens": f + c + w + a + t,
        "prompt_tokens_details": {"cached_tokens": c, "cache_write_tokens": w},
    },
    "DeepSeek": lambda f, c, w, a, t: {
        "prompt_tokens": f + c,
        "completion_tokens": a + t,
        "total_tokens": f + c + a + t,
        "prompt_cache_hit_tokens": c,
        "prompt_cache_miss_tokens": f,
    },
    "Mistral": lambda f, c, w, a, t: {
        "prompt_tokens": f,
        "completion_tokens": a,
        "total_tokens": f + a,
    },
    "Bedrock": lambda f, c, w, a, t: {
        "inputTokens": f,
        "outputTokens": a + t,
        "totalTokens": f + c + w + a + t,
        "cacheReadInputTokens": c,
        "cacheWriteInputTokens": w,
    },
    "Groq": lambda f, c, w, a, t: {
        "prompt_tokens": f,
        "completion_tokens": a + t,
        "total_tokens": f + a + t,
        "queue_time": 0.01,
        "total_time": 0.5,
    },
    "Moonshot": lambda f, c, w, a, t: {
        "prompt_tokens": f + c,
        "completion_tokens": a + t,
        "cached_tokens": c,
    },
}
#: What a provider does not bill apart: it has no such cache, or no thoughts.
NOT_BILLED = {
    "OpenAI": "w", "OpenAI, responses": "w", "Gemini": "cw", "xAI": "w", "DeepSeek": "w", "Mistral": "cwt",
    "Groq": "cw", "Moonshot": "w",
}  # fmt: skip


def given_up(place: Path) -> tuple[int, float, int]:
    """Ask about 1,000 products where every answer is empty and paid: calls, seconds, and the planned calls."""
    os.environ.update(SEGKIT_CONCURRENCY=str(CONCURRENCY), SEGKIT_HOME=str(place / "home"))
    with Endpoint() as endpoint:
        endpoint.rule("content_empty")
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        run = prepare_run(catalogue(1000), "Things", model="a-model", runs_dir=place / "runs")
        began = time.monotonic()
        try:
            extract_taxonomy(run)
        except EndpointError:
            return endpoint.count(), time.monotonic() - began, 25
    raise AssertionError("an endpoint without answers was not given up")


def told_and_billed(place: Path, name: str, stream: bool) -> float:
    """Return the cost that a run tells, divided by what the server bills for usage in the form of a provider."""
    random, bill = Random(name), Decimal(0)
    with Endpoint() as endpoint:
        for _ in range(CALLS):
            amounts = {kind: random.randint(800, 2000) for kind in "fcwat"}
            amounts |= dict.fromkeys(NOT_BILLED.get(name, ""), 0)
            endpoint.queue("usage", value=FORMS[name](*amounts.values()))
            bill += billed(*amounts.values())
        os.environ |= {"OPENAI_BASE_URL": endpoint.url, "SEGKIT_HOME": str(place / "home")}
        run = prepare_run(
            catalogue(8 * CALLS),
            "Things",
            model="a-model",
            runs_dir=place / "runs",
            products_per_prompt=8,
            stream=stream,
        )
        extract_taxonomy(run)
        assert endpoint.count() == CALLS
    assert not run.status.unpriced
    return float(run.status.cost_usd / bill)


def billed(fresh: int, cached: int, written: int, answered: int, thought: int) -> Decimal:
    """Return what the test server bills for a call."""
    tokens = {"input": fresh, "cached": cached, "written": written, "output": answered + thought}
    return sum((count * Decimal(str(PRICES[kind])) for kind, count in tokens.items()), Decimal(0)) / 1_000_000


def main() -> None:
    """Measure, and write the table."""
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    prices = place / "prices.json"
    prices.write_bytes(orjson.dumps({"a-model": PRICES}))
    os.environ |= {"SEGKIT_PRICES": str(prices), "SEGKIT_ASK_TWICE": "0"}
    try:
        calls, seconds, planned = given_up(place / "empty")
        shares = {
            (name, stream): told_and_billed(place / f"{number} {stream}", name, stream)
            for number, name in enumerate(FORMS)
            for stream in (False, True)
        }
    finally:
        shutil.rmtree(place)
    rows = [
        (
            "every answer empty: calls until the stage is given up",
            f"{calls} ({planned} planned)",
            f"≤ {3 * CONCURRENCY}",
        ),
        ("… seconds", f"{seconds:.1f}", ""),
    ]
    for stream, how in ((False, "whole"), (True, "streamed")):
        found = [share for (_, streamed), share in shares.items() if streamed == stream]
        worst = f"{sum(found) / len(found):.3f} ({min(found):.3f} to {max(found):.3f})"
        rows.append((f"cost told ÷ cost billed, {len(found)} forms of usage, answers {how}", worst, "1.000"))
    write_section("Other endpoints", f"1,000 products, {CONCURRENCY} at once; {CALLS} calls for each form", rows)


if __name__ == "__main__":
    main()
