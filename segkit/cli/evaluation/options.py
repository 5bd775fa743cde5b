"""The options that several commands of evaluation take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Html = Annotated[
    Path | None, typer.Option("--html", help="Write the result as one HTML page that needs no other files.")
]
LabelFile = Annotated[
    Path | None,
    typer.Option("--labels", help="Labels made by people: a sheet of `segkit label`, or any table with product_id."),
]
LabelColumn = Annotated[
    str, typer.Option("--label-column", help="The column with the labels, of that file or of the products.")
]
