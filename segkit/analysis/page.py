"""Pages that need nothing else: one HTML file with its own style, which loads nothing and runs only our script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from string import Template
from typing import Any

from segkit.display import html_text, json_text

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
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
$script
</body>
</html>
""")


def html_page(title: str, facts: Sequence[str], body: str, note: str = "", data: Any = None) -> str:
    """Return a page that needs nothing else; `body` is HTML, all else is text and escaped.

    With `data`, the page holds it as JSON together with the script that searches it. The policy of the page permits
    no other script and no request.
    """
    script = _script(data) if data is not None else ""
    return _PAGE.substitute(
        policy=_policy(script != ""),
        title=html_text(title, len(title)),
        facts="".join(f"<span>{html_text(fact)}</span>" for fact in facts),
        note=f'<p class="note">{html_text(note, len(note))}</p>' if note else "",
        style=_asset("page.css"),
        body=body,
        script=script,
    )


def wide(table: str, label: str) -> str:
    """Return a table that scrolls sideways by itself where it is wider than the page, also by the keyboard.

    `label` names it for a screen reader; no two tables of a page have the same.
    """
    named = html_text(label, len(label))
    return f'<div class="wide" tabindex="0" role="region" aria-label="{named}">{table}</div>'


def _script(data: Any) -> str:
    """Return the data and the script; in JSON, < is written so that no text can end the element."""
    held = json_text(data).replace("<", "\\u003c")
    return f'<script type="application/json" id="data">{held}</script>\n<script>{_asset("page.js")}</script>'


def _policy(has_script: bool) -> str:
    digest = base64.b64encode(hashlib.sha256(_asset("page.js").encode()).digest()).decode()
    script = f"; script-src 'sha256-{digest}'" if has_script else ""
    nowhere = "base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {nowhere}{script}"


@cache
def _asset(name: str) -> str:
    return files("segkit.analysis").joinpath(name).read_text(encoding="utf-8")
