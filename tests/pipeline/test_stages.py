"""The stages as a whole: the same products give the same bytes, and every product is accounted for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from catalogues import catalogue, data, unmeasured
from endpoint import Endpoint

from segkit.core.batching import planned_calls
from segkit.core.catalogue.load import load_products
from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import RunError
from segkit.pipeline.prepare import SAMPLE, prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state
from segkit.runs.run import Run, open_run

NewRun = Callable[..., Run]


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def result_bytes(run: Run) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run.folder / "results").iterdir())}


def test_the_order_of_the_input_changes_nothing(place: Path) -> None:
    """The same products in another order, with the same seed, give byte-identical results."""
    products = load_products(SAMPLE)
    one = worked(prepare_run(products, "Coffee Makers", model="offline"))
    two = worked(prepare_run(products.sample(frac=1, random_state=5), "Coffee Makers", model="offline"))
    assert result_bytes(one) == result_bytes(two)


@pytest.mark.long
def test_another_hash_seed_changes_nothing(place: Path) -> None:
    """Results do not depend on PYTHONHASHSEED."""
    code = (
        "from segkit import *; run = prepare_run(model='offline', run_id='RUN_20250101T000000Z_000{seed}')\n"
        "for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments): stage(run)"
    )
    for seed in ("1", "2"):
        environment = unmeasured(PYTHONHASHSEED=seed, SEGKIT_CACHE="false")
        subprocess.run([sys.executable, "-c", code.format(seed=seed)], env=environment, check=True, cwd=place)
    one, two = (open_run(f"RUN_20250101T000000Z_000{seed}", place / "runs") for seed in "12")
    assert result_bytes(one) == result_bytes(two)


@pytest.mark.parametrize("count", [1, 2, 5, 59, 241])
def test_calls_are_as_planned(count: int, endpoint: Endpoint, new_run: NewRun) -> None:
    """Issue: exactly the planned number of calls, for one product as for many."""
    run = worked(new_run(count, products_per_prompt=10, products_per_refinement=10, taxonomies_per_consolidation=4))
    stages = ("extract_taxonomy", "consolidate_taxonomy", "refine_assignments")
    assert [endpoint.count(stage) for stage in stages] == list(planned_calls(run.products, run.parameters).values())
    assert all(entry["schema_ok"] for entry in endpoint.ledger())


def test_a_thousand_real_products_make_25_2_1_25_calls(endpoint: Endpoint, new_run: NewRun) -> None:
    """Issue: 25 + 2 + 1 + 25 at the defaults, on real titles."""
    products = load_products(data("fashion_catalogue.csv")).head(1000)
    run = worked(new_run(products, products_per_prompt=40, products_per_refinement=40))
    assert endpoint.count("extract_taxonomy") == 25
    assert endpoint.count("consolidate_taxonomy") == 2 + 1
    assert endpoint.count("refine_assignments") == 25
    assert (run.result("ledger")["state"] == "assigned").all()


def test_out_of_scope_is_kept_out_of_the_taxonomy_and_put_back(endpoint: Endpoint, new_run: NewRun) -> None:
    """CONTRACT: OUT_OF_SCOPE takes no part in consolidation; where it has products it is the last row."""
    frame = catalogue(24)
    frame.loc[[3, 7], "title"] = ["an unrelated thing", "one more unrelated thing"]
    run = worked(new_run(frame))
    consolidations = [
        b for b in endpoint.bodies() if b and b["response_format"]["json_schema"]["name"] == "consolidate_taxonomy"
    ]
    lines = [
        line for body in consolidations for line in body["messages"][0]["content"].splitlines() if line[:1] == "["
    ]
    assert lines
    assert not any(OUT_OF_SCOPE in line for line in lines)
    assert run.result("taxonomies").iloc[-1]["category_name"] == OUT_OF_SCOPE
    assert run.result("ledger").set_index("product_id")["state"].loc[[103, 107]].tolist() == ["out_of_scope"] * 2


def test_nothing_but_out_of_scope(endpoint: Endpoint, new_run: NewRun) -> None:
    """A list without a single fitting product ends with no category and no refinement."""
    frame = catalogue(8).assign(title=[f"unrelated thing {i}" for i in range(8)])
    run = worked(new_run(frame))
    assert run.result("taxonomies")["category_name"].tolist() == [OUT_OF_SCOPE]
    assert endpoint.count("refine_assignments") == 0
    assert (run.result("ledger")["state"] == "out_of_scope").all()


def test_a_category_that_refinement_empties_stays_for_the_first_pass(endpoint: Endpoint, new_run: NewRun) -> None:
    """The same ids mean the same categories in all results, also in `segments`."""
    frame = pd.DataFrame({"product_id": [1, 2, 3], "title": ["moveme spoon", "a whisk", "b whisk"]})
    run = worked(new_run(frame))
    taxonomies = run.result("taxonomies").set_index("category_name")["product_count"]
    assert taxonomies.to_dict() == {"Whisks": 3, "Spoons": 0}
    assert set(run.result("segments")["taxonomy_id"]) <= set(run.result("taxonomies")["id"])


def test_a_stage_without_the_one_before_says_so(new_run: NewRun) -> None:
    run = new_run(3, model="offline")
    with pytest.raises(RunError, match="has no results/batch_categories"):
        consolidate_taxonomy(run)


def test_ids_at_the_ends_of_bigint(endpoint: Endpoint, new_run: NewRun) -> None:
    """A real product_id never reaches the model, and comes back unchanged however large it is."""
    ids = [-(2**63), -1, 0, 2**53 + 1, 2**63 - 1]
    frame = pd.DataFrame({"product_id": ids, "title": [f"thing {i} kettle" for i in range(5)]})
    run = worked(new_run(frame))
    assert run.result("ledger")["product_id"].tolist() == ids
    prompts = [body["messages"][0]["content"] for body in endpoint.bodies() if body]
    assert not any(str(2**63 - 1) in prompt for prompt in prompts)


@pytest.mark.long
def test_a_large_catalogue_in_minutes_and_under_2_gb(place: Path) -> None:
    """Issue: 44,446 fashion rows with the offline model, through the command line."""
    path = data("fashion_catalogue.csv")
    command = [
        sys.executable,
        "-m",
        "segkit",
        "run",
        str(path),
        "-c",
        "Fashion",
        "-m",
        "offline",
        "--no-sync",
        "--json",
    ]
    done = subprocess.run(["/usr/bin/env", "time", "-v", *command], capture_output=True, text=True, timeout=1500)
    if done.returncode == 127:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    assert '"state": "completed"' in done.stdout


def test_products_without_a_title_fail_no_run(new_run: NewRun) -> None:
    """They are unassigned with their reason; what fails a run is a product that could have been asked about."""
    frame = catalogue(8)
    frame.loc[[2, 5], "title"] = ["", "  "]
    run = worked(new_run(frame, model="offline"))
    summary = decide_state(run)
    assert (summary["state"], summary["unassigned"], summary["untitled"]) == ("completed", 2, 2)
    ledger = run.result("ledger")
    ledger.loc[0, ["state", "reason"]] = ["unassigned", "invalid: no JSON"]
    run.save_result("ledger", ledger)
    assert (
        decide_state(run)["reason"]
        == "1 product is unassigned, 0 allowed: 1 × invalid (--response-format, or another model)"
    )
