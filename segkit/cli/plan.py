"""What is said before anything is sent: the plan of a run, what its model costs, and consent."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping

import pandas as pd
import typer

from segkit.cli.options import RunOptions
from segkit.cli.terminal import new_console, print_table
from segkit.core.catalogue.gate import Catalogue
from segkit.core.catalogue.ids import given_ids
from segkit.core.catalogue.titles import lacks_titles, untitled
from segkit.core.models import Parameters
from segkit.core.text import quantity, shortened
from segkit.errors import ProductsError, RunError, StoppedError
from segkit.llm.prices import price_note
from segkit.llm.transports.models import remembered
from segkit.pipeline.extend import extend_run
from segkit.pipeline.plan.durations import Durations
from segkit.pipeline.plan.estimate import plan_of, readable_plan, sentence
from segkit.pipeline.taxonomy.start import assign_run
from segkit.runs.mirror import discard
from segkit.runs.run import Run
from segkit.settings import Settings


def report_price(model: str, endpoint: str, settings: Settings) -> None:
    """Report a model that no price list or its endpoint's list has, and a server whose calls count as free.

    The list is the one that `segkit doctor --model` was given: nothing is asked here.
    """
    listed = remembered(endpoint, settings.segkit_home)
    if listed and (missing := listed.unlisted(model)):
        typer.echo(missing, err=True)
    if note := price_note(model, endpoint, settings):
        typer.echo(note, err=True)


def confirm_sending(run: Run, options: RunOptions, yes: bool, settings: Settings) -> None:
    """Report what goes where and what it may cost; in a terminal, ask before anything is sent.

    Where nothing has to be sent, since every question is answered, nothing is asked. Raises StoppedError, and removes
    the run, which was made a moment ago, when the user declines.
    """
    total = plan_of(run, settings).iloc[-1]
    titles, where = f"{len(run.new_products)} product titles", f"{run.parameters.model} at {run.parameters.endpoint}"
    if yes or options.as_json or not sys.stdin.isatty() or not total["calls"]:
        typer.echo(f"{titles} for {where}: {sentence(total)}", err=True)
        return
    if not typer.confirm(f"Send {titles} to {where}: {sentence(total)}?", default=True, err=True):
        discard(run.folder)  # nothing is in it that was asked
        raise StoppedError("nothing was sent, and no run was made")


def confirm_titles(products: pd.DataFrame, allowed: int, options: RunOptions, yes: bool) -> None:
    """Ask before a run in which more than 5 % of the products have no title; without a terminal, raise ProductsError.

    `allowed` is the number of products that may stay unassigned: so many need no question.
    """
    if yes or not lacks_titles(products, allowed):
        return
    missing = given_ids(products)[untitled(products)]
    share = (
        f"{len(missing):,} of {quantity(len(products), 'product', 'have')} no title ({shortened(missing, most=5)})"
    )
    if options.as_json or not sys.stdin.isatty():
        raise ProductsError(
            share, "see whether --title-column names the titles; --yes goes on without these products"
        )
    if not typer.confirm(f"{share}. Go on without them?", default=False, err=True):
        raise StoppedError("nothing was sent, and no run was made", "--title-column names the column of the titles")


def choose_way(
    finished: Run, catalogue: Catalogue, keep: bool | None, options: RunOptions, yes: bool, settings: Settings
) -> bool:
    """Report what each way to add products takes, and return whether the taxonomy is kept.

    `keep` is what was typed. In a terminal the question is asked where nothing was; elsewhere the taxonomy is then
    extracted anew, as the more thorough of both, unless the finished run was given its own: that has only one way.
    """
    ways = {"--keep-taxonomy": assign_run, "--new-taxonomy": extend_run}
    for name, make in ways.items():
        typer.echo(f"{_WAYS[name]} ({name}): {_cost_of(make, finished, catalogue, settings)}", err=True)
    if keep is None and not yes and not options.as_json and sys.stdin.isatty():
        return typer.confirm("Keep the taxonomy?", default=True, err=True)
    return bool(finished.parameters.taxonomy) if keep is None else keep


_WAYS = {"--keep-taxonomy": "keep the categories and assign", "--new-taxonomy": "extract the categories anew"}


def _cost_of(make: Callable[..., Run], finished: Run, catalogue: Catalogue, settings: Settings) -> str:
    """Plan one way on a run that is made for that alone, and removed again."""
    local = settings.model_copy(update={"storage_backend": "local"})
    with tempfile.TemporaryDirectory(prefix="segkit-plan-") as folder:
        try:
            run = make(finished, catalogue, runs_dir=folder, settings=local)
        except (ProductsError, RunError) as error:
            return f"not possible: {error.message}"
        return sentence(plan_of(run, local).iloc[-1])


def show_plan(plan: pd.DataFrame, parameters: Parameters, durations: Durations) -> None:
    """Show the plan of a run, stage by stage."""
    new_console().print(f"{parameters.model} at {parameters.endpoint}; nothing is sent yet")
    print_table(readable_plan(plan).to_dict("list"))
    new_console().print(sentence(plan.iloc[-1]), markup=False)
    if parameters.model != "offline":
        new_console().print(str(durations), markup=False)
    estimated = list(plan.loc[plan["estimated"] & (plan["stage"] != "all"), "stage"])
    if estimated:
        names = " and ".join(estimated)
        new_console().print(f"{names}: estimated, since the prompts depend on answers that are not there yet")
    if parameters.taxonomy:
        new_console().print("products that fit no category take more calls: they are extracted on their own")


def show_plans(plans: Mapping[str, pd.DataFrame], endpoint: str) -> None:
    """Show the plans of several models side by side: a row each."""
    new_console().print(f"{endpoint}; nothing is sent yet")
    totals = pd.concat([plan.iloc[[-1]] for plan in plans.values()])
    table = readable_plan(totals).rename(columns={"stage": "model"}).assign(model=list(plans))
    print_table(table.to_dict("list"))
