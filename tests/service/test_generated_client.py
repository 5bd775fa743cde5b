"""A client that openapi-python-client generates from /openapi.json: every operation works."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rest_service import Service, fill_products, settled, wish

GENERATOR = "openapi-python-client==0.29.1"
RUNS = "/api/segmentation"
_CALLS = """
import importlib, json, pkgutil, sys
from segkit_client import AuthenticatedClient, models
import segkit_client.api.default as package

url, token, done = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)
names = [module.name for module in pkgutil.iter_modules(package.__path__)]
operations = {name: importlib.import_module(f"{package.__name__}.{name}") for name in names}
things = {"category": "Things", "model": "offline"}
new = operations["start"].sync(client=client, body=models.StartBody(product_ids=[1, 2], **things))
given = {
    "start": {"body": models.StartBody(product_ids=[3], **things)},
    "extend": {"body": models.ExtendBody(product_ids=[41])},
    "assign": {"body": models.AssignBody(product_ids=[42])},
    "check_taxonomy": {"body": models.TaxonomySheet(categories=[models.SheetRow(key="C-1", name="Other Things")])},
    "explain": {"product_id": "7"},
    "cancel": {"run_id": new.run_id},
    "resume": {"run_id": new.run_id},
}
said = {}
for name in [*sorted(set(operations) - {"cancel", "resume"}), "cancel", "resume"]:
    function = operations[name].sync_detailed
    arguments = dict(given.get(name, {}))
    if "run_id" in function.__annotations__:
        arguments.setdefault("run_id", done)
    answer = function(client=client, **arguments)
    said[name] = [int(answer.status_code), type(answer.parsed).__name__, len(answer.content)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the generator into an environment of its own, since it needs an older typer than segkit."""
    place = tmp_path_factory.mktemp("generator")
    bin_folder = place / "venv" / "bin"
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True, timeout=120)
    install = [bin_folder / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", GENERATOR]
    done = subprocess.run(install, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"{GENERATOR} cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return bin_folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[Service]:
    fill_products(postgres_url, range(1, 51))
    service = Service(tmp_path_factory.mktemp("generated"), DATABASE_URL=postgres_url, SEGKIT_SERVE_RUNS="1")
    service.token("all", all_runs=True)
    with service:
        yield service


@pytest.mark.long
def test_every_operation_of_a_generated_client_works(generator: Path, service: Service, tmp_path: Path) -> None:
    """No operation is left out by the generator, and each answers 2xx with a parsed body."""
    with service.client() as client:
        done = client.post(f"{RUNS}/start", json=wish(*range(1, 41))).json()["run_id"]
        assert settled(client, done)["status"] == "completed"
        page = client.get("/openapi.json").json()
    service.stop()
    service.environment["SEGKIT_SERVE_RUNS"] = "0"
    service.start()
    (tmp_path / "openapi.json").write_text(json.dumps(page))
    command = [generator / "openapi-python-client", "generate", "--path", "openapi.json", "--output-path", "client"]
    made = subprocess.run([*command, "--meta", "none"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "WARNING" not in made.stdout + made.stderr, made.stdout + made.stderr
    (tmp_path / "client").rename(tmp_path / "segkit_client")
    (tmp_path / "calls.py").write_text(_CALLS)
    arguments = [generator / "python", "calls.py", service.url, service.secrets["all"], done]
    called = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert called.returncode == 0, called.stderr[-3000:]
    said = json.loads(called.stdout)
    operations = {route["operationId"] for methods in page["paths"].values() for route in methods.values()}
    assert set(said) == operations
    assert {name: code for name, (code, _, _) in said.items() if code != 200} == {}
    assert said.pop("events")[2] > 100, "a stream is read as it comes"
    assert [name for name, (_, kind, _) in said.items() if kind in ("NoneType", "Problem")] == []
