"""Making a run: everything that can be wrong is found here, before anything is asked or paid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.facts import input_facts
from segkit.core.catalogue.gate import FIRST_RUN, Catalogue
from segkit.core.catalogue.lines import product_lines, renamed_line
from segkit.core.catalogue.load import load_catalogue
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.titles import untitled
from segkit.core.models import Parameters
from segkit.errors import ProductsError
from segkit.pipeline.parameters import check_endpoint, choose_parameters, run_prompts
from segkit.pipeline.taxonomy.start import assign_run
from segkit.pipeline.values import conditions, typed_caps, typed_switch
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run, open_run
from segkit.runs.taxonomy import open_taxonomy
from segkit.settings import Settings, load_settings

SAMPLE = Path(__file__).parents[1] / "sample" / "coffee_makers.csv"


def prepare_run(
    products: str | Path | pd.DataFrame | Catalogue = "sample",
    category: str = "Coffee Makers",
    *,
    run_id: str = "",
    runs_dir: str | Path = "",
    id_column: str = "product_id",
    title_column: str = "title",
    where: Mapping[str, str] | str | Sequence[str] | None = None,
    product_ids: Sequence[int | str] | str | None = None,
    ids_as_text: bool = False,
    encoding: str = "",
    delimiter: str = "",
    header_row: int = 0,
    sheet: str = "",
    skip_refused: bool = False,
    source: str = "",
    taxonomy: str | Path = "",
    max_calls: int | str | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    batch: bool | str | None = None,
    stream: bool | str | None = None,
    settings: Settings | None = None,
    **parameters: Any,
) -> Run:
    """Make a run folder from products, prompts and parameters; a run that is there already is opened as it is.

    `products` is the path of a file (CSV, TSV, Excel, Parquet, JSON, JSON lines, Google's XML), `sample` for the
    bundled one, any frame, or a catalogue that was loaded before; `source` is recorded as where it came from. The
    options up to `skip_refused` are those of `CatalogueOptions` and hold for frames as for files. `parameters` are
    those of `Parameters`; what is empty or not given comes from the environment. If `taxonomy` names a finished run
    or a file, the products are put into its categories, as `assign_run` does with `only`; what is not given is then
    as in the run that the taxonomy is of. `max_calls` and `max_cost_usd` cap the run wherever its stages are
    executed, `batch` sends their questions as batches of the provider, and `stream` decides whether answers come
    token by token. Raises InputError, with the value and what to do, when anything cannot be used.
    """
    settings = with_stream(settings or load_settings(), stream)
    place = Path(runs_dir or settings.storage_root)
    if run_id and (place / run_id / "run.json").exists():
        return open_run(run_id, place, settings)
    caps = typed_caps({"max_calls": max_calls, "max_cost_usd": max_cost_usd, "batch": batch})
    given = open_taxonomy(taxonomy, place, settings) if taxonomy else None
    if given is None:
        chosen = choose_parameters(category, settings, **parameters)
        check_endpoint(chosen, settings, caps)
        run_prompts(chosen)  # refuses a bad set before a large file is read
    options = CatalogueOptions(
        id_column=id_column,
        title_column=title_column,
        where=conditions(where),
        product_ids=_ids(product_ids),
        ids_as_text=ids_as_text,
        encoding=encoding,
        delimiter=delimiter,
        header_row=header_row,
        sheet=sheet,
        skip_refused=skip_refused,
        refused_file=refused_file(settings),
    )
    catalogue = open_catalogue(products, options)
    made: dict[str, Any] = {"run_id": run_id, "source": source, "caps": caps}
    if given:
        made |= {"runs_dir": place, "settings": settings, "category": category, "only": True}
        return assign_run(given, catalogue, **made, **parameters)
    return make_run(catalogue, chosen, settings, place, **made)


def with_stream(settings: Settings, stream: bool | str | None) -> Settings:
    """Return the settings with what was chosen of receiving answers token by token; an empty text is no choice."""
    chosen = typed_switch("stream", stream)
    return settings if chosen is None else settings.model_copy(update={"segkit_stream": chosen})


def make_run(
    catalogue: Catalogue,
    chosen: Parameters,
    settings: Settings,
    runs_dir: Path,
    *,
    run_id: str = "",
    source: str = "",
    caps: Mapping[str, Any] | None = None,
) -> Run:
    """Make a run folder from a catalogue and parameters that were chosen before."""
    frame = catalogue.products.drop(columns=FIRST_RUN, errors="ignore")
    chosen = replace(chosen, product_line=renamed_line(chosen.product_line, catalogue.names))
    product_lines(frame.head(1), chosen.product_line)
    if untitled(frame).all():
        raise ProductsError("no product has a title", "name the column of the titles: --title-column COLUMN")
    prompts, origin = run_prompts(chosen), input_facts(catalogue, source)
    return create_run(runs_dir, run_id or new_run_id(), chosen, frame, prompts, origin, settings, caps)


def open_catalogue(products: str | Path | pd.DataFrame | Catalogue, options: CatalogueOptions) -> Catalogue:
    """Load a file, `sample` or a frame; a catalogue stays what it is."""
    if isinstance(products, Catalogue):
        return products
    if isinstance(products, pd.DataFrame):
        return load_catalogue(products, options)
    if products == "sample":
        return replace(load_catalogue(SAMPLE, options), source="sample")
    return load_catalogue(Path(products), options)


def _ids(product_ids: Sequence[int | str] | str | None) -> Sequence[int | str] | None:
    """Return an explicit list of ids; a notebook gives it as one text."""
    if isinstance(product_ids, str):
        return [text for text in re.split(r"[,;\s]+", product_ids) if text] or None
    return product_ids


def refused_file(settings: Settings) -> Path:
    """Return the file to which rows that are refused are written."""
    return settings.segkit_home / "refused_rows.csv"
