"""The figures: readable for few and many categories, long and hostile names, and no data at all."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from segkit.analysis import figures, style
from segkit.core.models import OUT_OF_SCOPE
from segkit.runs.run import Run
from segkit.runs.status import update_status

ALL = ["title_lengths", "segment_sizes", "moves", "confidence_by_category", "time_and_tokens"]
HOSTILE = [
    "$x$ under $50",
    r"$\frac{1}{0}$ \bad",
    "<script>alert(1)</script>",
    "咖啡机 קפה ☕",
    "Long " * 50,
    "a\\$b_{c}^d",
]


def finished(run: Run, names: list[str], products: int) -> Run:
    """Give a run the results that figures read: products over some categories, every seventh moved on."""
    ids = run.products["product_id"].tolist()[:products]
    first = [names[i % len(names)] for i in range(len(ids))] if names else [""] * len(ids)
    final = [names[(i + (i % 7 == 0)) % len(names)] if names else "" for i in range(len(ids))]
    confidence = [0.5 + (i % 50) / 100 for i in range(len(ids))] if names else [float("nan")] * len(ids)
    lineage = pd.DataFrame(
        {"product_id": ids, "category": first, "refined_category": final, "confidence": confidence}
    ).astype({"category": "str", "refined_category": "str"})
    counts = lineage["refined_category"].value_counts()
    sizes = [int(counts.get(name, 0)) for name in names]
    run.save_result("lineage", lineage)
    run.save_result(
        "taxonomies", pd.DataFrame({"category_name": pd.array(names, dtype="str"), "product_count": sizes})
    )
    state = ["out_of_scope" if name == OUT_OF_SCOPE else "assigned" if name else "unassigned" for name in final]
    run.save_result("ledger", pd.DataFrame({"product_id": ids, "state": pd.array(state, dtype="str")}))
    return run


def texts(figure: Figure) -> list[str]:
    return [text.get_text().replace(r"\$", "$") for text in figure.findobj(Text) if text.get_text()]


def render(figure: Figure) -> None:
    """Draw a figure as a notebook does; a warning is a failure, and so is a text beyond the edge."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, size = figure._repr_png_()  # type: ignore[attr-defined]
    assert image.startswith(b"\x89PNG")
    assert 500 < size["width"] < 1200
    assert 60 < size["height"] < 2000
    edge = figure.bbox.padded(1)
    for text, box in extents(figure):
        assert edge.x0 <= box.x0 <= box.x1 <= edge.x1, text


def extents(figure: Figure) -> list[tuple[str, Bbox]]:
    """Where each text that can be seen stands, at the figure's own resolution."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figure.draw_without_rendering()
        # Ticks beyond the ends of an axis keep their texts, though they are not drawn.
        ticks = [tick for axes in figure.axes for tick in (*axes.get_xticklabels(), *axes.get_yticklabels())]
        seen = [text for text in figure.findobj(Text) if text.get_text() and text not in ticks]
        return [(text.get_text(), text.get_window_extent()) for text in seen]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("count", [1, 3, 60])
def test_figures_hold_few_and_many_categories(new_run: Callable[..., Run], name: str, count: int) -> None:
    run = finished(new_run(300, model="offline"), [f"Category number {i}" for i in range(count)], 300)
    figure = getattr(figures, name)(run)
    render(figure)
    if count == 60 and name in ("segment_sizes", "moves", "confidence_by_category"):
        assert any("more" in text for text in texts(figure))


@pytest.mark.parametrize("name", ALL)
def test_hostile_names_are_drawn_as_they_are(new_run: Callable[..., Run], name: str) -> None:
    figure = getattr(figures, name)(finished(new_run(40, model="offline"), HOSTILE, 40))
    render(figure)
    if name == "segment_sizes":
        assert r"$\frac{1}{0}$ \bad" in texts(figure)
        assert all(len(text) < 90 for text in texts(figure))


@pytest.mark.parametrize("name", ALL)
def test_figures_say_when_there_is_nothing(new_run: Callable[..., Run], name: str) -> None:
    run = finished(new_run(4, model="offline"), [], 0)
    nothing = run.products.head(0).to_parquet()
    (run.folder / "products.parquet").write_bytes(nothing)
    told = {**run.document["input"], "sha256": hashlib.sha256(nothing).hexdigest()}
    figure = getattr(figures, name)(Run(run.folder, {**run.document, "input": told}))
    render(figure)
    assert any(text.startswith(("no ", "refinement moved no")) for text in texts(figure))


def test_products_in_no_category_are_bars_of_their_own(new_run: Callable[..., Run]) -> None:
    run = finished(new_run(30, model="offline"), ["Kettles", OUT_OF_SCOPE], 30)
    ledger = run.result("ledger")
    ledger.loc[:4, "state"] = "unassigned"
    run.save_result("ledger", ledger)
    shown = texts(figures.segment_sizes(run))
    assert OUT_OF_SCOPE in shown
    assert "unassigned" in shown


def test_the_rest_is_counted_and_nothing_is_lost(new_run: Callable[..., Run]) -> None:
    run = finished(new_run(300, model="offline"), [f"Category {i}" for i in range(60)], 300)
    figure = figures.segment_sizes(run, most=10)
    shown = sum(bar.get_width() for bar in figure.axes[0].patches)
    assert f"products; and 50 more categories with {300 - shown:.0f}" in texts(figure)


def test_time_and_tokens_name_the_stages_that_began(new_run: Callable[..., Run]) -> None:
    run = new_run(4, model="offline")
    stage = {"seconds": 1.5, "calls": 3, "cached": 1, "input_tokens": 1200, "output_tokens": 34}
    update_status(run.folder, stages={"segmentation": stage})
    figure = figures.time_and_tokens(run)
    render(figure)
    assert {"segmentation", "1.5", "4", "1,234"} <= set(texts(figure))


def test_figures_need_no_pyplot(tmp_path: Path) -> None:
    code = "import sys; import segkit.analysis.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("日本語のポット", "package fonts-noto-cjk"),
        ("กาต้มน้ำ", "package fonts-noto-core"),
        ("दीपक 照明", "packages fonts-noto-cjk and fonts-noto-core"),
    ],
)
def test_letters_without_a_font_are_said_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, name: str, packages: str
) -> None:
    """As on a computer that has no fonts but those of matplotlib."""
    monkeypatch.setattr(style, "_FALLBACKS", ())
    figure, axes = style.plain_figure(2.0, "Sizes")
    style.label_rows(axes, [name])
    figure._repr_png_()
    assert f"install the {packages}" in figure.get_supxlabel()
    usual, axes = style.plain_figure(2.0, "Größe: Émail — Ж")
    usual._repr_png_()
    assert usual.get_supxlabel() == ""
