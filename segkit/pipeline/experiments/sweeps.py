"""A sweep: the same products under every combination of some parameters, with the same seeds for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.catalogue.gate import FIRST_RUN, Catalogue
from segkit.core.catalogue.lines import product_lines, renamed_line
from segkit.core.catalogue.options import CatalogueOptions
from segkit.core.models import Parameters
from segkit.core.prompts import prompt_hash
from segkit.errors import ModelError, RunError, SettingsError, StageError, StoppedError
from segkit.evaluation.leaderboard import Leaderboard, leaderboard_of
from segkit.evaluation.ranking import FIRST_ROUND, STABILITY, Ended, Setting, ended_after
from segkit.llm.prices import require_price
from segkit.pipeline.experiments.repeats import Watch
from segkit.pipeline.parameters import choose_parameters, run_prompts
from segkit.pipeline.plan.estimate import plan_of, plan_run
from segkit.pipeline.plan.known import known_before
from segkit.pipeline.prepare import make_run, open_catalogue
from segkit.pipeline.segment import run_stages
from segkit.pipeline.values import typed_caps, typed_choices
from segkit.runs.create import products_hash
from segkit.runs.integrity import is_finished
from segkit.runs.run import Run, open_run, run_ids
from segkit.settings import Settings, load_settings

Work = Callable[[Run, Settings], object]
Judge = Callable[[Sequence[Setting]], Mapping[int, Ended]]
_ENDS = ("cost_usd_low", "cost_usd_high", "seconds_low", "seconds_high")
_OF_OTHERS = ("consensus", "taxonomy", "extends")  # what makes a run depend on other runs


@dataclass
class Trial:
    """One run of a sweep: its setting by number, its parameters, and the run once it is there."""

    setting: int
    parameters: Parameters
    run: Run | None = None
    failure: str = ""

    @property
    def done(self) -> bool:
        return self.run is not None and is_finished(self.run)


@dataclass
class Sweep:
    """What a sweep is to do: its settings (only what varies; the first is the baseline) and its trials.

    Trials stand in the order in which they are worked on: all settings with the first seed, then with the next.
    """

    settings: list[dict[str, Any]]
    trials: list[Trial]
    catalogue: Catalogue
    runs_dir: Path
    ended: dict[int, Ended] = field(default_factory=dict)

    @property
    def left(self) -> list[Trial]:
        """The trials that are not finished."""
        return [trial for trial in self.trials if not trial.done]

    @property
    def first_round(self) -> list[Trial]:
        """The trials with the first two seeds, of all settings."""
        return self.trials[: FIRST_ROUND * len(self.settings)]

    def board_settings(self, trials: Sequence[Trial] = ()) -> list[Setting]:
        """Return each setting with its finished runs (of some trials, or of all) and why others failed."""
        found = []
        for number, values in enumerate(self.settings):
            own = [trial for trial in trials or self.trials if trial.setting == number]
            runs = [trial.run for trial in own if trial.run is not None and trial.done]
            failures = [trial.failure for trial in own if trial.failure]
            found.append(Setting(values, runs, failures, self.ended.get(number)))
        return found


def prepare_sweep(
    products: Run | Catalogue,
    category: str = "",
    *,
    repeats: int = 5,
    runs_dir: str | Path = "",
    settings: Settings | None = None,
    **values: Any,
) -> Sweep:
    """Return the trials of a sweep, and find those that are there; nothing is made, asked or paid.

    `values` are parameters of a run; a list of values makes a parameter vary, and the first of each is the baseline.
    `products` may be a run: its products are taken, and its parameters where none are given. Raises InputError for
    what cannot be used.
    """
    settings, repeats = settings or load_settings(), typed_choices({"repeats": repeats})["repeats"]
    given = {name: _without_empty(value) for name, value in values.items()}
    given = {name: value for name, value in given.items() if value not in (None, "", [])}
    if isinstance(given.get("seed"), list | tuple):
        raise SettingsError("a sweep gives all settings the same seeds", "name the first one: --seed 0")
    varied = {name: list(dict.fromkeys(value)) for name, value in given.items() if isinstance(value, list | tuple)}
    if not any(len(each) > 1 for each in varied.values()):
        raise SettingsError("nothing varies in this sweep", "give two values, like --prompts v0,v1")
    fixed = {name: value for name, value in given.items() if name not in varied}
    if isinstance(products, Run):
        category = category or products.parameters.category
        fixed = {**_parameters_of(products), **fixed}
    catalogue = _catalogue_of(products) if isinstance(products, Run) else products
    combinations = [dict(zip(varied, each, strict=True)) for each in product(*varied.values())]
    chosen = [_chosen(catalogue, category, settings, {**fixed, **combination}) for combination in combinations]
    if len(set(chosen)) < len(chosen):
        raise SettingsError("two settings of this sweep are the same", "give each value once")
    shown = [{name: each[name] for name in varied if len(varied[name]) > 1} for each in combinations]
    trials = [
        Trial(number, replace(each, seed=each.seed + repeat))
        for repeat in range(repeats)
        for number, each in enumerate(chosen)
    ]
    own = products.folder.parent if isinstance(products, Run) else settings.storage_root
    sweep = Sweep(shown, trials, catalogue, Path(runs_dir or own))
    _find_runs(sweep)
    return sweep


def _without_empty(value: Any) -> Any:
    """Return a list without the empty texts that a notebook or a form has for nothing."""
    return [each for each in value if each not in (None, "")] if isinstance(value, list | tuple) else value


def _parameters_of(run: Run) -> dict[str, Any]:
    """Return the parameters of a run as they can be given again; raise SettingsError where it rests on others."""
    parameters = asdict(run.parameters)
    if any(parameters.pop(name) for name in _OF_OTHERS):
        raise SettingsError(f"{run.id} was made from another run", "sweep over that one: segkit runs")
    for name in ("category", "endpoint", "repeat", "seed"):  # `latest` is another run after the sweep
        parameters.pop(name)
    if parameters["temperature"] is None:
        parameters["temperature"] = "none"
    return parameters


def _catalogue_of(run: Run) -> Catalogue:
    return Catalogue(run.products, source=str(run.document["input"]["source"]))


def _chosen(catalogue: Catalogue, category: str, settings: Settings, values: Mapping[str, Any]) -> Parameters:
    chosen = choose_parameters(category, settings, **values)
    require_price(chosen.model, chosen.endpoint, settings)
    run_prompts(chosen)
    chosen = replace(chosen, product_line=renamed_line(chosen.product_line, catalogue.names))
    product_lines(catalogue.products.head(1), chosen.product_line)
    return chosen


def _find_runs(sweep: Sweep) -> None:
    """Find the runs of these products with these very parameters and prompts: the newest, finished ones first."""
    frame = sweep.catalogue.products.drop(columns=FIRST_RUN, errors="ignore")
    wanted = products_hash(frame)
    known: dict[tuple[Parameters, tuple[tuple[str, str], ...]], Run] = {}
    for run in (open_run(run_id, sweep.runs_dir) for run_id in run_ids(sweep.runs_dir)):
        key = run.parameters, tuple(sorted(run.document["prompts"].items()))
        if run.document["input"]["sha256"] == wanted and not (key in known and not is_finished(run)):
            known[key] = run
    for trial in sweep.trials:
        hashes = {key: prompt_hash(text) for key, text in run_prompts(trial.parameters).items()}
        trial.run = known.get((trial.parameters, tuple(sorted(hashes.items()))))


def plan_of_sweep(sweep: Sweep, settings: Settings | None = None) -> pd.DataFrame:
    """Plan the runs that are not finished: a row a setting and one for all.

    The columns are `setting`, `runs`, `finished`, `calls` and the ends of cost and seconds. What the cache has counts
    nothing; what settings share (the first stage, where only the second differs) is asked once and counted for each,
    so that a plan is the most.
    """
    settings = settings or load_settings()
    rows: list[dict[str, Any]] = []
    for number, values in enumerate(sweep.settings):
        own = [trial for trial in sweep.trials if trial.setting == number]
        plans = [_planned(sweep, trial, settings) for trial in own if not trial.done]
        row: dict[str, Any] = {"setting": Setting(values, []).label, "runs": len(own)}
        rows.append({**row, "finished": len(own) - len(plans), **_summed(plans, ("calls", *_ENDS))})
    return pd.DataFrame([*rows, {"setting": "all", **_summed(rows, ("runs", "finished", "calls", *_ENDS))}])


def _planned(sweep: Sweep, trial: Trial, settings: Settings) -> pd.Series:
    """Plan one run: its row for all stages."""
    if trial.run is not None:
        return plan_of(trial.run, settings).iloc[-1]
    prompts = run_prompts(trial.parameters)
    with known_before(trial.parameters, settings) as known:
        plan = plan_run(sweep.catalogue.products, prompts, trial.parameters, settings, look_up=known.look_up)
    return plan.iloc[-1]


def _summed(rows: Sequence[Mapping[str, Any] | pd.Series], names: Sequence[str]) -> dict[str, Any]:
    """Sum columns; a sum with an unknown part is unknown."""
    columns = {name: [row[name] for row in rows] for name in names}
    return {name: None if any(pd.isna(v) for v in values) else sum(values) for name, values in columns.items()}


def judge_of(
    sweep: Sweep, labels: str | Path | pd.DataFrame | None = None, label_column: str = "", by: str = ""
) -> Judge:
    """Return what ends settings after the first round; raise SettingsError where nothing can be ended."""
    if labels is None and not label_column:
        raise SettingsError("halving needs labels", "--label-column COLUMN: two repeats say nothing of stability")
    if by == STABILITY:
        raise SettingsError("halving cannot go by stability", "--by ami, or leave --halving out")
    if len(sweep.trials) <= len(sweep.first_round):
        raise SettingsError("halving needs three repeats or more", "--repeats 5")
    return lambda settings: ended_after(settings, labels, label_column, by)


def work_on(
    sweep: Sweep,
    settings: Settings,
    *,
    watch: Watch | None = None,
    work: Work | None = None,
    judge: Judge | None = None,
) -> None:
    """Work on the trials that are not finished, one after the other; what is answered is not asked again.

    With a judge, all settings run with the first two seeds, and only those that it does not end go on. A run that
    fails is noted in its trial, and the others go on. Caps on calls and dollars hold for all runs of the sweep
    together. Raises StoppedError where the sweep is stopped or its caps are reached; calling it again goes on.
    """
    first = sweep.first_round if judge else sweep.trials
    for trial in first:
        _work_on_trial(sweep, trial, settings, watch, work or _stages)
    if judge and any(trial.done for trial in first):
        sweep.ended = dict(judge(sweep.board_settings(first)))
    for trial in sweep.trials[len(first) :]:
        if trial.setting not in sweep.ended:
            _work_on_trial(sweep, trial, settings, watch, work or _stages)
    if not any(trial.done for trial in sweep.trials):
        raise StageError(f"every run of the sweep failed; the last: {sweep.trials[-1].failure}", "segkit runs")


def _work_on_trial(sweep: Sweep, trial: Trial, settings: Settings, watch: Watch | None, work: Work) -> None:
    if trial.done:
        return
    if trial.run is None:
        trial.run = make_run(sweep.catalogue, trial.parameters, settings, sweep.runs_dir)
    try:
        with watch(trial.run) if watch else nullcontext():
            work(trial.run, _capped(sweep, trial.run, settings))
    except StoppedError as error:
        error.hint = "the same command goes on from here"
        raise
    except (StageError, ModelError, RunError) as error:
        trial.failure = error.message


def _stages(run: Run, settings: Settings) -> None:
    run_stages(run, settings=settings)


def _capped(sweep: Sweep, run: Run, settings: Settings) -> Settings:
    """Return the settings for one run, with what the other runs have left of the caps of the sweep."""
    others = [trial.run.status for trial in sweep.trials if trial.run is not None and trial.run.id != run.id]
    changes: dict[str, Any] = {}
    if settings.segkit_max_calls is not None:
        changes["segkit_max_calls"] = max(0, settings.segkit_max_calls - sum(status.calls for status in others))
    if settings.segkit_max_cost_usd is not None:
        spent = sum((status.cost_usd for status in others), Decimal(0))
        changes["segkit_max_cost_usd"] = max(Decimal(0), settings.segkit_max_cost_usd - spent)
    return settings.model_copy(update=changes)


def sweep(
    products: Run | str | Path | pd.DataFrame | Catalogue = "sample",
    category: str = "",
    *,
    repeats: int = 5,
    labels: str | Path | pd.DataFrame | None = None,
    label_column: str = "",
    by: str = "",
    halving: bool = False,
    runs_dir: str | Path = "",
    max_calls: int | str | None = None,
    max_cost_usd: Decimal | float | str | None = None,
    settings: Settings | None = None,
    **values: Any,
) -> Leaderboard:
    """Run products under every combination of some parameters, and rank the settings with intervals.

    `values` are parameters of a run, lists of what is to be tried: `prompts=["v0", "v1"]`; the first of each list is
    the baseline. All settings have the same seeds. Runs that are there already are taken, begun ones are continued:
    calling it again costs nothing. `labels`, `label_column` and `by` are those of `leaderboard_of`. With
    `halving`, settings that cannot be the best after two repeats are not run further; that needs labels. The caps
    hold for all runs together.
    """
    caps = typed_caps({"max_calls": max_calls, "max_cost_usd": max_cost_usd})
    halving = typed_choices({"halving": halving})["halving"]
    settings = settings or load_settings()
    settings = settings.model_copy(update={f"segkit_{name}": cap for name, cap in caps.items()})
    source = products if isinstance(products, Run | Catalogue) else open_catalogue(products, CatalogueOptions())
    prepared = prepare_sweep(source, category, repeats=repeats, runs_dir=runs_dir, settings=settings, **values)
    judge = judge_of(prepared, labels, label_column, by) if halving else None
    work_on(prepared, settings, judge=judge)
    return leaderboard_of(prepared.board_settings(), labels=labels, label_column=label_column, by=by)
