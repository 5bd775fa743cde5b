"""From options to a run: its products, consent to what it sends, its progress, and its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import typer
from rich.console import Console
from rich.text import Text

from segkit.analysis.report import REPORT, doubt_of_category
from segkit.analysis.tables import cascade_sentence, not_as_asked, repeatability, sample_sentence, saved_money
from segkit.cli.db import left_out
from segkit.cli.options import ProductSource, RequestChanges, RunOptions, RunParameters
from segkit.cli.plan import choose_way, confirm_sending, confirm_titles, report_price, show_plan, show_plans
from segkit.cli.progress import watched
from segkit.cli.terminal import pairs, write_json
from segkit.core.catalogue.entries import product_entries, shared_entries
from segkit.core.catalogue.facts import input_facts
from segkit.core.catalogue.gate import Catalogue
from segkit.core.catalogue.ids import given_ids, parse_id_file, parse_ids
from segkit.core.catalogue.lines import cut_columns, renamed_line
from segkit.core.catalogue.prices import unread_prices
from segkit.core.catalogue.titles import untitled
from segkit.core.models import STAGES, Parameters
from segkit.core.prompt_sets import shown_name
from segkit.core.prompts import DEFAULT_SET, prompt_hash
from segkit.core.text import quantity, shortened
from segkit.database.sync import database_name, products_from_postgres, skipped_products
from segkit.errors import ProductsError, SettingsError, WaitingError
from segkit.pipeline.extend import extend_run
from segkit.pipeline.parameters import change_requests, check_endpoint, choose_parameters, run_prompts
from segkit.pipeline.plan.durations import Durations, measured_durations
from segkit.pipeline.plan.estimate import plan_run
from segkit.pipeline.plan.known import known_before
from segkit.pipeline.prepare import make_run, open_catalogue, refused_file
from segkit.pipeline.taxonomy.check import plan_assignment
from segkit.pipeline.taxonomy.report import assign_report
from segkit.pipeline.taxonomy.start import accept_proposals, assign_parameters, assign_run
from segkit.runs.integrity import is_finished, lost_logs
from segkit.runs.interactions import intents
from segkit.runs.run import Run, open_run
from segkit.runs.taxonomy import Taxonomy, open_taxonomy
from segkit.settings import Settings, load_settings

_LISTED = 20  # files named before a resumed run goes on


def run_and_show(
    source: ProductSource, parameters: RunParameters, options: RunOptions, yes: bool, taxonomy: str = ""
) -> None:
    """Make a run, work on it, and show its summary."""
    if taxonomy:
        assign_and_show(taxonomy, source, asdict(parameters), options, yes, only=True)
        return
    if not parameters.category.strip():
        raise SettingsError("--category is missing", 'say what the products are: --category "Dimmer Switches"')
    settings = options.applied(load_settings())
    chosen = choose_parameters(settings=settings, **asdict(parameters))
    report_price(chosen.model, chosen.endpoint, settings)
    check_endpoint(chosen, settings)
    report_unread(chosen)
    catalogue = read_catalogue(source, settings, parameters.product_line or "")
    confirm_titles(catalogue.products, chosen.max_unassigned, options, yes)
    run = make_run(catalogue, chosen, settings, options.runs_dir or settings.storage_root)
    _work_with_consent(run, options, yes, settings)


def report_unread(parameters: Parameters) -> None:
    """Report that the offline model reads no instructions, where a run is to follow some."""
    named = [f"prompts {shown}"] if (shown := _changed_prompts(parameters)) else []
    named += [
        f"--{name.replace('_', '-')}" for name in ("language", "target_categories") if getattr(parameters, name)
    ]
    if parameters.model == "offline" and named:
        typer.echo(f"offline follows no instructions: {' and '.join(named)} will change nothing", err=True)


def _changed_prompts(parameters: Parameters) -> str:
    """Return the name of the prompt set as runs show it, if it is not the default one as shipped."""
    hashes = {key: prompt_hash(text) for key, text in run_prompts(parameters).items()}
    shown = shown_name(parameters.prompts, hashes)
    return shown if shown != DEFAULT_SET else ""


def extend_and_show(
    name: str, source: ProductSource, options: RunOptions, yes: bool, keep_taxonomy: bool | None = None
) -> None:
    """Make a run that adds products to a finished one, work on it, and show its summary."""
    settings = options.applied(load_settings())
    runs_dir = options.runs_dir or settings.storage_root
    finished = open_run(name, runs_dir, settings)
    catalogue = read_catalogue(source, settings, finished.parameters.product_line)
    confirm_titles(catalogue.products, finished.parameters.max_unassigned, options, yes)
    make = assign_run if choose_way(finished, catalogue, keep_taxonomy, options, yes, settings) else extend_run
    run = make(finished, catalogue, runs_dir=runs_dir, settings=settings)
    _work_with_consent(run, options, yes, settings)


def assign_and_show(
    name: str,
    source: ProductSource,
    parameters: Mapping[str, Any],
    options: RunOptions,
    yes: bool,
    *,
    only: bool = False,
) -> None:
    """Make a run that puts products into the taxonomy of a finished one, work on it, and show what came of it.

    With `only`, the products of the finished run that are not in the source are left out.
    """
    settings = options.applied(load_settings())
    runs_dir = options.runs_dir or settings.storage_root
    given = given_taxonomy(name, runs_dir, settings)
    chosen = assign_parameters(given, settings, parameters)
    report_price(chosen.model, chosen.endpoint, settings)
    line = parameters.get("product_line") or (given.run.parameters.product_line if given.run else "$title")
    has_products = bool(source.products or source.from_postgres)
    if not has_products and (only or not given.edits):
        is_idle = given.name and not given.edits
        what = f"{name} changes nothing, and no products are given" if is_idle else "no products are given"
        raise ProductsError(what, f"segkit assign new_products.csv --taxonomy {name}")
    catalogue = read_catalogue(source, settings, line) if has_products else None
    allowed = parameters.get("max_unassigned")
    if catalogue:
        most = given.run.parameters.max_unassigned if given.run and allowed is None else allowed or 0
        confirm_titles(catalogue.products, most, options, yes)
    run = assign_run(given, catalogue, runs_dir=runs_dir, settings=settings, only=only, **parameters)
    _work_with_consent(run, options, yes, settings)


def given_taxonomy(name: str, runs_dir: Path, settings: Settings) -> Taxonomy:
    """Return the taxonomy of the run or of the file that an option names, and report remarks about the file."""
    given = open_taxonomy(name, runs_dir, settings)
    for remark in given.remarks:
        typer.echo(remark, err=True)
    return given


def accept_and_show(name: str, keys: Sequence[str], options: RunOptions, yes: bool) -> None:
    """Make a run in which proposals of a finished one are categories, work on it, and show what came of it."""
    settings = options.applied(load_settings())
    runs_dir = options.runs_dir or settings.storage_root
    run = accept_proposals(open_run(name, runs_dir, settings), keys, runs_dir=runs_dir, settings=settings)
    _work_with_consent(run, options, yes, settings)


def plan_and_show(
    source: ProductSource, parameters: RunParameters, concurrency: int | None, as_json: bool, taxonomy: str = ""
) -> None:
    """Show what a run of these products would take, with one model or with several side by side."""
    settings = RunOptions(concurrency=concurrency).applied(load_settings())
    given = given_taxonomy(taxonomy, settings.storage_root, settings) if taxonomy else None
    models = [name for name in map(str.strip, parameters.model.split(",")) if name] or [""]
    chosen = [_parameters_to_plan({**asdict(parameters), "model": model}, given, settings) for model in models]
    for each in chosen:
        report_price(each.model, each.endpoint, settings)
    catalogue = read_catalogue(source, settings, chosen[0].product_line)
    if catalogue.source != "sample":
        line = renamed_line(chosen[0].product_line, catalogue.names)
        _report_input(input_facts(catalogue), catalogue.products, line, settings)
    measured = {each.model: measured_durations(each, settings.storage_root, settings) for each in chosen}
    plans = {each.model: _planned(catalogue, each, given, settings, measured[each.model]) for each in chosen}
    if as_json:
        write_json(_plans_as_json(plans))
    elif len(plans) > 1:
        show_plans(plans, chosen[0].endpoint)
    else:
        show_plan(plans[chosen[0].model], chosen[0], measured[chosen[0].model])


def _parameters_to_plan(typed: Mapping[str, Any], given: Taxonomy | None, settings: Settings) -> Parameters:
    if given:
        return assign_parameters(given, settings, typed, needs_key=False)
    return choose_parameters(settings=settings, needs_key=False, **typed)


def _planned(
    catalogue: Catalogue, chosen: Parameters, given: Taxonomy | None, settings: Settings, durations: Durations
) -> pd.DataFrame:
    if given:
        return plan_assignment(given, catalogue, chosen, settings, only=True, durations=durations)[1]
    chosen = replace(chosen, product_line=renamed_line(chosen.product_line, catalogue.names))
    with known_before(chosen, settings) as known:
        return plan_run(
            catalogue.products,
            run_prompts(chosen),
            chosen,
            settings,
            look_up=known.look_up,
            durations=durations,
        )


def _plans_as_json(plans: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """Return the stages of one plan, or of several plans the totals, each with its model and its stages."""
    rows: dict[str, list[Any]] = {model: plan.astype(object).to_dict("records") for model, plan in plans.items()}
    if len(rows) == 1:
        return next(iter(rows.values()))
    return [{"model": model, **stages[-1], "stages": stages[:-1]} for model, stages in rows.items()]


def resume_and_show(
    name: str, changes: RequestChanges, options: RunOptions, max_unassigned: int | None, take_over: bool
) -> None:
    """Continue a run and show its summary."""
    settings = options.applied(load_settings())
    run = open_run(name, options.runs_dir or settings.storage_root, settings)
    if not is_finished(run):
        run = change_requests(run, settings, **asdict(changes), stream=options.stream)
        _warn_of_another_address(run, settings)
        check_endpoint(run.parameters, run.capped(settings))
    options.console.print(run.id)
    _report_lost_logs(run)
    _report_open_calls(run)
    _work_and_show(run, options, settings, max_unassigned, take_over)


def read_catalogue(source: ProductSource, settings: Settings, product_line: str = "") -> Catalogue:
    """Return the products that were asked for, from a file, the bundled sample or Postgres.

    From Postgres come the columns that `product_line` names.
    """
    ids = _ids(source)
    if source.from_postgres:
        if source.products or ids is None:
            raise ProductsError("--from-postgres takes a list of ids and no file", "--ids-file ids.txt")
        return Catalogue(products_from_postgres(ids, settings, product_line), source=source.name)
    if not source.products:
        raise ProductsError("there are no products", "give a file, `sample`, or --from-postgres with --ids-file")
    return open_catalogue(source.products, source.catalogue_options(ids, refused_file(settings)))


def _report_input(facts: Mapping[str, Any], products: pd.DataFrame, line: str, settings: Settings) -> None:
    """Report how a file was understood, and what of it is left out or cut."""
    if understood := facts.get("understood"):
        typer.echo(f"{facts['source']}: {understood}", err=True)
    if refused := facts.get("refused"):
        typer.echo(f"{quantity(refused, 'row')} left out; see {refused_file(settings)}", err=True)
    if unread := unread_prices(products):
        typer.echo(f"{quantity(len(unread), 'price')} cannot be read: {shortened(unread, 5)}", err=True)
    if cut := facts.get("cut_titles"):
        typer.echo(f"{quantity(cut, 'title')} of more than 1,000 characters; a model sees the first 1,000", err=True)
    for name, count in cut_columns(products, line).items() if line != "$title" else ():
        what = f"{name} of {quantity(count, 'product')} is cut: a product line has 1,000 characters"
        typer.echo(f"{what}, shared by its columns", err=True)


def _ids(source: ProductSource) -> list[str] | None:
    if source.product_ids and source.ids_file:
        raise ProductsError("--product-ids and --ids-file cannot both be given")
    if source.ids_file:
        try:
            return parse_id_file(source.ids_file.read_text(encoding="utf-8-sig"), source.id_column)
        except (OSError, UnicodeDecodeError) as error:
            raise ProductsError(f"--ids-file {source.ids_file} cannot be read: {error}") from None
    return parse_ids(source.product_ids) if source.product_ids else None


def _warn_of_another_address(run: Run, settings: Settings) -> None:
    """Report that the settings name another endpoint than the run, which goes on with its own."""
    own, named = run.parameters.endpoint, settings.openai_base_url
    if own != named and run.parameters.model != "offline" and "openai_base_url" in settings.model_fields_set:
        command = f"segkit resume {run.id} --endpoint {named}"
        typer.echo(f"the run asks {own}, though OPENAI_BASE_URL is {named}; to change it: {command}", err=True)


def _work_with_consent(run: Run, options: RunOptions, yes: bool, settings: Settings) -> None:
    options.console.print(run.id)
    if run.document["input"]["source"] != "sample":
        _report_input(run.document["input"], run.products, run.parameters.product_line, settings)
    _report_untitled(run)
    _report_shared(run)
    if run.parameters.model != "offline":
        confirm_sending(run, options, yes, settings)
    _work_and_show(run, options, settings)


def _work_and_show(
    run: Run, options: RunOptions, settings: Settings, max_unassigned: int | None = None, take_over: bool = False
) -> None:
    try:
        with watched(run):
            summary = options.work(run, settings, max_unassigned=max_unassigned, take_over=take_over)
    except WaitingError as waiting:
        if options.as_json:
            write_json({"run_id": run.id, "state": "waiting", "reason": waiting.message, "next": waiting.hint})
        raise
    report = assign_report(run) if run.parameters.taxonomy else {}
    if options.as_json:
        write_json({**summary, **report, "folder": str(run.folder), "report": str(run.folder / REPORT)})
    else:
        options.console.print(summary_table(run, summary, settings, synced=options.sync))
        _show_assignments(options.console, report)


def _show_assignments(console: Console, report: Mapping[str, Any]) -> None:
    """Show what became of the new products of a run with a given taxonomy, and which categories it proposes."""
    if not report:
        return
    p_value = report["drift_p_value"]
    rows = {
        "new products": f"{report['products']:,}: {report['assigned']:,} assigned, "
        f"{report['out_of_scope']:,} out of scope, {report['none_fits']:,} fit no category",
        "old rows": f"{report['old_rows']:,}, {'unchanged' if report['old_rows_unchanged'] else 'CHANGED'}",
        "drift": "not tested" if p_value is None else f"p = {p_value:.4f}{', a drift' if p_value < 0.05 else ''}",
        **{f"proposed {each['key']}": _proposal(each) for each in report["proposed"]},
        **{f"conflict {each['key']}": _conflict(each) for each in report["conflicts"]},
    }
    console.print(pairs(rows))
    if report["proposed"]:
        console.print(f"accept them: segkit taxonomy accept {report['run_id']}")


def _conflict(conflict: Mapping[str, Any]) -> str:
    note = f" ({conflict['note']})" if conflict["note"] else ""
    return f"{conflict['conflict']}{note}"


def _proposal(proposal: Mapping[str, Any]) -> str:
    return f"{proposal['category_name']} ({quantity(proposal['products'], 'product')})"


def _report_shared(run: Run) -> None:
    if shared := len(shared_entries(product_entries(run.new_products, run.parameters))):
        what = f"{quantity(shared, 'product')} with the line of another, whose answer is used"
        typer.echo(f"{what} (--ask-duplicates asks about each)", err=True)


def _report_untitled(run: Run) -> None:
    if count := run.document["input"]["untitled"]:
        listed = shortened(given_ids(run.products)[untitled(run.products)], most=5)
        typer.echo(f"{quantity(count, 'product')} without a title ({listed}): not sent, and unassigned", err=True)


def _report_open_calls(run: Run) -> None:
    """List the calls that were in flight when the run ended: each may have been charged, and is asked again."""
    paths = [path for stage in STAGES for path in intents(run.stage_folder(stage))]
    if paths and not is_finished(run):
        typer.echo(
            f"{quantity(len(paths), 'call')} in flight when the run ended; they may have been charged:", err=True
        )
        for path in paths[:_LISTED]:
            typer.echo(f"  {path.relative_to(run.folder)}", err=True)


def _report_lost_logs(run: Run) -> None:
    """List the logs that a finished run has lost: their answers come from the cache, or are asked again."""
    lost = lost_logs(run)
    if lost:
        heading = f"{run.id} has lost {quantity(len(lost), 'log')}; what the cache does not hold is asked again:"
        typer.echo("\n  ".join([heading, *lost[:_LISTED]]), err=True)


def summary_table(run: Run, summary: Mapping[str, Any], settings: Settings, *, synced: bool) -> Text:
    """Sum up a run in a dozen lines, the last of them where to look next."""
    cost = "unknown" if summary["cost_usd"] is None else f"${float(summary['cost_usd']):.4f}"
    cost += saved_money(run.status.total)
    tokens = f"{summary['input_tokens']:,} in, {summary['output_tokens']:,} out"
    unmetered = f" (not reported for {summary['unknown_usage']} calls)" if summary["unknown_usage"] else ""
    rows = {
        "state": summary["state"],
        "products": f"{summary['products']:,}",
        "categories": f"{summary['categories']:,}",
        "out of scope": _out_of_scope(summary["out_of_scope"], summary["products"]),
        "unassigned": f"{summary['unassigned']:,}{_without_title(summary)}",
        "refused": f"{quantity(summary['refused'], 'row')} of the input" if summary.get("refused") else "",
        "sample": sample_sentence(run),
        "cascade": cascade_sentence(run),
        "asked twice": repeatability(run),
        "calls": f"{summary['calls']:,} (and {summary['cached']:,} from the cache, {summary['retries']:,} retries)",
        "asked by": quantity(summary["workers"], "worker") if summary.get("workers") else "",
        "tokens": tokens + unmetered,
        "cost": cost,
        "seconds": f"{summary['seconds']:.1f} ({_stage_seconds(summary)})",
        "rows": f"{database_name(settings)}: {_example_query(run)}" if synced else f"segkit sync {run.id}",
        "report": str(run.folder / REPORT),
    }
    if synced and settings.segkit_missing_products == "skip":
        rows |= left_out(skipped_products(run, settings))
    if given_up := not_as_asked(run.status.stages):
        rows["not as asked"] = given_up
    if summary["model"] == "offline":
        rows["note"] = "offline groups products by words; it is no language model and follows no instructions"
    return pairs(rows)


def _out_of_scope(out: int, total: int) -> str:
    doubt = doubt_of_category(out, total)
    return f"{out:,} ({doubt[:1].lower()}{doubt[1:-1]})" if doubt else f"{out:,}"


def _without_title(summary: Mapping[str, Any]) -> str:
    count = summary.get("untitled", 0)
    return f" ({count:,} without a title)" if count else ""


def _stage_seconds(summary: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {seconds:.1f}" for name, seconds in summary["stage_seconds"].items())


def _example_query(run: Run) -> str:
    return f"segkit db query \"SELECT * FROM product_taxonomies WHERE run_id = '{run.id}'\""  # noqa: S608
