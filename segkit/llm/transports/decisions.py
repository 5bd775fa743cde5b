"""The wire of decision endpoints: a typed choice question for each product out, a probability for each choice in.

The endpoint is `/v1/decisions` of the OpenAI SDK. Its answer is read as the answer of a chat model to the same prompt
would be, so that whatever checks, keeps or replays answers knows one form only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from segkit.core.models import Parameters, Prompt
from segkit.core.text import quantity
from segkit.errors import SettingsError

#: What follows the address of an endpoint.
CHAT, DECISIONS = "/chat/completions", "/decisions"
#: What the endpoint takes: models, questions in a request, and categories beside NONE_FITS and OUT_OF_SCOPE.
MODELS = ("gpt-6-luna",)
MOST_QUESTIONS, MOST_CATEGORIES = 400, 253


def is_decided(stage: str, parameters: Parameters) -> bool:
    """Report whether the questions of a stage go to the decision endpoint."""
    return parameters.decisions and stage == "assign_products"


def path_of(stage: str, parameters: Parameters) -> str:
    """Return the path of the endpoint that the questions of a stage go to."""
    return DECISIONS if is_decided(stage, parameters) else CHAT


def require_model(model: str) -> None:
    """Raise SettingsError for a model that answers no decisions."""
    if model not in MODELS:
        what = f"--decisions asks {' or '.join(MODELS)} only, and the model is {model}"
        raise SettingsError(what, f"add --model {MODELS[0]}, or use --no-decisions")


def too_many_categories(count: int) -> str:
    """Return a sentence where a taxonomy has more categories than a question can have choices; else nothing."""
    if count <= MOST_CATEGORIES:
        return ""
    return f"--decisions takes at most {MOST_CATEGORIES} categories, and the taxonomy has {count:,}"


def require_categories(count: int) -> None:
    """Raise SettingsError for more categories than a question can have choices."""
    if what := too_many_categories(count):
        raise SettingsError(what, "merge some, or use --no-decisions")


def decision_body(prompt: Prompt, messages: Sequence[Mapping[str, str]], model: str) -> dict[str, Any]:
    """Return the body of a request: the messages of an assign prompt, and a question a product of its schema."""
    return {"model": model, "input": list(messages), "questions": decision_questions(prompt.schema)}


def decision_questions(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the questions to the products of an assign schema, each with the categories of the schema as choices."""
    choices = [{"value": i} for i in schema["$defs"]["assignment"]["properties"]["category"]["enum"]]
    products = schema["properties"]["assignments"]["required"]
    return [
        {"type": "choice", "name": i, "instructions": f"Which subcategory does [{i}] belong to?", "choices": choices}
        for i in products
    ]


def read_decision(answers: Any) -> tuple[str, str, str]:
    """Read the answers of a decision: the text that a chat model would have answered with, the trouble and why.

    A question is found by its name, whatever the order; one that was refused, or whose answer has no name, is left
    out. The trouble is `malformed` without a list of answers, and `refused` where nothing but refusals came.
    """
    if not isinstance(answers, list):
        return "", "malformed", "the answers of the decision are not a list"
    refused = [answer for answer in answers if isinstance(answer, dict) and answer.get("type") == "refusal"]
    if refused and len(refused) == len(answers):
        return "", "refused", f"the model refused to answer {quantity(len(refused), 'question')}"
    # Not made of a dict: a name that stands twice is a fault that the check has to see.
    placed = ", ".join(f"{json.dumps(name)}: {json.dumps(stated)}" for name, stated in _placed(answers))
    return f'{{"assignments": {{{placed}}}}}', "", ""


def _placed(answers: Sequence[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return what each answer states, by the name of its question; what is not of its type is None."""
    for answer in answers:
        if isinstance(answer, dict) and isinstance(answer.get("name"), str) and answer.get("type") != "refusal":
            category, probabilities = answer.get("choice"), _probabilities(answer.get("probabilities"))
            category = category if isinstance(category, str) else None
            confidence = probabilities.get(category or "", answer.get("confidence"))
            confidence = confidence if isinstance(confidence, int | float) else None
            stated = {"category": category, "confidence": confidence, "probabilities": probabilities or None}
            yield answer["name"], stated


def _probabilities(given: Any) -> dict[str, float]:
    """Return probabilities by their choices; none where they are not a list of distinct choices with numbers."""
    try:
        pairs = [(each["value"], each["probability"]) for each in given]
    except (TypeError, KeyError):
        return {}
    is_sound = all(isinstance(value, str) and isinstance(share, int | float) for value, share in pairs)
    found = dict(pairs) if is_sound else {}
    return found if len(found) == len(pairs) else {}
