"""Sweeps: planned before anything is made, each run paid once, stopped and gone on with, a better prompt found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from catalogues import KEY, catalogue, unmeasured
from endpoint import Endpoint
from sklearn.metrics import adjusted_mutual_info_score

from segkit import compare, sweep
from segkit.cli.evaluation.sweep import SweptParameters
from segkit.cli.options import RunParameters, options_of
from segkit.core.catalogue.load import load_catalogue
from segkit.core.catalogue.options import CatalogueOptions
from segkit.errors import BudgetError, SettingsError, StageError
from segkit.pipeline.experiments.sweeps import Sweep, plan_of_sweep, prepare_sweep, work_on
from segkit.runs.integrity import differences
from segkit.runs.run import open_run, run_ids
from segkit.settings import load_settings, project_folder

COMMAND = [sys.executable, "-m", "segkit", "sweep", "p.csv", "-c", "Kitchen Things", "-m", "gpt-4o", "--repeats", "2"]
COMMAND += ["--products-per-prompt", "6,12", "--no-notebooks"]
KINDS = ("Kettles", "Toasters", "Ladles", "Whisks")
BETTER = "Look at the last word of each title."


def prepared(place: Path, count: int = 24, **values: object) -> Sweep:
    products = load_catalogue(catalogue(count), CatalogueOptions())
    chosen = {"products_per_prompt": [6, 12], "repeats": 2, "model": "gpt-4o", **values}
    return prepare_sweep(products, "Kitchen Things", runs_dir=place / "runs", **chosen)


def write_set(name: str, words: str) -> None:
    """Write a prompt set whose first prompt begins with some more words."""
    Path("prompts").mkdir(exist_ok=True)
    for path in project_folder("prompts").glob("*_v0.txt"):
        text = path.read_text(encoding="utf-8")
        text = f"{words}\n{text}" if path.name.startswith("extract") else text
        (Path("prompts") / path.name.replace("_v0", f"_{name}")).write_text(text, encoding="utf-8")


def test_a_plan_makes_nothing_and_counts_what_is_left(endpoint: Endpoint, place: Path) -> None:
    ready = prepared(place)
    plan = plan_of_sweep(ready, load_settings())
    assert plan["setting"].tolist() == ["products_per_prompt=6", "products_per_prompt=12", "all"]
    assert (plan["runs"].tolist(), plan["finished"].tolist()) == ([2, 2, 4], [0, 0, 0])
    assert plan["calls"].iloc[-1] == plan["calls"].iloc[0] + plan["calls"].iloc[1] > 0
    assert plan["cost_usd_high"].iloc[-1] > plan["cost_usd_low"].iloc[-1] > 0
    assert (endpoint.count(), (place / "runs").exists()) == (0, False)


def test_each_run_is_an_ordinary_run_and_paid_once(endpoint: Endpoint, place: Path) -> None:
    """Every setting has the same seeds; the second time nothing is asked, and changed prompts are other runs."""
    write_set("v1", "Be brief.")
    given = {"model": "gpt-4o", "prompts": ["v0", "v1"], "products_per_prompt": 6, "repeats": 2}
    board = sweep(catalogue(24), "Kitchen Things", **given)
    paid, runs = endpoint.count(), board.runs()
    assert runs.groupby("setting")["seed"].apply(list).to_dict() == {"prompts=v0": [0, 1], "prompts=v1": [0, 1]}
    assert [differences(open_run(run, "runs")) for run in runs["run"]] == [[]] * 4
    assert board.price == "cost_usd"
    assert board.table["stability"].tolist() == [1, 1]  # the endpoint groups alike, whatever the seed
    again = sweep(catalogue(24), "Kitchen Things", **given)
    assert (endpoint.count(), len(run_ids(Path("runs")))) == (paid, 4)
    assert again.as_json() == board.as_json()
    write_set("v1", "Be very brief.")
    sweep(catalogue(24), "Kitchen Things", **given)
    assert len(run_ids(Path("runs"))) == 6


def test_caps_hold_for_the_whole_sweep(endpoint: Endpoint, place: Path) -> None:
    """And without them the same sweep goes on: what was answered is not asked again."""
    ready, capped = prepared(place), load_settings().model_copy(update={"segkit_max_calls": 9})
    with pytest.raises(BudgetError) as stopped:
        work_on(ready, capped)
    assert stopped.value.hint == "the same command goes on from here"
    assert endpoint.count() == 9
    work_on(prepared(place), load_settings())
    whole = endpoint.count()
    assert len({entry["sha256"] for entry in endpoint.ledger()}) == whole
    spent = sum((trial.run.status.cost_usd for trial in prepared(place).trials), Decimal(0))
    with pytest.raises(BudgetError):
        sweep(catalogue(24), "Kitchen Things", model="gpt-4o", temperature=["0", "1"], max_cost_usd=spent / 4)


def test_a_setting_that_fails_does_not_stop_the_others(endpoint: Endpoint, place: Path) -> None:
    write_set("bad", "Be wrong.")
    endpoint.rule("404", contains="Be wrong.")
    ready = prepared(place, prompts=["v0", "bad"], products_per_prompt=6)
    work_on(ready, load_settings())
    good, bad = ready.board_settings()
    assert (len(good.runs), len(bad.runs), len(bad.failures)) == (2, 0, 2)
    with pytest.raises(StageError, match="every run of the sweep failed"):
        work_on(prepared(place, prompts="bad", max_retries=[1, 2]), load_settings())


@pytest.mark.long
def test_answers_of_another_folder_count_what_they_had_cost(endpoint: Endpoint, place: Path) -> None:
    given = {"model": "gpt-4o", "products_per_prompt": [6, 12], "repeats": 2, "max_cost_usd": 9}
    first = sweep(catalogue(24), "Kitchen Things", runs_dir="runs", **given)
    paid = endpoint.count()
    second = sweep(catalogue(24), "Kitchen Things", runs_dir="elsewhere", **given)
    assert endpoint.count() == paid
    costs = first.table.set_index("setting")["cost_usd"]
    assert (costs > 0).all()
    assert second.table.set_index("setting")["cost_usd"].to_dict() == pytest.approx(costs.to_dict())


@pytest.mark.long
def test_a_hopeless_setting_ends_after_two_runs(endpoint: Endpoint, place: Path) -> None:
    """With halving, and labels: what is clearly worse is not run further; the baseline always is."""
    write_set("bad", "Be wrong.")
    write_set("v1", BETTER)
    endpoint.rule("mistakes", share=0.7, contains="Be wrong.")
    products = labelled(80)
    given = {"model": "gpt-4o", "products_per_prompt": 40, "repeats": 4, "label_column": "kind", "halving": True}
    board = sweep(products, "Kitchen Things", prompts=["v0", "v1", "bad"], **given)
    assert board.runs()["setting"].value_counts().to_dict() == {"prompts=v0": 4, "prompts=v1": 4, "prompts=bad": 2}
    assert board.table["setting"].iloc[-1] == "prompts=bad"
    assert "prompts=bad" not in board.tied
    assert "Not run further after 2 seeds, since clearly worse: prompts=bad." in str(board)
    row = board.table.iloc[-1]
    assert row["p_value"] <= 0.01
    assert -1.5 < row["difference_low"] < row["difference"] < row["difference_high"] < 0
    paid = endpoint.count()
    again = sweep(products, "Kitchen Things", prompts=["v0", "v1", "bad"], **given)
    assert (endpoint.count(), again.as_json()) == (paid, board.as_json())
    spared = sweep(products, "Kitchen Things", prompts=["bad", "v0", "v1"], **given)
    assert spared.runs()["setting"].value_counts()["prompts=bad"] == 4


def test_halving_needs_labels_and_three_repeats(place: Path, endpoint: Endpoint) -> None:
    given = {"model": "gpt-4o", "products_per_prompt": [6, 12], "halving": True}
    with pytest.raises(SettingsError, match="halving needs labels"):
        sweep(labelled(24), "Kitchen Things", **given)
    with pytest.raises(SettingsError, match="three repeats"):
        sweep(labelled(24), "Kitchen Things", repeats=2, label_column="kind", **given)
    with pytest.raises(SettingsError, match="halving is 'perhaps'"):
        sweep(labelled(24), "Kitchen Things", label_column="kind", **{**given, "halving": "perhaps"})
    with pytest.raises(SettingsError, match="by stability"):
        sweep(labelled(24), "Kitchen Things", by="stability", label_column="kind", **given)
    assert (endpoint.count(), run_ids(place / "runs")) == (0, [])


def test_a_sweep_that_cannot_be_is_refused(place: Path, endpoint: Endpoint) -> None:
    with pytest.raises(SettingsError, match="nothing varies"):
        prepared(place, products_per_prompt=6)
    with pytest.raises(SettingsError, match="the same seeds"):
        prepared(place, seed=[1, 2])
    with pytest.raises(SettingsError, match="products_per_prompt is 2000"):
        prepared(place, products_per_prompt=[6, 2000])
    with pytest.raises(SettingsError, match="two settings"):
        prepared(place, temperature=["0.2", "0.20"])


def test_every_parameter_of_a_run_can_be_swept() -> None:
    swept = {option.name: option.annotation.__metadata__[0].help for option in SweptParameters.options()}
    assert swept == {option.name: option.annotation.__metadata__[0].help for option in options_of(RunParameters)}


def environment(endpoint: Endpoint) -> dict[str, str]:
    return unmeasured(OPENAI_BASE_URL=endpoint.url, OPENAI_API_KEY=KEY, SEGKIT_PRICES_OF="openai")


@pytest.mark.long
def test_consent_is_asked_with_the_price_and_can_be_refused(endpoint: Endpoint, place: Path) -> None:
    catalogue(24).to_csv("p.csv", index=False)
    terminal, stdin = os.openpty()
    os.write(terminal, b"n\n")
    done = subprocess.run(
        COMMAND, env=environment(endpoint), stdin=stdin, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "Send 24 product titles to gpt-4o at http://127.0.0.1" in done.stderr
    assert "$0." in done.stdout
    assert "nothing was sent, and no run was made" in done.stderr
    assert (endpoint.count(), (place / "runs").exists()) == (0, False)


@pytest.mark.long
def test_a_sweep_that_was_interrupted_goes_on(endpoint: Endpoint, place: Path) -> None:
    """Ctrl-C keeps the answers in flight; the same command asks the rest, and nothing twice."""
    catalogue(24).to_csv("p.csv", index=False)
    endpoint.configure(latency=0.3)
    command = [*COMMAND, "--yes", "--json", "--concurrency", "2"]
    process = subprocess.Popen(
        command, env=environment(endpoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    endpoint.wait(3)
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "the same command goes on from here" in complaint
    endpoint.configure(latency=0)
    done = subprocess.run(command, env=environment(endpoint), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [len(row["runs"]) for row in document["settings"]] == [2, 2]
    assert len({entry["sha256"] for entry in endpoint.ledger()}) == endpoint.count()


def labelled(count: int) -> pd.DataFrame:
    frame = catalogue(count)
    return frame.assign(kind=[KINDS[i % len(KINDS)] for i in range(count)])


def true_ami(truth: list[str], share: float, times: int = 200) -> float:
    """The AMI with the labels of a model that puts a share of the products into another category."""
    random, kinds, codes = np.random.default_rng(8), len(KINDS), pd.factorize(np.array(truth))[0]
    found = []
    for _ in range(times):
        wrong = random.random(len(codes)) < share
        placed = np.where(wrong, (codes + random.integers(1, kinds, len(codes))) % kinds, codes)
        found.append(adjusted_mutual_info_score(codes, placed))
    return float(np.mean(found))


@pytest.mark.long
def test_a_planted_improvement_of_a_prompt_is_found(endpoint: Endpoint, place: Path) -> None:
    """The words of v1 halve the mistakes of the model; compare and sweep find that, with intervals that cover it."""
    write_set("v1", BETTER)
    endpoint.rule("mistakes", share=0.15, contains=BETTER)
    endpoint.rule("mistakes", share=0.30, stage="extract_taxonomy")
    products = labelled(240)
    given = {"model": "gpt-4o", "prompts": ["v0", "v1"], "products_per_prompt": 40, "products_per_refinement": 240}
    board = sweep(products, "Kitchen Things", label_column="kind", **given)
    true = true_ami(products["kind"].tolist(), 0.15) - true_ami(products["kind"].tolist(), 0.30)
    assert (board.best, board.tied) == ("prompts=v1", ["prompts=v1"])
    row = board.table.iloc[0]
    assert 0 < row["to_baseline_low"] <= true <= row["to_baseline_high"]
    assert "better than the baseline prompts=v0" in str(board)
    paid, runs = endpoint.count(), board.runs().groupby("setting")["run"].first()
    comparison = compare(runs["prompts=v0"], runs["prompts=v1"], label_column="kind", runs_dir="runs")
    difference = comparison.label_difference
    assert difference is not None
    assert 0 < difference.low <= true <= difference.high
    assert comparison.p_value is not None
    assert comparison.p_value <= 0.05
    assert endpoint.count() == paid


@pytest.mark.long
def test_the_interval_of_a_planted_improvement_covers_it_again_and_again(endpoint: Endpoint, place: Path) -> None:
    """Eight sweeps with other seeds: the interval misses the truth in one of them at most."""
    write_set("v1", BETTER)
    endpoint.rule("mistakes", share=0.15, contains=BETTER)
    endpoint.rule("mistakes", share=0.30, stage="extract_taxonomy")
    products = labelled(160)
    true = true_ami(products["kind"].tolist(), 0.15) - true_ami(products["kind"].tolist(), 0.30)
    given = {"model": "gpt-4o", "prompts": ["v0", "v1"], "products_per_prompt": 40, "products_per_refinement": 160}
    held = 0
    for seed in range(0, 40, 5):
        row = sweep(products, "Kitchen Things", label_column="kind", seed=seed, **given).table.iloc[0]
        held += row["to_baseline_low"] <= true <= row["to_baseline_high"]
    assert held >= 7


def test_a_run_can_be_swept(endpoint: Endpoint, new_run: Callable[..., object]) -> None:
    """Its products and parameters are taken; its own run counts where it is one of the settings."""
    first = new_run(12)
    board = sweep(first, products_per_prompt=[6, 4], repeats=2)
    assert first.id in board.runs()["run"].tolist()
    assert board.runs()["seed"].tolist() == [0, 1, 0, 1]
