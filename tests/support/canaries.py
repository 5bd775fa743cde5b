"""A key that must never be seen, in all the forms that it could take."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

CANARY = 'sk-canary/7Qz+x"9Kd\\Zk=&end-5c1e'


DRESSES = {
    "plain": CANARY,
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "URL-encoded": quote(CANARY, safe=""),
    "hex": CANARY.encode().hex(),
    "JSON-escaped": json.dumps(CANARY)[1:-1],
}


ALL = " | ".join(DRESSES.values())


def json_texts(data: bytes) -> list[str]:
    """Every text inside JSON, and inside the JSON that is in these texts."""
    texts: list[str] = []
    for line in [data, *data.splitlines()]:
        try:
            waiting = [json.loads(line)]
        except (ValueError, RecursionError):
            continue
        while waiting:
            value = waiting.pop()
            if isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                waiting += value
            elif isinstance(value, str):
                texts.append(value)
                try:
                    waiting.append(json.loads(value))
                except (ValueError, RecursionError):
                    continue
    return texts
