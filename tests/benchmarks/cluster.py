"""A second worker of a cluster: where the processor is the bottleneck, and where the endpoint is.

    python tests/benchmarks/cluster.py

The processor's time is that of each process, so that neighbours on the machine do not count: the worker that takes
longest decides how long the asking lasts.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from catalogues import catalogue
from distributed import Client
from endpoint import Endpoint
from environment import forget_the_developer
from results import write_section

from segkit.llm.cluster.scheduler import cluster_of
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import extract_taxonomy
from segkit.settings import Settings

REPEATS, WARM = 3, 400
PRODUCTS, AT_THE_ENDPOINT = 20_000, 800


def main() -> None:
    """Ask the same questions with one worker and with two."""
    forget_the_developer()
    with tempfile.TemporaryDirectory() as folder, Endpoint(slots=4, latency=0.2) as endpoint:
        place = Path(folder)
        pairs = [[asked(place, PRODUCTS, "offline", each) for each in (1, 2)] for _ in range(REPEATS)]
        asking = median(max(one.workers) / max(two.workers) for one, two in pairs)
        whole = median(one.path / two.path for one, two in pairs)
        slow = [asked(place, AT_THE_ENDPOINT, "gpt-4o", each, endpoint.url) for each in (1, 2)]
    write_section(
        "Cluster",
        f"the first stage of {PRODUCTS:,} products, offline",
        [
            ("asking with one worker ÷ with two, CPU of the busiest worker", f"{asking:.2f}", "≥ 1.7"),
            ("the whole stage, with what this machine does before and after", f"{whole:.2f}", ""),
            (
                "four answers at once: seconds with one worker ÷ with two",
                f"{slow[0].wall / slow[1].wall:.2f}",
                "1 ± 0.1",
            ),
        ],
    )


class Took:
    """What a stage took: the CPU of each worker, that of this machine without the workers, and the wall time."""

    def __init__(self, workers: list[float], alone: float, wall: float) -> None:
        self.workers, self.wall = workers, wall
        self.path = max(workers) + alone


def asked(place: Path, products: int, model: str, workers: int, url: str = "https://api.openai.com/v1") -> Took:
    """Extract with some workers, whose modules are loaded and whose connections are tried."""
    settings = Settings(
        segkit_home=place / "home",
        segkit_cache=False,
        segkit_executor=f"dask:{workers}",
        segkit_prices_of="openai",
        openai_base_url=url,
        openai_api_key="sk-benchmark",
    )
    with cluster_of(settings) as joined, Client(joined.segkit_executor, set_as_default=False) as client:
        made = {"model": model, "runs_dir": place / "runs", "settings": settings}
        made["products_per_prompt"] = 40 if model == "offline" else 4
        extract_taxonomy(prepare_run(catalogue(WARM), "Kitchen Things", **made), joined)
        run = prepare_run(catalogue(products), "Kitchen Things", **made)
        before, began = client.run(cpu), time.monotonic()
        extract_taxonomy(run, joined)
        wall, after = time.monotonic() - began, client.run(cpu)
    again = cpu()
    extract_taxonomy(run, settings.model_copy(update={"segkit_executor": ""}))  # from the logs, as after the workers
    return Took([after[each] - before[each] for each in after], cpu() - again, wall)


def cpu() -> float:
    """Return the seconds of the processor that this process has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
