"""How well the embedded offline model segments, next to k-means, on whatever labelled catalogues are there.

    python tests/benchmarks/offline_quality.py [--rows N] [--seed S] [--show NAME]

The harness is a plain one of its own (even batches in seeded order, tree consolidation, refinement) with
minimal prompts, so that it measures the model and not the package around it.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score
from sklearn.metrics.cluster import contingency_matrix

from segkit.llm.offline import model as offline

ROOT = Path(__file__).parents[2]
DATA = ROOT / "shared/data" if (ROOT / "shared/data").exists() else ROOT.parent / "shared/data"
OUT = "OUT_OF_SCOPE"


class Catalogue(NamedTuple):
    """A labelled catalogue: its `name`, the `category` a user would state, `titles` and as many `labels`."""

    name: str
    category: str
    titles: list[str]
    labels: list[str]


class Result(NamedTuple):
    """The final `labels` (one a product), the `taxonomy` (name → definition) and seconds a stage."""

    labels: list[str]
    taxonomy: dict[str, str]
    seconds: dict[str, float]


def batches(rows: list[int], size: int = 40) -> list[list[int]]:
    """Cut `rows` into even batches of at most `size`."""
    return [part.tolist() for part in np.array_split(rows, -(-len(rows) // size))]


def extract(category: str, titles: list[str], rows: list[int]) -> tuple[dict[str, str], dict[int, str]]:
    """Ask for one batch: name → definition, and row → name."""
    lines = [f"[P_{i}] {titles[row]}" for i, row in enumerate(rows)]
    reply = json.loads(offline.answer("\n".join([f"Product category: {category}", "", *lines])))
    names = {one["id"]: one["name"] for one in reply["categories"]} | {OUT: OUT}
    placed = {row: names[reply["assignments"][f"P_{i}"]["category"]] for i, row in enumerate(rows)}
    return {one["name"]: one["definition"] for one in reply["categories"]}, placed


def fold(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def letters(number: int) -> str:
    return chr(65 + number) if number < 26 else letters(number // 26 - 1) + chr(65 + number % 26)


def merge(category: str, taxonomies: list[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Ask for one merge: the taxonomy after it, and folded old name → new name."""
    unique: dict[str, str] = {}
    lines = []
    for number, taxonomy in enumerate(taxonomies):
        lines.append(f"List {letters(number)}, from batch {number + 1}:")
        known = [name for name in taxonomy if fold(name) in unique]
        for index, (name, text) in enumerate(taxonomy.items()):
            if fold(name) not in unique:
                unique[fold(name)] = f"{letters(number)}_{index}"
                lines.append(f"[{unique[fold(name)]}] {name}: {text}")
        if known:
            lines.append(f"List {letters(number)} also has: {'; '.join(known)}")
    reply = json.loads(offline.answer("\n".join([f"Product category: {category}", "", *lines])))
    names = {one["id"]: one["name"] for one in reply["categories"]}
    merged = {one["name"]: one["definition"] for one in reply["categories"]}
    return merged, {name: names[reply["members"][key]] for name, key in unique.items()}


def consolidate(category: str, level: list[dict[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Merge 20 at a time until one taxonomy is left."""
    path = {fold(name): name for taxonomy in level for name in taxonomy}
    while True:
        parts = [level[i : i + 20] for i in range(0, len(level), 20)]
        steps = [merge(category, part) for part in parts]
        level = [taxonomy for taxonomy, _ in steps]
        if len(parts) == 1:
            return level[0], {old: steps[0][1][fold(new)] for old, new in path.items()}
        moved: dict[str, str] = {}
        for _, step in steps:
            moved = step | moved
        path = {old: moved[fold(new)] for old, new in path.items()}


def refine(category: str, taxonomy: dict[str, str], titles: list[str], placed: dict[int, str]) -> dict[int, str]:
    """Ask for the reassignments of every batch and apply them."""
    names = list(taxonomy)
    ids = {name: f"S_{j}" for j, name in enumerate(names)} | {OUT: OUT}
    back = {key: name for name, key in ids.items()}
    head = [f"Product category: {category}", "", *(f"[{ids[n]}] {n}: {d}" for n, d in taxonomy.items()), ""]
    result = dict(placed)
    for rows in batches(list(placed)):
        lines = [f"[P_{i}] {titles[r]} → {ids[placed[r]]} ({placed[r]})" for i, r in enumerate(rows)]
        for one in json.loads(offline.answer("\n".join(head + lines)))["reassignments"]:
            result[rows[int(one["product"][2:])]] = back[one["category"]]
    return result


def segment(category: str, titles: list[str], seed: int = 0) -> Result:
    """Run the three stages over `titles`."""
    rows = list(range(len(titles)))
    random.Random(seed).shuffle(rows)
    clock, seconds = time.perf_counter(), {}
    answers = [extract(category, titles, part) for part in batches(rows)]
    seconds["extract"] = time.perf_counter() - clock
    taxonomy, path = consolidate(category, [found for found, _ in answers])
    seconds["consolidate"] = time.perf_counter() - clock - seconds["extract"]
    path[fold(OUT)] = OUT
    placed = {row: path[fold(name)] for _, part in answers for row, name in part.items()}
    final = refine(category, taxonomy, titles, placed)
    seconds["refine"] = time.perf_counter() - clock - sum(seconds.values())
    return Result([final[row] for row in range(len(titles))], taxonomy, seconds)


def harmonic_purity(labels: list[str], found: list[str] | np.ndarray) -> float:
    """Harmonic mean of purity and inverse purity."""
    table = contingency_matrix(labels, found)
    purity, inverse = table.max(axis=0).sum() / table.sum(), table.max(axis=1).sum() / table.sum()
    return float(2 * purity * inverse / (purity + inverse))


def kmeans(titles: list[str], k: int | None) -> np.ndarray:
    """TF-IDF (1-2 grams) and k-means; without `k`, the best silhouette from 2 to min(40, n / 5)."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True, min_df=2)
    matrix = vectors.fit_transform(titles)
    if k is not None:
        return KMeans(k, n_init=10, random_state=0).fit_predict(matrix)
    tries = [KMeans(i, n_init=3, random_state=0).fit_predict(matrix) for i in range(2, min(40, len(titles) // 5) + 1)]
    return max(tries, key=lambda found: silhouette_score(matrix, found, sample_size=1500, random_state=0))


def sample(name: str, category: str, frame: pd.DataFrame, label: str, rows: int) -> Catalogue:
    frame = frame.dropna(subset=["title", label])
    frame = frame.sample(min(rows, len(frame)), random_state=0).sort_values("product_id")
    return Catalogue(name, category, frame["title"].tolist(), frame[label].tolist())


def catalogues(rows: int) -> Iterator[Catalogue]:
    """Every labelled catalogue that is present, cut to at most `rows` products."""
    for file, label, category in [
        ("amazon_switches", "category", "Light and Dimmer Switches"),
        ("amazon_other_categories", "category", "Products"),
        ("retail_demo_catalogue", "category", "Products"),
        ("fashion_catalogue", "subcategory", "Fashion"),
    ]:
        if (path := DATA / f"{file}.csv").exists():
            frame = pd.read_csv(path)
            yield sample(file, category, frame, label, rows)
            if file == "fashion_catalogue":
                for part in ("Apparel", "Accessories", "Footwear", "Personal Care"):
                    yield sample(f"fashion/{part}", part, frame[frame["category"] == part], label, min(rows, 500))
    for path in sorted((ROOT / "segkit/sample").glob("*.csv")):
        frame = pd.read_csv(path)
        if "segment_label" in frame:
            yield sample(path.stem, path.stem.replace("_", " ").title(), frame, "segment_label", rows)


def row(one: Catalogue, seed: int, baseline: bool, show: bool) -> list[object]:
    """Measure one catalogue."""
    result = segment(one.category, one.titles, seed)
    if show:
        sizes = Counter(result.labels)
        for name, count in sizes.most_common():
            some = [t for t, found in zip(one.titles, result.labels, strict=True) if found == name]
            print(f"{count:5d} {name}: {result.taxonomy.get(name, '')}", *some[:5], sep="\n          ")
    found = [result.labels]
    if baseline:
        found += [kmeans(one.titles, None).tolist(), kmeans(one.titles, len(set(one.labels))).tolist()]
    line: list[object] = [one.name, len(one.titles), len(set(one.labels))]
    for labels in found:
        ami = adjusted_mutual_info_score(one.labels, labels)
        line += [len(set(labels)), round(ami, 3), round(harmonic_purity(one.labels, labels), 3)]
    return [*line, result.labels.count(OUT), round(sum(result.seconds.values()), 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", default="")
    parser.add_argument("--only", default="")
    parser.add_argument("--no-baseline", action="store_true")
    given = parser.parse_args()
    models = ["offline", "silhouette"[:4], "true k"] if not given.no_baseline else ["offline"]
    columns = [f"{model} {figure}" for model in models for figure in ("k", "AMI", "HP")]
    rows = [
        row(one, given.seed, not given.no_baseline, bool(given.show) and given.show in one.name)
        for one in catalogues(given.rows)
        if given.only in one.name
    ]
    table = pd.DataFrame(rows, columns=["catalogue", "products", "true k", *columns, "out", "s"])
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
