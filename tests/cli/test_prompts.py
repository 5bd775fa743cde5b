"""`segkit prompts`: sets that hold only what differs, known by their content, compared by words, and checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from catalogues import catalogue
from command_line import Segkit
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st

from segkit.core.prompt_sets import SHIPPED, prompt_sets, shown_name, word_diff
from segkit.core.prompts import PLACEHOLDERS, load_prompts, prompt_hash
from segkit.errors import PromptError
from segkit.pipeline.segment import segment
from segkit.settings import project_folder


def edit(key: str, name: str, before: str, after: str) -> None:
    path = Path("prompts") / f"{key}_prompt_{name}.txt"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")


def test_the_hashes_of_the_package_are_those_of_its_prompts() -> None:
    """If you change a shipped prompt on purpose, change its hash in core/prompt_sets.py too."""
    assert list(SHIPPED) == ["v0", "v1"]
    for name, hashes in SHIPPED.items():
        texts = load_prompts(name, project_folder("prompts"), list(PLACEHOLDERS))
        assert hashes == {key: prompt_hash(text) for key, text in texts.items()}


def test_the_set_v1_passes_its_check_and_has_one_scope(segkit: Segkit, place: Path) -> None:
    """A scope that a copy changes in one prompt only is named: refinement would undo what extraction decides."""
    assert segkit("prompts", "check", "v1")[0] == 0
    listed = {each["set"]: each for each in json.loads(segkit("prompts", "list", "--json")[1])["sets"]}
    assert (listed["v1"]["copied_from"], listed["v1"]["files"]) == (None, 5)
    scopes = {key: text.splitlines()[2] for key, text in load_prompts("v1", keys=list(PLACEHOLDERS)).items()}
    shared = {scopes[key] for key in ("extract_taxonomy", "refine_assignments", "assign_products")}
    assert len(shared) == 1
    assert shared.pop().startswith("Scope: ")
    segkit("prompts", "copy", "v1", "own")
    edit("refine_assignments", "own", "Scope: a product", "Scope: an item")
    code, shown, _ = segkit("prompts", "check", "own")
    assert (code, "'Scope:' differs between" in shown) == (1, True)


def test_a_copy_of_ones_own_hides_the_set_of_that_name(segkit: Segkit, place: Path) -> None:
    """A set v1 that was copied from v0 before the package shipped one goes on as it was, also where it is partial."""
    segkit("prompts", "copy", "v0", "own")
    for path in Path("prompts").glob("*own*"):
        path.rename(path.with_name(path.name.replace("own", "v1")))
    Path("prompts/shared_retry_prompt_v1.txt").unlink()
    edit("extract_taxonomy", "v1", "You are", "You surely are")
    assert load_prompts("v1")["shared_retry"] == load_prompts("v0")["shared_retry"]
    assert prompt_sets()["v1"].base == "v0"


def test_offline_says_that_it_follows_no_instructions(segkit: Segkit, place: Path) -> None:
    """One line, where a run is to follow some; none for the prompts that everybody has."""
    catalogue(6).to_csv("six.csv", index=False)
    run = ("run", "six.csv", "-c", "Kitchen Things", "--model", "offline", "--no-notebooks", "--yes")
    assert "follows no instructions" not in segkit(*run)[2]
    code, _, notice = segkit(*run, "--prompts", "v1", "--target-categories", "2-3")
    assert code == 0
    assert (
        notice.count("offline follows no instructions: prompts v1 and --target-categories will change nothing") == 1
    )
    code, _, error = segkit(*run, "--language", "German")
    assert (code, "no prompt of the set 'v0' has $language" in error) == (2, True)


def test_a_set_may_hold_only_the_files_that_differ(segkit: Segkit, place: Path) -> None:
    """The others are those of the set it was copied from, also over two steps."""
    segkit("prompts", "copy", "v0", "own", "--note", "shorter")
    for path in Path("prompts").glob("*_own.txt"):
        if not path.name.startswith("extract"):
            path.unlink()
    edit("extract_taxonomy", "own", "You are", "You surely are")
    segkit("prompts", "copy", "own", "v2")
    Path("prompts/extract_taxonomy_prompt_v2.txt").unlink()
    assert load_prompts("v2") == load_prompts("own") != load_prompts("v0")
    assert load_prompts("own")["shared_retry"] == load_prompts("v0")["shared_retry"]
    assert (prompt_sets()["own"].base, prompt_sets()["own"].note, prompt_sets()["v2"].base) == (
        "v0",
        "shorter",
        "own",
    )
    Path("prompts/set_v2.json").write_text('{"copied_from": "v2"}', encoding="utf-8")
    assert load_prompts("v2")["extract_taxonomy"] == load_prompts("v0")["extract_taxonomy"]


def test_a_misspelt_file_of_a_set_is_not_passed_over(segkit: Segkit, place: Path) -> None:
    """Else the prompt of the package would be used without a word."""
    segkit("prompts", "copy", "v0", "own")
    Path("prompts/extract_taxonomy_prompt_own.txt").rename("prompts/extract_taxonmy_prompt_own.txt")
    with pytest.raises(PromptError, match=r"extract_taxonmy_prompt_own\.txt is no prompt of segkit"):
        load_prompts("own")


def test_runs_show_prompts_by_their_content(segkit: Segkit, place: Path) -> None:
    """`v0*` where a text is not the one of the package; a list says which runs had which content."""
    plain = segment(catalogue(6), "Kitchen Things", model="offline")
    segkit("init", ".")
    assert segment(catalogue(6), "Kitchen Things", model="offline").prompt_set == "v0"
    edit("extract_taxonomy", "v0", "You are", "You surely are")
    changed = segment(catalogue(6), "Kitchen Things", model="offline")
    assert (plain.prompt_set, changed.prompt_set, changed.status.summary["prompts"]) == ("v0", "v0*", "v0*")
    rows = {row["id"]: row["prompts"] for row in json.loads(segkit("runs", "--json")[1])}
    assert (rows[plain.id], rows[changed.id]) == ("v0", "v0*")
    listed = json.loads(segkit("prompts", "list", "--json")[1])
    own = listed["sets"][0]
    assert (own["set"], own["runs"]) == ("v0", 1)
    contents = {row["run"]: row["content"] for row in listed["runs"]}
    assert (contents[plain.id], contents[changed.id]) == (None, own["content"])
    assert "v0*" in segkit("prompts", "list")[1]
    assert shown_name("mine", {"extract_taxonomy": "0"}) == "mine"


def test_two_sets_are_compared_word_by_word(segkit: Segkit, place: Path) -> None:
    segkit("prompts", "copy", "v0", "own")
    assert "the same, word for word" in segkit("prompts", "diff", "v0", "own")[1]
    edit("extract_taxonomy", "own", "You are an analyst", "You are a patient analyst")
    code, shown, _ = segkit("prompts", "diff", "v0", "own")
    assert (code, "You are [-an-]{+a patient+} analyst" in shown) == (0, True)
    assert "refine_assignments" not in shown
    parts = json.loads(segkit("prompts", "diff", "v0", "own", "--json")[1])["prompts"]["extract_taxonomy"]
    assert (
        "".join(part["text"] for part in parts if part["kind"] != "added") == load_prompts("v0")["extract_taxonomy"]
    )
    run = segment(catalogue(6), "Kitchen Things", model="offline", prompts="own")
    assert "the same" in segkit("prompts", "diff", "own", run.id)[1]
    assert segkit("prompts", "diff", "v0", "v9")[0] == 2


@given(st.text("ab $.\n", max_size=40), st.text("ab $.\n", max_size=40))
def test_a_word_diff_holds_both_texts(before: str, after: str) -> None:
    parts = word_diff(before, after)
    assert "".join(text for kind, text in parts if kind != "added") == before
    assert "".join(text for kind, text in parts if kind != "removed") == after


def test_a_check_fills_in_every_prompt(segkit: Segkit, place: Path) -> None:
    assert segkit("prompts", "check")[0] == 0
    segkit("prompts", "copy", "v0", "own")
    code, shown, _ = segkit("prompts", "check", "own", "--json")
    checks = {check["prompt"]: check for check in json.loads(shown)}
    assert (code, set(checks)) == (0, set(PLACEHOLDERS))
    assert all(low < high for low, high in (check["tokens"] for check in checks.values()))
    assert checks["extract_taxonomy"]["tokens"][0] > len(load_prompts("own")["extract_taxonomy"]) / 4.5


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("$products", "$product", "unknown placeholder '$product'"),
        ("$products", "", "$products missing"),
        ("$products", "The products: $products", "do not stand alone"),
    ],
)
def test_a_check_names_what_is_wrong(segkit: Segkit, place: Path, before: str, after: str, fault: str) -> None:
    segkit("prompts", "copy", "v0", "own")
    edit("extract_taxonomy", "own", before, after)
    code, shown, _ = segkit("prompts", "check", "own")
    assert (code, fault in shown) == (1, True)
    assert "extract_taxonomy_prompt_own.txt" in shown


def edited_rows(place: Path) -> str:
    (place / "edits.csv").write_text(
        "category,action,note\nKettles,rename,call them Water Kettles\n", encoding="utf-8"
    )
    return "edits.csv"


def answer_of(text: str, note: str = "kettles and toasters apart") -> str:
    return json.dumps({"prompts": [{"name": "extract_taxonomy", "text": text}], "note": note})


def test_a_proposal_is_one_logged_call_and_a_set_with_a_note(segkit: Segkit, endpoint: Endpoint, place: Path) -> None:
    """It reads confusions and edits; an answer without a placeholder is sent back; the run stays as it is."""
    frame = catalogue(24).assign(kind=["Warm", "Cold", "Tepid"] * 8)
    run = segment(frame, "Kitchen Things", model="gpt-4o")
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    better = load_prompts("v0")["extract_taxonomy"].replace("You are", "You surely are")
    endpoint.queue("content", text=answer_of(better.replace("$products", "")))
    endpoint.queue("content", text=answer_of(better))
    asked = endpoint.count()
    arguments = ("--as", "v2", "--label-column", "kind", "--edits", edited_rows(place), "--json")
    code, shown, complaint = segkit("prompts", "propose", run.id, *arguments)
    assert code == 0, complaint
    assert endpoint.count() == asked + 2
    document = json.loads(shown)
    assert (document["files"], document["note"]) == (
        ["prompts/extract_taxonomy_prompt_v2.txt"], "kettles and toasters apart",
    )  # fmt: skip
    sent = endpoint.bodies()[asked]["messages"][-1]["content"]
    assert "'Warm'" in sent
    assert "call them Water Kettles" in sent
    log = json.loads(Path(document["log"]).read_bytes())
    assert log["metadata"]["interaction_type"] == "propose_prompts"
    assert log["metadata"]["money"] == "paid"
    assert load_prompts("v2")["extract_taxonomy"] == better
    assert load_prompts("v2")["refine_assignments"] == load_prompts("v0")["refine_assignments"]
    assert prompt_sets()["v2"].note == "kettles and toasters apart"
    assert {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()} == before
    assert segkit("prompts", "propose", run.id, *arguments)[0] == 2  # the set is there now


def test_a_proposal_needs_a_real_model_and_something_to_go_by(
    segkit: Segkit, endpoint: Endpoint, place: Path
) -> None:
    run = segment(catalogue(12), "Kitchen Things", model="offline")
    code, _, complaint = segkit("prompts", "propose", run.id)
    assert (code, "needs a real one" in complaint) == (2, True)
    code, _, complaint = segkit("prompts", "propose", run.id, "--model", "gpt-4o")
    assert (code, f"nothing is known against {run.id}" in complaint) == (1, True)
    assert endpoint.count() == 0


def test_a_proposed_set_needs_a_plain_name(segkit: Segkit, place: Path) -> None:
    """The name becomes a part of file names, and is refused before anything is asked."""
    segment(catalogue(12), "Kitchen Things", model="offline", runs_dir=place / "runs")
    code, _, error = segkit("prompts", "propose", "latest", "--as", "../v2", "--model", "gpt-4o")
    assert code == 2
    assert "'../v2' is no plain name" in error
    assert not list(place.glob("*v2*"))
