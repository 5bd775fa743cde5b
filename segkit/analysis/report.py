"""The report of a run: what was segmented, how far to trust it, and every product; one file that can be sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pandas as pd

from segkit.analysis.lineage import merge_paths
from segkit.analysis.page import html_page, wide
from segkit.analysis.tables import (
    cascade_sentence,
    conflicts,
    environment,
    not_as_asked,
    repeatability_sentence,
    sample_sentence,
    stage_figures,
    typical_products,
)
from segkit.core.models import OUT_OF_SCOPE
from segkit.core.results import grouped_reasons
from segkit.core.text import quantity
from segkit.display import html_table, html_text, is_missing, json_text
from segkit.runs.run import Run
from segkit.storage.disk import write_atomic

REPORT = "report.html"  # its name in the folder of a run
OFFLINE = "Grouped by words by the embedded offline model, which is no language model and follows no instructions."
UNMEASURED = "This is a single run. How far a second one would agree with it was not measured."
_UNSURE = 0.6  # a confidence below this is a doubt
_DOUBTS, _MOVES, _MERGED = 20, 25, 8  # how many of each the report lists
_MANY_OUT = 0.3  # a share out of scope above this speaks against the category or the products
_NARROW, _LOW = 11, 15  # per cent of the map's width and height: a field below them has small letters
_MARGIN = 3  # a letter needs about one per cent of the width, and a field this much beside its letters
_AT_ONCE = 10_000  # products whose rows are written at a time
_IN_MAP = 24  # segments with a field of their own in the picture

Box = tuple[float, float, float, float]  # left, top, width, height, in per cent


def write_report(run: Run, trust: Sequence[str] = ()) -> Path:
    """Write the report of a run; `trust` says in sentences what was measured beside it, such as by repeats."""
    path = run.folder / REPORT
    write_atomic(path, report_page(run, trust).encode())
    return path


def report_page(run: Run, trust: Sequence[str] = ()) -> str:
    """Return the report of a run as HTML. Raises RunError if the run has no results yet."""
    table = run.assignments
    table["category"] = table["category"].fillna("")
    sizes = _sizes(table)
    sections = {
        "segments": ("Segments", _segments(run, table, sizes)),
        "doubts": ("Doubts", _doubts(table)),
        "products": ("Every product", _SEARCH.replace("$options", _options(sizes))),
        "moves": ("What the second reading moved", _moves(table)),
        "merges": ("What was merged", _merges(run)),
        "cost": ("What it took", _cost(run)),
        "made": ("How it was made", _made(run)),
    }
    if "refine_assignments" not in run.parameters.stages:
        del sections["moves"]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, (title, _) in sections.items())
    body = _first_screen(run, table, sizes, trust) + f'<nav aria-label="Contents">{links}</nav>'
    body += "".join(
        f'<section id="{key}"><h2>{title}</h2>{text}</section>' for key, (title, text) in sections.items()
    )
    note = OFFLINE if run.parameters.model == "offline" else ""
    title = f"Market segments of {run.parameters.category}"
    return html_page(title, _facts(run), body, note, _data(table, sizes))


def _facts(run: Run) -> list[str]:
    status, parameters = run.status, run.parameters
    state = f"{status.state}: {status.reason}" if status.reason else status.state
    made = str(run.document["created_at"])[:10]
    return [made, f"model {parameters.model}", f"prompts {run.prompt_set}", state, run.id]


def _sizes(table: pd.DataFrame) -> pd.Series:
    """Count the products of each category at the end, the largest first; "" are those without a category."""
    counts = table["category"].value_counts(sort=False).rename_axis("category").reset_index(name="products")
    counts["last"] = counts["category"].map({OUT_OF_SCOPE: 1, "": 2}).fillna(0)
    counts = counts.sort_values(["last", "products", "category"], ascending=[True, False, True])
    return counts.set_index("category")["products"]


def _name(category: str) -> str:
    return {OUT_OF_SCOPE: "Out of scope", "": "Without a category"}.get(category, category)


def _share(count: int, total: int) -> str:
    """Return a share in per cent; a small one is never written as none."""
    share = 100 * count / total if total else 0.0
    return f"{share:.0f}\u00a0%" if share >= 9.5 or share == 0 else f"{max(share, 0.1):.1f}\u00a0%"


def _first_screen(run: Run, table: pd.DataFrame, sizes: pd.Series, trust: Sequence[str]) -> str:
    named = sizes.drop([OUT_OF_SCOPE, ""], errors="ignore")
    largest = ", ".join(f"{name} ({_share(int(n), len(table))})" for name, n in named.head(3).items())
    placed = int(named.sum())
    some = "all" if placed == len(table) else f"{placed:,}"
    products, found = quantity(len(table), "product"), quantity(len(named), "segment")
    lede = f"{products}, {some} of them in {found}. The largest: {largest}."
    if not len(named):
        lede = f"{products}; no segment of {run.parameters.category} was found."
    points = "".join(f"<li>{html_text(text, len(text))}</li>" for text in _trust(run, table, trust))
    return (
        f'<p class="lede" dir="auto">{html_text(lede, len(lede))}</p><div class="first">'
        f"<div><h2>Shares</h2>{_map(sizes)}</div><div><h2>How far to trust it</h2><ul>{points}</ul></div></div>"
    )


def doubt_of_category(out: int, total: int) -> str:
    """Return a sentence where so many products are out of scope that the category itself may be wrong."""
    return "That is much: the category may not fit the products." if total and out / total > _MANY_OUT else ""


def _trust(run: Run, table: pd.DataFrame, trust: Sequence[str]) -> Iterable[str]:
    """Say in words what speaks for and against the result."""
    total, states = len(table), table["state"].value_counts()
    yield from trust
    if twice := repeatability_sentence(run):
        yield twice
    elif not trust:
        yield UNMEASURED
    out = int(states.get("out_of_scope", 0))
    sentence = f"Out of scope, no {run.parameters.category}: {quantity(out, 'product')} ({_share(out, total)})."
    yield f"{sentence} {doubt_of_category(out, total)}".rstrip()
    if left := int(states.get("unassigned", 0)):
        why = grouped_reasons(table.loc[table["state"] == "unassigned", "reason"])
        yield f"Without a category: {quantity(left, 'product')} ({why})."
    else:
        yield "Every product has its place."
    if refused := run.document["input"].get("refused"):
        yield f"Not in this report: {quantity(refused, 'row')} of the input that could not be used."
    yield from _about_confidence(table)
    yield from _about_reading(run, table)
    yield from _about_edits(run)
    if given_up := not_as_asked(run.status.stages):
        yield f"Not as asked: {given_up}."


def _about_reading(run: Run, table: pd.DataFrame) -> Iterable[str]:
    if read := sample_sentence(run):
        yield f"The segments were found in a sample: {read}. Then every product was put into one of them."
    if placed := cascade_sentence(run):
        yield f"A cascade put products into the segments: {placed}."
    if "refine_assignments" not in run.parameters.stages:
        return
    moved = int((table["first_category"] != table["category"])[table["first_category"].notna()].sum())
    yield f"The second reading moved {quantity(moved, 'product')} ({_share(moved, len(table))}) to another segment."


def _about_edits(run: Run) -> Iterable[str]:
    """Say which proposals edits of the taxonomy speak against: a person has to decide."""
    for conflict in conflicts(run)["conflict"]:
        yield f"For a person to decide: {conflict}."


def _about_confidence(table: pd.DataFrame) -> Iterable[str]:
    known = table["confidence"].dropna()
    if known.empty:
        yield "The model stated no confidence."
        return
    unsure = int((known < _UNSURE).sum())
    low = f"below {_UNSURE} for {quantity(unsure, 'product')}" if unsure else f"never below {_UNSURE}"
    yield f"The model's own confidence: median {known.median():.2f}, {low}. It is not a measured accuracy."


def _map(sizes: pd.Series) -> str:
    """Draw the shares as a map: the area of a field is the number of its products."""
    counts = sizes[sizes > 0].drop("", errors="ignore").sort_values(ascending=False, kind="stable")
    rest = int(counts.iloc[_IN_MAP:].sum())
    fields = [(_name(str(name)), int(n), name == OUT_OF_SCOPE) for name, n in counts.head(_IN_MAP).items()]
    fields += [(f"{len(counts) - _IN_MAP} more segments", rest, True)] if rest else []
    fields.sort(key=lambda field: -field[1])
    total = sum(count for _, count, _ in fields)
    boxes = _boxes([count for _, count, _ in fields])
    drawn = "".join(_field(*field, box, total) for field, box in zip(fields, boxes, strict=True))
    label = "Map of the shares: " + ", ".join(f"{name} {_share(count, total)}" for name, count, _ in fields[:12])
    return f'<div class="map" role="img" aria-label="{html_text(label, len(label))}">{drawn}</div>'


def _field(name: str, count: int, is_rest: bool, box: Box, total: int) -> str:
    left, top, width, height = box
    longest = max(map(len, name.split()), default=0)
    kind = "rest " * is_rest + "small" * (width < max(_NARROW, longest + _MARGIN) or height < _LOW)
    place = f"left:{left:.2f}%;top:{top:.2f}%;width:{width:.2f}%;height:{height:.2f}%"
    hover = html_text(f"{name}: {count:,}", len(name) + 20)
    return f'<div class="{kind}" title="{hover}" style="{place}">{html_text(name)}<br>{_share(count, total)}</div>'


def _boxes(counts: Sequence[int]) -> list[Box]:
    """Cut a rectangle into one of the right area for each count, across its longer side and near the middle."""

    def cut(counts: Sequence[int], box: Box) -> list[Box]:
        if len(counts) < 2:
            return [box] * len(counts)
        total, half = sum(counts), 1
        while half < len(counts) - 1 and sum(counts[:half]) * 2 < total:
            half += 1
        share = sum(counts[:half]) / total
        x, y, w, h = box
        if w * 1.8 >= h:  # the map is wider than it is high
            return cut(counts[:half], (x, y, w * share, h)) + cut(
                counts[half:], (x + w * share, y, w * (1 - share), h)
            )
        return cut(counts[:half], (x, y, w, h * share)) + cut(counts[half:], (x, y + h * share, w, h * (1 - share)))

    return cut(counts, (0, 0, 100, 100))


def _segments(run: Run, table: pd.DataFrame, sizes: pd.Series) -> str:
    typical = typical_products(table)
    definitions = run.result("taxonomies").set_index("category_name")["definition"]
    most, total = max(int(sizes.max()), 1) if len(sizes) else 1, len(table)
    rows = "".join(
        f'<tr><td class="name" dir="auto">{html_text(_name(str(name)))}{_definition(definitions.get(name, ""))}</td>'
        f'<td class="bar" aria-hidden="true"><span style="width:{100 * count / most:.1f}%"></span></td>'
        f'<td class="number">{count:,}</td><td class="number">{_share(int(count), total)}</td>'
        f'<td class="typical" dir="auto">{_lines(typical.get(str(name), []))}</td></tr>'
        for name, count in sizes.items()
    )
    heads = ("segment", "", "products", "share", "typical products")
    return f'<table class="segments"><thead><tr>{_heads(heads)}</tr></thead><tbody>{rows}</tbody></table>'


def _heads(names: Sequence[str]) -> str:
    """Return the heads of columns; one without a name is that of a bar, which needs none."""
    numbers = ("products", "share")
    return "".join(
        f'<th scope="col"{" class=number" * (name in numbers)}>{name}</th>'
        if name
        else '<td aria-hidden="true"></td>'
        for name in names
    )


def _definition(text: str) -> str:
    return f"<details><summary>what it holds</summary>{html_text(text, len(text))}</details>" if text else ""


def _lines(titles: Sequence[str]) -> str:
    return "".join(f"<span>{html_text(_cut(title))}</span>" for title in titles)


def _cut(title: str, most: int = 90) -> str:
    return title if len(title) <= most else title[: most - 1].rstrip(" ,;-") + "…"


def _doubts(table: pd.DataFrame) -> str:
    """List what a person should look at first: products without a category, and the least sure ones."""
    left = table[table["state"] == "unassigned"].assign(category="")
    stated = table["confidence"].notna() & (table["state"] != "unassigned")
    unsure = table.loc[stated, ["confidence", "product_id"]].sort_values(["confidence", "product_id"])
    listed = pd.concat([left.head(_DOUBTS), table.loc[unsure.head(_DOUBTS).index]]).head(_DOUBTS)
    if listed.empty:
        return "<p>No confidence was stated.</p>"
    columns = {"title": listed["title"], "segment": listed["category"].map(_name)}
    columns |= {"confidence": listed["confidence"], "why": listed["reason"].fillna("")}
    if not listed["reason"].fillna("").any():
        del columns["why"]
    prose = "<p>Products without a category come first, then those that the model was least sure of.</p>"
    return prose + wide(html_table({name: list(values) for name, values in columns.items()}), "Doubts")


_SEARCH = """
<noscript><p>The search needs the script of this page; <code>segkit export</code> writes every product to a file.</p>
</noscript>
<div id="search" hidden>
<div class="find">
<label>Words of the title, or an id<input id="query" type="search" autocomplete="off"></label>
<label>Segment<select id="segment"><option value="">all</option>$options</select></label>
</div>
<p id="count" aria-live="polite" class="facts"></p>
<div class="wide" tabindex="0" role="region" aria-label="Products found"><table><thead><tr>
<th scope="col">id</th><th scope="col">title</th><th scope="col">segment</th>
<th scope="col" class="number">confidence</th></tr></thead><tbody id="found"></tbody></table></div>
<button id="more" type="button" class="screen">Show more</button>
</div>
"""


def _options(sizes: pd.Series) -> str:
    names = enumerate(map(str, sizes.index))
    return "".join(f'<option value="{i}">{html_text(_name(name), len(name) + 20)}</option>' for i, name in names)


def _data(table: pd.DataFrame, sizes: pd.Series) -> dict[str, Any]:
    """Return every product for the search; ids as texts, which JavaScript does not round."""
    numbers = {name: i for i, name in enumerate(sizes.index)}
    parts = (table.iloc[start : start + _AT_ONCE] for start in range(0, len(table), _AT_ONCE))
    rows = ",".join(json_text(_rows(part, numbers))[1:-1] for part in parts)
    return {
        "segments": [_name(str(name)) for name in sizes.index],
        "rows": orjson.Fragment(f"[{rows}]"),
        "category": 2,
        "confidence": 3,
    }


def _rows(table: pd.DataFrame, numbers: Mapping[str, int]) -> list[tuple[str, str, int, str | None]]:
    ids = table["source_id"] if "source_id" in table.columns else table["product_id"]
    confidences = [None if is_missing(value) else f"{value:.2f}" for value in table["confidence"]]
    titles = [str(title) for title in table["title"].fillna("")]
    return list(zip(map(str, ids), titles, table["category"].map(numbers).tolist(), confidences, strict=True))


def _moves(table: pd.DataFrame) -> str:
    """Draw the moves of refinement, the most frequent first, each with one of its products."""
    moved = table[table["first_category"].notna() & (table["first_category"] != table["category"])]
    if moved.empty:
        return "<p>It moved no product.</p>"
    counts = moved.groupby(["first_category", "category"], sort=False).agg(
        products=("product_id", "size"), example=("title", "first")
    )
    counts = counts.reset_index().sort_values(
        ["products", "first_category", "category"], ascending=[False, True, True]
    )
    most, rows = int(counts["products"].max()), []
    for before, after, count, example in counts.head(_MOVES).itertuples(index=False, name=None):
        rows.append(
            f'<tr><td dir="auto">{html_text(_name(before))} → <b>{html_text(_name(after))}</b></td>'
            f'<td class="bar" aria-hidden="true"><span style="width:{100 * count / most:.1f}%"></span></td>'
            f'<td class="number">{count:,}</td><td class="typical" dir="auto">{html_text(_cut(example))}</td></tr>'
        )
    rest = len(counts) - len(rows)
    caption = f"<caption>and {rest:,} rarer moves</caption>" if rest > 0 else ""
    head = _heads(("from → to", "", "products", "one of them"))
    drawn = f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return wide(drawn, "Moves")


def _merges(run: Run) -> str:
    """Draw for each category what the batches had called it: the wider a part, the more products."""
    if not run.has_result("batch_categories"):
        return "<p>The categories were given; no names were merged.</p>"
    paths = merge_paths(run)
    names = paths.groupby(["category", "batch_category"], as_index=False)["products"].sum()
    rows = []
    for category, parts in sorted(
        _groups(pd.DataFrame(names)), key=lambda item: (-item[1]["products"].sum(), item[0])
    ):
        if len(parts) < 2:
            continue
        parts = parts.sort_values(["products", "batch_category"], ascending=[False, True])
        shown = "".join(
            f'<span style="flex-grow:{max(n, 1)}">{html_text(name, 60)} {n:,}</span>'
            for name, n in zip(parts["batch_category"][:_MERGED], parts["products"][:_MERGED], strict=True)
        )
        rest = f"<span>and {len(parts) - _MERGED} more</span>" if len(parts) > _MERGED else ""
        rows.append(
            f'<tr><td class="name" dir="auto">{html_text(category)}</td>'
            f'<td><div class="parts">{shown}{rest}</div></td></tr>'
        )
    if not rows:
        return "<p>No two names were merged.</p>"
    prose = (
        "<p>What the batches had called each segment, with the products of each name before the second reading.</p>"
    )
    head = _heads(("segment", "names of the batches"))
    return prose + f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _groups(names: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(category), parts) for category, parts in names.groupby("category")]


def _cost(run: Run) -> str:
    figures = stage_figures(run)
    return (
        wide(html_table(figures.to_dict("list")), "Calls, tokens and cost")
        if len(figures)
        else "<p>No stage has begun.</p>"
    )


def _made(run: Run) -> str:
    """Show the input, the parameters and the prompts in full."""
    source = run.document["input"]
    facts = {"products from": source.get("source", ""), **source.get("where", {})}
    source_facts = pd.DataFrame({"fact": list(facts), "value": [str(value) for value in facts.values()]})
    facts_table = pd.concat([source_facts, environment(run)])
    prompts = "".join(
        f"<details><summary>The prompt {html_text(name)}</summary><pre>{html_text(text, len(text))}</pre></details>"
        for name, text in run.prompts.items()
    )
    table = wide(html_table(facts_table.to_dict("list")), "Parameters and versions")
    return f"{prompts}<details open><summary>Parameters and versions</summary>{table}</details>"
