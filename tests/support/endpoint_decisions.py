"""Decisions of the fake endpoint: typed choice questions, checked as the OpenAI SDK states them, and answered.

Like `endpoint_answers` it knows nothing of segkit: the right choice is that of the chat answer to the same lines.
"""

import json
from typing import Any

from endpoint_answers import ASSIGN, ID_LINE, Question

MODEL = "gpt-6-luna"
MOST_QUESTIONS, MOST_CHOICES = 400, 255
FIELDS = {"input", "model", "questions", "prompt_cache_key", "prompt_cache_options", "safety_identifier"}


def is_decision(body: dict[str, Any]) -> bool:
    """Whether a body asks for decisions."""
    return "questions" in body


def read_decision(body: dict[str, Any]) -> Question:
    """Read a request for decisions; the products to place are those that its questions are named after."""
    text = input_text(body.get("input"))
    lines: dict[str, str] = {}
    for local_id, line in ID_LINE.findall(text):
        lines.setdefault(local_id, line)
    ids = [question.get("name") for question in as_list(body.get("questions")) if isinstance(question, dict)]
    known = [local_id for local_id in ids if isinstance(local_id, str)]
    return Question(ASSIGN, text, str(body.get("model", "")), lines, known)


def input_text(given: Any) -> str:
    """The texts of an input: a text, or messages of texts and of parts with a text."""
    if isinstance(given, str):
        return given
    pieces: list[str] = []
    for message in as_list(given):
        content = message.get("content") if isinstance(message, dict) else None
        parts = [{"text": content}] if isinstance(content, str) else as_list(content)
        pieces += [part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return "\n".join(pieces)


def refused_because(body: dict[str, Any]) -> str:
    """Why a request for decisions is refused, or nothing."""
    questions = as_list(body.get("questions"))
    if unknown := sorted(body.keys() - FIELDS):
        return f"Unknown parameter: '{unknown[0]}'."
    if body.get("model") != MODEL:
        return f"The model {body.get('model')!r} is not supported for decisions."
    if not 1 <= len(questions) <= MOST_QUESTIONS:
        return f"'questions' has {len(questions)} items, 1 to {MOST_QUESTIONS} are allowed."
    return next((why for question in questions if (why := question_fault(question))), "")


def question_fault(question: Any) -> str:
    """What is wrong with one question, or nothing."""
    if not isinstance(question, dict) or question.get("type") != "choice" or not question.get("instructions"):
        return "A question has a type (choice) and instructions."
    values = [choice.get("value") for choice in as_list(question.get("choices"))]
    if not 2 <= len(values) <= MOST_CHOICES:
        return f"A question has {len(values)} choices, 2 to {MOST_CHOICES} are allowed."
    return "" if len({repr(value) for value in values}) == len(values) else "Each choice must be unique."


def decision(question: Question, request: dict[str, Any], content: Any, refusal: Any = None) -> dict[str, Any]:
    """The decision that says what a chat answer to the same prompt says in its `content`, or refusals alone."""
    names = [each.get("name") for each in request["questions"]]
    answers = [{"type": "refusal", "name": name} for name in names]
    if not refusal:
        values = [choice["value"] for choice in request["questions"][0]["choices"]]
        answers = [choice_answer(name, stated, values) for name, stated in placed(content)]
    text = json.dumps(answers)
    return {"answers": answers, "model": question.model, "usage": usage(len(question.text), len(text))}


def choice_answer(name: str, stated: dict[str, Any], values: list[Any]) -> dict[str, Any]:
    """The answer to one question: the confidence for the choice, and the rest of 1 for the others alike."""
    chosen, sure = stated["category"], 0.9
    others = [value for value in values if value != chosen]
    probabilities = [{"value": chosen, "probability": sure}]
    probabilities += [{"value": value, "probability": (1 - sure) / len(others)} for value in others]
    return {
        "type": "choice",
        "name": name,
        "choice": chosen,
        "confidence": sure,
        "probabilities": probabilities,
    }


def placed(content: Any) -> list[tuple[str, dict[str, Any]]]:
    """The assignments in the content of a chat answer, if it has any, also those of a key that stands twice."""
    try:
        pairs = json.loads(content, object_pairs_hook=list) if isinstance(content, str) else []
    except ValueError:
        return []
    assignments = dict(pairs).get("assignments") if isinstance(pairs, list) else None
    return [(name, dict(stated)) for name, stated in assignments or []]


def usage(input_characters: int, output_characters: int) -> dict[str, Any]:
    """Tokens at four characters each, in the form of the SDK; nothing is ever cached."""
    asked, answered = -(-input_characters // 4), -(-output_characters // 40)
    return {
        "input_tokens": asked,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": answered,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked + answered,
    }


def as_list(value: Any) -> list[Any]:
    """A list as it is; nothing for what is none."""
    return value if isinstance(value, list) else []
