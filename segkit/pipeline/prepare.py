"""Making a run: everything that can be wrong is found here, before anything is asked or paid."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from segkit.core.catalogue.gate import FIRST_RUN, Catalogue
from segkit.core.catalogue.lines import product_lines, renamed_line
from segkit.core.catalogue.load import load_catalogue
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.catalogue.titles import cut_titles, untitled
from segkit.core.models import Parameters
from segkit.core.prompts import load_prompts, prompt_keys
from segkit.core.text import one_line
from segkit.errors import ProductsError, SettingsError
from segkit.llm.prices import check_prices, require_price
from segkit.llm.transports.choose import require_key
from segkit.llm.transports.offline import offline_endpoint
from segkit.pipeline.values import conditions, typed_caps, typed_parameters
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run, open_run
from segkit.settings import RANGES, Settings, load_settings

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
    max_calls: int | str | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    settings: Settings | None = None,
    **parameters: Any,
) -> Run:
    """Make a run folder from products, prompts and parameters; a run that is there already is opened as it is.

    `products` is the path of a file (CSV, TSV, Excel, Parquet, JSON, JSON lines, Google's XML), `sample` for the
    bundled one, any frame, or a catalogue that was loaded before; `source` is recorded as where it came from. The
    options up to `skip_refused` are those of `CatalogueOptions` and hold for frames as for files. `parameters` are
    those of `Parameters`; what is empty or not given comes from the environment. `max_calls` and `max_cost_usd` cap
    the run wherever its stages are executed. Raises InputError, with the value and what to do, when anything cannot
    be used.
    """
    settings = settings or load_settings()
    place = Path(runs_dir or settings.storage_root)
    if run_id and (place / run_id / "run.json").exists():
        return open_run(run_id, place, settings)
    chosen = choose_parameters(category, settings, **parameters)
    caps = typed_caps({"max_calls": max_calls, "max_cost_usd": max_cost_usd})
    check_endpoint(chosen, settings, caps)
    load_prompts(chosen.prompts, keys=prompt_keys(chosen))  # refuses a bad set before a large file is read
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
    return make_run(catalogue, chosen, settings, place, run_id=run_id, source=source, caps=caps)


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
    prompts, origin = load_prompts(chosen.prompts, keys=prompt_keys(chosen)), input_facts(catalogue, source)
    return create_run(runs_dir, run_id or new_run_id(), chosen, frame, prompts, origin, settings, caps)


def check_endpoint(parameters: Parameters, settings: Settings, caps: Mapping[str, Any] | None = None) -> None:
    """Raise SettingsError, before anything is made, for a key that is missing and for a cap without a price."""
    require_key(parameters.endpoint, settings)
    if caps and caps.get("max_cost_usd") is not None:
        settings = settings.model_copy(update={"segkit_max_cost_usd": caps["max_cost_usd"]})
    require_price(parameters.model, parameters.endpoint, settings)


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


def input_facts(catalogue: Catalogue, source: str = "") -> dict[str, Any]:
    """Return what `run.json` records of the input: what happened, not what was asked for."""
    facts = {
        "source": source or catalogue.source,
        "where": dict(catalogue.where),
        "untitled": int(untitled(catalogue.products).sum()),
        "understood": catalogue.understood,
        "refused": len(catalogue.refused),
        "cut_titles": cut_titles(catalogue.products),
        "left_out": catalogue.left_out,
    }
    return {name: value for name, value in facts.items() if value or name in ("source", "where", "untitled")}


def choose_parameters(category: str, settings: Settings, *, needs_key: bool = True, **given: Any) -> Parameters:
    """Complete the parameters of a run from the settings; raise SettingsError for what cannot be used."""
    none = _is_none(given)
    category, given = str(category), typed_parameters(given)
    if not one_line(category):
        raise SettingsError("the category is empty", 'say what the products are: --category "Dimmer Switches"')
    model = str(given.get("model") or settings.default_model)
    defaults = {
        "temperature": settings.default_temperature,
        "products_per_prompt": settings.segmentation_products_per_prompt,
        "taxonomies_per_consolidation": settings.segmentation_taxonomies_per_consolidation,
        "products_per_refinement": settings.segmentation_products_per_refinement,
        "max_retries": settings.segmentation_max_retries,
        "response_format": settings.segkit_response_format,
        "ask_twice": settings.segkit_ask_twice,
        "max_output_tokens": settings.segkit_max_output_tokens,
        "ask_duplicates": False,
    }
    chosen: dict[str, Any] = defaults | given
    if none:  # for models that refuse every temperature but their own
        chosen["temperature"] = None
    unknown = sorted(set(chosen) - set(Parameters.__dataclass_fields__))
    if unknown:
        raise SettingsError(f"unknown parameters: {', '.join(unknown)}")
    _check_ranges(chosen)
    _check_sample(chosen.get("extract_sample", ""))
    check_prices(settings.segkit_prices)
    return Parameters(
        **{
            **chosen,
            "category": one_line(category),
            "model": model,
            "endpoint": _endpoint(model, settings, needs_key),
        }
    )


def change_requests(run: Run, settings: Settings, **given: Any) -> Run:
    """Return a run whose requests are worded as `given`, where that differs from how they are worded now.

    `given` may hold `temperature` (`none` leaves it out), `response_format`, `max_output_tokens`, `endpoint` and
    `products_per_prompt`; what is None stays. Raises SettingsError for a value that cannot be used.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    none = _is_none(wanted)
    wanted = typed_parameters(wanted)
    wanted |= {"temperature": None} if none else {}
    _check_ranges(wanted)
    if "endpoint" in wanted:
        changed = settings.model_copy(update={"openai_base_url": str(wanted["endpoint"]).rstrip("/")})
        wanted["endpoint"] = _endpoint(run.parameters.model, changed, True)
    now = {**asdict(run.parameters), "products_per_prompt": run.most_products}
    changes = {name: value for name, value in wanted.items() if value != now[name]}
    return run.change_requests(changes) if changes else run


def _is_none(given: dict[str, Any]) -> bool:
    """Take a temperature of `none` out of what was given, and report whether there was one."""
    found = isinstance(given.get("temperature"), str) and given["temperature"].strip().lower() == "none"
    if found:
        del given["temperature"]
    return found


def _check_ranges(chosen: Mapping[str, Any]) -> None:
    for name, (least, most) in RANGES.items():
        value = chosen.get(name)
        if value is not None and not least <= value <= most:
            raise SettingsError(f"{name} is {value!r}", f"it lies between {least} and {most}")


def _check_sample(sample: str) -> None:
    if sample not in ("", "auto") and not re.fullmatch(r"[1-9][0-9]{0,9}", sample):
        raise SettingsError(f"extract_sample is {sample!r}", "it is a number of products, or `auto`")


def _endpoint(model: str, settings: Settings, needs_key: bool) -> str:
    if not re.fullmatch(r"[^\s\x00-\x1f]{1,200}", model):
        raise SettingsError(f"{model!r} is no model name")
    if model == "offline":
        return offline_endpoint()
    url = urlsplit(settings.openai_base_url)
    if not url.hostname or url.username or url.password or url.query:
        raise SettingsError(
            f"OPENAI_BASE_URL must be a plain address (host {url.hostname})",
            "keys go into OPENAI_API_KEY, not into the URL",
        )
    if needs_key:
        require_key(settings.openai_base_url, settings)
    return settings.openai_base_url
