"""A proposal of better prompts: one question that reads what a run got wrong; a person decides by comparing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.core.models import CheckedAnswer, Fault, Parameters, Prompt, Question
from segkit.core.prompt_sets import prompt_sets, set_note
from segkit.core.prompts import check_set_name, faults_of, prompt_file, set_file
from segkit.core.text import one_line
from segkit.errors import PromptError, RunError, SettingsError
from segkit.evaluation.agreement import repeats_of
from segkit.evaluation.evaluate import evaluate
from segkit.evaluation.stability import stability_of
from segkit.llm.ask import ask_all
from segkit.pipeline.parameters import check_endpoint, choose_parameters
from segkit.runs.create import create_run, new_run_id
from segkit.runs.run import Run
from segkit.settings import Settings
from segkit.storage.disk import write_atomic

STAGE = "propose_prompts"
Checked = CheckedAnswer[dict[str, Any]]
_LISTED, _MOST_TOKENS = 15, 16_000
_PROMPT = """\
You improve the prompts of a program that sorts the products of a shop category into market segments. Below are its
prompts, and what a run with them got wrong. Propose the smallest change of wording that would avoid these mistakes
and others of their kind: state rules, and name no single product. Every placeholder such as $products stays on the
line where it is, and so does the form of the answer that a prompt asks for. Leave out prompts that need no change.

Answer with one JSON object and nothing else:
{{"prompts": [{{"name": "<name of a prompt>", "text": "<its whole new text>"}}],
 "note": "<one sentence: what is different, and why>"}}

The product category: {category}

# What the run got wrong
{evidence}

# The prompts
{prompts}
"""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The files of a proposed set, the note of the model, and the log of the interaction."""

    files: list[Path]
    note: str
    log: Path


def evidence_of(
    run: Run,
    labels: str | Path | None = None,
    label_column: str = "",
    edits: pd.DataFrame | None = None,
) -> list[str]:
    """Return what is known against a run, a line each: confusions with labels, unstable products, people's edits.

    Raises RunError where there is none.
    """
    lines: list[str] = []
    if labels is not None or label_column:
        found = evaluate(run, labels, label_column=label_column, runs_dir=run.folder.parent)
        for row in found.confusions.head(_LISTED).itertuples():
            lines.append(f"- {row.products} products of {row.label!r} stand in {row.category!r}")
        for row in found.misses.head(_LISTED).itertuples():
            lines.append(
                f"- {one_line(str(row.title), 200)!r} stands in {row.category!r} and belongs to {row.label!r}"
            )
    if repeats := repeats_of(run):
        unstable = stability_of([run, *repeats]).products.query("agreement < 1").head(_LISTED)
        for row in unstable.itertuples():
            where = f"{row.agreement:.0%} of {len(repeats) + 1} repeats place it in {row.category!r}"
            lines.append(f"- {one_line(str(row.title), 200)!r} is unstable: {where}")
    for record in [] if edits is None else edits.head(4 * _LISTED).dropna(axis=1, how="all").to_dict("records"):
        told = ", ".join(f"{name} {one_line(str(value), 200)!r}" for name, value in record.items() if pd.notna(value))
        lines.append(f"- a person edited the result: {told}")
    if not lines:
        raise RunError(
            f"nothing is known against {run.id}",
            f"give labels (--label-column COLUMN), edits (--edits FILE), or repeat it: segkit stability {run.id}",
        )
    return lines


def propose(run: Run, target: str, evidence: Sequence[str], settings: Settings, model: str = "") -> Proposal:
    """Ask a model once for better prompts, and write them as the set `target` with a note.

    The interaction is logged, cached and capped as any other, in a folder of its own below `SEGKIT_HOME/proposals`:
    the run stays as it is. Raises SettingsError for the offline model, PromptError where the set exists or no
    proposal came.
    """
    chosen = require_proposer(run, target, settings, model)
    local = settings.model_copy(update={"storage_backend": "local"})
    source = {"source": f"a proposal for {run.id}", "where": {}, "untitled": 0}
    asking = create_run(
        settings.segkit_home / "proposals", new_run_id(), chosen, run.products.head(0), run.prompts, source, local
    )
    asking.stage_folder(STAGE).mkdir(exist_ok=True)
    (answer, *_) = ask_all(asking, STAGE, [_question(run, evidence)], local)
    logs = sorted(asking.stage_folder(STAGE).glob("*.json*"))
    if answer.checked is None or not answer.checked.valid:
        raise PromptError(f"no usable proposal came: {answer.reason}", f"see {asking.stage_folder(STAGE)}")
    return _written(run, target, answer.checked.value, logs[-1])


def require_proposer(run: Run, target: str, settings: Settings, model: str = "") -> Parameters:
    """Return the parameters with which a proposal is asked for.

    Raises SettingsError for the offline model, which writes no prompts, for a key that is missing and for a cap
    without a price; PromptError where the set is there already or its name cannot be used.
    """
    check_set_name(target)
    chosen = choose_parameters(run.parameters.category, settings, model=model or run.parameters.model)
    if chosen.model == "offline":
        raise SettingsError("the offline model cannot write prompts: this needs a real one", "--model gpt-4o")
    if target in prompt_sets():
        raise PromptError(f"prompt set {target!r} exists", "choose another name with --as")
    check_endpoint(chosen, settings)
    most = chosen.max_output_tokens or _MOST_TOKENS
    return replace(chosen, max_output_tokens=most, prompts=run.parameters.prompts)


def _question(run: Run, evidence: Sequence[str]) -> Question[dict[str, Any]]:
    texts = run.prompts
    shown = "\n\n".join(f"## {key}\n{text}" for key, text in texts.items())
    text = _PROMPT.format(category=run.parameters.category, evidence="\n".join(evidence), prompts=shown)
    schema = _schema(list(texts))

    def check(content: str, cache_key: str, before: Checked | None) -> Checked:
        return _checked(content, texts)

    def again(checked: Checked, content: str) -> Prompt:
        errors = "\n".join(f"- {fault.text}" for fault in checked.faults)
        return Prompt(f"{text}\n# Your last answer could not be used\n{errors}\n", schema)

    context = {"batch_size": 0, "expected_ids": [], "product_ids": [], "batch_products": [], "product_category": ""}
    return Question(STAGE, 1, Prompt(text, schema), context, check, again, lambda checked, trouble: [])


def _schema(keys: Sequence[str]) -> dict[str, Any]:
    fields = {"name": {"type": "string", "enum": list(keys)}, "text": {"type": "string"}}
    prompt = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    answer = {"prompts": {"type": "array", "items": prompt, "maxItems": len(keys)}, "note": {"type": "string"}}
    return {"type": "object", "properties": answer, "required": list(answer), "additionalProperties": False}


def _checked(content: str, texts: Mapping[str, str]) -> Checked:
    start, end = content.find("{"), content.rfind("}") + 1
    try:
        answer = orjson.loads(content[start:end])
        proposed = {str(each["name"]): str(each["text"]) for each in answer["prompts"]}
        note = one_line(str(answer["note"]), 500)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return CheckedAnswer({}, (Fault("format", "the answer is no JSON object with `prompts` and `note`"),))
    faults = [Fault("validation", f"there is no prompt {key!r}") for key in proposed if key not in texts]
    changed = {
        key: str(text) for key, text in proposed.items() if key in texts and str(text).strip() != texts[key].strip()
    }
    for key, text in changed.items():
        faults += [Fault("validation", fault.message) for fault in faults_of(Path(key), text, key)]
    if not changed and not faults:
        faults.append(Fault("completeness", "no prompt is changed"))
    return CheckedAnswer({"prompts": changed, "note": note}, tuple(faults))


def _written(run: Run, target: str, proposed: Mapping[str, Any], log: Path) -> Proposal:
    folder = Path("prompts")
    folder.mkdir(exist_ok=True)
    files = [folder / prompt_file(key, target) for key in proposed["prompts"]]
    for path, text in zip(files, proposed["prompts"].values(), strict=True):
        write_atomic(path, (text.strip() + "\n").encode())
    note = set_note(run.parameters.prompts, proposed["note"], proposed_for=run.id, interaction=str(log))
    write_atomic(folder / set_file(target), note.encode())
    return Proposal(files, proposed["note"], log)
