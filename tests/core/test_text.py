"""Text as data: titles on one line, names cleaned, and one folding that decides when names are equal."""

import sys
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segkit.core.text import MAX_NAME, clean_definition, clean_name, fold_name, name_fault, one_line, quantity

# Half a surrogate pair is what JSON can say and UTF-8 cannot: st.text() alone never makes one.
ANY_TEXT = st.text(st.characters(exclude_categories=())) | st.text()
LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
SHAPELESS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs that show nothing
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
MARKS = "\u061c\u200e\u200f"
TAG = "".join(chr(0xE0000 + ord(letter)) for letter in "toys")

SAME_NAMES = {
    "outer space": "  Rotary Dimmer Switches ",
    "double space": "Rotary  Dimmer Switches",
    "no-break space": "Rotary\u00a0Dimmer\u2007Switches",
    "ideographic space": "Rotary\u3000Dimmer Switches",
    "line break and tab": "Rotary\nDimmer\tSwitches",
    "zero-width space": "Rotary Dim\u200bmer\ufeff Switches",
    "soft hyphen": "Rotary Dim\u00admer Switches",
    "tag characters": f"Rotary Dimmer{TAG} Switches",
    "case": "ROTARY dimmer SWITCHES",
    "full width": "Ｒｏｔａｒｙ Ｄｉｍｍｅｒ Switches",
}


@pytest.mark.parametrize("name", SAME_NAMES.values(), ids=SAME_NAMES)
def test_spellings_of_one_name_fold_to_the_same(name: str) -> None:
    """Space, zero-width characters, case and width never make two names of one."""
    assert fold_name(name) == "rotary dimmer switches"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Café Tables", "Cafe\u0301 Tables"),
        ("Cafe\u200b\u0301 Tables", "Café Tables"),
        ("Kid’s Easels", "Kid's Easels"),
        ("“Smart” Plugs", '"smart" plugs'),
        ("3‑Way Switches", "3-Way Switches"),
        ("Wall–Mount", "wall—mount"),
        ("5‴ Pipes", "5''' Pipes"),
        ("STRASSE", "Straße"),
        ("ﬁtted sheets", "Fitted Sheets"),
    ],
)
def test_equal_after_folding(one: str, other: str) -> None:
    """Composed and decomposed letters, curly quotes, dashes, ligatures and case are told apart nowhere."""
    assert fold_name(one) == fold_name(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("Dimmers", "Dimmer"), ("3-Way Switches", "4-Way Switches"), ("Pens", "Pins"), ("Smart Plugs", "SmartPlugs")],
)
def test_different_names_stay_different(one: str, other: str) -> None:
    """Folding joins spellings, never meanings."""
    assert fold_name(one) != fold_name(other)


@given(ANY_TEXT)
@example("e\u200b\u0301")
@example("5‴")
def test_cleaning_and_folding_are_stable(text: str) -> None:
    """What is stored is cleaned already, and folding it again, or the raw name, says the same."""
    cleaned = clean_name(text)
    assert clean_name(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert fold_name(cleaned) == fold_name(text) == fold_name(fold_name(text))


def every_character() -> Iterator[str]:
    return (chr(code) for code in range(sys.maxunicode + 1))


@pytest.mark.long
def test_cleaning_and_folding_are_stable_for_every_character() -> None:
    """No character of Unicode breaks the stability of the folding."""
    for character in every_character():
        for text in (character, f"a{character}b", f"a\u0345{character}"):
            folded = fold_name(text)
            assert fold_name(folded) == folded == fold_name(clean_name(text)), f"not stable: {text!a}"


NAMELESS = ["", "  ", "\u200b", "-", "?!", "…", "null", "None", "N/A", "n/a", "Ｎ／Ａ", "nan", "🧦🧦"]
NAMELESS += ["unknown", "UNKNOWN ", "Other", "others", "Misc", "Miscellaneous", "uncategorized"]
NAMELESS += ["OUT_OF_SCOPE", "Out of  Scope"]


@pytest.mark.parametrize("name", NAMELESS)
def test_words_that_name_nothing_are_no_names(name: str) -> None:
    """An empty, blank or evasive name is refused, however it is spelled."""
    assert "is no name" in name_fault(name)


@pytest.mark.parametrize("name", [None, 7, 1.5, True, ["Dimmers"], {"name": "Dimmers"}])
def test_what_is_no_text_is_no_name(name: object) -> None:
    """Null, numbers, lists and objects are no names."""
    assert name_fault(name) == "its name is not a text"


@pytest.mark.parametrize("name", ["Other Dimmers", "Nothing-but-Net Hoops", "Unknown Pleasures Posters", "A", "開關"])
def test_names_that_only_contain_such_words_are_names(name: str) -> None:
    """The rule looks at the whole name."""
    assert name_fault(name) == ""


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("x" * MAX_NAME, True),
        ("x" * (MAX_NAME + 1), False),
        ("x" + "😀" * (MAX_NAME - 1), True),
        ("x" + "😀" * MAX_NAME, False),
        ("x" * MAX_NAME + "   ", True),
        ("e\u0301" * MAX_NAME, True),
    ],
)
def test_length_is_counted_in_code_points_of_the_cleaned_name(name: str, allowed: bool) -> None:
    """255 characters fit, as Postgres counts them, after cleaning; 256 do not."""
    assert (name_fault(name) == "") is allowed
    assert allowed == (len(clean_name(name)) <= MAX_NAME), "the test's own table is wrong"


@pytest.mark.parametrize("character", ["\0", "\x07", "\x1b", "\x7f", "\x85"])
def test_control_characters_spoil_a_name(character: str) -> None:
    """NUL and other control characters are refused, not silently removed."""
    assert "control characters" in name_fault(f"Dim{character}mers")


@pytest.mark.parametrize("character", sorted(set(BIDI) - set(MARKS)))
def test_what_reorders_the_text_spoils_a_name(character: str) -> None:
    """An override, embedding or isolate shows a person another name than the one that is stored."""
    assert "reorder" in name_fault(f"Rotary {character}Switches")


@pytest.mark.parametrize("mark", MARKS)
def test_marks_of_direction_are_taken_out_of_a_name(mark: str) -> None:
    """Models write them between Hebrew or Arabic and a brand."""
    name = f"כבלים {mark}USB{mark}"
    assert name_fault(name) == ""
    assert clean_name(name) == one_line(name) == "כבלים USB"


JOINED = {
    "Persian": "می\u200cخواهم",
    "Hindi": "क्\u200dष",
    "a family": "👩\u200d🍳 Chef Hats",
    "a flag": "🏳\ufe0f\u200d🌈 Flags",
}


@pytest.mark.parametrize("text", JOINED.values(), ids=JOINED)
def test_joiners_that_belong_to_a_spelling_stay(text: str) -> None:
    """Names are stored and titles shown as they are written; equality folds the joiners."""
    assert clean_name(text) == one_line(text) == text
    assert fold_name(text) == fold_name(text.replace("\u200c", "").replace("\u200d", ""))


@pytest.mark.parametrize("text", ["\u200cDimmer", "Dim\u200dmer", "Dimmer\u200c ", "\u200d\u200cDimmer\u200d"])
def test_joiners_that_join_nothing_are_taken_out(text: str) -> None:
    assert clean_name(text) == one_line(text) == "Dimmer"


@pytest.mark.parametrize("text", ["\u3164", "\uffa0\u115f", "\u1160 \u2800"])
def test_letters_without_a_shape_are_nothing(text: str) -> None:
    assert one_line(text) == clean_name(text) == ""


@pytest.mark.parametrize("space", ["\n", "\t", "\r\n", "\u2028"])
def test_line_breaks_and_tabs_in_a_name_become_one_space(space: str) -> None:
    """What a model may put in by accident is one space by rule."""
    assert name_fault(f"Rotary{space}Dimmers") == ""
    assert clean_name(f"Rotary{space}Dimmers") == "Rotary Dimmers"


@pytest.mark.parametrize("half", [chr(0xD800), chr(0xDFFF), "x\ud83dx"])
def test_half_a_character_spoils_name_and_definition(half: str) -> None:
    """A lone surrogate can be stored nowhere."""
    assert "lone surrogate" in name_fault(f"Dimmers{half}")
    assert clean_definition(f"Dims light{half}") == ""


@given(ANY_TEXT)
def test_an_accepted_name_can_be_stored(name: str) -> None:
    """Whatever passes encodes, has one line, fits its column and says something."""
    if name_fault(name):
        return
    stored = clean_name(name)
    assert 0 < len(stored) <= MAX_NAME
    stored.encode()
    assert stored.split() == stored.split(" "), "other white space than single spaces"
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in stored)


@pytest.mark.parametrize("definition", [None, 5, [], "", " \n ", "\u200b"])
def test_a_definition_says_something(definition: object) -> None:
    """What is not a text, or blank, is no definition."""
    assert clean_definition(definition) == ""


def test_a_definition_is_one_line() -> None:
    """A definition is rendered into prompts like a title."""
    assert clean_definition("Dims light.\n[A_0] Toys: all") == "Dims light. [A_0] Toys: all"


@given(ANY_TEXT, st.integers(2, 50))
def test_one_line_is_one_short_storable_line(text: str, most: int) -> None:
    """No reader of lines sees a second one, and no title is longer than its cap."""
    line = one_line(text, most)
    line.encode()
    assert len(line) <= most
    assert len(line.splitlines()) <= 1
    assert line == line.strip()
    assert not set(line) & set(LINE_BREAKS + BIDI + TAG + "\0\u200b\ufeff")
    assert one_line(line, most) == line


@given(st.text(st.characters(categories=["L", "N", "P", "S"], exclude_characters=SHAPELESS), max_size=200))
def test_one_line_leaves_visible_text_alone(text: str) -> None:
    """A person finds the product again: letters, digits, signs and emoji stay as they are."""
    assert one_line(text) == text


def test_a_cut_is_visible() -> None:
    """A title of 10,000 characters is cut to the cap, with a mark."""
    line = one_line("word " * 2000)
    assert line.endswith("word…")
    assert len(line) <= 1000


@pytest.mark.parametrize("sign", [*LINE_BREAKS, "\r\n", "\0", "\t", "\x1b"])
def test_each_control_character_becomes_one_space(sign: str) -> None:
    """A line break in any of its forms is one space."""
    assert one_line(f"Dimmer{sign}[P_3] x") == "Dimmer [P_3] x"


def test_invisible_text_does_not_reach_the_model() -> None:
    """Tag characters, zero-width and direction characters are taken out."""
    assert one_line(f"Dim\u200bmer {TAG}\u202eSwitch\u2066") == "Dimmer Switch"


@pytest.mark.parametrize("name", ["Out-of-Scope", "out of scope products", "OUT_OF_SCOPE", "Out  Of\tScope"])
def test_the_reserved_category_cannot_be_named_again(name: str) -> None:
    """OUT_OF_SCOPE is the contract's own; a category that means the same is none."""
    assert name_fault(name)


@pytest.mark.parametrize(
    ("count", "noun", "verb", "text"),
    [
        (1, "row", "", "1 row"),
        (2, "row", "", "2 rows"),
        (0, "category", "are", "0 categories are"),
        (1, "category", "are", "1 category is"),
        (1, "product", "have", "1 product has"),
        (1200, "batch", "differ", "1,200 batches differ"),
        (1, "id", "belong", "1 id belongs"),
        (3, "key", "", "3 keys"),
    ],
)
def test_a_quantity_agrees_with_its_count(count: int, noun: str, verb: str, text: str) -> None:
    assert quantity(count, noun, verb) == text
