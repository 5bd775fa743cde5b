"""Exports of shops and marketplaces, known by their columns."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from segkit.core.catalogue.options import CatalogueOptions


@dataclass(frozen=True, slots=True)
class Shape:
    """An export of a program: the columns that it is known by, and the options that read it."""

    name: str
    known_by: frozenset[str]
    id_column: str
    title_column: str
    more: tuple[str, ...] = ()
    joined: bool = False  # the rows of one id are one product, such as the variants of a Shopify handle

    def command(self, source: str, options: CatalogueOptions) -> str:
        """Return a command that reads such a file, with what was said of the file already."""
        columns = ["--id-column", self.id_column, "--title-column", self.title_column]
        given = {"--encoding": options.encoding, "--delimiter": options.delimiter, "--sheet": options.sheet}
        given["--header-row"] = str(options.header_row or "") if "--header-row" not in self.more else ""
        said = [word for name, value in given.items() if value for word in (name, value)]
        return shlex.join(["segkit", "plan", source or "FILE", *columns, *said, *self.more, "--category", "Products"])


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
    Shape("a table with the columns id and title", frozenset({"id", "title"}), "id", "title"),
]


def known_shape(columns: Iterable[str]) -> Shape | None:
    """Return the shape that some columns belong to, or None."""
    present = {name.partition("=")[0] for name in columns}  # the first cell of a template is `TemplateType=home`
    return next((shape for shape in SHAPES if shape.known_by <= present), None)
