"""The report of a run: one HTML file that needs nothing else, made from the executed review notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from segkit.analysis.jupyter import quick_imports
from segkit.analysis.review import executed_review
from segkit.runs.run import Run
from segkit.storage.disk import write_atomic

REPORT = "report.html"
OFFLINE = "Grouped by words by the embedded offline model; it is no language model."
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style
</style>
</head>
<body>
<header>
<h1>$title</h1>
<p class="facts">$facts</p>
$note
</header>
<main>
$body
</main>
</body>
</html>
""")
# The page may load nothing and run nothing: the policy above holds even if a notebook was edited by hand.
_STYLE = """
:root { color-scheme: light; --ink: #222; --quiet: #6b7280; --line: #e3e5e8; --blue: #3b6ea5; }
body { margin: 0 auto; padding: 2.5rem 2rem 4rem; max-width: 62rem; color: var(--ink); background: #fff;
       font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", "Liberation Sans", sans-serif; }
header { border-bottom: 2px solid var(--ink); margin-bottom: 1rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .3rem; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.facts { color: var(--quiet); max-width: none; }
.facts span + span::before { content: "·"; margin: 0 .5em; }
.note { border-left: 4px solid #d98b3a; background: #fdf6ee; padding: .5rem .9rem; max-width: none; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; margin: .6rem 0 1rem; max-width: 100%; }
caption { caption-side: bottom; text-align: left; color: var(--quiet); padding-top: .4rem; }
th, td { padding: .32rem .6rem; border: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
th { border-bottom: 1.5px solid var(--ink); font-weight: 600; overflow-wrap: normal; }
td { border-bottom: 1px solid var(--line); }
tbody tr:nth-child(even) { background: #f7f8f9; }
img { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
code { font-size: .9em; background: #f1f2f4; padding: .05em .3em; border-radius: 3px; }
@media print {
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  h2 { break-after: avoid; } tr, img { break-inside: avoid; } thead { display: table-header-group; }
}
"""


def write_report(run: Run, executed_notebook: Path | None = None) -> Path:
    """Write `report.html` of a run from its executed `40_review_run.ipynb`: outputs and prose, without the code.

    Where no executed copy is given, the notebook is executed in this process.
    """
    with quick_imports():
        import nbformat

    read: Any = nbformat.read
    notebook = read(executed_notebook, as_version=4) if executed_notebook else executed_review(run)
    note = OFFLINE if run.parameters.model == "offline" else ""
    page = html_page(f"Market segments of {run.parameters.category}", _facts(run), _body(notebook), note)
    path = run.folder / REPORT
    write_atomic(path, page.encode())
    return path


def html_page(title: str, facts: Sequence[str], body: str, note: str = "") -> str:
    """Return a page that needs nothing else; `body` is HTML, all else is text and escaped."""
    return _PAGE.substitute(
        title=escape(title),
        facts="".join(f"<span>{escape(fact)}</span>" for fact in facts),
        note=f'<p class="note">{escape(note)}</p>' if note else "",
        style=_STYLE,
        body=body,
    )


def _facts(run: Run) -> list[str]:
    status, parameters = run.status, run.parameters
    state = f"{status.state}: {status.reason}" if status.reason else status.state
    products = f"{run.document['input']['products']:,} products"
    return [run.id, f"model {parameters.model}", f"prompts {parameters.prompts}", products, state]


def _body(notebook: Any) -> str:
    """Turn prose and outputs into HTML; the notebook's own title gives way to the report's."""
    with quick_imports():
        from nbconvert import HTMLExporter

    cells = [cell for cell in notebook.cells if not cell.source.startswith("# ")]
    notebook.cells = [cell for cell in cells if cell.cell_type == "markdown" or cell.get("outputs")]
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body: str = exporter.from_notebook_node(notebook)[0]
    return body
