"""How far repeats agree: a model that always groups alike is stable, and each repeat is paid once."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from endpoint import Endpoint

from segkit.core.models import OUT_OF_SCOPE
from segkit.errors import RunError, SettingsError
from segkit.evaluation.agreement import ami, placements
from segkit.evaluation.stability import consensus_of, stability_of
from segkit.pipeline.experiments.repeats import make_consensus, make_repeats, read_variation
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.integrity import differences
from segkit.runs.run import Run
from segkit.settings import load_settings


def worked(run: Run) -> Run:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    return run


def test_a_model_that_groups_by_a_known_attribute_is_stable(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    """Whatever the seed: agreement 1, no product moves, each category holds."""
    runs = [worked(run) for run in make_repeats(new_run(24), 3, load_settings())]
    found = stability_of(runs)
    assert found.ami.value == pytest.approx(1)
    assert found.flip_rate == 0
    assert found.holding == len(found.categories) == 4
    assert {run.parameters.seed for run in runs} == {0, 1, 2}
    assert found.as_json().keys() >= {"ami", "ami_low", "ami_high", "flip_rate", "repeats"}


def test_repeats_that_are_there_are_taken(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    """Also when another one of them is named: repeating costs nothing twice."""
    runs = make_repeats(new_run(12), 3, load_settings())
    again = make_repeats(runs[-1], 3, load_settings())
    assert {run.id for run in again} == {run.id for run in runs}
    assert len(make_repeats(runs[0], 4, load_settings())) == 4


def test_a_fresh_repeat_asks_anew_and_is_paid_once(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    """The same questions with the same seed: answered by the cache without `fresh`, asked again with it."""
    first = worked(new_run(12))
    paid = endpoint.count()
    runs = make_repeats(first, 2, load_settings(), read_variation(""), fresh=True)
    worked(runs[1])
    assert runs[1].parameters.repeat == 1
    assert endpoint.count() == 2 * paid
    worked(make_repeats(first, 2, load_settings(), read_variation(""), fresh=True)[1])
    assert endpoint.count() == 2 * paid


def test_prompts_and_temperatures_take_turns(new_run: Callable[..., Run]) -> None:
    vary = read_variation("seed,temperature=0:0.5")
    runs = make_repeats(new_run(6, "offline", temperature=0.0), 4, load_settings(), vary)
    assert [run.parameters.temperature for run in runs] == [0.0, 0.5, 0.0, 0.5]
    assert [run.parameters.seed for run in runs] == [0, 1, 2, 3]


@pytest.mark.parametrize(("text", "message"), [("weather", "cannot be varied"), ("model", "has no values")])
def test_a_variation_that_cannot_be_is_refused(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_variation(text)


def test_one_run_is_no_repeat(sample_runs: list[Run]) -> None:
    with pytest.raises(RunError, match="one run"):
        stability_of(sample_runs[:1])


def test_the_sample_repeats_itself_with_an_interval(sample_runs: list[Run]) -> None:
    found = stability_of(sample_runs[:4])
    assert found.ami.low < found.ami.value < found.ami.high
    assert found.products["agreement"].is_monotonic_increasing
    assert found.sources["differ_in"].tolist() == ["seed"]
    assert 0 < found.flip_rate < 1


def test_what_runs_agree_on_is_nearer_to_them_than_they_are_to_each_other(sample_runs: list[Run]) -> None:
    runs = sample_runs[:4]
    assignments, taxonomy = consensus_of(runs)
    agreed = assignments.set_index("product_id")["category"]
    mean = sum(ami(agreed, placements(run)) for run in runs) / len(runs)
    assert mean > stability_of(runs).ami.value
    assert {category.name for category in taxonomy} == set(agreed) - {"", OUT_OF_SCOPE}
    assert assignments["confidence"].between(0, 1).all()


def test_a_consensus_is_a_run_of_its_own(endpoint: Endpoint, new_run: Callable[..., Run]) -> None:
    """Completed, whole, with the agreement as confidence; and it cannot be repeated."""
    runs = [worked(run) for run in make_repeats(new_run(24), 2, load_settings())]
    run = make_consensus(runs, load_settings())
    assert run.status.state == "completed"
    assert differences(run) == []
    assert ami(placements(run), placements(runs[0])) == pytest.approx(1)
    assert (run.result("lineage")["confidence"] == 1).all()
    with pytest.raises(SettingsError, match="was made from other runs"):
        make_repeats(run, 2, load_settings())
