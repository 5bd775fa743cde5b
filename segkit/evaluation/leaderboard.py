"""Which of several settings is best: figures with intervals, what cannot be distinguished, and what quality costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segkit.core.text import quantity, shortened
from segkit.errors import InputError, RunError
from segkit.evaluation import figures
from segkit.evaluation.pages import Parts, Readable, sections, write_page
from segkit.evaluation.ranking import FIRST_ROUND, LEVEL, STABILITY, Setting, SweepScores, ranking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TO_BEST = "to the best"
_WORDS = {
    "ami": "AMI with the labels",
    "b_cubed": "B-cubed F1 with the labels",
    "harmonic_purity": "harmonic purity with the labels",
    STABILITY: "stability (AMI between repeats)",
}


@dataclass(frozen=True, repr=False)
class Leaderboard(Readable):
    """Settings ranked by one figure, the best first.

    `table` has a row a setting: its figures with `_low` and `_high`; its `difference` to the best and `to_baseline`,
    the first setting, each with its interval (positive is better); whether it is `tied` with the best; the mean
    `categories`, `calls` and `cost_usd` of a run without cache; and whether it is on the `pareto` front: no other is
    at least as good and as cheap, and better in one of the two. `optimism` is how much the best looks better than it
    is, since it was chosen by the same scores; None where that is not known.
    """

    settings: list[Setting]
    by: str
    metrics: tuple[str, ...]
    table: pd.DataFrame
    optimism: float | None
    label_source: str = ""
    products: int = 0
    seeds: list[int] = field(default_factory=list)

    @property
    def baseline(self) -> str:
        return self.settings[0].label

    @property
    def best(self) -> str:
        return str(self.table["setting"].iloc[0])

    @property
    def tied(self) -> list[str]:
        """The best setting and those that cannot be distinguished from it: they hold the best in 95 % of sweeps."""
        return [str(name) for name in self.table.loc[self.table["tied"], "setting"]]

    @property
    def unpriced(self) -> list[str]:
        """The settings with runs of which some dollars are not known."""
        unknown = self.table["cost_usd"].isna() & (self.table["runs"] > 0)
        return [str(name) for name in self.table.loc[unknown, "setting"]]

    @property
    def expected(self) -> float | None:
        """What to expect of the best on seeds, and labels, that did not choose it."""
        return None if self.optimism is None else float(self.table[self.by].iloc[0]) - self.optimism

    @property
    def price(self) -> str:
        """The column that stands for the price of a setting: dollars, or calls where these are free or unknown."""
        cost = self.table["cost_usd"]
        return "cost_usd" if cost.notna().all() and (cost > 0).any() else "calls"

    def as_json(self) -> dict[str, Any]:
        """Return the figures that other programs rely on."""
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        values = {setting.label: setting for setting in self.settings}
        for row in rows:
            setting = values[row["setting"]]
            row |= {
                "values": dict(setting.values),
                "runs": [run.id for run in setting.runs],
                "failures": list(setting.failures),
                "ended": setting.ended is not None,
            }
        return {
            "by": self.by,
            "labels": self.label_source or None,
            "seeds": self.seeds,
            "best": self.best,
            "baseline": self.baseline,
            "tied": self.tied,
            "optimism": self.optimism,
            "expected": self.expected,
            "pareto": [str(name) for name in self.table.loc[self.table["pareto"], "setting"]],
            "settings": rows,
        }

    def sentences(self) -> list[str]:
        """Say in plain words which settings are best, how sure that is, and what to do next."""
        best = self.table.iloc[0]
        lines = [
            f"{len(self.settings)} settings, {len(self.seeds)} seeds each, the same for all; ranked by "
            f"{_WORDS[self.by]}.",
            f"Highest: {self.best}, {_interval(best, self.by)}.",
            self._about_tied(),
            *self._about_baseline(),
            *self._about_optimism(),
            *self._about_price(),
        ]
        if ended := [setting.label for setting in self.settings if setting.ended]:
            names = shortened(ended, most=8)
            lines.append(f"Not run further after {FIRST_ROUND} seeds, since clearly worse: {names}.")
        if self.unpriced:
            names = shortened(self.unpriced, most=3)
            lines.append(f"The dollars of {names} are not known: some calls have no price (see SEGKIT_PRICES).")
        if len(self.seeds) < 5:
            lines.append("Fewer than five repeats give wide intervals or none: --repeats 5, or 8 for a decision.")
        failed = [f"{setting.label}: {setting.failures[0]}" for setting in self.settings if setting.failures]
        if failed:
            lines.append(f"Runs that failed: {shortened(failed, most=3, separator='; ')}")
        return lines

    def _about_tied(self) -> str:
        others = [name for name in self.tied if name != self.best]
        ended = sum(setting.ended is not None for setting in self.settings)
        compared = int(self.table[self.by].notna().sum()) - 1 - ended
        if ended and not compared:
            return "It is better than each of the others."
        if not compared:
            return "No other setting has finished runs."
        if len(self.seeds) < (3 if self.by == STABILITY else 2):
            return "So few repeats cannot tell the settings apart."
        many = f"{compared} comparison{'s' * (compared > 1)}"
        if not others:
            return f"It is better than each of the others{' that went on' * bool(ended)} (Holm over {many})."
        return f"Not distinguishable from it (Holm over {many}): {shortened(others, most=8)}."

    def _about_baseline(self) -> list[str]:
        if self.best == self.baseline:
            same = int((self.table["difference"] == 0).sum()) == len(self.table)
            return (
                ["All settings score the same."] if same else [f"No setting is above the baseline {self.baseline}."]
            )
        row = self.table.iloc[0]
        if pd.isna(row["to_baseline_low"]):
            return []
        verdict = "better than" if row["baseline_p_value"] <= LEVEL else "not shown to be better than"
        return [
            f"It is {verdict} the baseline {self.baseline}: {row['to_baseline']:+.3f} "
            f"({row['to_baseline_low']:+.3f} to {row['to_baseline_high']:+.3f}; {row['runs']} pairs of runs, "
            f"p = {row['baseline_p_value']:.2g} after Holm)."
        ]

    def _about_optimism(self) -> list[str]:
        if self.optimism is None or self.expected is None or self.best == self.baseline:
            return []
        again = f"To confirm it, repeat the sweep on new seeds: --seed {max(self.seeds, default=0) + 1}"
        if self.optimism < 0.0005:
            return [f"That it was chosen by these very scores does not flatter it. {again}"]
        chosen = f"It was chosen by these very scores, which flatter it by {self.optimism:.3f}"
        return [f"{chosen}: expect {self.expected:.3f}. {again}"]

    def _about_price(self) -> list[str]:
        known = self.table[self.table["tied"] & self.table[self.price].notna()]
        if len(known) < 2:
            return []
        cheapest = known.sort_values([self.price, self.by], ascending=[True, False], kind="stable").iloc[0]
        if cheapest["setting"] == self.best:
            return ["It is also the cheapest of these."]
        prices = f"{self._price(cheapest)} a run instead of {self._price(self.table.iloc[0])}"
        return [f"The cheapest of these is {cheapest['setting']}: {prices}."]

    def _price(self, row: pd.Series) -> str:
        return f"${row['cost_usd']:.4f}" if self.price == "cost_usd" else quantity(round(row["calls"]), "call")

    def readable(self) -> pd.DataFrame:
        """Return the table for people: a figure and its interval in one cell."""
        table = self.table
        columns: dict[str, list[Any]] = {"setting": table["setting"].tolist(), "runs": table["runs"].tolist()}
        for name in self.metrics:
            columns[name] = [_interval(row, name) for _, row in table.iterrows()]
        columns[_TO_BEST] = [_difference(row, "difference") for _, row in table.iterrows()]
        columns["to the baseline"] = [_difference(row, "to_baseline") for _, row in table.iterrows()]
        columns["tied"] = ["yes" if tied else "" for tied in table["tied"]]
        columns["categories"] = [_number(value, "{:.0f}") for value in table["categories"]]
        columns["calls a run"] = [_number(value, "{:.0f}") for value in table["calls"]]
        columns["USD a run"] = [_number(value, "{:.4f}") for value in table["cost_usd"]]
        columns["Pareto"] = ["yes" if front else "" for front in table["pareto"]]
        return pd.DataFrame(columns)

    def figure(self) -> Figure:
        """Draw how far each setting is below the best, with intervals."""
        return figures.leaderboard(self._named(), f"Below the best, by {_WORDS[self.by]}: {self.parameters}")

    def pareto(self) -> Figure:
        """Draw quality against price; the settings on the front are connected."""
        price = "US dollars a run, without cache" if self.price == "cost_usd" else "calls a run, without cache"
        title = f"Quality against price: {self.parameters}"
        return figures.pareto(self._named(), (self.price, self.by), title, (price, _WORDS[self.by]))

    @property
    def parameters(self) -> str:
        """The names of the parameters that vary: `prompts · products_per_prompt`."""
        return " · ".join(self.settings[0].values)

    def _named(self) -> pd.DataFrame:
        """Return the table with settings named by their values alone, which fit into a figure."""
        return self.table.assign(setting=self.table["setting"].map(self._names()))

    def _names(self) -> dict[str, str]:
        return {setting.label: " · ".join(map(str, setting.values.values())) for setting in self.settings}

    def runs(self) -> pd.DataFrame:
        """List the runs: `setting`, `seed`, `run`, `prompts` (the set)."""
        rows = [
            (setting.label, run.parameters.seed, run.id, run.prompt_set)
            for setting in self.settings
            for run in setting.runs
        ]
        return pd.DataFrame(rows, columns=["setting", "seed", "run", "prompts"])

    def compared(self) -> tuple[str, str] | None:
        """Return a run of the baseline and one of the highest other setting, for `compare`."""
        first = self.runs().drop_duplicates("setting").set_index("setting")["run"]
        others = [name for name in self.table["setting"] if name != self.baseline and name in first]
        return (str(first[self.baseline]), str(first[others[0]])) if others and self.baseline in first else None

    def methods(self) -> str:
        """Return a sentence for the methods section of a report."""
        labelled = f" against {self.label_source}" if self.label_source else ""
        return (
            f"{len(self.settings)} settings were run with the same {len(self.seeds)} seeds and scored by "
            f"{_WORDS[self.by]}{labelled}. Differences are paired by seed, with 95 % jackknife intervals over seeds; "
            "the set of settings that cannot be distinguished from the best comes from one-sided tests of each "
            "against the best, corrected by Holm (1979). The optimism of the choice was estimated by choosing anew "
            "without each seed and half of the labels."
        )

    def write_html(self, path: str | Path) -> Path:
        """Write the leaderboard as one page that needs nothing else."""
        facts = [
            quantity(len(self.settings), "setting"), quantity(len(self.runs()), "run"),
            quantity(self.products, "product"),
        ]  # fmt: skip
        facts += [f"labels: {self.label_source}"] if self.label_source else []
        return write_page(Path(path), "Settings compared", facts, self._body())

    def _body(self) -> str:
        parts: dict[str, Sequence[Any]] = {
            "In short": self.sentences(),
            "How far below the best": [
                "Blue settings are not distinguishable from the best. The intervals are two-sided and the test asks "
                "on one side, so that an orange interval may just cross zero.",
                self.figure(),
            ],
            "Quality against price": ["No setting is both better and cheaper than those on the line.", self.pareto()],
            "All settings": self._halves(),
            "The runs": [self.runs()],
            "For the methods section": [self.methods()],
        }
        return sections(parts)

    def shown(self) -> Parts:
        """Return what Jupyter shows: the findings, and all settings."""
        return {"": self.sentences(), "Settings": self._halves()}

    def _halves(self) -> list[pd.DataFrame]:
        """Return the readable table as two that fit on a page: the scores, and the differences with the prices."""
        table = self.readable()
        table["setting"] = table["setting"].map(self._names())
        split = list(table.columns).index(_TO_BEST)
        return [table[["setting", *columns]] for columns in (table.columns[1:split], table.columns[split:])]


def leaderboard_of(
    settings: Sequence[Setting],
    *,
    labels: str | Path | pd.DataFrame | None = None,
    label_column: str = "",
    by: str = "",
) -> Leaderboard:
    """Rank settings by their finished runs, the first being the baseline; nothing is asked of a model.

    With `labels` or a `label_column`, as `evaluate` takes them, they are ranked by AMI, `b_cubed` or
    `harmonic_purity` (`by`); without, by stability. Runs are paired by their seed. Raises InputError for an unknown
    `by`, RunError where no run has finished.
    """
    scores = SweepScores(settings, labels, label_column)
    by = by or scores.metrics[0]
    if by not in scores.metrics:
        hint = "without labels only by stability: --label-column COLUMN" if len(scores.metrics) == 1 else ""
        raise InputError(f"settings cannot be ranked by {by!r}", hint or f"--by {', '.join(scores.metrics)}")
    values = [
        float("nan") if setting.ended else scores.value(by, i, scores.seeds_of(i))
        for i, setting in enumerate(settings)
    ]
    if not np.isfinite(values).any():
        more = "--repeats 5" if by == STABILITY else "segkit runs"
        raise RunError("no setting has enough finished runs to be ranked", more)
    best = int(np.nanargmax(values))
    table = ranking(settings, scores, by, best)
    return Leaderboard(
        settings=list(settings),
        by=by,
        metrics=scores.metrics,
        table=table,
        optimism=scores.optimism(by, best),
        label_source=scores.label_source,
        products=scores.products,
        seeds=scores.seeds,
    )


def _interval(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]):
        return ""
    if pd.isna(row[f"{name}_low"]):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} ({row[f'{name}_low']:.3f} to {row[f'{name}_high']:.3f})"


def _difference(row: pd.Series, name: str) -> str:
    if pd.isna(row[name]) or row[name] == 0:
        return ""
    if pd.isna(row[f"{name}_low"]):
        return f"{row[name]:+.3f}"
    return f"{row[name]:+.3f} ({row[f'{name}_low']:+.3f} to {row[f'{name}_high']:+.3f})"


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else form.format(value)
