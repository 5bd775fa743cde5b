"""A cluster under rate limits: what the simulation of docs/scale.md says, against runs with the test server.

    python tests/benchmarks/scale.py           # measure, and write the table beside this file
    python tests/benchmarks/scale.py --page    # print the tables of docs/scale.md

The simulation takes the processor time of a question from the measurement.
Each worker is a process with its share of the questions; the time is that of the server, from the first request to
the last answer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from asking import things, timed
from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from endpoint import Endpoint
from scale_figures import Cluster, page, simulate

from segkit.core.extract import extract_questions
from segkit.llm.ask import ask_all
from segkit.pipeline.prepare import prepare_run
from segkit.settings import load_settings

CLUSTERS = {
    "16 at once, 1 s an answer": (Cluster(1, 16, 1.0), 320),
    "two workers, 8 at once each": (Cluster(2, 8, 1.0), 320),
    "40 requests in 2 s admitted, one worker": (Cluster(1, 32, 0.2, limit=40, seconds=2.0), 400),
    "the same, two workers that know no limit": (Cluster(2, 32, 0.2, limit=40, seconds=2.0), 400),
    "the same, four": (Cluster(4, 32, 0.2, limit=40, seconds=2.0), 400),
    "two workers with a share of 150 requests a minute each": (Cluster(2, 16, 0.2, share=150), 450),
}
PRODUCTS = 4  # a question


def measured(place: Path, cluster: Cluster, count: int) -> tuple[float, int, float]:
    """Ask so many questions with real workers: seconds, refused requests, processor seconds a question."""
    limits = {"requests_per_minute": cluster.limit, "seconds": cluster.seconds} if cluster.limit else {}
    with Endpoint(latency=cluster.latency, limits=limits, keep_bodies=False) as endpoint:
        share = count // cluster.workers
        environment = os.environ | {
            "OPENAI_BASE_URL": endpoint.url,
            "OPENAI_API_KEY": "none",
            "SEGKIT_CONCURRENCY": str(cluster.concurrency),
            "SEGKIT_REQUESTS_PER_MINUTE": str(cluster.share or ""),
        }
        workers = [
            subprocess.Popen(
                [sys.executable, __file__, "--ask", str(share), str(place / str(number))],
                env=environment | {"SEGKIT_HOME": str(place / str(number) / "home")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            for number in range(cluster.workers)
        ]
        for worker in workers:  # all begin together, once each has imported what it needs
            assert worker.stdout is not None
            worker.stdout.readline()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.close()
        outputs = [worker.stdout.read() for worker in workers if worker.stdout]
        assert not any(worker.wait() for worker in workers)
        entries = endpoint.ledger()
    answered = [entry for entry in entries if entry["status"] == 200]
    assert len(answered) == share * cluster.workers
    first = min(entry["monotonic"] for entry in entries)
    last = max(entry["monotonic"] + entry["seconds"] for entry in answered)
    return last - first, len(entries) - len(answered), sum(map(float, outputs)) / count


def ask(count: int, place: Path) -> None:
    """Be a worker: ask so many questions when told to, and print the processor seconds."""
    run = prepare_run(
        things(PRODUCTS * count), "Things", model="gpt-4o", runs_dir=place, products_per_prompt=PRODUCTS
    )
    asked = extract_questions(run.products, run.prompts, run.parameters)
    print("ready", flush=True)
    sys.stdin.read()
    print(timed(lambda: ask_all(run, "extract_taxonomy", asked, load_settings()))[1])


def main() -> None:
    """Measure each cluster and simulate it; write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", action="store_true", help="print the tables of docs/scale.md")
    parser.add_argument("--ask", nargs=2, metavar=("N", "FOLDER"), help="be a worker that asks N questions")
    given = parser.parse_args()
    if given.ask:
        ask(int(given.ask[0]), Path(given.ask[1]))
        return
    if given.page:
        print(page())
        return
    place = Path(tempfile.mkdtemp(prefix="segkit-scale-"))
    try:
        rows = []
        for number, (name, (cluster, count)) in enumerate(CLUSTERS.items()):
            seconds, refused, cpu = measured(place / str(number), cluster, count)
            simulated, refusals = simulate(replace(cluster, cpu=cpu), count)
            found = f"{seconds / simulated:.3f} ({seconds:.1f} s, {refused} refused, {1000 * cpu:.1f} ms CPU)"
            rows.append((f"{name}: measured ÷ simulated ({simulated:.1f} s, {refusals} refused)", found, "1 ± 0.1"))
    finally:
        shutil.rmtree(place)
    write_section("Scale", "a simulated cluster beside a real one, 4 products a question", rows)


if __name__ == "__main__":
    main()
