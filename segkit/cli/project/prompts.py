"""`segkit prompts`: prompt sets that are listed, copied, compared and checked."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segkit.cli.evaluation.options import LabelColumn, LabelFile
from segkit.cli.options import PROJECT, Json, RunName, RunOptions, RunsDir, Yes
from segkit.cli.terminal import CommandGroup, columns_of, new_console, print_table, write_json
from segkit.errors import PromptError

if TYPE_CHECKING:
    from segkit.core.prompt_sets import PromptSet
    from segkit.runs.run import Run

app = typer.Typer()
prompts = typer.Typer(
    cls=CommandGroup,
    help="List, copy, compare, check and propose prompt sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(prompts, name="prompts", rich_help_panel=PROJECT)

_SETS = ("set", "content", "copied_from", "files", "runs", "note")
_RUNS = ("run", "set", "content", "state", "products", "categories", "cost_usd", "note")
_STYLES = {"same": "dim", "removed": "red", "added": "green"}
_MARKS = {"same": ("", ""), "removed": ("[-", "-]"), "added": ("{+", "+}")}


@prompts.command("list")
def prompts_list(runs_dir: RunsDir = None, as_json: Json = False) -> None:
    """List the prompt sets, where each comes from, and what each run with them came to.

    Equal content has equal digits, whatever the name; `*` marks a run whose texts differ from those of the package.
    """
    from segkit.core.prompt_sets import prompt_sets
    from segkit.settings import load_settings

    found = prompt_sets()
    runs = _used(found.values(), runs_dir or load_settings().storage_root)
    sets = [
        {
            "set": each.name,
            "content": each.content,
            "copied_from": each.base or None,
            "files": len(each.files),
            "runs": sum(run["content"] == each.content for run in runs),
            "note": each.note or None,
        }
        for each in found.values()
    ]
    if as_json:
        write_json({"sets": sets, "runs": runs})
        return
    print_table(columns_of(sets, _SETS))
    if runs:
        new_console().print("\nruns", style="bold")
        print_table(columns_of(runs, _RUNS))


def _used(sets: Iterable[PromptSet], folder: Path) -> list[dict[str, Any]]:
    """Return a row a run: the set it names, the content it really used (where a set has it), and what came of it."""
    from segkit.core.prompts import prompt_hash
    from segkit.runs.run import open_run, read_runs

    contents = {each.content: {k: prompt_hash(t) for k, t in each.texts().items()} for each in sets}
    rows = []
    for row in read_runs(folder):
        hashes = open_run(row["id"], folder).document["prompts"]
        # A run keeps the prompts of its stages only.
        same = [content for content, texts in contents.items() if hashes.items() <= texts.items()]
        rows.append({"run": row["id"], "set": row["prompts"], "content": same[0] if same else None, **_figures(row)})
    return rows


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("state", "products", "categories", "cost_usd", "note")}


@prompts.command("copy")
def prompts_copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The set to copy, such as v1.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="The name of the copy, such as v2.")],
    note: Annotated[str, typer.Option(help="What is to be different in it; `segkit prompts list` shows it.")] = "",
) -> None:
    """Copy a prompt set into ./prompts, to be edited and used with --prompts.

    Files that you do not edit can be deleted: they come from the set that was copied.

    Example: segkit prompts copy v0 v2
    """
    from segkit.core.prompt_sets import prompt_sets, set_note
    from segkit.core.prompts import PLACEHOLDERS, check_set_name, find_prompt, load_prompts, prompt_file, set_file

    load_prompts(source)  # a set that cannot be used is not copied
    check_set_name(target)
    if existing := prompt_sets().get(target):
        folder = next(iter(existing.files.values())).parent
        raise PromptError(f"prompt set {target!r} exists, in {folder}", "choose another name")
    Path("prompts").mkdir(exist_ok=True)
    for key in PLACEHOLDERS:
        copy = Path("prompts") / prompt_file(key, target)
        shutil.copyfile(find_prompt(key, source), copy)
        typer.echo(str(copy))
    (Path("prompts") / set_file(target)).write_text(set_note(source, note), encoding="utf-8")
    typer.echo(f"next: edit them, then segkit prompts check {target}, and segkit run … --prompts {target}")


@prompts.command("diff")
def prompts_diff(
    first: Annotated[str, typer.Argument(metavar="FROM", help="A set, or a run (its id, or `latest`).")],
    second: Annotated[str, typer.Argument(metavar="TO", help="A set, or a run.")],
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Show in which words two prompt sets differ: [-removed-] and {+added+}.

    Example: segkit prompts diff v0 v1
    """
    from rich.text import Text

    from segkit.core.prompt_sets import abridged, word_diff
    from segkit.display import terminal_text

    before, after = _texts(first, runs_dir), _texts(second, runs_dir)
    changed = {
        key: word_diff(before[key], after[key]) for key in before if before[key] != after.get(key, before[key])
    }
    if as_json:
        parts = {key: [{"kind": kind, "text": text} for kind, text in diff] for key, diff in changed.items()}
        write_json({"first": first, "second": second, "prompts": parts})
        return
    console = new_console()
    for key, diff in changed.items():
        console.print(key, style="bold")
        for kind, text in abridged(diff):
            shown = "\n".join(terminal_text(line) for line in text.split("\n"))
            console.print(Text(shown.join(_MARKS[kind]), style=_STYLES[kind]), end="")
        console.print()
    if not changed:
        console.print(f"{first} and {second} are the same, word for word")


def _texts(name: str, runs_dir: Path | None) -> dict[str, str]:
    """Return the prompts of a set, or those that a run has archived."""
    from segkit.core.prompt_sets import prompt_sets

    sets = prompt_sets()
    if name in sets:
        return sets[name].texts()
    if name.startswith(("latest", "RUN_")):
        return _run(name, runs_dir).prompts
    raise PromptError(f"there is no prompt set {name!r}", f"sets are {', '.join(sets)}; a run is named by its id")


def _run(name: str, runs_dir: Path | None) -> Run:
    from segkit.cli.options import opened_run

    return opened_run(name, runs_dir)


@prompts.command("check")
def prompts_check(
    name: Annotated[str, typer.Argument(metavar="SET", help="The set to check, such as v1.")] = "v0",
    products: Annotated[str, typer.Option(help="A file with products to fill in, or `sample`.")] = "sample",
    category: Annotated[str, typer.Option("--category", "-c", help="What the products are.")] = "Coffee Makers",
    count: Annotated[int, typer.Option("--n", min=1, max=1000, help="How many products to fill in.")] = 40,
    as_json: Json = False,
) -> None:
    """Fill in every prompt of a set, and list its tokens and what is wrong with it; exit code 1 if anything is.

    Nothing is asked. Unknown and missing placeholders are named with their line, and so are lists that do not begin
    on a line of their own, and lines that begin with `Scope:` in several prompts but differ.

    Example: segkit prompts check v1
    """
    from segkit.core.catalogue.options import CatalogueOptions
    from segkit.core.prompt_sets import prompt_sets
    from segkit.pipeline.experiments.prompt_check import check_set
    from segkit.pipeline.prepare import open_catalogue

    sets = prompt_sets()
    if name not in sets:
        raise PromptError(f"there is no prompt set {name!r}", f"sets are {', '.join(sets)}")
    titles = open_catalogue(products, CatalogueOptions()).products["title"].head(count).tolist()
    checks = check_set(sets[name], titles, category)
    rows = [
        {
            "prompt": check.key,
            "from": name if check.own else sets[name].base,
            "tokens": f"{check.tokens[0]:,}-{check.tokens[1]:,}" if check.tokens[1] else None,
            "faults": len(check.faults),
        }
        for check in checks
    ]
    if as_json:
        write_json(
            [{**row, "tokens": check.tokens, "faults": check.faults} for row, check in zip(rows, checks, strict=True)]
        )
    else:
        print_table(columns_of(rows, ("prompt", "from", "tokens", "faults")))
        for fault in (fault for check in checks for fault in check.faults):
            typer.echo(fault)
    raise typer.Exit(1 if any(check.faults for check in checks) else 0)


@prompts.command("propose")
def prompts_propose(
    name: RunName = "latest",
    target: Annotated[str, typer.Option("--as", metavar="SET", help="The name of the proposed set.")] = "v2",
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model that is asked.", show_default="that of the run")
    ] = "",
    labels: LabelFile = None,
    label_column: LabelColumn = "",
    edits: Annotated[
        Path | None, typer.Option(help="What people changed of the result: a CSV or Excel file.")
    ] = None,
    max_cost_usd: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="The most that the call may cost.")
    ] = None,
    yes: Yes = False,
    runs_dir: RunsDir = None,
    as_json: Json = False,
) -> None:
    """Ask a model once for better prompts, from what a run got wrong; they are written as a new set with a note.

    It reads confusions with labels, products that are unstable between repeats, and edits of people. Whether the
    proposal is better, you decide: run it, and `segkit compare`.

    Example: segkit prompts propose latest --as v2 --label-column segment_label --model gpt-4o
    """
    from segkit.errors import StoppedError
    from segkit.pipeline.experiments.proposals import evidence_of, propose, require_proposer
    from segkit.settings import load_settings

    settings = RunOptions(max_cost_usd=max_cost_usd).applied(load_settings())
    run = _run(name, runs_dir)
    require_proposer(run, target, settings, model)
    evidence = evidence_of(run, labels, label_column, _table(edits) if edits else None)
    if sys.stdin.isatty() and not yes and not as_json:
        for line in evidence:
            typer.echo(line, err=True)
        where = f"{model or run.parameters.model} at {settings.openai_base_url}"
        if not typer.confirm(f"Send these {len(evidence)} lines and the prompts to {where}, in one call?", err=True):
            raise StoppedError("nothing was sent")
    made = propose(run, target, evidence, settings, model)
    if as_json:
        write_json(
            {"set": target, "files": made.files, "note": made.note, "log": str(made.log), "evidence": evidence}
        )
        return
    for path in made.files:
        typer.echo(str(path))
    typer.echo(f"note: {made.note}\nlog: {made.log}")
    typer.echo(f"next: segkit prompts diff {run.parameters.prompts} {target}, then run it and compare")


def _table(path: Path) -> Any:
    import pandas as pd

    from segkit.errors import ProductsError

    try:
        return pd.read_excel(path) if path.suffix == ".xlsx" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise ProductsError(f"{path} cannot be read: {error}", "give a CSV or Excel file") from None
