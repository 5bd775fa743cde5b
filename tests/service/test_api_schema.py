"""Schemathesis against the service: it reads /openapi.json and tries whatever that allows and does not allow."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from catalogues import KEY
from endpoint import Endpoint
from rest_service import Service, fill_products, finished

from segkit.service.http.problems import PROBLEMS
from segkit.service.http.schemas import Failure
from segkit.service.status import FAILURES

# A start may be refused for what no schema says: an unknown product, the price, the queue. So most ids, models and
# prompt sets are those that there are: texts and numbers at random are all unknown, and no run would ever be started.
_CONFIG = """
headers = {{ Authorization = "Bearer {token}" }}
seed = 1
max-stream-events = 1
request-timeout = 20
checks.positive_data_acceptance.expected-statuses = ["2xx", 402, 404, 409, 422, 429]
[dictionaries.products]
values = {products}
[dictionaries.models]
values = ["offline", "gpt-4o-mini"]
[dictionaries.prompts]
values = ["v0"]
[parameters]
"body.product_ids[*]" = {{ dictionary = "products", probability = 0.95 }}
"body.model" = {{ dictionary = "models", probability = 0.9 }}
"body.prompts" = {{ dictionary = "prompts", probability = 0.9 }}
"""
# Half of the requests ask for runs that there are. Not those along links, which name the runs that were started.
_RUNS = """
"path.run_id" = {{ dictionary = "runs", probability = 0.5 }}
[dictionaries.runs]
values = {runs}
"""


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, postgres_url: str, shared_endpoint: Endpoint
) -> Iterator[Service]:
    """A service whose queue never begins a run, with a run that completed and one that failed."""
    fill_products(postgres_url, range(1, 801))  # with those of the example in the document
    service = Service(
        tmp_path_factory.mktemp("schema"),
        DATABASE_URL=postgres_url,
        OPENAI_BASE_URL=shared_endpoint.url,
        OPENAI_API_KEY=KEY,
        SEGKIT_SERVE_RUNS="0",
        SEGKIT_SERVE_QUEUE="200",
    )
    service.token("all", all_runs=True, max_active=100_000, max_cost_usd=10.0, requests_per_second=100_000)
    with service:
        runs = [finished(service.place / "runs", 5, state) for state in ("completed", "failed")]
        for run in runs:
            (run.folder / "report.html").write_text("<!DOCTYPE html><title>a report</title>")
        token, products = service.secrets["all"], [*range(1, 801)]
        config = _CONFIG.format(token=token, products=products)
        (service.place / "links.toml").write_text(config)
        (service.place / "schemathesis.toml").write_text(config + _RUNS.format(runs=[run.id for run in runs]))
        yield service


def checked(service: Service, *options: str, config: str = "schemathesis.toml") -> str:
    """Run Schemathesis with all of its checks; gives what it says."""
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", config, "run"]
    command += [f"{service.url}/openapi.json", "--checks", "all", "--no-color", *options]
    done = subprocess.run(command, cwd=service.place, capture_output=True, text=True, timeout=3000)
    faults = [event for event in service.events() if event["event"] == "request_failed"]
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert faults == []
    return done.stdout


def cases(told: str) -> int:
    return int(re.search(r"(\d+) generated", told)[1].replace(",", ""))


def test_a_hundred_requests_keep_to_the_page(service: Service) -> None:
    """No 5xx, no code, type or body that /openapi.json does not tell."""
    assert cases(checked(service, "--phases", "examples,fuzzing", "-n", "9", "--no-shrink")) >= 60


@pytest.mark.long
def test_two_thousand_requests_keep_to_the_page(service: Service) -> None:
    """Examples, edges, random requests and chains of them along the links, with all checks."""
    assert cases(checked(service, "-n", "180")) >= 2000


@pytest.mark.long
def test_runs_are_cancelled_and_resumed_along_the_links(service: Service) -> None:
    """Chains of start, status, cancel, resume and results succeed: each of them is answered 2xx many times."""
    chain = ("start", "status", "cancel", "resume", "results")
    before = successes(service)
    only = [word for name in chain for word in ("--include-operation-id", name)]
    checked(service, "--phases", "stateful", "-n", "150", *only, config="links.toml")
    grown = {name: successes(service)[name] - before[name] for name in chain}
    assert min(grown.values()) >= 5, grown


def successes(service: Service) -> Counter[str]:
    """Count the 2xx that each route of runs was answered with, by its last word."""
    with service.client() as client:
        figures = client.get("/metrics").text
    found = re.findall(r'_count\{method="\w+",route="[^"]*/([^"]*)",status="2\d\d"\} (\d+)', figures)
    return Counter({name: int(count) for name, count in found})


def test_the_page_of_the_service_names_every_problem_and_every_failure() -> None:
    """docs/rest.md lists each `type` beside its status, and each `failure`."""
    page = (Path(__file__).parents[2] / "docs" / "rest.md").read_text(encoding="utf-8")
    rows = {row.split("|")[1].strip(): row for row in page.splitlines() if re.match(r"\| \d{3} \|", row)}
    assert [kind for kind, (code, _) in PROBLEMS.items() if f"`{kind}`" not in rows[str(code)]] == []
    assert [failure for failure in FAILURES if f"`{failure}`" not in page] == []
    assert set(FAILURES) == set(get_args(Failure))
