"""How a catalogue is read: which columns, which rows, and what cannot be seen in a file itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueOptions:
    """What may be said of a catalogue; the defaults fit a file with the columns `product_id` and `title`.

    `where` keeps the rows with just that value in a column (a name that ends in `!` keeps all other rows).
    `product_ids` keeps an explicit list, as numbers or as texts. `ids_as_text` takes ids that look like numbers as
    texts. `skip_refused` goes on without rows that cannot be used; they are written to `refused_file`.
    """

    id_column: str = "product_id"
    title_column: str = "title"
    where: Mapping[str, str] = field(default_factory=dict)
    product_ids: Sequence[int | str] | None = None
    ids_as_text: bool = False
    encoding: str = ""
    delimiter: str = ""
    header_row: int = 0
    sheet: str = ""
    skip_refused: bool = False
    refused_file: Path | None = None

    @property
    def wanted(self) -> list[str]:
        """The columns that have to be there."""
        return [self.id_column, self.title_column]
