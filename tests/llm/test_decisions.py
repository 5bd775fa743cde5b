"""Decision endpoints: requests and answers are those of the OpenAI SDK, and are read as chat answers are."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from typing import Any

import openai
import pandas as pd
import pytest
from endpoint import Endpoint
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Decision
from openai.types.decision_create_params import DecisionCreateParams
from pydantic import TypeAdapter

from segkit.core.models import NONE_FITS, OUT_OF_SCOPE, Category, CheckedAnswer, Parameters, Question, Usage
from segkit.core.prompts import ASSIGNING, load_prompts
from segkit.core.taxonomy.assign import assign_questions
from segkit.llm.cache import cache_key
from segkit.llm.completions import messages_of, read_completion
from segkit.llm.transports.decisions import MODELS, MOST_CATEGORIES, MOST_QUESTIONS, decision_body

TAXONOMY = [Category("S_0", "Kettles", "For tea"), Category("S_1", "Whisks", "For cream")]
PARAMETERS = Parameters(
    "Kitchen Things", MODELS[0], 0.2, "", taxonomy="RUN", products_per_assignment=MOST_QUESTIONS, decisions=True
)


def question_of(titles: list[str], taxonomy: list[Category] | None = None, prompts: str = "v0") -> Question:
    texts = load_prompts(prompts, keys=ASSIGNING)
    products = pd.DataFrame({"product_id": range(len(titles)), "title": titles})
    (question,) = assign_questions(products, taxonomy or TAXONOMY, texts, PARAMETERS)
    return question


@cache
def of_a_kettle() -> Question:
    return question_of(["Red kettle"])


def body_of(question: Question) -> dict[str, Any]:
    return decision_body(question.prompt, messages_of(question.prompt.text), PARAMETERS.model)


def sent_with_sdk(endpoint: Endpoint, body: dict[str, Any]) -> Decision:
    """Ask with the SDK's own method, which returns its own type."""

    async def ask() -> Decision:
        async with openai.AsyncOpenAI(base_url=endpoint.url, api_key="sk-test", max_retries=0) as client:
            return await client.decisions.create(**body)

    return asyncio.run(ask())


def checked(question: Question, answers: Any) -> CheckedAnswer:
    completion = read_completion(json.dumps({"answers": answers}).encode())
    return question.check(completion.content, "key", None)


def choice(name: str, category: Any, **probabilities: float) -> dict[str, Any]:
    stated = [{"value": value, "probability": share} for value, share in probabilities.items()]
    return {"type": "choice", "name": name, "choice": category, "confidence": 0.5, "probabilities": stated}


def test_the_sdk_takes_the_request_and_its_answer_is_that_of_a_chat_model(endpoint: Endpoint) -> None:
    question = question_of(["Red kettle", "Odd blender", "An unrelated towel"])
    body = body_of(question)
    accepted = TypeAdapter(DecisionCreateParams).validate_python(body)
    for asked in accepted["questions"]:  # lazy in the SDK's types
        assert [each["value"] for each in asked["choices"]] == ["S_0", "S_1", NONE_FITS, OUT_OF_SCOPE]
    decision = sent_with_sdk(endpoint, body)
    Decision.model_validate_json(decision.model_dump_json())  # the client itself does not check
    completion = read_completion(decision.model_dump_json().encode())
    assert completion.model == MODELS[0]
    assert completion.usage == Usage(decision.usage.input_tokens, 0, decision.usage.output_tokens, 0, 0)
    found = question.check(completion.content, "key", None)
    assert found.valid
    assert not found.warnings
    named = dict(zip(question.context["batch_products"], question.context["expected_ids"], strict=True))
    ends = {title: found.value[local].category for title, local in named.items()}
    assert ends == {"Red kettle": "S_0", "Odd blender": NONE_FITS, "An unrelated towel": OUT_OF_SCOPE}
    placed = found.value[named["Red kettle"]]
    assert placed.confidence == placed.probabilities["S_0"] == 0.9
    assert sum(placed.probabilities.values()) == pytest.approx(1)


def test_the_largest_request_is_taken_and_a_larger_one_is_not(endpoint: Endpoint) -> None:
    """The limits that segkit keeps are those of the endpoint: 400 questions, 255 choices, one model."""
    many = [Category(f"S_{i}", f"Kind {i}", "Of its own") for i in range(MOST_CATEGORIES + 1)]
    largest = body_of(question_of([f"Thing {i}" for i in range(MOST_QUESTIONS)], many[:2]))
    assert len(sent_with_sdk(endpoint, largest).answers) == MOST_QUESTIONS
    (answer,) = sent_with_sdk(endpoint, body_of(question_of(["Thing"], many[:-1]))).answers
    assert len(answer.probabilities) == 255
    too_large = [
        body_of(question_of(["Thing"], many)),
        {**largest, "questions": [*largest["questions"], largest["questions"][0]]},
        {**largest, "model": "gpt-4o"},
    ]
    for body in too_large:
        with pytest.raises(openai.BadRequestError):
            sent_with_sdk(endpoint, body)


def test_what_stays_the_same_stands_first_and_the_cache_keeps_both_ways_apart() -> None:
    one, other = (question_of(titles, prompts="v1") for titles in (["Red kettle"], ["Blue whisk"]))
    first, second = body_of(one)["input"], body_of(other)["input"]
    assert [message["role"] for message in first] == ["system", "user"]
    assert first[0] == second[0]
    shared = first[1]["content"].split("[P_0]")[0]
    assert "[S_1] Whisks: For cream" in shared
    assert second[1]["content"].startswith(shared)
    chat = {"model": MODELS[0], "messages": messages_of(one.prompt.text)}
    assert len({cache_key("e", body) for body in (chat, body_of(one), body_of(other))}) == 3


@pytest.mark.parametrize(
    ("answers", "missing", "kind"),
    [
        ([choice("P_1", "S_1", S_1=1.0), choice("P_0", "S_0", S_0=1.0)], (), ""),
        ([choice("P_0", "S_0", S_0=1.0)], ("P_1",), "completeness"),
        ([choice("P_0", "S_0", S_0=1.0), {"type": "refusal", "name": "P_1"}], ("P_1",), "completeness"),
        ([choice("P_0", "S_0", S_0=1.0), {**choice("P_1", "S_1", S_1=1.0), "name": None}], ("P_1",), "completeness"),
        ([choice("P_0", "S_0", S_0=1.0), choice("P_1", "S_9", S_9=1.0)], ("P_1",), "validation"),
        ([choice("P_0", "S_0", S_0=1.0), choice("P_1", True, S_1=1.0)], ("P_1",), "validation"),
        (
            [choice("P_0", "S_0", S_0=1.0), {"type": "predicate", "name": "P_1", "probability": 1}],
            ("P_1",),
            "validation",
        ),
        (
            [choice("P_0", "S_0", S_0=1.0), choice("P_1", "S_0", S_0=1), choice("P_1", "S_1", S_1=1)],
            ("P_1",),
            "complet",
        ),
        ([choice("P_0", "S_0", S_0=1.0), choice("P_7", "S_0", S_0=1.0)], ("P_1",), "completeness"),
        ([3, None, choice("P_0", "S_0", S_0=1.0)], ("P_1",), "completeness"),
        ([], ("P_0", "P_1"), "completeness"),
    ],
)
def test_only_what_is_stated_by_name_counts(answers: list[Any], missing: tuple[str, ...], kind: str) -> None:
    found = checked(question_of(["Red kettle", "Blue whisk"]), answers)
    assert found.missing == missing
    assert not found.faults if not kind else any(fault.kind.startswith(kind) for fault in found.faults)


@pytest.mark.parametrize(
    ("probabilities", "why"),
    [
        ([{"value": "S_0", "probability": 0.9}, {"value": "S_1", "probability": 0.5}], "sum to 1.400"),
        ([{"value": "S_0", "probability": 0.5}], "sum to 0.500"),
        (
            [{"value": "S_0", "probability": 1.5}, {"value": "S_1", "probability": -0.5}],
            "not all numbers from 0 to 1",
        ),
        ([{"value": "S_0", "probability": True}], "not all numbers from 0 to 1"),
        ([{"value": "S_1", "probability": 1.0}], "leave out S_0"),
        ([{"value": "S_0", "probability": 0.9}, {"value": "S_9", "probability": 0.1}], "not of the prompt (S_9)"),
        ([{"value": "S_0", "probability": 0.5}] * 2, "not one number a choice"),
        ([{"value": True, "probability": 1.0}], "not one number a choice"),
        ([{"choice": "S_0"}], "not one number a choice"),
        ("high", "not one number a choice"),
        (None, "not one number a choice"),
    ],
)
def test_probabilities_that_are_none_are_unknown_and_the_choice_stays(probabilities: Any, why: str) -> None:
    answer = {**choice("P_0", "S_0"), "probabilities": probabilities}
    found = checked(question_of(["Red kettle"]), [answer])
    assert found.valid
    assert (found.value["P_0"].category, found.value["P_0"].confidence) == ("S_0", None)
    assert found.value["P_0"].probabilities is None
    assert why in found.warnings[-1]


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.floats()
    | st.integers()
    | st.sampled_from(["P_0", "S_0", "choice", "refusal", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["type", "name", "choice", "confidence", "probabilities", "value", "probability"]), inner
        )
    ),
    max_leaves=25,
)


@given(ANY_JSON)
def test_whatever_the_answers_are_nothing_is_raised(answers: Any) -> None:
    completion = read_completion(json.dumps({"answers": answers}).encode())
    found = of_a_kettle().check(completion.content, "key", None)
    assert found.valid or found.missing == ("P_0",)


@pytest.mark.parametrize(
    ("answers", "trouble"),
    [({"P_0": "S_0"}, "malformed"), (None, "malformed"), ([{"type": "refusal", "name": "P_0"}] * 2, "refused")],
)
def test_a_decision_without_an_answer_is_a_trouble(answers: Any, trouble: str) -> None:
    assert read_completion(json.dumps({"answers": answers}).encode()).trouble == trouble
