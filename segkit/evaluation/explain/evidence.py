"""What a log holds about one product or category: its line of the prompt, and the items of the answer about it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from segkit.core.json_text import MalformedError, find_object
from segkit.core.text import fold_name
from segkit.runs import interactions
from segkit.runs.run import Run

_KEYS = ("assignments", "members", "reassignments", "categories")
_LINE = re.compile(r"^\[(?P<id>[A-Z]+_[0-9]+)\] (?P<text>.*)$", re.MULTILINE)


def read_log(run: Run, file_path: str) -> dict[str, Any]:
    """Return the log of an interaction, named as the view `interactions` names it; empty if there is none to read."""
    name = file_path.removeprefix(f"{run.id}/")
    try:
        return interactions.read(run.file(name)).log if name else {}
    except (OSError, interactions.DamagedError):
        return {}


def id_of_product(log: Mapping[str, Any], product_id: int) -> str:
    """Return the id that a product has in the prompt of a log, such as P_3; empty if it is not in it."""
    context = log.get("context", {})
    ids = dict(zip(context.get("product_ids", []), context.get("expected_ids", []), strict=False))
    return str(ids.get(product_id, ""))


def id_of_category(log: Mapping[str, Any], name: str) -> str:
    """Return the id that a category has in the prompt of a merge, such as B_2; empty if it is not in it."""
    context = log.get("context", {})
    pairs = zip(context.get("categories", []), context.get("expected_ids", []), strict=False)
    return next((str(local) for given, local in pairs if fold_name(given) == fold_name(name)), "")


def prompt_line(log: Mapping[str, Any], local_id: str) -> str:
    """Return the line of a prompt that begins with an id in brackets; empty if there is none."""
    lines = _LINE.finditer(str(log.get("prompt", "")))
    return next((line.group() for line in lines if line["id"] == local_id), "")


def answer_items(log: Mapping[str, Any], local_id: str) -> dict[str, Any]:
    """Return what an answer states about an id: `stated`, and `category` where the answer itself defines that."""
    try:
        answer = find_object(str(log.get("response") or ""), _KEYS).value
    except MalformedError:
        return {}
    stated = _stated(answer, local_id)
    if stated is None:
        return {}
    named = stated.get("category") if isinstance(stated, Mapping) else stated
    categories = answer.get("categories")
    defined = [each for each in categories if _id(each) == named] if isinstance(categories, list) else []
    return {"stated": stated, **({"category": defined[0]} if defined else {})}


def answer_line(items: Mapping[str, Any], local_id: str) -> str:
    """Return what `answer_items` found as one line of JSON; empty if it found nothing."""
    if not items:
        return ""
    stated, defined = items["stated"], items.get("category")
    first = stated if isinstance(stated, Mapping) and "product" in stated else {local_id: stated}
    return " ".join(json.dumps(each, ensure_ascii=False, default=str) for each in (first, defined) if each)


def _stated(answer: Mapping[str, Any], local_id: str) -> Any:
    for key in ("assignments", "members"):
        if isinstance(answer.get(key), Mapping) and local_id in answer[key]:
            return answer[key][local_id]
    moves = answer.get("reassignments")
    found = [move for move in moves if isinstance(move, Mapping) and move.get("product") == local_id] if moves else []
    return found[0] if found else None


def _id(category: Any) -> Any:
    return category.get("id") if isinstance(category, Mapping) else None
