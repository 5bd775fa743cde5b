"""What several test modules need, made once."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import chdir
from itertools import count
from pathlib import Path

import pandas as pd
import psycopg
import pytest
from catalogues import KEY, catalogue
from command_line import Segkit, command_line
from debian_postgres import PROGRAMS, debian_server
from endpoint import Endpoint
from environment import forget_the_developer
from hypothesis import settings
from notebook_run import NotebookRun, notebook_run
from s3_server import S3Server, s3_environment
from victim import QUESTIONS, Nursery, Scene, Undisturbed, results

from segkit.database.embedded import embedded_url
from segkit.database.schema import migrate
from segkit.pipeline.prepare import prepare_run
from segkit.runs.run import Run
from segkit.settings import load_settings

# A busy machine is no reason for a property to fail.
settings.register_profile("segkit", deadline=None)
settings.load_profile("segkit")

forget_the_developer()
# Most tests count calls of each product once; those of asking twice say so.
os.environ["SEGKIT_ASK_TWICE"] = "0"

_numbers = count(1)


#: The folders whose tests wait longest begin first, so that no worker is left alone with them at the end.
SLOW = ("service", "pipeline", "cli", "database")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: SLOW.index(item.path.parent.name) if item.path.parent.name in SLOW else len(SLOW))


@pytest.fixture(scope="session", autouse=True)
def nowhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Work in an empty folder, where no `.env` of the developer is read."""
    with chdir(tmp_path_factory.mktemp("nowhere")):
        yield


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A real PostgreSQL server with segkit's tables, which stops when the test process ends."""
    url = embedded_url(tmp_path_factory.mktemp("home"))
    migrate(url)
    return url


@pytest.fixture(scope="session")
def debian_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of Debian's PostgreSQL 15, the oldest that the views work on; skipped where it is not installed."""
    if not PROGRAMS.is_dir():
        pytest.skip(f"PostgreSQL 15 is not in {PROGRAMS}")
    with debian_server(tmp_path_factory.mktemp("debian")) as url:
        yield url


@pytest.fixture(params=["postgres_url", pytest.param("debian_url", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest) -> str:
    """The embedded server; and in the long suite PostgreSQL 15 too."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def make_database(server: str) -> Callable[..., str]:
    """Make an empty database on the server of the tests and return its URL."""

    def make(options: str = "") -> str:
        name = f"database_{next(_numbers)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}".encode())
        return f"{server.rpartition('/')[0]}/{name}"

    return make


@pytest.fixture(scope="session")
def shared_endpoint() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def endpoint(shared_endpoint: Endpoint, place: Path, monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    """A fake endpoint over real HTTP without a history, which the settings point to."""
    shared_endpoint.reset()
    monkeypatch.setenv("OPENAI_BASE_URL", shared_endpoint.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("SEGKIT_BACKOFF_SECONDS", "0.02")
    monkeypatch.setenv("SEGKIT_PRICES_OF", "openai")  # calls to an own server are free otherwise
    return shared_endpoint


@pytest.fixture
def segkit(place: Path, capsys: pytest.CaptureFixture[str]) -> Segkit:
    """Run the command line in this process, in the folder `place`: the exit code, what it printed, its errors."""
    return command_line(capsys)


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Processes that work on a run and are killed on the way."""
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="session")
def undisturbed(shared_endpoint: Endpoint, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The results of a run that nobody disturbed, and its file operations."""
    shared_endpoint.reset()
    scene = Scene(tmp_path_factory.mktemp("undisturbed"), shared_endpoint, nursery)
    life = scene.whole_life()
    assert shared_endpoint.count() == QUESTIONS
    return results(scene.run), life.told["ops"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> NotebookRun:
    """A run with executed notebooks, made once for all processes; tests may read it, and do to it what users do."""
    own = tmp_path_factory.getbasetemp()
    return notebook_run(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, place: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """An S3 server without a history, with an empty bucket that the settings point to."""
    s3_server.reset()
    bucket = f"bucket-{secrets.token_hex(6)}"
    for name, value in s3_environment(s3_server.url, bucket).items():
        monkeypatch.setenv(name, value)
    s3_server.make_bucket(bucket)
    return s3_server


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with no settings but those of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def new_run(place: Path) -> Callable[..., Run]:
    """Make a run over some products whose last word is their kind."""

    def make(products: int | pd.DataFrame = 12, model: str = "gpt-4o", **parameters: object) -> Run:
        frame = catalogue(products) if isinstance(products, int) else products
        given = {"products_per_prompt": 6, "products_per_refinement": 6, **parameters}
        return prepare_run(frame, "Kitchen Things", model=model, settings=load_settings(), **given)

    return make
