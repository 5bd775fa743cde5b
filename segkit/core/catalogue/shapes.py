"""Exports of shops and marketplaces, known by their columns; and tables whose columns have usual names."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """An export of a program: the columns that it is known by, and the options that read it."""

    name: str
    known_by: frozenset[str]
    id_column: str
    title_column: str
    more: tuple[str, ...] = ()
    joined: bool = False  # the rows of one id are one product, such as the variants of a Shopify handle

    def options(self) -> str:
        """Return the options of a command that reads such a file."""
        return shlex.join(["--id-column", self.id_column, "--title-column", self.title_column, *self.more])


SHAPES = [
    Shape("a Shopify export", frozenset({"Handle", "Title", "Variant SKU"}), "Handle", "Title", joined=True),
    Shape(
        "a WooCommerce export",
        frozenset({"ID", "Type", "SKU", "Name"}),
        "ID",
        "Name",
        ("--where", "Type!=variation"),
    ),
    Shape("an Amazon listings report", frozenset({"item-name", "seller-sku", "asin1"}), "seller-sku", "item-name"),
    Shape("an Amazon listings report", frozenset({"item-name", "seller-sku"}), "seller-sku", "item-name"),
    Shape("an Amazon listings report", frozenset({"item-name", "asin1"}), "asin1", "item-name"),
    Shape("an Amazon listings report", frozenset({"item-name", "asin"}), "asin", "item-name"),
    Shape("an Amazon template", frozenset({"item_sku", "item_name"}), "item_sku", "item_name"),
    Shape("a Google feed", frozenset({"id", "title", "link"}), "id", "title"),
    Shape("a Google feed", frozenset({"id", "title", "google_product_category"}), "id", "title"),
    Shape("a Google feed", frozenset({"id", "title", "availability"}), "id", "title"),
    Shape("an Amazon template", frozenset({"TemplateType"}), "item_sku", "item_name", ("--header-row", "3")),
]
# What columns with ids and with titles are usually called, in lower case and with spaces; the first that is there.
_IDS = ("id", "product id", "item id", "sku", "product sku", "item sku", "asin", "article number", "item number")
_TITLES = ("title", "product title", "name", "product name", "item name", "product", "article")


def known_shape(columns: Iterable[str]) -> Shape | None:
    """Return the shape that some columns belong to, or None."""
    present = {name.partition("=")[0] for name in columns}  # the first cell of a template is `TemplateType=home`
    return next((shape for shape in SHAPES if shape.known_by <= present), None)


def usual_shape(names: Iterable[str]) -> Shape | None:
    """Return a shape made of the columns that bear usual names, or None where an id or a title has none."""
    written = {" ".join(name.lower().replace("_", " ").replace("-", " ").split()): name for name in names}
    one, two = (next((written[usual] for usual in each if usual in written), "") for each in (_IDS, _TITLES))
    name = f"a table with the columns {one} and {two}"
    return Shape(name, frozenset({one, two}), one, two) if one and two else None
