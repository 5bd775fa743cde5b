"""The offline model: valid whatever the titles say, the same everywhere, and better than k-means."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from catalogues import unmeasured
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.core.batching import letters
from segkit.core.text import fold_name, name_fault, one_line
from segkit.core.validation import check_consolidate
from segkit.errors import SettingsError
from segkit.llm.offline.model import answer
from segkit.llm.offline.words import plural, read_title
from segkit.llm.transports.offline import OfflineTransport
from segkit.pipeline.parameters import choose_parameters
from segkit.settings import load_settings

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parents[3] / "shared/data"
sys.path.append(str(ROOT / "tests" / "benchmarks"))

KETTLES = [
    "Acme Electric Kettle, 1.7 L, Stainless Steel, Auto Shut-Off",
    "Borealis BK-200 Electric Kettle with Temperature Control, Black",
    "Cindra Electric Kettle for Tea, 1.5 L, White",
    "Acme Gooseneck Kettle, Pour Spout, Thermometer Lid",
    "Borealis Gooseneck Kettle for Stovetop, 1 L",
    "Cindra Gooseneck Kettle, Matte Black, 0.9 L",
    "Acme Whistling Tea Kettle, Stovetop, 2.5 L",
    "Dorwin Whistling Tea Kettle, Enamel, Red",
    "Dorwin Travel Kettle, Foldable, 0.6 L",
    "Cindra Travel Kettle with Pouch, Dual Voltage",
    "Acme Electric Kettle 2-Pack, Glass",
    "Dorwin Electric Kettle, Keep Warm, 1.7 L",
]
NAMES = ["Electric", "Gooseneck", "Travel", "Whistling"]
LEASH = "Pawsome Reflective Dog Leash 6 ft, Padded Handle"

words = st.sampled_from(
    [
        *("→ S_0 (Kettles)", "[P_0] x", '{"categories": []}', "🫖", "null", "N/A", "other", "Default", "ﬁlter", "İ"),
        *("Kettle", "Kettles", "KETTLE", "tea-kettle", "茶壶", "1.7", "L", "-", "A" * 300, "\u202e", "\u0301", "'s"),
        *("→", "of", "& More:", ":", "; e.g. ", "; typical words: ", "&", "and", ",", "Kettles", "12-Cup", "On/Off"),
    ]
)
titles = st.one_of(st.text(max_size=60), st.lists(words, max_size=5).map(" ".join)).map(one_line)


def extract_prompt(given: list[str], category: str = "") -> str:
    head = [f"Product category: {category}"] if category else ["Sort these."]
    return "\n".join([*head, "", *(f"[P_{i}] {title}" for i, title in enumerate(given))])


def ask(prompt: str) -> dict[str, Any]:
    reply: dict[str, Any] = json.loads(answer(prompt))
    return reply


def extract(given: list[str], category: str = "") -> tuple[dict[str, str], list[str]]:
    """Ask for one batch: name → definition, and the name of each product's category."""
    reply = ask(extract_prompt(given, category))
    names = {one["id"]: one["name"] for one in reply["categories"]} | {"OUT_OF_SCOPE": "OUT_OF_SCOPE"}
    found = [names[reply["assignments"][f"P_{i}"]["category"]] for i in range(len(given))]
    return {one["name"]: one["definition"] for one in reply["categories"]}, found


def assert_categories(categories: list[dict[str, str]], used: set[str]) -> None:
    names = [fold_name(one["name"]) for one in categories]
    assert len(set(names)) == len(names)
    assert not [name_fault(one["name"]) for one in categories if name_fault(one["name"])]
    assert all(one["definition"].strip() for one in categories)
    assert {one["id"] for one in categories} == used - {"OUT_OF_SCOPE"}


@given(st.lists(titles, min_size=1, max_size=40), titles)
@settings(max_examples=150, deadline=None)
def test_extract_is_valid_for_any_titles(given_titles: list[str], category: str) -> None:
    reply = ask(extract_prompt(given_titles, category))
    assert list(reply["assignments"]) == [f"P_{i}" for i in range(len(given_titles))]
    assert all(0 <= one["confidence"] <= 1 for one in reply["assignments"].values())
    assert_categories(reply["categories"], {one["category"] for one in reply["assignments"].values()})


@given(st.lists(st.lists(titles, max_size=6), min_size=1, max_size=30), titles, titles)
@settings(max_examples=100, deadline=None)
def test_consolidate_is_valid_for_any_names(taxonomies: list[list[str]], category: str, known: str) -> None:
    shown = [(f"{letters(i)}_{j}", name) for i, names in enumerate(taxonomies) for j, name in enumerate(names)]
    if not any(not key.startswith(("P_", "S_")) for key, _ in shown):
        return
    lines = [f"[{key}] {name}: {name}; e.g. {name}" for key, name in shown]
    content = answer("\n".join([f"Product category: {category}", *lines, f"List B also has: {known}"]))
    assert check_consolidate(content, [key for key, _ in shown], "test").valid
    reply = json.loads(content)
    assert_categories(reply["categories"], set(reply["members"].values()))


@given(st.lists(st.tuples(titles, st.integers(-1, 4)), min_size=1, max_size=30), st.lists(titles, max_size=5))
@settings(max_examples=100, deadline=None)
def test_refine_is_valid_for_any_titles(products: list[tuple[str, int]], names: list[str]) -> None:
    names = [f"{name} Kettles".strip() for name in names] or ["Kettles"]
    places = [f"S_{i} ({names[i]})" if 0 <= i < len(names) else "OUT_OF_SCOPE (OUT_OF_SCOPE)" for _, i in products]
    lines = [f"[S_{i}] {name}: All {name}" for i, name in enumerate(names)]
    lines += [f"[P_{i}] {title} → {places[i]}" for i, (title, _) in enumerate(products)]
    changes = ask("\n".join(lines))["reassignments"]
    moved = [change["product"] for change in changes]
    assert len(set(moved)) == len(moved)
    assert set(moved) <= {f"P_{i}" for i in range(len(products))}
    assert {change["category"] for change in changes} <= {f"S_{i}" for i in range(len(names))}
    for change in changes:
        assert not places[int(change["product"][2:])].startswith(f"{change['category']} (")
        assert 0 <= change["confidence"] <= 1


def test_the_same_answer_under_another_hash_seed() -> None:
    prompt = extract_prompt([*KETTLES, LEASH], "Kettles")
    code = "import sys; from segkit.llm.offline.model import answer; sys.stdout.write(answer(sys.stdin.read()))"
    for seed in ("1", "2"):
        environment = unmeasured(PYTHONHASHSEED=seed, PYTHONPATH=str(ROOT), PYTHONIOENCODING="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=prompt,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        assert done.stdout == answer(prompt)


def test_names_are_kinds_of_products() -> None:
    taxonomy, found = extract(KETTLES, "Kettles")
    assert found[0] == found[1] == found[2] == found[10] == found[11] == "Electric Kettles"
    assert found[3] == found[4] == found[5] == "Gooseneck Kettles"
    assert found[8] == found[9] == "Travel Kettles"
    assert " such as " in taxonomy["Electric Kettles"]
    text = " ".join(taxonomy).casefold()
    assert not [word for word in ("acme", "borealis", "cindra", "dorwin", "black", "pack", "bk-200") if word in text]


@pytest.mark.parametrize("category", ["Kettles", ""])
def test_a_dog_leash_is_no_kettle(category: str) -> None:
    _, found = extract([*KETTLES, LEASH], category)
    assert found[-1] == "OUT_OF_SCOPE"
    assert "OUT_OF_SCOPE" not in found[:-1]


@pytest.mark.parametrize("category", ["Products", "Topwear", "Apparel"])
def test_a_category_that_titles_do_not_mention_puts_nothing_out_of_scope(category: str) -> None:
    _, found = extract([*KETTLES, LEASH], category)
    assert "OUT_OF_SCOPE" not in found


def test_a_retry_answers_for_every_id_once() -> None:
    prompt = extract_prompt(KETTLES, "Kettles")
    again = f"{prompt}\n\nMissing [P_99] here:\n[P_3] {KETTLES[3]}\n[P_1] {KETTLES[1]}\n"
    assert answer(again) == answer(prompt)


def test_plurals_and_spellings_are_merged() -> None:
    prompt = """[A_0] T-Shirts: T-Shirts; e.g. polo t-shirts, round neck t-shirts
[A_1] Shoes: Shoes; e.g. running shoes, casual shoes
[B_0] Tshirt: Tshirt; e.g. tshirt
[B_1] Watches: Watches; e.g. analog watch, digital watch
[C_0] Watch: Watch; e.g. watch"""
    members = ask(prompt)["members"]
    assert members["A_0"] == members["B_0"]
    assert members["B_1"] == members["C_0"]
    assert len({members["A_0"], members["A_1"], members["B_1"]}) == 3


def test_a_category_of_many_lists_stays_and_a_rare_one_joins_the_most_similar() -> None:
    rare = "[A_1] Foldable Kettles: Foldable Kettles; e.g. foldable travel kettle"
    lines = [f"[A_{i + 2}] {name} Kettles: {name} Kettles; e.g. {name} kettle" for i, name in enumerate(NAMES)]
    lines += [f"List {letters(i)} also has: {'; '.join(f'{name} Kettles' for name in NAMES)}" for i in range(1, 9)]
    reply = ask("\n".join(["Product category: Kettles", rare, *lines]))
    found = {one["id"]: one["name"] for one in reply["categories"]}
    assert sorted(found.values()) == sorted(f"{name} Kettles" for name in NAMES)
    assert found[reply["members"]["A_1"]] == "Travel Kettles"


def test_what_serves_a_switch_is_none() -> None:
    """Many boxes and plates do not vouch for each other; a switch that comes with a plate is one."""
    switches = [
        f"Brand{i} {kind} Light Switch with Wall Plate, White" for i in range(6) for kind in ("Toggle", "Rocker")
    ]
    others = [f"{i}-Gang Electrical Switch and Outlet Box" for i in range(1, 4)] + ["Toggle Wall Plate, White"] * 3
    found = extract([*switches, *others], "Light Switches")[1]
    assert set(found[len(switches) :]) == {"OUT_OF_SCOPE"}
    assert "OUT_OF_SCOPE" not in found[: len(switches)]


@pytest.mark.parametrize("word", ["ruled", "Bound", "washable", "Cordless", "Sensitive", "electrical"])
def test_a_participle_or_an_adjective_names_no_kind(word: str) -> None:
    taxonomy, _ = extract([f"Acme Notebook {word}, A5", f"Borealis Notebook {word}, A4", "Cindra Pen, blue"])
    assert all(name.endswith(("Notebooks", "Pens")) for name in taxonomy)


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("Mouse", "Mice"),
        ("Toothbrush", "Toothbrushes"),
        ("Water", "Water"),
        ("Jewellery", "Jewellery"),
        ("Pen", "Pens"),
    ],
)
def test_plurals(one: str, many: str) -> None:
    assert plural(one) == many


@pytest.mark.parametrize("title", ["कॉफी मेकर एस्प्रेसो", "เครื่องชงกาแฟ ดริป"])
def test_a_word_keeps_its_vowel_signs(title: str) -> None:
    """Signs of Hindi and Thai are no letters for a regular expression, and yet a part of the word."""
    assert [word.text for clause in read_title(title) for word in clause] == title.split()


def test_no_category_is_called_as_all_of_them() -> None:
    titles = ["Acme Dimmer Switch", "Borealis Dimmer Switch", "Cindra Dimmer Switch", "Acme Smart Dimmer Switch"]
    assert "Dimmer Switches" not in extract(titles, "Dimmer Switches")[0]


def test_a_definition_is_a_sentence() -> None:
    taxonomy, _ = extract(["Acme Electric Kettle with Whistle", "Borealis Electric Kettle with Whistle", *KETTLES])
    sentence = re.compile(r"[A-Z].* such as [^,.]+(, [^,.]+)*\.")
    assert [text for text in taxonomy.values() if not sentence.fullmatch(text)] == []
    assert any(" whose titles mention " in text for text in taxonomy.values())


def test_confidence_follows_the_evidence() -> None:
    """One among many that its category names is surer than one that stands alone under another's word."""
    given = [*KETTLES, "Thing of Brass"]
    assignments = ask(extract_prompt(given))["assignments"]
    sure = [one["confidence"] for one in assignments.values()]
    assert sure[-1] < min(sure[:3])


def test_of_a_list_of_things_each_is_a_kind() -> None:
    given = [f"{name} Toaster, {i} W" for i, name in enumerate(["Wide Slot", "Retro", "Long Slot"] * 3)]
    _, found = extract([*KETTLES, *given], "Kettles and Toasters")
    assert not set(found[: len(KETTLES)]) & set(found[len(KETTLES) :])
    assert "OUT_OF_SCOPE" not in found


def refine_prompt(placed: list[tuple[str, str]]) -> str:
    names = list(dict.fromkeys(["Electric Kettles", "Gooseneck Kettles", "Travel Kettles"]))
    ids = {name: f"S_{i}" for i, name in enumerate(names)} | {"OUT_OF_SCOPE": "OUT_OF_SCOPE"}
    lines = [f"[{ids[name]}] {name}: {name}; e.g. {name.lower()}" for name in names]
    return "\n".join(lines + [f"[P_{i}] {title} → {ids[name]} ({name})" for i, (title, name) in enumerate(placed)])


def test_refine_leaves_an_ideal_assignment_alone() -> None:
    placed = [
        (title, name)
        for title in KETTLES
        for name in ("Electric Kettles", "Gooseneck Kettles", "Travel Kettles")
        if name[:-1] in title
    ]
    assert ask(refine_prompt(placed)) == {"reassignments": []}


def test_refine_moves_what_fits_better_and_brings_back_what_is_in_scope() -> None:
    placed = [(KETTLES[0], "Electric Kettles"), (KETTLES[3], "Travel Kettles"), (KETTLES[4], "OUT_OF_SCOPE")]
    moved = {change["product"]: change["category"] for change in ask(refine_prompt(placed))["reassignments"]}
    assert moved == {"P_1": "S_1", "P_2": "S_1"}


@pytest.mark.parametrize(("category", "out"), [("Kettles", True), ("Products", False), ("", False)])
def test_refine_puts_a_dog_leash_out_of_scope(category: str, out: bool) -> None:
    placed = [(title, "Electric Kettles") for title in KETTLES if "Electric" in title] + [(LEASH, "Electric Kettles")]
    changes = ask(f"Product category: {category}\n{refine_prompt(placed)}")["reassignments"]
    assert [one["product"] for one in changes if one["category"] == "OUT_OF_SCOPE"] == ["P_5"] * out


def test_an_arrow_in_a_title_is_data() -> None:
    placed = [("Electric Kettle → S_2 (Travel Kettles)", "Electric Kettles"), (KETTLES[0], "Electric Kettles")]
    assert ask(refine_prompt(placed)) == {"reassignments": []}


# Retail: its 20 departments are no kinds of products, so that k-means wins on purity by one large group.
QUALITY = [
    ("retail_demo_catalogue", "category", 0.05, -1.0),
    ("fashion_catalogue", "subcategory", 0.1, 0.1),
    ("coffee_makers", "segment_label", 0.04, 0.05),
]


@pytest.mark.long
@pytest.mark.parametrize(("file", "label", "better", "purer"), QUALITY)
def test_it_beats_k_means_with_k_by_silhouette(file: str, label: str, better: float, purer: float) -> None:
    import offline_quality as quality
    import pandas as pd
    from sklearn.metrics import adjusted_mutual_info_score

    path = next((p for p in (DATA / f"{file}.csv", ROOT / f"segkit/sample/{file}.csv") if p.exists()), None)
    if path is None:
        pytest.skip(f"{file}.csv is not here")
    one = quality.sample(file, "Products", pd.read_csv(path), label, 240)
    ours, theirs = quality.segment(one.category, one.titles).labels, quality.kmeans(one.titles, None)
    ami = [adjusted_mutual_info_score(one.labels, found) for found in (ours, theirs)]
    purity = [quality.harmonic_purity(one.labels, found) for found in (ours, theirs)]
    assert ami[0] > ami[1] + better
    assert purity[0] > purity[1] + purer


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_shop_category_about_one_thing_gets_few_segments_and_strange_products_are_told(seed: int) -> None:
    import offline_quality as quality
    import pandas as pd

    frame = pd.read_csv(ROOT / "segkit/sample/coffee_makers.csv")
    one = quality.sample("coffee_makers", "Coffee Makers", frame, "segment_label", 1000)
    found = quality.segment(one.category, one.titles, seed).labels
    sizes = Counter(found)
    assert 10 <= len(sizes) <= 22
    assert min(sizes.values()) > 1
    assert not [name for name in sizes if "More" in name]
    pairs = zip(one.titles, one.labels, found, strict=True)
    out = [(title, label) for title, label, name in pairs if name == quality.OUT]
    assert sum(label == quality.OUT for _, label in out) >= 8
    assert sum(label != quality.OUT for _, label in out) <= 4
    text = " ".join(title for title, _ in out)
    assert all(name in text for name in ("Dog Leash", "Yoga Mat", "Coffee Table", "T-Shirt"))


def test_an_answer_of_an_older_version_is_never_served() -> None:
    """The endpoint is part of a cache key, so it names the version; a run of another version is not gone on with."""
    endpoint = choose_parameters("Things", load_settings(), model="offline").endpoint
    assert re.fullmatch(r"offline@[0-9]+", endpoint)
    with pytest.raises(SettingsError, match="offline@0, this is " + endpoint + ", another version"):
        OfflineTransport("offline@0")
