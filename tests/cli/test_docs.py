"""Every command of the README and of docs/ is executed as it stands there; links lead somewhere."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from catalogues import KEY, write_trade_files
from endpoint import Endpoint
from s3_server import S3Server

from segkit.cli.main import main
from segkit.pipeline.prepare import SAMPLE
from segkit.pipeline.segment import segment
from segkit.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKS = ("run", "extend", "resume")  # what would execute notebooks for half a minute each


def commands(page: Path) -> Iterator[list[str]]:
    """Give the commands of the shell blocks of a page, in order."""
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


WITH_COMMANDS = [page for page in PAGES if any(words[0] == "segkit" for words in commands(page))]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run and the files that the pages name."""
    place = tmp_path_factory.mktemp("workspace")
    sample = pd.read_csv(SAMPLE).assign(category="Dimmer Switches")
    sample = sample.assign(sku=sample["product_id"], name=sample["title"])  # columns that docs/own-data.md names
    named = sample["product_id"] == 700000119  # the product that the README explains
    products = pd.concat([sample[named], sample[~named].head(59)])
    products.head(50).to_csv(place / "products.csv", index=False)
    products.tail(10).to_csv(place / "more.csv", index=False)
    write_trade_files(place, sample)  # the three of docs/first-five-minutes.md
    settings = load_settings().model_copy(update={"segkit_home": place / ".segkit"})
    segment(products.head(50), "Dimmer Switches", model="offline", runs_dir=place / "runs", settings=settings)
    return place


@pytest.fixture
def ready(
    workspace: Path,
    place: Path,
    endpoint: Endpoint,
    s3: S3Server,
    make_database: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A copy of the workspace, with a model, a database and a bucket."""
    shutil.copytree(workspace, place, dirs_exist_ok=True)
    monkeypatch.setenv("DATABASE_URL", make_database())
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(SystemExit):
        main(["sync", "latest"])  # as a run with notebooks does
    return place


_FIRST = ("README", "first-five-minutes")


def quick_or_long(page: Path) -> object:
    """Leave all pages but those that a newcomer reads first to the long suite."""
    return pytest.param(page, id=page.stem, marks=[] if page.stem in _FIRST else [pytest.mark.long])


@pytest.mark.parametrize("page", [quick_or_long(page) for page in WITH_COMMANDS])
def test_the_commands_of_a_page_work(page: Path, ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), words
        elif words[0] == "segkit":
            cheap = ["--no-notebooks"] if words[1] in WORKS and "--no-notebooks" not in words else []
            with pytest.raises(SystemExit) as ended:
                main([*words[1:], *cheap])
            assert not ended.value.code, (words, capsys.readouterr().err)
        else:
            assert words[0] in ("export", "source", "cp", "cd"), f"{words} is not executed"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_the_map_names_modules_that_exist() -> None:
    """CONTRIBUTING answers eight questions by paths."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*\? \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) == 8
    for path in re.findall(r"`([a-z_0-9]+/[a-z_0-9/.]*)`", " ".join(rows)):
        assert (ROOT / "segkit" / path).exists() or (ROOT / path).exists(), path
    for folder in re.findall(r"^\| `([a-z]+)/` \|", text, re.MULTILINE):
        assert (ROOT / "segkit" / folder / "__init__.py").exists(), folder


def test_the_readme_installs_nothing_by_a_name_of_somebody_else() -> None:
    for page in PAGES:
        assert not re.search(r"pip install ['\"]?segkit", page.read_text(encoding="utf-8")), page
