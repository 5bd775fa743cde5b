"""The parameters of a run: chosen from what was given and from the settings, checked before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from segkit.core.models import Parameters
from segkit.core.prompts import load_prompts, prompt_keys, require_placeholders
from segkit.core.text import one_line
from segkit.errors import SettingsError
from segkit.llm.batches.records import FOLDER as BATCHES
from segkit.llm.cluster.scheduler import check_executor
from segkit.llm.prices import check_prices, require_price
from segkit.llm.transports.choose import require_key
from segkit.llm.transports.decisions import MOST_QUESTIONS, require_model
from segkit.llm.transports.offline import offline_endpoint
from segkit.pipeline.values import typed_parameters
from segkit.runs.run import Run
from segkit.settings import RANGES, Settings

#: The most products in a prompt that a chat model puts into a taxonomy.
MOST_ASSIGNED = 100


def check_endpoint(parameters: Parameters, settings: Settings, caps: Mapping[str, Any] | None = None) -> None:
    """Raise SettingsError, before anything is made, for a key that is missing and for a cap without a price.

    The offline model takes no batches, and batches take no decisions.
    """
    require_key(parameters.endpoint, settings)
    check_executor(settings.segkit_executor)
    if settings.segkit_batch or (caps or {}).get("batch"):
        if parameters.model == "offline":
            raise SettingsError("the offline model takes no batches: it answers at once", "leave out --batch")
        if parameters.decisions:
            what = "batches take no requests for decisions, only chat completions"
            raise SettingsError(what, "leave out --batch, or use --no-decisions")
    if caps and caps.get("max_cost_usd") is not None:
        settings = settings.model_copy(update={"segkit_max_cost_usd": caps["max_cost_usd"]})
    require_price(parameters.model, parameters.endpoint, settings)


def run_prompts(parameters: Parameters) -> dict[str, str]:
    """Load the prompts of a run; raise PromptError for a parameter that would fill nothing in them."""
    prompts = load_prompts(parameters.prompts, keys=prompt_keys(parameters))
    require_placeholders(prompts, parameters)
    return prompts


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
    _check_target(chosen.get("target_categories", ""))
    _check_cascade(chosen)
    _check_decisions(chosen, model)
    check_prices(settings.segkit_prices)
    return Parameters(
        **{
            **chosen,
            "category": one_line(category),
            "model": model,
            "language": one_line(chosen.get("language", ""), 60),
            "endpoint": _endpoint(model, settings, needs_key),
        }
    )


def change_requests(run: Run, settings: Settings, **given: Any) -> Run:
    """Return a run with the parameters `given` for what it has not asked yet, where they differ from its own.

    `given` may hold `temperature` (`none` leaves it out), `response_format`, `max_output_tokens`, `endpoint`,
    `stream`, `products_per_prompt`, `cascade` and `decisions`; what is None stays. Raises SettingsError for a value
    that cannot be used.
    """
    wanted = {name: value for name, value in given.items() if value is not None}
    none = _is_none(wanted)
    wanted = typed_parameters(wanted)
    wanted |= {"temperature": None} if none else {}
    _check_ranges(wanted)
    if "endpoint" in wanted:
        changed = settings.model_copy(update={"openai_base_url": str(wanted["endpoint"]).rstrip("/")})
        wanted["endpoint"] = _endpoint(run.parameters.model, changed, True)
    _check_cascade({**asdict(run.parameters), **wanted})
    if wanted.get("decisions"):
        _refuse_after_batches(run)
        _check_decisions({**asdict(run.parameters), **wanted}, run.parameters.model)
    now = {**asdict(run.parameters), "products_per_prompt": run.most_products, "stream": run.stream}
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


def _check_target(target: str) -> None:
    if not target:
        return
    found = re.fullmatch(r"([1-9][0-9]{0,3})(?:-([1-9][0-9]{0,3}))?", target)
    if not found or int(found[1]) > int(found[2] or found[1]):
        raise SettingsError(f"target_categories is {target!r}", "it is a number of categories, or two: 8-15")


def _check_cascade(chosen: Mapping[str, Any]) -> None:
    """Raise SettingsError for a promise that no one wants, and where no products are put into a taxonomy."""
    promise = chosen.get("cascade") or 0
    if promise and not 0.5 <= promise < 1:
        raise SettingsError(f"cascade is {promise:g}", "it is an agreement from 0.5 to 0.999, such as 0.97; 0 is off")
    if promise and not (chosen.get("extract_sample") or chosen.get("taxonomy")):
        what = "--cascade needs a taxonomy to put products into"
        raise SettingsError(what, "add --extract-sample auto, or use `segkit assign`")


def _check_decisions(chosen: Mapping[str, Any], model: str) -> None:
    """Raise SettingsError for what a decision endpoint does not take, and for prompts that only it is sent."""
    size = chosen.get("products_per_assignment") or 0
    if not chosen.get("decisions"):
        if size > MOST_ASSIGNED:
            what = f"products_per_assignment is {size}, and a prompt has at most {MOST_ASSIGNED} products"
            raise SettingsError(what, f"--batch-size {MOST_ASSIGNED}, or --decisions, which takes {MOST_QUESTIONS}")
        return
    if not (chosen.get("extract_sample") or chosen.get("taxonomy")):
        what = "--decisions needs a taxonomy to put products into"
        raise SettingsError(what, "add --extract-sample auto, or use `segkit assign`")
    require_model(model)


def _refuse_after_batches(run: Run) -> None:
    if (run.folder / BATCHES).is_dir():
        what = f"{run.id} has sent batches, which take no requests for decisions"
        raise SettingsError(what, f"segkit resume {run.id}")


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
        require_key(settings.openai_base_url, settings, model)
    return settings.openai_base_url
