"""A cascade: the model is asked about some products, and a classifier places those of which it is sure."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.analysis.report import report_page
from segkit.core.batching import cascade_sizes, planned_calls
from segkit.core.models import BY_CLASSIFIER, NONE_FITS, Answer, Category, Parameters, Question
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.errors import SettingsError, StageError
from segkit.evaluation.explain.explanation import explain
from segkit.pipeline.parameters import change_requests
from segkit.pipeline.plan.estimate import plan_of
from segkit.pipeline.replay import replay
from segkit.pipeline.segment import run_stages
from segkit.pipeline.taxonomy.cascade import NOT_SURE, TOO_FEW, CascadeFacts, place_in_cascade
from segkit.pipeline.taxonomy.classifier import LineClassifier, find_threshold
from segkit.runs.run import Run
from segkit.settings import load_settings

NewRun = Callable[..., Run]
Choose = Callable[[str, int], str]
KINDS = ("kettle", "toaster", "ladle", "whisk")
TAXONOMY = [Category(f"S_{i}", kind, f"A {kind}.") for i, kind in enumerate(KINDS)]
PARAMETERS = Parameters("Kitchen Things", "any", 0.0, "", products_per_assignment=100, cascade=0.97, ask_twice=200)


def placed(choose: Choose, products: pd.DataFrame, **changes: object) -> tuple[pd.DataFrame, CascadeFacts]:
    """Run a cascade whose model answers a title, in some batch, with what `choose` returns."""

    def answer(question: Question) -> Answer:
        titles = products.set_index("product_id")["title"]
        chosen = {
            f"P_{i}": {"category": choose(titles[ids[0]], question.batch), "confidence": 0.9}
            for i, ids in enumerate(question.products)
        }
        return Answer(question, question.check(json.dumps({"assignments": chosen}), "key", None))

    def ask(questions: Sequence[Question], planned: int, done: int) -> list[Answer]:
        assert done + len(questions) <= planned
        return [answer(question) for question in questions]

    prompts = load_prompts("v0", keys=ASSIGNING)
    return place_in_cascade(products, TAXONOMY, prompts, replace(PARAMETERS, **changes), ask)  # type: ignore[arg-type]


def by_last_word(title: str, batch: int) -> str:
    return f"S_{KINDS.index(title.split()[-1])}"


def test_a_classifier_places_what_it_is_sure_of(new_run: NewRun, endpoint: Endpoint) -> None:
    """7,000 products take 70 calls alone; in a cascade 20 to judge by, 10 to train on, 2 twice, and 1 to audit."""
    options = {"extract_sample": "120", "products_per_assignment": 100, "cascade": 0.97, "ask_twice": 200}
    run = new_run(7000, **options)
    plan = plan_of(run, load_settings()).set_index("stage")
    assert plan.loc["assign_products", ["calls_low", "calls"]].tolist() == [33, 72]
    assert planned_calls(run.products, run.parameters)["assign_products"] == 72
    summary = run_stages(run)
    assert endpoint.count("assign_products") == 20 + 2 + 10 + 1
    (facts,) = run.result("cascade").to_dict("records")
    assert (facts["calls_saved"], facts["audited"], facts["self_agreement"]) == (70 - 33, 40, 1.0)
    assert summary["cascade"].startswith("57% of the products by classifier, which agrees with the model in 100.0%")
    assert summary["cascade"] in report_page(run)

    lineage = run.result("lineage")
    kinds = run.products.set_index("product_id")["title"].str.split().str[-1]
    assert lineage.groupby("category")["product_id"].apply(lambda ids: ids.map(kinds).nunique()).tolist() == [1] * 4
    alone = lineage[lineage["part"] == BY_CLASSIFIER]
    assert len(alone) == facts["products_by_classifier"] == 4000 - 40
    assert (alone["cache_key"] == "").all()
    assert "the model was not asked" in explain(run, int(alone["product_id"].iloc[0])).lines[0]
    assert replay(run).identical
    plan = plan_of(new_run(7000, **options), load_settings()).set_index("stage")
    assert plan.loc["all", ["calls_low", "calls"]].tolist() == [0, 0], "the plan knows the answers and the classifier"


def test_too_few_products_are_all_asked(new_run: NewRun, endpoint: Endpoint) -> None:
    run = new_run(200, extract_sample="40", cascade=0.97)
    summary = run_stages(run)
    assert summary["cascade"] == f"does not pay: 0 % by classifier, since {TOO_FEW}"
    assert endpoint.count("assign_products") == 5
    assert cascade_sizes(5999) is None
    assert cascade_sizes(6000) == (2000, 1000)
    assert cascade_sizes(10**6) == (2000, 20_000)


def test_where_titles_say_nothing_every_product_is_asked() -> None:
    order = random.Random(3)
    chance = {title: f"S_{order.randrange(4)}" for title in catalogue(6200)["title"]}
    table, facts = placed(lambda title, _: chance[title], catalogue(6200))
    assert (facts.reason, facts.products_by_classifier, facts.agreement) == (NOT_SURE, 0, None)
    assert table["product_id"].tolist() == list(range(100, 6300))
    assert (table["part"] != BY_CLASSIFIER).all()


def test_a_promise_above_the_agreement_of_the_model_with_itself_is_refused() -> None:
    """One answer in ten differs from batch to batch, so that nobody can agree with the model in 97 %."""

    def moody(title: str, batch: int) -> str:
        if random.Random(f"{title} {batch}").random() < 0.1:
            return "S_3"
        return by_last_word(title, batch)

    with pytest.raises(StageError, match="promises more than the model agrees with itself: 0"):
        placed(moody, catalogue(6200))
    _, facts = placed(moody, catalogue(6200), cascade=0.8)
    assert facts.products_by_classifier > 2000
    assert facts.agreement is not None
    assert facts.agreement > 0.8


def test_a_refused_promise_names_the_command_that_goes_on(new_run: NewRun, endpoint: Endpoint) -> None:
    """The model contradicts itself at every fifth product; what was asked by then is not asked again."""
    endpoint.rule("mistakes", stage="assign_products", share=0.1)
    run = new_run(6200, extract_sample="120", products_per_assignment=100, cascade=0.97, ask_twice=200)
    with pytest.raises(StageError, match="promises more than the model agrees with itself") as refused:
        run_stages(run)
    assert endpoint.count("assign_products") == 20 + 2
    found = re.fullmatch(rf"segkit resume {run.id} --cascade (0\.\d+), or --cascade 0 to .*", refused.value.hint)
    assert found is not None
    run_stages(change_requests(run, load_settings(), cascade=float(found[1])))
    assert endpoint.count("assign_products") == 20 + 2 + 10 + 1


def test_a_product_that_fits_no_category_is_never_placed_by_the_classifier() -> None:
    def no_ladles(title: str, batch: int) -> str:
        return NONE_FITS if title.endswith("ladle") else by_last_word(title, batch)

    table, facts = placed(no_ladles, catalogue(6200))
    alone = table[table["part"] == BY_CLASSIFIER]
    assert facts.products_by_classifier == len(alone) > 1000
    assert NONE_FITS not in set(alone["category"])
    assert (table["category"] == NONE_FITS).sum() == 1550


def test_products_with_the_same_line_share_the_answer_of_the_classifier() -> None:
    products = pd.concat([catalogue(6200), catalogue(6200).assign(product_id=range(10_000, 16_200))])
    table, facts = placed(by_last_word, products, ask_duplicates=False)
    first, second = (table[table["product_id"].between(*ends)] for ends in ((0, 9999), (10_000, 20_000)))
    assert facts.products_by_classifier == 2 * (6200 - 3000 - 33)
    assert first["category"].tolist() == second["category"].tolist()


def test_a_resume_changes_the_promise(new_run: NewRun, endpoint: Endpoint) -> None:
    run = new_run(100, extract_sample="40", cascade=0.97)
    assert change_requests(run, load_settings(), cascade=0.9).parameters.cascade == 0.9
    assert change_requests(run, load_settings(), cascade=0).parameters.cascade == 0


@pytest.mark.parametrize(("given", "fault"), [({"cascade": 0.3}, "cascade is 0.3"), ({}, "needs a taxonomy")])
def test_a_promise_that_makes_no_sense_is_refused(new_run: NewRun, given: dict[str, float], fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        new_run(100, **{"cascade": 0.97, **given})
    with pytest.raises(SettingsError, match="cascade is 1"):
        new_run(100, extract_sample="40", cascade=1)


def broken_promises(promise: float, luck: float, repetitions: int) -> tuple[float, float]:
    """Return in what share of cascades the classifier disagrees too often, and the mean share that it may place.

    The chance of a disagreement falls with the score; `luck` is how far that of one batch differs from others.
    """
    order, broken, coverages = np.random.default_rng(5), 0, []
    for _ in range(repetitions):
        batches = np.repeat(np.arange(50), 40)
        score = order.uniform(0, 1, 2000)
        wrong = 0.3 * (1 - score) ** 2
        odds = wrong * order.gamma(1 / luck, luck, 50)[batches] if luck else wrong
        agrees = order.uniform(0, 1, 2000) >= np.minimum(odds, 1)
        found = find_threshold(score, agrees, batches, promise)
        coverages.append(found.coverage if found else 0.0)
        if found:  # the mean of 0.3 (1 - s)² over scores above the threshold
            broken += 0.1 * (1 - found.score) ** 2 > 1 - promise
    return broken / repetitions, float(np.mean(coverages))


@pytest.mark.parametrize("luck", [0.0, 0.5])
def test_the_promise_is_kept(luck: float) -> None:
    """In 95 % of cascades at least, also where the answers of a batch share its luck; and it leaves much to place."""
    broken, coverage = broken_promises(0.97, luck, 300)
    assert broken <= 0.05
    assert coverage > 0.25


def test_the_threshold_is_the_largest_that_keeps_the_promise() -> None:
    score = np.linspace(1, 0.001, 2000)
    batches = np.random.default_rng(0).permutation(np.repeat(np.arange(50), 40))
    sure = find_threshold(score, np.ones(2000, bool), batches, 0.97)
    assert sure is not None
    assert sure.coverage == 1
    half = find_threshold(score, score > 0.5, batches, 0.97)
    assert half is not None
    assert half.coverage == pytest.approx(0.5)
    assert half.agreement.low is not None
    assert half.agreement.low > 0.97
    assert find_threshold(score, np.zeros(2000, bool), np.arange(2000), 0.97) is None
    assert find_threshold([], [], [], 0.97) is None


def test_the_classifier_learns_words_and_is_the_same_again() -> None:
    lines = [f"number {i} {KINDS[i % 4]}" for i in range(400)]
    names = [KINDS[i % 4] for i in range(400)]
    first, again = (LineClassifier(lines, names, 0).placed(["a red whisk", "a blue ladle"]) for _ in range(2))
    assert first[0] == again[0] == ["whisk", "ladle"]
    assert first[1].tolist() == again[1].tolist()
