"""Ids of products: integers stay what they are, any other text gets a number that is computed from it."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from numbers import Integral, Real
from typing import Any
from uuid import UUID

import pandas as pd

from segkit.core.catalogue.lines import is_missing
from segkit.core.catalogue.titles import is_placeholder
from segkit.core.text import shortened
from segkit.errors import ProductsError

BIGINT = range(-(2**63), 2**63)
MOST_CHARACTERS = 255
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})")
_DECIMAL = re.compile(r"-?[0-9]+\.0+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Ids:
    """The ids of a column: `numbers` for all uses, `texts` as they were given (empty where all are integers).

    `faults` holds a reason for each position whose id cannot be used; its number is 0.
    """

    numbers: list[int]
    texts: list[str]
    faults: dict[int, str] = field(default_factory=dict)


def number_of(text: str) -> int:
    """Return the product id of a text: 52 bits of its SHA-256 with bit 52 set.

    It lies in [2^52, 2^53): above every GTIN, exact in JSON, JavaScript and floats, and the same on every machine.
    """
    return int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) | 1 << 52


def read_ids(values: Iterable[Any], *, as_text: bool = False) -> Ids:
    """Read a column of ids; they are integers where all of them are plain integers within BIGINT, else texts.

    Raises ProductsError for two texts that have the same number.
    """
    read = [_read(value) for value in values]
    texts = [text for text, _ in read]
    faults = {position: fault for position, (_, fault) in enumerate(read) if fault}
    usable = [text for text, fault in read if not fault]
    if not as_text and usable and all(_DECIMAL.fullmatch(text) or is_integer(text) for text in usable):
        faults |= {i: f"{text} is a decimal number" for i, text in enumerate(texts) if _DECIMAL.fullmatch(text)}
    if not as_text and all(is_integer(text) for i, text in enumerate(texts) if i not in faults):
        return Ids([0 if i in faults else int(text) for i, text in enumerate(texts)], [], faults)
    numbers = [0 if i in faults else number_of(text) for i, text in enumerate(texts)]
    require_distinct(numbers, texts, faults)
    return Ids(numbers, texts, faults)


def is_integer(text: str) -> bool:
    """Report whether a text is an integer within BIGINT, written plainly: without a sign +, zeros or spaces."""
    return _INTEGER.fullmatch(text) is not None and int(text) in BIGINT


def parse_ids(text: str) -> list[str]:
    """Read ids as people list them: separated by commas, semicolons, tabs or line ends; integers also by spaces."""
    ids: list[str] = []
    for part in re.split(r"[,;\t\r\n]+", text):
        words = part.split()
        ids += words if len(words) > 1 and all(map(is_integer, words)) else [" ".join(words)] if words else []
    return ids


def parse_id_file(text: str, id_column: str) -> list[str]:
    """Read a file of ids as `parse_ids` does, without a header and without lines that begin with `# `."""
    lines = [line for line in text.splitlines() if not re.match(r"\s*#(\s|$)", line)]
    if lines and lines[0].strip(" \t,;").casefold() in (id_column.casefold(), "product_id"):
        del lines[0]
    return parse_ids("\n".join(lines))


def numbers_of(products: pd.DataFrame, ids: Sequence[int | str]) -> list[int]:
    """Return the `product_id` of ids as people give them: a `source_id` of the products, or a number.

    Raises ProductsError for ids that are not among the products or are listed more than once.
    """
    known = set(products["product_id"])
    by_text = dict(zip(products["source_id"], products["product_id"], strict=True)) if "source_id" in products else {}
    found: dict[str, int] = {}
    unknown, repeated = [], []
    for given in ids:
        text = _normal(str(given))
        number = by_text.get(text, int(text) if is_integer(text) else None)
        if number not in known or number is None:
            unknown.append(text)
        elif number in found.values():
            repeated.append(text)
        else:
            found[text] = int(number)
    if unknown:
        what = f"{len(unknown)} product ids are not among the products: {shortened(sorted(unknown))}"
        raise ProductsError(what, "take them off the list")
    if repeated:
        raise ProductsError(f"product ids are listed more than once: {shortened(sorted(repeated))}")
    return list(found.values())


def given_ids(products: pd.DataFrame) -> pd.Series:
    """Return the ids of products as they were given, for people: `source_id` where there is one."""
    return products["source_id" if "source_id" in products else "product_id"]


def _read(value: Any) -> tuple[str, str]:
    """Return an id as a text, and a reason if it cannot be used."""
    if is_missing(value):
        return "", "there is no id"
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str | UUID):
        return _read_text(str(value))
    if isinstance(value, Integral) and not isinstance(value, bool):
        return str(int(value)), ""
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        return str(int(value)), ""
    if isinstance(value, Real | Decimal) and not isinstance(value, bool):
        return "", f"{float(value)} is a decimal number"
    return "", f"{str(value)[:60]} is no id but a value of type {type(value).__name__}"


def _read_text(value: str) -> tuple[str, str]:
    text = _normal(value)
    if not text or is_placeholder(text):
        return text, "there is no id"
    if _CONTROL.search(text):
        return text, f"{text[:60]!r} holds control characters"
    if len(text) > MOST_CHARACTERS:
        return text, f"{text[:60]}… has {len(text)} characters, an id has at most {MOST_CHARACTERS}"
    return text, ""


def _normal(text: str) -> str:
    return unicodedata.normalize("NFC", text).strip()


def require_distinct(numbers: Sequence[int], texts: Sequence[str], faults: Container[int]) -> None:
    """Raise ProductsError for two different texts with the same number; positions in `faults` do not count."""
    seen: dict[int, str] = {}
    for position, (number, text) in enumerate(zip(numbers, texts, strict=True)):
        if position not in faults and seen.setdefault(number, text) != text:
            what = f"the ids {seen[number]!r} and {text!r} have the same number {number}"
            raise ProductsError(what, "change one of them, for example by a letter in front")
