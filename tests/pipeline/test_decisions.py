"""Assigning through a decision endpoint: the same assignments as through chat, and a probability for each choice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from catalogues import catalogue
from endpoint import Endpoint

from segkit.analysis.logs import query
from segkit.cli.main import main
from segkit.errors import BudgetError, RefusedError, SettingsError, StageError
from segkit.evaluation.explain.explanation import explain
from segkit.pipeline.costs import recount
from segkit.pipeline.parameters import change_requests, check_endpoint
from segkit.pipeline.plan.estimate import plan_of
from segkit.pipeline.replay import replay
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.interactions import scan
from segkit.runs.run import Run, open_run
from segkit.runs.taxonomy import Taxonomy, taxonomy_of_file
from segkit.settings import load_settings

NewRun = Callable[..., Run]
KINDS = ("kettle", "toaster", "ladle", "whisk", "blender")
LUNA = "gpt-6-luna"


@pytest.fixture
def finished(endpoint: Endpoint, new_run: NewRun) -> Run:
    """A finished run whose answers came from chat completions."""
    run = new_run(40, LUNA, products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert decide_state(run)["state"] == "completed"
    endpoint.reset(configuration=False)
    return run


@pytest.fixture
def taxonomy(endpoint: Endpoint, place: Path) -> Taxonomy:
    """A taxonomy that belongs to no run, with a category for each kind but the last."""
    listed = place / "kinds.txt"
    listed.write_text("".join(f"{kind.capitalize()}s: Sold as one\n" for kind in KINDS[:-1]), encoding="utf-8")
    return taxonomy_of_file(listed, open_run)


def added(count: int = 30) -> pd.DataFrame:
    titles = [f"Firm number {i} {KINDS[i % len(KINDS)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(1000, 1000 + count), "title": titles})


def decided(given: Run | Taxonomy, products: pd.DataFrame | None = None, **changes: Any) -> Run:
    """Make a run whose products are put into a taxonomy by decisions."""
    frame = added() if products is None else products
    chosen = {"category": "Kitchen Things", "model": LUNA, "decisions": True, "products_per_assignment": 10}
    return assign_run(given, frame, **{**chosen, **changes})


def of_known_kinds() -> pd.DataFrame:
    return added().query("product_id % 5 < 4").head(8)


def paths(endpoint: Endpoint) -> list[str]:
    """The paths that were asked, each with its stage."""
    return [f"{entry['path'].rpartition('/v1/')[2]} {entry['stage']}" for entry in endpoint.ledger()]


def reported(run: Run) -> Run:
    assign_products(run)
    assert decide_state(run)["state"] == "completed", run.status.reason
    return run


@pytest.mark.parametrize("transport", ["http", pytest.param("sdk", marks=pytest.mark.long)])
def test_decisions_place_products_as_chat_does_and_keep_their_probabilities(
    finished: Run, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setenv("SEGKIT_TRANSPORT", transport)
    run = decided(finished)
    plan = plan_of(run, load_settings())
    assert plan["calls"].iloc[0] == 3
    assert plan["batch_cost_usd_high"].isna().all(), "batches take no decisions"
    reported(run)
    chat = {"chat/completions extract_taxonomy": 1}  # what fits nowhere is extracted as ever
    assert dict(pd.Series(paths(endpoint)).value_counts()) == {"decisions assign_products": 3, **chat}
    assert endpoint.dollars(0.1, 0.5) == pytest.approx(float(run.status.total.cost_usd))
    assert recount(run, load_settings()).changed_usd == 0

    by_chat = reported(decided(finished, decisions=False))
    columns = ["product_id", "category", "reason"]
    assert run.result("assignments")[columns].equals(by_chat.result("assignments")[columns])
    assert "probabilities" not in by_chat.result("ledger")
    ledger = run.result("ledger").set_index("product_id")["probabilities"]
    assert set(ledger.loc[:999]) == {""}, "the products of the earlier run were placed by chat"
    stated = json.loads(ledger.loc[1000])
    assert next(iter(stated)) == "Kettles"
    assert set(stated) == {"Kettles", "Toasters", "Ladles", "Whisks", "NONE_FITS", "OUT_OF_SCOPE"}
    assert sum(stated.values()) == pytest.approx(1)
    assert run.assignments.set_index("product_id").loc[1000, "confidence"] == stated["Kettles"] == 0.9
    assert next(iter(json.loads(ledger.loc[1004]))) == "NONE_FITS"

    assert open_run(run.id).document["parameters"]["decisions"] is True


def test_logs_replay_and_explanations_read_decisions_like_any_answer(taxonomy: Taxonomy) -> None:
    run = reported(decided(taxonomy))
    rows = query("SELECT outcome, input_tokens FROM interactions WHERE interaction_type = 'assign_products'", run=run)
    assert rows["outcome"].tolist() == ["valid"] * 3
    assert (rows["input_tokens"] > 100).all()
    assert replay(run).identical
    assert explain(run, 1000).next_best["by"] == "probabilities"


def test_the_cache_and_the_next_month_keep_to_decisions(finished: Run, endpoint: Endpoint) -> None:
    """Answers are paid once; the next run asks in the same way, and its ledger keeps what was stated before."""
    first = reported(decided(finished))
    asked = endpoint.count()
    assert plan_of(decided(finished), load_settings())["calls"].sum() == 0
    reported(decided(finished))
    assert endpoint.count() == asked
    more = pd.DataFrame({"product_id": [2000], "title": ["Late kettle"]})
    second = reported(assign_run(first, more))
    assert second.parameters.decisions
    before, after = (run.result("ledger").set_index("product_id")["probabilities"] for run in (first, second))
    assert after[before.index].equals(before)
    assert json.loads(after[2000])["Kettles"] == 0.9


# (fault, calls) of eight products in one question.
FAULTS = [("429", 2), ("drop_id", 2), ("decision_refused", 2), ("decision_sum", 1), ("refusal", 3)]
MORE = [
    ("500", 2), ("error_200", 2), ("html", 2), ("close", 2), ("truncated_envelope", 2), ("unknown_category", 2),
    ("duplicate_key", 2), ("invent_id", 2), ("decision_boolean", 2), ("decision_score", 2), ("decision_unnamed", 2),
    ("decision_doubled", 2), ("decision_reversed", 1), ("context_length", 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fault", "calls"), [*FAULTS, *(pytest.param(*each, marks=pytest.mark.long) for each in MORE)]
)
def test_each_fault_meets_the_mechanism_that_chat_has(
    taxonomy: Taxonomy, endpoint: Endpoint, fault: str, calls: int
) -> None:
    """What passes is tried again, what is missing is asked again alone, what is refused whole is cut in two."""
    endpoint.queue(fault, stage="assign_products")
    run = reported(decided(taxonomy, of_known_kinds()))
    assert endpoint.count("assign_products") == calls
    placed = run.result("assignments").set_index("product_id")["category"]
    assert placed.tolist() == [f"{KINDS[int(product) % 5].capitalize()}s" for product in placed.index]
    again = [entry["asked"] for entry in endpoint.ledger()][1:]
    if fault in ("drop_id", "unknown_category", "decision_refused", "decision_unnamed", "decision_boolean"):
        assert again == [["P_7"]]
    if fault == "decision_sum":
        assert (run.result("ledger")["probabilities"] == "").sum() == 1


def test_a_refused_question_ends_without_a_category_and_says_so(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    endpoint.rule("decision_refused", contains="number 3 ")
    run = decided(taxonomy, of_known_kinds())
    assign_products(run)
    ledger = run.result("ledger").set_index("product_id")
    assert ledger.query("state == 'unassigned'").index.tolist() == [1003]
    assert ledger.loc[1003, "reason"] == "refused: the model refused to answer 1 question"
    assert ledger.loc[1003, "probabilities"] == ""
    assert endpoint.count("assign_products") == 2, "asked once more, and not a third time"


def test_several_refused_questions_are_asked_once_more_and_not_cut(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    """A decision refuses each product by itself, so there is no culprit to be found by halves."""
    endpoint.rule("decision_refused", contains="kettle")
    run = decided(taxonomy, of_known_kinds())
    assign_products(run)
    ledger = run.result("ledger").set_index("product_id")
    assert (
        ledger.query("state == 'unassigned'")["reason"].tolist()
        == ["refused: the model refused to answer 2 questions"] * 2
    )
    assert endpoint.count("assign_products") == 2


def test_a_run_that_was_cut_short_goes_on_where_it_was(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    capped = load_settings().model_copy(update={"segkit_max_calls": 2, "segkit_concurrency": 1})
    run = decided(taxonomy)
    with pytest.raises(BudgetError):
        assign_products(run, capped)
    assert plan_of(run, load_settings())["calls"].iloc[0] == 1
    reported(run)
    assert endpoint.count("assign_products") == 3


def test_an_endpoint_without_decisions_is_left_for_chat(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    """The hint names the command that goes on; what decisions have answered by then is not asked again."""
    run = decided(taxonomy)
    with pytest.raises(BudgetError):
        assign_products(run, load_settings().model_copy(update={"segkit_max_calls": 1, "segkit_concurrency": 1}))
    endpoint.configure(decisions=False)
    with pytest.raises(RefusedError) as refused:
        assign_products(run)
    assert "does not take requests for decisions (HTTP 404)" in refused.value.message
    assert refused.value.hint == f"ask it through chat completions; segkit resume {run.id} --no-decisions"
    endpoint.reset(configuration=False)
    run = change_requests(run, load_settings(), decisions=False)
    reported(run)
    assert [path for path in paths(endpoint) if "assign" in path] == ["chat/completions assign_products"] * 2
    stated = run.result("ledger").set_index("product_id").loc[1000:, "probabilities"]
    assert (stated != "").sum() == 10
    assert replay(open_run(run.id)).identical


def test_what_the_endpoint_does_not_take_is_refused_before_a_call(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    for given, what in (
        ({"model": "gpt-4o"}, "--decisions asks gpt-6-luna only, and the model is gpt-4o"),
        ({"model": "offline"}, "--decisions asks gpt-6-luna only, and the model is offline"),
        ({"products_per_assignment": 401}, "products_per_assignment is 401"),
        ({"products_per_assignment": 101, "decisions": False}, "products_per_assignment is 101"),
        ({"caps": {"batch": True}}, "batches take no requests for decisions"),
    ):
        with pytest.raises(SettingsError, match=what):
            decided(taxonomy, **given)
    batch = load_settings().model_copy(update={"segkit_batch": True})
    with pytest.raises(SettingsError, match="batches take no requests for decisions"):
        check_endpoint(decided(taxonomy).parameters, batch)
    with pytest.raises(SettingsError, match="batches take no requests"):
        assign_products(decided(taxonomy), batch)
    listed = Path("many.txt")
    listed.write_text("".join(f"Kind {i}: Of its own\n" for i in range(254)), encoding="utf-8")
    many = taxonomy_of_file(listed, open_run)
    with pytest.raises(SettingsError, match="at most 253 categories, and the taxonomy has 254"):
        assign_run(many, added(), category="Kitchen Things", model=LUNA, decisions=True)
    assert endpoint.count() == 0


def test_a_sample_may_be_followed_by_decisions(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="needs a taxonomy"):
        new_run(40, LUNA, decisions=True)
    run = new_run(catalogue(40), LUNA, decisions=True, extract_sample="12")
    for stage in (extract_taxonomy, consolidate_taxonomy):
        stage(run)
    with monkeypatch.context() as patched:
        patched.setattr("segkit.llm.transports.decisions.MOST_CATEGORIES", 3)
        with pytest.raises(StageError, match="at most 3 categories, and the taxonomy has 4") as refused:
            assign_products(run)
        assert refused.value.hint == f"segkit resume {run.id} --no-decisions"
    reported(run)
    assert paths(endpoint)[-1] == "decisions assign_products"
    assert (run.result("ledger")["probabilities"] != "").all()


def test_resume_takes_no_decisions_from_the_command_line(
    finished: Run, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """An endpoint that fails leaves a run that the command of the hint completes."""
    endpoint.configure(decisions=False)
    added(10).to_csv("new.csv", index=False)
    options = ["--no-notebooks", "--no-sync", "--yes"]
    assert exit_code("assign", "new.csv", "--taxonomy", finished.id, "--decisions", *options) == 1
    told = capsys.readouterr().err
    assert "--no-decisions" in told
    command = told.split("segkit ")[-1].split()
    assert exit_code(*command, "--no-notebooks", "--no-sync") == 0
    assert "completed" in capsys.readouterr().out


def exit_code(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def test_an_intent_that_a_kill_has_left_becomes_an_answer(taxonomy: Taxonomy, endpoint: Endpoint) -> None:
    """The answer was on disk, its log not finished: nothing is paid again."""
    run = reported(decided(taxonomy, of_known_kinds()))
    (log,) = scan(run.stage_folder("assign_products"))[0]
    content = log.path.read_bytes()
    log.path.with_suffix(".intent").write_bytes(content[: content.index(b'"response"')])
    log.path.unlink()
    before = run.result("ledger")
    assign_products(run, load_settings().model_copy(update={"segkit_cache": False}))
    assert endpoint.count() == 1
    assert run.result("ledger").equals(before)
