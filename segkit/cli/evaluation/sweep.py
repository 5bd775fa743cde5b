"""`segkit sweep PRODUCTS`."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from segkit.cli.evaluation.options import Html, LabelColumn, LabelFile
from segkit.cli.options import CHECK, ProductSource, RunOptions, RunParameters, Yes, grouped, options_of
from segkit.cli.terminal import GroupedCommand
from segkit.core.text import quantity

if TYPE_CHECKING:
    from segkit.evaluation.leaderboard import Leaderboard
    from segkit.pipeline.experiments.sweeps import Sweep
    from segkit.settings import Settings

app = typer.Typer()


class SweptParameters(dict[str, Any]):
    """What was typed for the parameters of a run: texts that name one value or several."""

    @classmethod
    def options(cls) -> list[inspect.Parameter]:
        """Return the options of RunParameters, as ones that take several values."""
        return [_several(option) for option in options_of(RunParameters)]

    def lists(self) -> dict[str, Any]:
        """Return the values of each parameter that was given, without the category."""
        given = {name: value for name, value in self.items() if name != "category"}
        return {
            name: _parts(value) if isinstance(value, str) else value
            for name, value in given.items()
            if value not in ("", None, [])
        }


def _several(option: inspect.Parameter) -> inspect.Parameter:
    """Return an option that takes several values: in one text, or typed once for each product line."""
    if option.name in ("category", "seed"):  # all settings have the same
        return option
    about = get_args(option.annotation)[-1]
    default = about.show_default if isinstance(about.show_default, str) else str(option.default)
    names = [name for name in (about.default, *(about.param_decls or ())) if isinstance(name, str)]
    several = typer.Option(
        *(names or ["--" + option.name.replace("_", "-")]),
        metavar="LINE" if option.name == "product_line" else "A,B",
        help=about.help,
        show_default=default.lower() if isinstance(option.default, bool) else default,
        rich_help_panel=about.rich_help_panel,
    )
    if option.name == "product_line":
        return option.replace(default=None, annotation=Annotated[list[str] | None, several])
    return option.replace(default="", annotation=Annotated[str, several])


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@app.command(cls=GroupedCommand, rich_help_panel=CHECK)
@grouped
def sweep(
    source: ProductSource,
    parameters: SweptParameters,
    options: RunOptions,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Runs of each setting, with the same seeds.")] = 5,
    halving: Annotated[
        bool,
        typer.Option(
            "--halving",
            help="Stop after two runs of a setting that cannot be the best by then. Needs labels.",
        ),
    ] = False,
    labels: LabelFile = None,
    label_column: LabelColumn = "",
    by: Annotated[
        Literal["ami", "b_cubed", "harmonic_purity", "stability"] | None,
        typer.Option(help="What settings are ranked by.", show_default="ami with labels, else stability"),
    ] = None,
    html: Html = None,
    yes: Yes = False,
) -> None:
    """Run products under every combination of some parameters, and rank them with intervals.

    The first value of each parameter is the baseline. A plan with dollars is shown before anything is sent. Caps hold
    for the whole sweep. Each run is an ordinary run, paid once: the same command goes on where it was stopped.
    PRODUCTS may also be the id of a run.

    Example: segkit sweep sample -c "Coffee Makers" --model offline --products-per-prompt 20,40 --no-notebooks
    """
    from segkit.cli.plan import report_price
    from segkit.cli.progress import watched
    from segkit.cli.terminal import write_json
    from segkit.evaluation.leaderboard import leaderboard_of
    from segkit.pipeline.experiments.sweeps import judge_of, work_on
    from segkit.settings import load_settings

    settings = options.applied(load_settings())
    prepared = _prepared(source, parameters, options, settings, repeats)
    judge = judge_of(prepared, labels, label_column, by or "") if halving else None
    for model, endpoint in sorted({(t.parameters.model, t.parameters.endpoint) for t in prepared.trials}):
        report_price(model, endpoint, settings)
    _ask_for_consent(prepared, settings, options, yes)
    work_on(prepared, settings, watch=watched, work=options.work, judge=judge)
    board = leaderboard_of(prepared.board_settings(), labels=labels, label_column=label_column, by=by or "")
    if html:
        board.write_html(html)
    write_json(board.as_json()) if options.as_json else _show(board)
    if html and not options.as_json:
        typer.echo(f"\nthe whole leaderboard: {html}")
    raise typer.Exit(1 if any(trial.failure for trial in prepared.trials) else 0)


def _prepared(
    source: ProductSource, parameters: SweptParameters, options: RunOptions, settings: Settings, repeats: int
) -> Sweep:
    """Find what the sweep has and what it lacks."""
    from segkit.cli.launch import read_catalogue
    from segkit.errors import SettingsError
    from segkit.pipeline.experiments.sweeps import prepare_sweep
    from segkit.runs.run import is_run_name, open_run

    folder, values = options.runs_dir or settings.storage_root, parameters.lists()
    given = {"repeats": repeats, "runs_dir": folder, "settings": settings, **values}
    if is_run_name(source.products):
        run = open_run(source.products, folder)
        return prepare_sweep(run, parameters["category"], **given)
    if not parameters["category"].strip():
        raise SettingsError("--category is missing", 'say what the products are: --category "Dimmer Switches"')
    catalogue = read_catalogue(source, settings, " ".join(parameters["product_line"] or []))
    return prepare_sweep(catalogue, parameters["category"], **given)


def _ask_for_consent(sweep: Sweep, settings: Settings, options: RunOptions, yes: bool) -> None:
    """Show what the unfinished runs take, and ask before titles are sent to a provider."""
    from segkit.errors import StoppedError
    from segkit.pipeline.experiments.sweeps import plan_of_sweep
    from segkit.pipeline.plan.estimate import dollars

    plan = plan_of_sweep(sweep, settings)
    _show_plan(plan, options)
    asked = sorted({trial.parameters.model for trial in sweep.left} - {"offline"})
    if not asked or not plan["calls"].iloc[-1] or yes or options.as_json or not sys.stdin.isatty():
        return
    where = sorted({t.parameters.endpoint for t in sweep.left if t.parameters.model != "offline"})
    total, titles = plan.iloc[-1], len(sweep.catalogue.products)
    runs = quantity(len(sweep.left), "run")
    question = (
        f"Send {titles} product titles to {', '.join(asked)} at {', '.join(where)}, {runs}: at most "
        f"{quantity(total['calls'], 'call')} if every answer is valid, {dollars(total)}?"
    )
    if not typer.confirm(question, default=True, err=True):
        raise StoppedError("nothing was sent, and no run was made")


def _show_plan(plan: Any, options: RunOptions) -> None:
    from segkit.cli.terminal import table_lines
    from segkit.pipeline.plan.estimate import dollars

    columns = {name: plan[name].tolist() for name in ("setting", "runs", "finished", "calls")}
    columns["cost"] = [dollars(row) for _, row in plan.iterrows()]
    for line in table_lines(columns):
        options.console.print(line, markup=False)


def _show(board: Leaderboard) -> None:
    from segkit.cli.terminal import new_console, print_table

    console = new_console()
    console.print()
    print_table(board.readable().to_dict("list"))
    console.print()
    for sentence in board.sentences():
        console.print(f"  {sentence}", markup=False)
    if pair := board.compared():
        console.print(f"\nwhat differs between the two: segkit compare {' '.join(pair)}", markup=False)
