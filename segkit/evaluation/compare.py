"""Two runs side by side: what differs in them, how far they agree, and how far repeats of one agree anyway."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from segkit.analysis.logs import query
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.prompt_sets import abridged, word_diff
from segkit.core.text import quantity
from segkit.evaluation import agreement, figures
from segkit.evaluation.labels import Labels, labels_of
from segkit.evaluation.pages import Html, Parts, Readable, sections, write_page
from segkit.evaluation.scores import cross_mapped
from segkit.evaluation.statistics import (
    Estimate,
    Numbers,
    difference_interval,
    group_test,
    mean_pairwise,
    t_interval,
)
from segkit.runs.run import Run, open_run
from segkit.settings import load_settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILES = "SELECT cache_key, any_value(file_path) AS file_path FROM interactions GROUP BY cache_key"


@dataclass(frozen=True, repr=False)
class Comparison(Readable):
    """What two runs have in common and what not.

    `noise_floor` is how far repeats of the first run agree with each other, None without repeats; `p_value` is the
    chance of runs this far apart if the difference in settings did nothing. `moved` has a row for each product that
    stands in another category than the match of its first one, the stable ones first: `stable` products never moved
    between repeats, so that the move is due to the settings. Frames: `parameters`, `matched`, `containment`, `moved`,
    `ledger`, `spent`; `prompts` has a diff for each prompt that differs.
    """

    first: Run
    second: Run
    ami: float
    noise_floor: Estimate | None
    noise_floor_second: Estimate | None
    p_value: float | None
    parameters: pd.DataFrame
    prompts: dict[str, str]
    matched: pd.DataFrame
    containment: pd.DataFrame
    moved: pd.DataFrame
    ledger: pd.DataFrame
    spent: pd.DataFrame
    placements: tuple[pd.Series, pd.Series]
    label_difference: Estimate | None = None

    @property
    def same_settings(self) -> bool:
        return agreement.is_repeat(self.first, self.second)

    @property
    def stable_movers(self) -> int:
        return int(self.moved["stable"].sum())

    def as_json(self) -> dict[str, Any]:
        """Return the figures that other programs rely on."""
        nothing = Estimate(float("nan"), None, None, 0, "runs")
        floor = (self.noise_floor or nothing).as_json("noise_floor")
        labels = (self.label_difference or nothing).as_json("label_difference") if self.label_difference else {}
        return {
            "run_a": self.first.id,
            "run_b": self.second.id,
            "ami": self.ami,
            **(floor if self.noise_floor else {"noise_floor": None}),
            "p_value": self.p_value,
            "products": len(self.placements[0]),
            "moved": len(self.moved),
            "stable_movers": self.stable_movers if self.noise_floor or self.moved.empty else None,
            "calls": self._pair("calls"),
            "cost_usd": self._pair("cost_usd"),
            **labels,
        }

    def _pair(self, name: str) -> dict[str, Any]:
        row = self.spent.set_index("figure").loc[name]
        return {"a": _number(row["first"]), "b": _number(row["second"])}

    def sentences(self) -> list[str]:
        """Say in plain words what was found, and which command would tell more."""
        if self.first.id == self.second.id:
            return [f"This is {self.first.id} on both sides: nothing differs."]
        lines = [f"The two runs agree at an AMI of {self.ami:.2f} (1 is the same grouping, 0 is chance)."]
        lines.append(self._about_noise())
        total = quantity(len(self.placements[0]), "product")
        moved = f"{len(self.moved):,} of {total} moved"
        if len(self.moved) == 0:
            lines.append(f"None of {total} moved.")
        elif self.noise_floor and not self.same_settings and not self.stable_movers:
            lines.append(
                f"{moved}; all of them move between repeats too, so that no "
                "single move is due to the settings for sure."
            )
        elif self.noise_floor and not self.same_settings:
            lines.append(
                f"{moved}; {self.stable_movers:,} of them never move between "
                "repeats, so their move is due to the settings."
            )
        else:
            lines.append(f"{moved}.")
        if self.label_difference:
            lines.append(self._about_labels(self.label_difference))
        return lines

    def _about_noise(self) -> str:
        again = f"segkit stability {self.first.id} --repeats 5"
        if self.same_settings:
            return "Both have the same settings, so what differs between them is noise."
        if self.noise_floor is None:
            return f"How much moves between repeats anyway is not known: {again}"
        floor = self.noise_floor
        what = f"Repeats of the first agree at {_with_interval(floor)}"
        if self.p_value is None or self.noise_floor_second is None:
            return f"{what}. Repeat the second one too, for a test: segkit stability {self.second.id} --repeats 5"
        verdict = "this is more than noise" if self.p_value <= 0.05 else "this may be noise"
        second = _with_interval(self.noise_floor_second)
        return f"{what}, those of the second at {second}: {verdict}, p = {self.p_value:.2g}."

    def _about_labels(self, difference: Estimate) -> str:
        what = "share of right products" if difference.unit == "batches" else "AMI"
        if difference.low is None or difference.high is None:
            return (
                f"Against the labels the second is {difference.value:+.3f} {what}; whether that is luck cannot be "
                "said of one run each. Repeat both: segkit stability RUN --repeats 5"
            )
        verdict = (
            "better" if difference.low > 0 else "worse" if difference.high < 0 else "not shown to be better or worse"
        )
        return (
            f"Against the labels the second is {verdict}: {what} {difference.value:+.3f} "
            f"({difference.low:+.3f} to {difference.high:+.3f}; {difference.count} {difference.unit})."
        )

    def flow(self) -> Figure:
        """Draw where the products of each category went."""
        return figures.flow(*self.placements, (self.first.id, self.second.id))

    def write_html(self, path: str | Path) -> Path:
        """Write the comparison as one page that needs nothing else."""
        facts = [self.first.id, self.second.id, quantity(len(self.placements[0]), "product")]
        return write_page(Path(path), "Two runs compared", facts, self._body())

    def _body(self) -> str:
        parts: dict[str, Sequence[Any]] = {"In short": self.sentences()}
        if self.first.id != self.second.id:
            parts |= {
                "What differs in the parameters": [self.parameters] if len(self.parameters) else ["Nothing."],
                "What differs in the prompts": [Html(self._diffs())] if self.prompts else ["Nothing."],
                "Where products went": [self.flow()],
                "Who moved, stable movers first": [self._movers_table()],
                "Categories matched one to one": [self.matched],
                "Share of each category of the first in those of the second": [self._containment_table()],
                "Where products ended": [self.ledger],
                "What they took": [self.spent],
            }
        return sections(parts)

    def _diffs(self) -> str:
        return "".join(
            f"<h3>{key}</h3>\n<pre>{''.join(_marked(*part) for part in abridged(word_diff(*texts)))}</pre>"
            for key, texts in _prompts(self.first, self.second).items()
        )

    def _movers_table(self) -> pd.DataFrame:
        table = self.moved.drop(columns=["file_first", "file_second"])
        return table.assign(stable=table["stable"].map({True: "yes", False: "no"}))

    def _containment_table(self) -> pd.DataFrame:
        rows = [
            {"category": old, "stands_in": ", ".join(f"{new} {share:.0%}" for new, share in parts.items())}
            for old, parts in (
                (old, row[row > 0].sort_values(ascending=False)) for old, row in self.containment.iterrows()
            )
        ]
        return pd.DataFrame(rows, columns=["category", "stands_in"])

    def shown(self) -> Parts:
        """Return what Jupyter shows: the summary, the flow, and who moved."""
        if self.moved.empty:
            return {"": self.sentences()}
        movers = self._movers_table().head(_MOVERS)
        return {"": [*self.sentences(), self.flow()], f"Who moved ({len(movers):,} of {len(self.moved):,})": [movers]}


_SIDES = ("first", "second")
_MOVERS = 20  # products that Jupyter shows


def compare(
    first: Run | str,
    second: Run | str,
    *,
    labels: str | Path | pd.DataFrame | None = None,
    label_column: str = "",
    runs_dir: str | Path = "",
) -> Comparison:
    """Compare two runs of the same products; nothing is asked of a model.

    Repeats of either (runs with the same settings and other seeds in the same folder) are found by themselves, and
    show how much moves anyway. With `labels` (see `evaluate`) the difference is reported: of the AMI to the labels,
    over repeats; or, where both runs share one taxonomy, of the share of right products, over batches.
    """
    place = Path(runs_dir) if runs_dir else load_settings().storage_root
    one, two = (name if isinstance(name, Run) else open_run(name, place) for name in (first, second))
    groups = _groups(one, two)
    placed = [[agreement.placements(run) for run in group] for group in groups]
    matrix = agreement.agreement_matrix([*placed[0], *placed[1]])
    known = labels_of(one, labels, label_column) if labels is not None or label_column else None
    floors = _floor(matrix[: len(placed[0]), : len(placed[0])]), _floor(matrix[len(placed[0]) :, len(placed[0]) :])
    both = agreement.on_common_products([placed[0][0], placed[1][0]])
    return Comparison(
        first=one,
        second=two,
        ami=agreement.ami(placed[0][0], placed[1][0]),
        noise_floor=floors[0],
        noise_floor_second=floors[1],
        p_value=_p_value(one, two, matrix, len(placed[0])),
        parameters=_parameters(one, two),
        prompts={key: _diff(*texts, (one.id, two.id)) for key, texts in _prompts(one, two).items()},
        matched=agreement.matched_table(both[0], both[1]),
        containment=agreement.containment(both[0], both[1]),
        moved=_movers(one, two, placed),
        ledger=_ledgers(one, two),
        spent=_spent(one, two),
        placements=(both[0], both[1]),
        label_difference=_label_difference(one, two, placed, known) if known else None,
    )


def _groups(one: Run, two: Run) -> tuple[list[Run], list[Run]]:
    """Put each run before its repeats; where the two are repeats of each other, all stand in the first group."""
    if agreement.is_repeat(one, two):
        return [one, *agreement.repeats_of(one)], [two]
    return [one, *agreement.repeats_of(one)], [two, *agreement.repeats_of(two)]


def _floor(matrix: Numbers) -> Estimate | None:
    return mean_pairwise(matrix) if len(matrix) > 1 else None


def _p_value(one: Run, two: Run, matrix: Numbers, count: int) -> float | None:
    if agreement.is_repeat(one, two) or min(count, len(matrix) - count) < 2:
        return None
    return group_test(matrix, count)


def _parameters(one: Run, two: Run) -> pd.DataFrame:
    before, after = asdict(one.parameters), asdict(two.parameters)
    rows = [(name, str(before[name]), str(after[name])) for name in before if before[name] != after[name]]
    rows += [
        (name, one.document["input"][name], two.document["input"][name])
        for name in ("products", "sha256")
        if one.document["input"][name] != two.document["input"][name]
    ]
    return pd.DataFrame(rows, columns=["parameter", "first", "second"])


def _prompts(one: Run, two: Run) -> dict[str, tuple[str, str]]:
    """Return both texts of each prompt that differs, as the runs have archived them."""
    before, after = one.prompts, two.prompts
    texts = {key: (before.get(key, ""), after.get(key, "")) for key in sorted(before.keys() | after.keys())}
    return {key: (old, new) for key, (old, new) in texts.items() if old != new}


def _diff(old: str, new: str, names: tuple[str, str]) -> str:
    return "\n".join(difflib.unified_diff(old.splitlines(), new.splitlines(), *names, lineterm=""))


def _marked(kind: str, text: str) -> str:
    tag = {"removed": "del", "added": "ins"}.get(kind, "")
    return f"<{tag}>{_escaped(text)}</{tag}>" if tag else _escaped(text)


def _movers(one: Run, two: Run, placed: Sequence[Sequence[pd.Series]]) -> pd.DataFrame:
    """List the products that moved, the stable ones first: with their title, both categories and both log files."""
    both = agreement.on_common_products([placed[0][0], placed[1][0]])
    moved = agreement.moved_products(both[0], both[1])
    unstable = pd.Series(False, index=moved.index)
    for group in placed:
        for repeat in group[1:]:
            unstable |= agreement.moved_products(group[0], repeat).reindex(moved.index, fill_value=False)
    titles = one.products.set_index("product_id")["title"]
    ids = moved[moved].index
    frame = pd.DataFrame(
        {
            "product_id": ids,
            "title": titles.reindex(ids).to_numpy(),
            "first": both.loc[ids, 0].to_numpy(),
            "second": both.loc[ids, 1].to_numpy(),
            "stable": (~unstable[ids]).to_numpy() & (len(placed[0]) > 1),
            "file_first": _files(one, ids) if len(ids) else [],
            "file_second": _files(two, ids) if len(ids) else [],
        }
    )
    return frame.sort_values(["stable", "first", "second"], ascending=[False, True, True], ignore_index=True)


def _files(run: Run, ids: pd.Index) -> list[str]:
    """Return for each product the log of the interaction that stated its final category."""
    lineage = run.result("lineage").set_index("product_id").reindex(ids)
    keys = lineage["refined_by"].where(lineage["refined_by"].fillna("") != "", lineage["cache_key"])
    paths = query(_FILES, run=run).set_index("cache_key")["file_path"]
    return [str(path) for path in keys.map(paths).fillna("")]


def _ledgers(one: Run, two: Run) -> pd.DataFrame:
    counts = [run.result("ledger")["state"].value_counts() for run in (one, two)]
    states = [state for state in ("assigned", "out_of_scope", "unassigned") if any(state in each for each in counts)]
    return pd.DataFrame(
        {
            "state": states,
            "first": [int(counts[0].get(s, 0)) for s in states],
            "second": [int(counts[1].get(s, 0)) for s in states],
        }
    )


def _spent(one: Run, two: Run) -> pd.DataFrame:
    """List what each run took; money that is not known is missing."""
    rows: dict[str, list[Any]] = {}
    for run in (one, two):
        total = run.status.total
        figures_of = {
            "categories": _categories(run),
            "calls": total.calls,
            "cached": total.cached,
            "retries": total.retries,
            "input_tokens": total.input_tokens,
            "output_tokens": total.output_tokens,
            "cost_usd": None if total.unpriced else float(total.cost_usd),
            "seconds": run.status.summary.get("seconds", round(total.seconds, 1)),
        }
        for name, value in figures_of.items():
            rows.setdefault(name, []).append(value)
    columns = {
        name: pd.Series([values[i] for values in rows.values()], dtype=object) for i, name in enumerate(_SIDES)
    }
    return pd.DataFrame({"figure": list(rows), **columns})


def _categories(run: Run) -> int:
    """Count the categories with products, as the summary of a run does; out of scope is none."""
    taxonomies = run.result("taxonomies")
    named = taxonomies["category_name"] != OUT_OF_SCOPE
    return int((named & (taxonomies["product_count"] > 0)).sum())


def _label_difference(one: Run, two: Run, placed: Sequence[Sequence[pd.Series]], labels: Labels) -> Estimate:
    if one.id != two.id and _share_taxonomy(one, two):
        return _difference_of_batches(one, (placed[0][0], placed[1][0]), labels)
    scores = [[agreement.ami(run, labels.names) for run in group] for group in placed]
    return difference_interval(scores[0], scores[1])


def _share_taxonomy(one: Run, two: Run) -> bool:
    """Report whether two runs have one taxonomy, so that they differ only in how products were put into it.

    Both were given one, or both have the same answers up to the refinement. Equal names that two extractions came to
    are no shared taxonomy.
    """
    if not (one.parameters.taxonomy and two.parameters.taxonomy):
        before = [run.result("lineage").set_index("product_id")["category"] for run in (one, two)]
        if not before[0].sort_index().equals(before[1].sort_index()):
            return False
    names = [set(zip(t["category_name"], t["definition"], strict=True)) for t in map(_taxonomy, (one, two))]
    return names[0] == names[1]


def _taxonomy(run: Run) -> pd.DataFrame:
    taxonomies = run.result("taxonomies")
    return taxonomies[taxonomies["category_name"] != OUT_OF_SCOPE]


def _difference_of_batches(one: Run, runs: tuple[pd.Series, pd.Series], labels: Labels) -> Estimate:
    """Return the difference of the shares of right products, with Student's interval over batches of the first."""
    truth = labels.names[labels.names.index.isin(runs[0].index) & labels.names.index.isin(runs[1].index)]
    right = [
        (truth == (run[truth.index] if labels.own else cross_mapped(truth, run[truth.index]))).astype(float)
        for run in runs
    ]
    batches = agreement.batches_of(one).reindex(truth.index)
    return t_interval((right[1] - right[0]).groupby(batches).mean().tolist())


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _with_interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f} ({quantity(estimate.count, 'run')})"
    return f"{estimate.value:.2f} ± {(estimate.high - estimate.low) / 2:.2f} ({quantity(estimate.count, 'run')})"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
