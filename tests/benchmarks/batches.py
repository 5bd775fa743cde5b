"""A run through the provider's Batch API beside the same run online. `python tests/benchmarks/batches.py`"""

from __future__ import annotations

import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from catalogues import catalogue
from endpoint import Endpoint
from environment import forget_the_developer
from results import write_section
from victim import results

from segkit.pipeline.segment import segment
from segkit.runs.run import Run
from segkit.settings import load_settings

PRODUCTS = 2000


def main() -> None:
    """Run both ways, with a cache each, and compare what the endpoint's ledger says and what the results hold."""
    forget_the_developer()
    with tempfile.TemporaryDirectory() as folder, Endpoint(batch_polls=1) as endpoint:
        online, dollars, calls = measured(Path(folder) / "online", endpoint)
        in_batches, half, again = measured(
            Path(folder) / "batches", endpoint, SEGKIT_BATCH="1", SEGKIT_BATCH_WAIT="1"
        )
        paid = Counter(entry["sha256"] for entry in endpoint.ledger() if entry["status"] == 200)
        alike = results(online.folder) == results(in_batches.folder)
        rows = [
            ("dollars by the ledger of the endpoint, in batches ÷ online", f"{half / dollars:.3f}", "0.500"),
            ("dollars by segkit's logs ÷ by the ledger", f"{float(in_batches.status.cost_usd) / half:.3f}", "1.000"),
            ("calls in batches ÷ online", f"{again / calls:.3f}", "1.000"),
            ("… paid twice", str(sum(count - 1 for count in paid.values())), "0"),
            ("result files are the same, byte for byte", "yes" if alike else "no", "yes"),
        ]
    write_section("Batches", f"{PRODUCTS:,} products in {calls:,} questions", rows)


def measured(place: Path, endpoint: Endpoint, **environment: str) -> tuple[Run, float, int]:
    """Run once in a folder of its own; return the run, its dollars and its calls by the ledger."""
    endpoint.reset()
    given = {"OPENAI_BASE_URL": endpoint.url, "OPENAI_API_KEY": "sk-benchmark", "SEGKIT_PRICES_OF": "openai"}
    os.environ.update({**given, "SEGKIT_HOME": str(place / "home"), **environment})
    run = segment(catalogue(PRODUCTS), "Kitchen Things", model="gpt-4o", runs_dir=place, settings=load_settings())
    return run, endpoint.dollars(), endpoint.count()


if __name__ == "__main__":
    main()
