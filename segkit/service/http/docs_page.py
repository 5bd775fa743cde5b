"""The page of the service for people: every route with a line to paste; nothing is loaded from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

import orjson

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h2 { font: 600 1rem ui-monospace, monospace; margin: 2rem 0 .2rem } p { margin: .2rem 0 }
pre { background: #f4f5f7; padding: .6rem .8rem; overflow-x: auto } small { color: #6b7078 }
"""


def page(openapi: dict[str, Any], address: str) -> str:
    """Write the routes of an OpenAPI document as HTML, with an example of each for a shell."""
    parts = [
        _route(openapi, path, method, operation, address)
        for path, methods in openapi["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><title>segkit</title>"
        "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><h1>segkit</h1><p>{escape(openapi['info']['summary'])} "
        "<a href='/openapi.json'>openapi.json</a></p><p>In a shell: <code>export TOKEN=…</code>, and once a run is "
        f"started <code>export RUN=RUN_…</code>.</p>{''.join(parts)}</body></html>"
    )


def curl(openapi: dict[str, Any], path: str, method: str, address: str) -> str:
    """Write the example of a route as a command line."""
    operation = openapi["paths"][path][method]
    words = ["curl -s", f'"{address}{path.replace("{run_id}", "$RUN").replace("{product_id}", "123")}"']
    if operation.get("security"):
        words.append('-H "Authorization: Bearer $TOKEN"')
    if method == "post":
        words.append("-X POST")
    if body := operation.get("requestBody"):
        words.append("-H 'Content-Type: application/json'")
        words.append(f"-d '{orjson.dumps(_example(openapi, body)).decode()}'")
    return " ".join(words)


def _example(openapi: dict[str, Any], body: dict[str, Any]) -> Any:
    schema = body["content"]["application/json"]["schema"]
    names = [schema.get("$ref"), *(part.get("$ref") for part in schema.get("anyOf", []))]
    name = next(name for name in names if name).rpartition("/")[2]
    return openapi["components"]["schemas"][name]["examples"][0]


def _route(openapi: dict[str, Any], path: str, method: str, operation: dict[str, Any], address: str) -> str:
    codes = ", ".join(sorted(operation["responses"]))
    return (
        f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(operation.get('description', ''))}</p>"
        f"<pre>{escape(curl(openapi, path, method, address))}</pre><p><small>answers {codes}</small></p>"
    )
