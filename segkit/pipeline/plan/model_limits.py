"""Which settings fit a model: products in a prompt by its context, questions at once by the slots of its server."""

from __future__ import annotations

from segkit.core.prompts import load_prompts
from segkit.llm.completions import shape_for
from segkit.pipeline.parameters import choose_parameters
from segkit.pipeline.plan.estimate import DENSE
from segkit.settings import RANGES, Settings

# Characters of a product line, and of the categories that a prompt of the last stage shows.
_LINE, _CATEGORIES = 120, 25 * 150


def tokens_needed(products: int, model: str, settings: Settings) -> int:
    """Return the tokens that a prompt with so many products takes at most, with its answer."""
    parameters = choose_parameters("the products", settings, needs_key=False, model=model)
    prompts, shape = load_prompts(parameters.prompts), shape_for(model, parameters.endpoint)
    extract = len(prompts["extract_taxonomy"]) + products * _LINE
    refine = len(prompts["refine_assignments"]) + _CATEGORIES + products * (_LINE + 40)
    return max(
        round(extract / DENSE) + shape.output_limit("extract_taxonomy", parameters, products),
        round(refine / DENSE) + shape.output_limit("refine_assignments", parameters, products),
    )


def fitting_options(
    model: str, context: int, most_output: int | None, slots: int | None, settings: Settings
) -> tuple[bool, str]:
    """Report whether the settings fit a context of so many tokens, and the options that do."""
    wanted = max(settings.segmentation_products_per_prompt, settings.segmentation_products_per_refinement)
    fitting = _most_products(model, context, most_output, wanted, settings)
    if not fitting:
        return False, f"a context of {context:,} tokens is too short for one product: give the server a longer one"
    options = []
    if fitting < wanted:
        options = [f"--products-per-prompt {fitting}", f"--products-per-refinement {fitting}"]
    if slots and slots != settings.segkit_concurrency:
        options.append(f"--concurrency {slots}")
    need = f"{wanted} products a prompt need about {tokens_needed(wanted, model, settings):,} tokens"
    if not options:
        return True, f"the settings fit: {need}"
    return fitting >= wanted, f"{need}, the context has {context:,}: {' '.join(options)}"


def _most_products(model: str, context: int, most_output: int | None, wanted: int, settings: Settings) -> int:
    """Find the largest number of products up to `wanted` that fits."""
    parameters = choose_parameters("the products", settings, needs_key=False, model=model)
    shape = shape_for(model, parameters.endpoint)
    for products in range(min(wanted, RANGES["products_per_prompt"][1]), 0, -1):
        answer = shape.output_limit("extract_taxonomy", parameters, products)
        if tokens_needed(products, model, settings) <= context and answer <= (most_output or answer):
            return products
    return 0
