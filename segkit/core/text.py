"""Text as data: titles on one line, names cleaned, and the one folding that decides when two names are equal."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

MAX_NAME = 255
MAX_TITLE = 1000
# fmt: off
EMPTY_NAMES = frozenset([
    "", "null", "none", "nil", "nan", "n/a", "na", "unknown", "other", "others", "misc", "miscellaneous",
    "undefined", "unspecified", "uncategorized", "uncategorised", "not applicable", "out_of_scope", "out of scope",
])
# fmt: on

# Quotes and dashes that keyboards and word processors exchange for one another.
_LOOKALIKES = str.maketrans("‘’‚‛′`´“”„‟″‐‑‒–—―−", "'''''''\"\"\"\"\"-------")
_SPACE = re.compile(r"\s+")
# What a terminal, a browser or a model reads as a line break or as nothing: C0, C1, DEL, LS, PS.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# Zero-width characters, marks of direction, letters without a shape (of Hangul and Braille), the invisible tag block.
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff\uffa0"
    r"\ufff9-\ufffb\U000e0000-\U000e007f]"
)
# Joiners belong to the spelling of Persian and Indic words and hold emoji together; anywhere else they are noise.
_JOINERS = re.compile(r"[\u200c\u200d]")
_LETTER = r"[^\x00-\x7f\s\u200c\u200d]"
_STRAY_JOINERS = re.compile(rf"(?<!{_LETTER})[\u200c\u200d]+|[\u200c\u200d]++(?!{_LETTER})")
# Marks come with Hebrew and Arabic text and are harmless; these show a name in another order than it is stored.
_REORDERING = re.compile(r"[\u202a-\u202e\u2066-\u2069]")
_CONTROL_IN_NAME = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
_SINGULAR_VERBS = {"are": "is", "were": "was", "have": "has"}
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def shortened(items: Iterable[object], most: int = 10, separator: str = ", ") -> str:
    """Return the first `most` items as one text, and how many follow: "1, 2, 3 and 1,990 more"."""
    texts = [str(item) for item in items]
    rest = len(texts) - most
    return separator.join(texts[:most]) + (f" and {rest:,} more" if rest > 0 else "")


def quantity(count: int, noun: str, verb: str = "") -> str:
    """Return a count with its noun, and a verb in the plural if one is given: "1 row is", "2,000 rows are"."""
    if count == 1:
        return f"1 {noun}" + (f" {_SINGULAR_VERBS.get(verb, f'{verb}s')}" if verb else "")
    plural = re.sub(r"([^aeiou])y$", r"\1ie", noun)
    plural += "es" if re.search(r"(s|x|ch|sh)$", plural) else "s"
    return f"{count:,} {plural}" + (f" {verb}" if verb else "")


def one_line(text: str, most: int = MAX_TITLE) -> str:
    """Put untrusted text on one line: control characters and line breaks become one space, length is capped.

    Invisible characters are removed; otherwise the text stays itself, so that a person finds the product again. A cut
    is visible as `…`.
    """
    line = _SURROGATE.sub("\N{REPLACEMENT CHARACTER}", _CONTROL.sub(" ", text))
    line = _SPACE.sub(" ", _visible(line)).strip()
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def without_surrogates(text: str) -> str:
    """Return a text that UTF-8 can hold: two halves of a sign become the sign, a half alone becomes U+FFFD."""
    if not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def clean_name(name: str) -> str:
    """Clean a category name as it is stored: NFC, nothing invisible but joiners, single spaces."""
    # First what is invisible: it may stand between two characters that NFC makes one.
    return _SPACE.sub(" ", unicodedata.normalize("NFC", _visible(name))).strip()


def _visible(text: str) -> str:
    """Remove what is invisible, and joiners that join nothing."""
    return text if text.isascii() else _STRAY_JOINERS.sub("", _INVISIBLE.sub("", text))


def fold_name(name: str) -> str:
    """Fold a name so that equal names compare equal: NFKC, case, white space, quotes, dashes and joiners."""
    plain = clean_name(_JOINERS.sub("", name)).translate(_LOOKALIKES)
    folded = unicodedata.normalize("NFKC", plain).casefold()
    # NFKC takes some signs apart into lookalikes (a triple prime into three primes), hence the second time.
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", folded).translate(_LOOKALIKES)).strip()


def name_fault(name: object) -> str:
    """Return what keeps `name` from being a category name, or an empty text."""
    if not isinstance(name, str):
        return "its name is not a text"
    if _SURROGATE.search(name):
        return "its name holds half a character (a lone surrogate)"
    if _CONTROL_IN_NAME.search(name):
        return "its name holds control characters"
    if _REORDERING.search(name):
        return "its name holds characters that reorder what is shown"
    cleaned = clean_name(name)
    folded = fold_name(cleaned)
    reserved = re.sub(r"[\W_]+", " ", folded).startswith("out of scope")
    if folded in EMPTY_NAMES or reserved or not any(map(str.isalnum, cleaned)):
        return f"{cleaned!r} is no name for a category"
    if len(cleaned) > MAX_NAME:
        return f"its name has {len(cleaned)} characters, {MAX_NAME} are allowed"
    return ""


def clean_definition(definition: object) -> str:
    """Clean a definition to one line; return an empty text if it is not a text."""
    if not isinstance(definition, str) or _SURROGATE.search(definition):
        return ""
    return one_line(definition, most=2000)
