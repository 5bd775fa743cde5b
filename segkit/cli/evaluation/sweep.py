"""`segkit sweep PRODUCTS`."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from segkit.cli.evaluation.options import Html, LabelColumn, LabelFile
from segkit.cli.options import CHECK, METHOD, ProductSource, RunOptions, Yes, grouped
from segkit.cli.terminal import GroupedCommand

if TYPE_CHECKING:
    from segkit.evaluation.leaderboard import Leaderboard
    from segkit.pipeline.experiments.sweeps import Sweep
    from segkit.settings import Settings

app = typer.Typer()


def _values(text: str, default: str, *names: str) -> Any:
    return typer.Option(*names, metavar="A,B", help=text, show_default=default, rich_help_panel=METHOD)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweptParameters:
    """The parameters of a run, each with one value or several."""

    category: Annotated[
        str, typer.Option("--category", "-c", help='What the products are, such as "Dimmer Switches".')
    ] = ""
    model: Annotated[str, _values("Models, or `offline`.", "gpt-4o", "--model", "-m")] = ""
    prompts: Annotated[str, _values("Sets of prompts.", "v0")] = ""
    product_line: Annotated[
        list[str] | None,
        typer.Option(
            help="What the model sees of a product; can be repeated.", show_default="$title", rich_help_panel=METHOD
        ),
    ] = None
    products_per_prompt: Annotated[str, _values("Products in one prompt of the first stage.", "40")] = ""
    products_per_refinement: Annotated[str, _values("Products in one prompt of the refinement.", "40")] = ""
    taxonomies_per_consolidation: Annotated[str, _values("Taxonomies merged by one prompt.", "20")] = ""
    temperature: Annotated[str, _values("Sampling temperatures from 0 to 2, or `none`.", "0.2")] = ""
    response_format: Annotated[str, _values("json_schema, json_object or text.", "json_schema")] = ""
    max_output_tokens: Annotated[str, _values("The most tokens of one answer.", "derived from the question")] = ""
    max_unassigned: Annotated[str, _values("Products that may end without a category.", "0")] = ""
    ask_twice: Annotated[str, _values("Products that are asked about twice in each run.", "200")] = ""
    ask_duplicates: Annotated[
        str, _values("Whether products with the same line are asked about one by one: `false`, `true`.", "false")
    ] = ""
    extract_sample: Annotated[
        str, _values("Products that the taxonomy is extracted from, or `auto`.", "all products")
    ] = ""
    most_unseen: Annotated[str, _values("With `auto`: the most that may be of a kind not met.", "0.01")] = ""
    products_per_assignment: Annotated[
        str, _values("Products in one prompt when they are put into a taxonomy.", "40")
    ] = ""
    seed: Annotated[
        int, typer.Option(metavar="N", help="The first seed; all settings have the same.", rich_help_panel=METHOD)
    ] = 0

    def lists(self) -> dict[str, Any]:
        """Return the values of each parameter that was given, without the category."""
        given = {name: value for name, value in asdict(self).items() if name != "category"}
        return {
            name: _parts(value) if isinstance(value, str) else value
            for name, value in given.items()
            if value not in ("", None, [])
        }


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


@app.command(cls=GroupedCommand, rich_help_panel=CHECK)
@grouped
def sweep(
    source: ProductSource,
    parameters: SweptParameters,
    options: RunOptions,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="Runs of each setting, with the same seeds.")] = 5,
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
    from segkit.pipeline.experiments.sweeps import work_on
    from segkit.settings import load_settings

    settings = options.applied(load_settings())
    prepared = _prepared(source, parameters, options, settings, repeats)
    for model, endpoint in sorted({(t.parameters.model, t.parameters.endpoint) for t in prepared.trials}):
        report_price(model, endpoint, settings)
    _ask_for_consent(prepared, settings, options, yes)
    work_on(prepared, settings, watch=watched, work=options.work)
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
    from segkit.runs.run import RUN_ID, open_run

    folder, values = options.runs_dir or settings.storage_root, parameters.lists()
    given = {"repeats": repeats, "runs_dir": folder, "settings": settings, **values}
    if source.products in ("latest", "latest-completed") or RUN_ID.fullmatch(source.products):
        run = open_run(source.products, folder)
        return prepare_sweep(run, parameters.category, **given)
    if not parameters.category.strip():
        raise SettingsError("--category is missing", 'say what the products are: --category "Dimmer Switches"')
    catalogue = read_catalogue(source, settings, " ".join(parameters.product_line or []))
    return prepare_sweep(catalogue, parameters.category, **given)


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
    question = (
        f"Send {titles} product titles to {', '.join(asked)} at {', '.join(where)}, {len(sweep.left)} runs: at most "
        f"{total['calls']:,} calls if every answer is valid, {dollars(total)}?"
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
