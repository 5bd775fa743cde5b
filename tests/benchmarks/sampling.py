"""What reading a sample costs and saves: calls, bound, and AMI to the labels, next to runs that read everything.

    python tests/benchmarks/sampling.py [--footwear N] [--fashion N]

Stated beforehand: a sampled run is not inferior where the lower end of the 95 % interval of the difference in AMI,
over seeds, lies above -0.01. The model is the offline one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from offline_quality import DATA
from results import write_section
from scipy import stats
from sklearn.metrics import adjusted_mutual_info_score

from segkit.pipeline.segment import segment
from segkit.settings import Settings

MARGIN = 0.01
FIRST_SEED = 100  # the seeds below it were looked at while the method was made
FILE = DATA / "fashion_catalogue.csv"


class Measured(NamedTuple):
    """One run: AMI of its categories to the labels, calls, and what it read."""

    ami: float
    calls: int
    read: str


def measure(products: pd.DataFrame, category: str, seed: int, **options: object) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(segkit_home=Path(folder) / "home", segkit_cache=False, segkit_ask_twice=0, _env_file=None)
        run = segment(
            products[["product_id", "title"]], category, model="offline", runs_dir=folder, seed=seed,
            settings=settings, **options,
        )  # fmt: skip
        placed = run.result("lineage").set_index("product_id")["refined_category"].reindex(products["product_id"])
        ami = adjusted_mutual_info_score(products["subcategory"], placed)
        return Measured(float(ami), run.status.calls, str(run.status.summary["sample"]))


def interval(differences: list[float]) -> tuple[float, float, float]:
    """Return the mean and the ends of the 95 % t-interval."""
    mean, count = float(np.mean(differences)), len(differences)
    half = float(stats.t.ppf(0.975, count - 1) * np.std(differences, ddof=1) / count**0.5)
    return mean, mean - half, mean + half


def rows(
    name: str, category: str, products: pd.DataFrame, seeds: int, sizes: tuple[int, ...]
) -> list[tuple[str, str, str]]:
    full: list[Measured] = []
    sampled: dict[int, list[Measured]] = {size: [] for size in sizes}
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        full.append(measure(products, category, seed))
        for size, runs in sampled.items():
            runs.append(measure(products, category, seed, extract_sample="auto", products_per_assignment=size))
        print(name, seed, full[-1], *(runs[-1] for runs in sampled.values()), flush=True)
    found = [(f"{name}: {len(products):,} products, all read", _text(full), "")]
    for what, runs in ((f"sample, {size} a prompt", runs) for size, runs in sampled.items()):
        mean, low, high = interval([b.ami - a.ami for a, b in zip(full, runs, strict=True)])
        found.append((f"{name}: {what}", _text(runs), ""))
        must = f"lower end above -{MARGIN}"
        found.append((f"{name}: {what}, AMI less that of all", f"{mean:+.3f} ({low:+.3f} to {high:+.3f})", must))
    found.append((f"{name}: what was read, first seed", sampled[sizes[0]][0].read, "at most 1.0 %"))
    return found


def _text(runs: list[Measured]) -> str:
    ami, calls = np.mean([run.ami for run in runs]), np.mean([run.calls for run in runs])
    return f"AMI {ami:.3f}, {calls:,.0f} calls (mean of {len(runs)} seeds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--footwear", type=int, default=12, help="seeds for the subcategory")
    parser.add_argument("--fashion", type=int, default=8, help="seeds for the whole catalogue")
    seeds = parser.parse_args()
    if not FILE.exists():
        print(f"{FILE.name} is not there: nothing is measured")
        return
    whole = pd.read_csv(FILE).dropna(subset=["title", "subcategory"])
    footwear = whole[whole["category"] == "Footwear"]
    found = rows("footwear", "Footwear", footwear, seeds.footwear, (40, 100)) if seeds.footwear else []
    found += rows("fashion", "Fashion", whole, seeds.fashion, (40,)) if seeds.fashion else []
    write_section("Reading a sample", "what is compared", found)


if __name__ == "__main__":
    main()
