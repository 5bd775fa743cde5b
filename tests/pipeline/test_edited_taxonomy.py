"""A taxonomy that a person has edited: applied as it says, asking no more than needed, kept for the next run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from endpoint import Endpoint

from segkit.analysis import tables
from segkit.analysis.export import write_taxonomy
from segkit.analysis.report import report_page
from segkit.pipeline.plan.estimate import plan_of
from segkit.pipeline.replay import replay
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.pipeline.summary import decide_state, finish_run
from segkit.pipeline.taxonomy.check import taxonomy_check
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.stage import assign_products
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.run import Run
from segkit.runs.taxonomy import Taxonomy, edits_so_far, open_taxonomy
from segkit.settings import load_settings

NewRun = Callable[..., Run]
KINDS = ("kettle", "toaster", "ladle", "whisk")


def titles(kinds: Sequence[str], count: int, start: int) -> pd.DataFrame:
    names = [f"Solid number {start + i} {kinds[i % len(kinds)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(start, start + count), "title": names})


def worked(run: Run) -> Run:
    assign_products(run)
    assert decide_state(run)["state"] == "completed", run.status.reason
    return run


@pytest.fixture
def finished(endpoint: Endpoint, new_run: NewRun) -> Run:
    run = new_run(titles(KINDS, 80, 1), products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert decide_state(run)["state"] == "completed"
    return run


def categories(run: Run) -> dict[int, str]:
    return dict(run.result("lineage")[["product_id", "refined_category"]].itertuples(index=False, name=None))


def test_edits_are_applied_and_only_their_products_are_asked_about(finished: Run, endpoint: Endpoint) -> None:
    """One is renamed, one merged, one deleted: twenty products are asked about, and old keys stay retired."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = (
        finished.taxonomy()
        .rename(keys["Kettles"], "Tea Kettles")
        .merge(keys["Whisks"], into=keys["Ladles"])
        .delete(keys["Toasters"])
    )
    check = taxonomy_check(edited)
    assert [check[name] for name in ("renamed", "merged", "split", "deleted", "added")] == [1, 1, 0, 1, 0]
    before, asked = categories(finished), endpoint.count()
    run = worked(assign_run(edited))
    assert endpoint.count() - asked == check["calls"] == run.status.calls
    after = categories(run)
    toasters = {product for product, name in before.items() if name == "Toasters"}
    assert check["products_to_ask"] == len(toasters) == 20
    names = {"Kettles": "Tea Kettles", "Whisks": "Ladles"}
    assert all(after[product] == names.get(name, name) for product, name in before.items() if product not in toasters)
    reasons = run.result("ledger").set_index("product_id").loc[sorted(toasters), "reason"]
    assert set(reasons) == {f"NONE_FITS: it was in {keys['Toasters']} before the edits, and fits no category now"}
    assert assign_report(run)["drift_p_value"] is None, "no product came in"

    finish_run(run)
    assert replay(run).identical

    later = worked(assign_run(run, titles(["blender"], 10, 1000)))
    now = later.taxonomy().base.set_index("category_name")["key"].to_dict()
    assert {name: now[name] for name in ("Tea Kettles", "Ladles")} == {
        "Tea Kettles": keys["Kettles"],
        "Ladles": keys["Ladles"],
    }
    assert now["Blenders"] not in keys.values(), "a retired key is not used again"
    assert later.archived("edits")["action"].tolist() == run.archived("edits")["action"].tolist()


def test_a_split_asks_about_its_products(finished: Run, endpoint: Endpoint) -> None:
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = finished.taxonomy().split(keys["Kettles"], ["Kettle: the small ones", "Big Kettles: the big ones"])
    check = taxonomy_check(edited)
    asked = endpoint.count()
    run = worked(assign_run(edited))
    assert (check["split"], check["products_to_ask"]) == (1, 20)
    assert endpoint.count() - asked == check["calls"]
    new = run.taxonomy().base.set_index("category_name")["key"]
    assert not {new["Kettle"], new["Big Kettles"]} & set(keys.values())
    assert pd.Series(categories(run)).isin(["Kettle", "Big Kettles", "Toasters", "Ladles", "Whisks", ""]).all()


def test_a_split_without_parts_has_them_proposed(finished: Run, endpoint: Endpoint) -> None:
    """Its products are extracted on their own; each kind found is a proposal, and the old names are conflicts."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    merged = worked(assign_run(finished.taxonomy().merge(keys["Whisks"], into=keys["Ladles"])))
    edited = merged.taxonomy().split(keys["Ladles"])
    check, asked = taxonomy_check(edited), endpoint.count()
    assert [check[name] for name in ("split", "products_to_ask", "calls")] == [1, 40, 1]
    run = assign_run(edited)
    plan = tables.batch_plan(run)
    assert plan[["stage", "calls"]].values.tolist() == [["assign_products", 0], ["segmentation", 1]]
    report = assign_report(worked(run))
    assert endpoint.count() - asked == report["calls"] == 1
    assert endpoint.ledger()[-1]["stage"] == "extract_taxonomy"
    proposed = {each["category_name"]: each for each in report["proposed"]}
    assert {name: each["products"] for name, each in proposed.items()} == {"Ladles": 20, "Whisks": 20}
    conflicts = {each["category_name"]: each["conflict"].partition(", but ")[2] for each in report["conflicts"]}
    assert conflicts == {
        "Ladles": f"{keys['Ladles']} (Ladles) was split",
        "Whisks": f"{keys['Whisks']} (Whisks) was merged into {keys['Ladles']} (Ladles)",
    }
    finish_run(run)
    assert replay(run).identical

    taxonomy = run.taxonomy()
    for each in proposed.values():
        taxonomy = taxonomy.accept(each["key"])
    asked = endpoint.count()
    accepted = worked(assign_run(taxonomy))
    assert endpoint.count() == asked, "an accepted proposal takes its products with it"
    assert set(categories(accepted).values()) == {"Kettles", "Toasters", "Ladles", "Whisks"}
    assert assign_report(accepted)["conflicts"] == [], "a person has decided"
    assert len(accepted.taxonomy().base) == 6, "no key is used again"


def test_several_batches_of_a_split_are_merged_among_themselves(finished: Run, endpoint: Endpoint) -> None:
    """Products that fit nowhere, in the same run, are extracted and merged apart from those of the split."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = finished.taxonomy().split(keys["Kettles"])
    given = {"products_per_prompt": 8, "taxonomies_per_consolidation": 2}
    asked, run = endpoint.count(), assign_run(edited, titles(["blender"], 20, 3000), **given)
    worked(run)
    new = endpoint.ledger()[asked:]
    stages = [entry["stage"] for entry in new]
    assert [stages.count(stage) for stage in ("assign_products", "extract_taxonomy", "consolidate_taxonomy")] == [
        1, 3 + 3, 2 + 2,
    ]  # fmt: skip
    assert sorted(each["category_name"] for each in assign_report(run)["proposed"]) == ["Blenders", "Kettles"]
    assert len(plan_of(run, load_settings(), whole=True)) == 4


def test_what_was_extracted_before_is_not_extracted_again(finished: Run, endpoint: Endpoint) -> None:
    """Eight products that fit nowhere, then edits alone: the check counts every call, and the proposal stays."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    first = worked(assign_run(finished, titles(["blender"], 8, 3000)))
    (proposal,) = assign_report(first)["proposed"]
    edited = first.taxonomy().delete(keys["Toasters"]).rename(proposal["key"], "Smoothie Makers")
    check, asked = taxonomy_check(edited), endpoint.count()
    second = worked(assign_run(edited))
    assert endpoint.count() - asked == check["calls"] == 1
    assert check["products_to_ask"] == assign_report(second)["products"] == 28
    assert assign_report(second)["drift_p_value"] is None, "what was there before is no delivery"
    assert assign_report(second)["proposed"] == [{**proposal, "category_name": "Smoothie Makers"}]
    reasons = second.result("ledger").set_index("product_id").loc[3000:3007, "reason"]
    assert set(reasons) == {f"NONE_FITS: it would go into {proposal['key']}, which is proposed"}

    asked = endpoint.count("extract_taxonomy")
    third = worked(assign_run(second, titles(["blender"], 2, 4000)))
    assert endpoint.count("extract_taxonomy") == asked + 1, "there are new ones"
    named = {"key": proposal["key"], "category_name": "Smoothie Makers", "products": 10}
    assert named in assign_report(third)["proposed"], "to the model they are blenders, as before"


def test_a_proposal_that_is_merged_takes_its_products_along(finished: Run, endpoint: Endpoint) -> None:
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    first = worked(assign_run(finished, titles(["blender"], 8, 3000)))
    (proposal,) = assign_report(first)["proposed"]
    asked = endpoint.count()
    second = worked(assign_run(first.taxonomy().merge(proposal["key"], into=keys["Whisks"])))
    assert endpoint.count() == asked
    assert {categories(second)[product] for product in range(3000, 3008)} == {"Whisks"}


def test_what_a_model_proposes_against_an_edit_is_shown(finished: Run) -> None:
    """Renamed, merged away, deleted: each comes back with the next products, and a person has to decide."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = (
        finished.taxonomy()
        .rename(keys["Kettles"], "Tea Kettles", note="as customers say")
        .merge(keys["Whisks"], into=keys["Ladles"])
        .delete(keys["Toasters"])
    )
    run = worked(assign_run(worked(assign_run(edited)), titles(["kettle", "whisk", "toaster"], 18, 3000)))
    conflicts = {each["category_name"]: each for each in assign_report(run)["conflicts"]}
    assert {name: each["action"] for name, each in conflicts.items()} == {
        "Kettles": "rename", "Whisks": "merge_into", "Toasters": "delete",
    }  # fmt: skip
    assert conflicts["Kettles"]["note"] == "as customers say"
    against = f"but {keys['Kettles']} had that name until it became Tea Kettles"
    assert conflicts["Kettles"]["conflict"].endswith(against)
    assert tables.conflicts(run)["conflict"].tolist() == [
        each["conflict"] for each in assign_report(run)["conflicts"]
    ]
    page = report_page(run)
    assert all(f"For a person to decide: {each['conflict']}" in page for each in conflicts.values())
    assert categories(run)[1] == "Tea Kettles", "the edits hold"


def test_edits_are_repeated_on_categories_that_were_found_anew(
    finished: Run, new_run: NewRun, endpoint: Endpoint, place: Path
) -> None:
    """A later run of its own: what was renamed, merged, deleted, added and locked is so again; the rest is named."""
    keys = finished.taxonomy().frame.set_index("category_name")["key"].to_dict()
    edited = (
        finished.taxonomy()
        .rename(keys["Kettles"], "Tea Kettles")
        .merge(keys["Whisks"], into=keys["Ladles"])
        .delete(keys["Toasters"])
        .add("Teapots", "For tea at the table.")
        .lock(keys["Ladles"])
    )
    run = worked(assign_run(edited))
    later = new_run(titles((*KINDS, "grater"), 100, 1), products_per_prompt=40, seed=5)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(later)
    again = later.taxonomy().repeat(run)
    assert again.remarks == ()
    names = again.frame[again.frame["state"] == "active"]["category_name"]
    assert set(names) == {"Tea Kettles", "Ladles", "Graters", "Teapots"}
    counts = taxonomy_check(again)
    assert [counts[name] for name in ("renamed", "merged", "deleted", "added", "locked")] == [1, 1, 1, 1, 1]
    assert counts["products_to_ask"] == 20

    write_taxonomy(later, place / "again.xlsx", again)
    given = open_taxonomy(place / "again.xlsx", later.folder.parent, load_settings())
    pd.testing.assert_frame_equal(given.frame, again.frame)
    assert set(categories(worked(assign_run(given))).values()) == {"Tea Kettles", "Ladles", "Graters", ""}

    other = new_run(titles(("ladle", "grater"), 40, 5000), products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(other)
    assert other.taxonomy().repeat(run).remarks == (
        f"{keys['Kettles']} (Tea Kettles) has rename, and no category is like it",
    )


PLANTED = (
    "blender", "grater", "sieve", "peeler", "mortar", "zester", "whetstone", "trivet", "colander", "steamer",
    "roaster", "spatula",
)  # fmt: skip
# What is edited after each delivery, by the names of categories; all else is in `monthly`.
MONTHLY: tuple[tuple[tuple[str, str, str], ...], ...] = (
    (("rename", "Kettles", "KETTLES"),),
    (("merge", "Blenders", "Whisks"),),
    (("redefine", "Toasters", "For bread alone."),),
    (("split", "Graters", "Graters: for cheese; Spice Graters: for nutmeg"),),
    (("delete", "Peelers", ""),),
    (("lock", "Ladles", ""),),
    (("add", "Teapots", "For tea at the table."),),
    (("split", "Sieves", ""),),
    (("unlock", "Ladles", ""), ("rename", "Ladles", "LADLES")),
    (("merge", "Mortars", "Zesters"), ("accept", "Sieves", "")),
    (("rename", "KETTLES", "Kettles"),),
    (("delete", "Teapots", ""),),
)


def monthly(run: Run, accepted: str, edits: Sequence[tuple[str, str, str]]) -> Taxonomy:
    """Accept the proposal of a month, and make its edits."""
    taxonomy, base = run.taxonomy(), run.taxonomy().base
    keys = base[base["state"] != "retired"].set_index("category_name")["key"].to_dict()
    taxonomy = taxonomy.accept(keys[accepted])
    for action, name, target in edits:
        match action:
            case "add":
                taxonomy = taxonomy.add(name, target)
            case "merge":
                taxonomy = taxonomy.merge(keys[name], into=keys[target])
            case "split":
                taxonomy = taxonomy.split(keys[name], [part.strip() for part in target.split(";") if part])
            case "rename" | "redefine":
                taxonomy = getattr(taxonomy, action)(keys[name], target)
            case _:
                taxonomy = getattr(taxonomy, action)(keys[name])
    return taxonomy


def rows_of(run: Run, ids: Sequence[int]) -> dict[str, bytes]:
    """The rows of some products in the results of a run, byte for byte."""
    tables_of = {name: run.result(name) for name in ("segments", "refined_segments", "ledger", "lineage")}
    return {
        name: table[table["product_id"].isin(ids)].reset_index(drop=True).to_parquet()
        for name, table in tables_of.items()
    }


@pytest.mark.long
def test_a_year_of_deliveries_with_edits_in_between(endpoint: Endpoint, new_run: NewRun) -> None:
    """A tenth more each month, half of a new kind, and edits after each: what stays is byte-identical.

    One proposal a month beside those that an edit speaks against; calls for the new products alone, as planned; no
    key is ever given to another category; every edit holds to the end.
    """
    run = new_run(200, products_per_prompt=40)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)
    assert decide_state(run)["state"] == "completed"
    names = run.taxonomy().base.set_index("key")["category_name"].to_dict()
    history: list[tuple[str, str]] = []
    for month, (kind, edits) in enumerate(zip(PLANTED, MONTHLY, strict=True)):
        placed = run.result("segments")["product_id"].tolist()
        before, asked = rows_of(run, placed), endpoint.count()
        known = KINDS if month % 2 else ("toaster", "whisk")
        new = pd.concat([titles(known, 10, 1000 + 100 * month), titles([kind], 10, 5000 + 100 * month)])
        delivered = worked(assign_run(run, new))
        report = assign_report(delivered)
        assert endpoint.count() - asked == report["calls"] == 2, month
        assert report["old_rows_unchanged"] is True
        assert rows_of(delivered, placed) == before
        against = {each["category_name"] for each in report["conflicts"]}
        assert against <= {"Peelers", "Sieves"}
        (proposal,) = [each for each in report["proposed"] if each["category_name"] not in against]
        assert (proposal["products"], report["assigned"]) == (10, 10)

        edited = monthly(delivered, proposal["category_name"], edits)
        check, asked = taxonomy_check(edited), endpoint.count()
        run = worked(assign_run(edited))
        assert endpoint.count() - asked == check["calls"] == assign_report(run)["calls"], month
        assert assign_report(run)["old_rows_unchanged"] is True
        history += list(edited.changes[["action", "key"]].itertuples(index=False, name=None))
        assert list(edits_so_far(run)[["action", "key"]].itertuples(index=False, name=None)) == history

        touched = {change.key for change in edited.result.changes}
        lineage = delivered.result("lineage")
        keys = {name: key for key, name in delivered.taxonomy().base.set_index("key")["category_name"].items()}
        stays = lineage[~lineage["refined_category"].map(keys).isin(touched) & (lineage["refined_category"] != "")]
        ids = stays["product_id"].tolist()
        assert len(ids) > 100
        assert rows_of(run, ids) == rows_of(delivered, ids)
        renamed = {edit.key for edit in edited.result.changes if edit.action == "rename"}
        for key, name in run.taxonomy().base[["key", "category_name"]].itertuples(index=False, name=None):
            assert names.setdefault(key, name) == name or key in renamed
            names[key] = name
    final = run.taxonomy().base
    living = set(final.loc[final["state"] == "active", "category_name"])
    assert living == {
        "Kettles", "Toasters", "LADLES", "Whisks", "Graters", "Spice Graters", "Sieves", "Zesters", "Whetstones",
        "Trivets", "Colanders", "Steamers", "Roasters", "Spatulas",
    }  # fmt: skip
    by_name = final[final["state"] == "active"].set_index("category_name")
    assert by_name.loc["Toasters", "definition"] == "For bread alone."
    assert not final["is_locked"].any()
    gone = final[final["retired_by"] != ""].groupby("retired_by")["category_name"].agg(sorted).to_dict()
    assert gone == {
        "delete": ["Peelers", "Teapots"], "merge_into": ["Blenders", "Mortars"], "split": ["Graters", "Sieves"]
    }  # fmt: skip
    assert {each["category_name"] for each in assign_report(run)["conflicts"]} == {"Peelers"}
    ends = categories(run)
    assert {ends[5000 + i] for i in range(10)} == {"Whisks"}, "the blenders of the first month"
    assert len(ends) == 200 + 12 * 20
