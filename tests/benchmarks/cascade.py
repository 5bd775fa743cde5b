"""What a cascade leaves to the classifier on a real catalogue, and whether its promise holds there.

The subcategories stand in for the answers of a model; in 3 % of them another one is drawn, as a model errs.
`python tests/benchmarks/cascade.py`
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import pandas as pd
from catalogues import DATA
from results import write_section

from segkit.core.catalogue.load import load_products
from segkit.core.models import BY_CLASSIFIER, Answer, Category, Parameters, Question
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.errors import StageError
from segkit.pipeline.taxonomy.cascade import place_in_cascade

CATALOGUE = DATA / "fashion_catalogue.csv"
PROMISES = (0.95, 0.97, 0.98)


def measure(products: pd.DataFrame, promise: float, noise: float) -> tuple[str, str]:
    """Return the share by classifier with its agreement with the labels it was not shown, and the calls saved."""
    names = sorted(products["subcategory"].unique())
    ids = {name: f"S_{i}" for i, name in enumerate(names)}
    labels = dict(zip(products["product_id"], products["subcategory"], strict=True))

    def says(product: int, batch: int) -> str:
        order = random.Random(f"{product} {batch}")
        return ids[order.choice(names) if order.random() < noise else labels[product]]

    def ask(questions: Sequence[Question], planned: int, done: int) -> list[Answer]:
        return [answer(question) for question in questions]

    def answer(question: Question) -> Answer:
        chosen = {
            f"P_{i}": {"category": says(group[0], question.batch), "confidence": 0.9}
            for i, group in enumerate(question.products)
        }
        return Answer(question, question.check(json.dumps({"assignments": chosen}), "", None))

    taxonomy = [Category(ids[name], name, f"{name}.") for name in names]
    parameters = Parameters("Fashion", "any", 0.0, "", ask_duplicates=False, cascade=promise, ask_twice=200)
    try:
        placed, facts = place_in_cascade(products, taxonomy, load_prompts("v0", keys=ASSIGNING), parameters, ask)
    except StageError as error:
        return f"refused: {error.message}", ""
    if facts.reason:
        return f"0%: {facts.reason}", ""
    alone = placed[placed["part"] == BY_CLASSIFIER]
    agreement = (alone["category"] == alone["product_id"].map(labels)).mean()
    return f"{len(alone) / len(products):.0%}, agreement {agreement:.1%}", f"{facts.calls_saved:,}"


def main() -> None:
    """Measure each promise with and without noise."""
    if not CATALOGUE.exists():
        print(f"skipped: {CATALOGUE.name} is not in ../shared/data")
        return
    products = load_products(CATALOGUE)
    subcategory = pd.read_csv(CATALOGUE).set_index("product_id")["subcategory"]
    products = products.assign(subcategory=products["product_id"].map(subcategory))
    rows = []
    for noise in (0.0, 0.03):
        for promise in PROMISES:
            share, saved = measure(products, promise, noise)
            rows.append((f"promised {promise:.0%}, noise {noise:.0%}: by classifier", share, f"≥ {promise:.0%}"))
            rows.append(("… calls saved", saved, ""))
    write_section("Cascade", f"{len(products):,} products of the fashion catalogue, 45 subcategories", rows)


if __name__ == "__main__":
    main()
