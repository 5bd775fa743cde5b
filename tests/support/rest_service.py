"""A real service in a process of its own, for tests: `segkit serve` on a free port, and a client for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import httpx
import pandas as pd
import psycopg
from catalogues import catalogue, unmeasured

from segkit.pipeline.prepare import prepare_run
from segkit.runs.run import Run
from segkit.runs.status import update_status
from segkit.service.tokens import add_token
from segkit.settings import load_settings

COMMAND = [sys.executable, "-m", "segkit"]
KINDS = ("kettle", "toaster", "ladle", "whisk")
_LEFT_OUT = ("OPENAI_", "SEGKIT_", "DATABASE_URL", "DEFAULT_", "SEGMENTATION_", "STORAGE_")


def fill_products(url: str, ids: range | list[int]) -> None:
    """Put products into `amazon_products`, whose last word is their kind."""
    rows = [(number, f"Solid number {number} {KINDS[number % len(KINDS)]}") for number in ids]
    sql = "INSERT INTO amazon_products (id, title) VALUES (%s, %s) ON CONFLICT DO NOTHING"
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.executemany(sql, rows)


class Service:
    """One `segkit serve` in a folder; `with` starts it, `kill` and `start` kill it and start it again."""

    def __init__(
        self,
        place: Path,
        *,
        no_token: bool = False,
        measured: bool = False,
        command: Sequence[str] = COMMAND,
        **environment: str,
    ) -> None:
        self.place, self.no_token, self.command = place, no_token, command
        self.tokens = place / "tokens.json"
        base = dict(os.environ) if measured else unmeasured()
        kept = {name: value for name, value in base.items() if not name.startswith(_LEFT_OUT)}
        kept["SEGKIT_ASK_TWICE"] = "0"
        self.environment = (
            kept
            | {"SEGKIT_ASK_TWICE": "0", "SEGKIT_HOME": str(place / "home"), "STORAGE_ROOT": str(place / "runs")}
            | environment
        )
        self.secrets: dict[str, str] = {}

    def token(self, name: str, **limits: Any) -> str:
        self.secrets[name] = add_token(self.tokens, name, **limits)
        return self.secrets[name]

    def start(self, port: int = 0) -> None:
        who = ["--no-token"] if self.no_token else ["--tokens", str(self.tokens)]
        self.process = subprocess.Popen(
            [*self.command, "serve", "--port", str(port), *who],
            cwd=self.place,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        told = self.process.stderr.readline()
        assert told.startswith("segkit serves "), told + self.process.stderr.read()
        self.url = told.split()[-1]

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(30)
        self.process.stderr.close()
        return code

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.place.mkdir(parents=True, exist_ok=True)
        if not self.no_token and not self.tokens.exists():
            self.token("back-end", all_runs=True)
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.process.poll() is None:
            self.stop()
        self.end_runs()

    def end_runs(self) -> None:
        """End the runs that outlived the service: they would go on asking the endpoint of the next tests."""
        if not (self.place / "home" / "service" / "events.jsonl").is_file():
            return
        for event in self.events():
            if event["event"] == "run_process_started":
                with suppress(OSError):
                    if event["run_id"].encode() in Path(f"/proc/{event['child']}/cmdline").read_bytes():
                        os.killpg(event["child"], signal.SIGKILL)

    def client(self, name: str = "", **options: Any) -> httpx.Client:
        """A client with the token of a name, the first one if none is given."""
        secret = self.secrets.get(name) or next(iter(self.secrets.values()), "")
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False, **options)

    def events(self) -> list[dict[str, Any]]:
        lines = (self.place / "home" / "service" / "events.jsonl").read_bytes().split(b"\n")  # not at U+2028
        return [json.loads(line) for line in lines if line]


def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until a function returns something true, and return that."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return value


def wish(*ids: int, **more: Any) -> dict[str, Any]:
    """A body for `start`."""
    return {"product_ids": list(ids), "category": "Kitchen Things", "model": "offline", **more}


def settled(client: httpx.Client, run_id: str, seconds: float = 120) -> dict[str, Any]:
    """Wait until a run is not running any more; gives its last status."""
    until = time.monotonic() + seconds
    while True:
        told: dict[str, Any] = client.get(f"/api/segmentation/{run_id}/status").json()
        if told["status"] != "running":
            return told
        assert time.monotonic() < until, told
        time.sleep(0.1)


def finished(place: Path, products: int, state: str = "completed", **results: pd.DataFrame) -> Run:
    """Make a run that ended, without asking anybody."""
    run = prepare_run(
        catalogue(products), "Kitchen Things", runs_dir=place, model="offline", settings=load_settings()
    )  # fmt: skip
    ids = run.products["product_id"]
    taxonomies = pd.DataFrame(
        {"id": [1, 2, 3], "category_name": ["Kettles", "Rest", "Left"], "definition": ["For tea", "All", "Empty"]}
    ).assign(product_count=[1, products - 1, 0])
    segments = pd.DataFrame({"product_id": ids, "taxonomy_id": 1, "confidence": 0.5})
    refined = pd.DataFrame({"product_id": ids, "taxonomy_id": [1] + [2] * (products - 1)})
    tables = {"taxonomies": taxonomies, "segments": segments, "refined_segments": refined} | results
    for name, table in tables.items():
        run.save_result(name, table)
    update_status(run.folder, state=state, reason="" if state == "completed" else "30_refine, cell 3: it broke",
                  processed=products, summary={"products": products})  # fmt: skip
    if state == "completed":
        (run.folder / "checksums.sha256").touch()
    return run
