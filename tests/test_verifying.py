"""A run folder is as it was written, or every file that is not is named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from conftest import catalogue

from segkit.preparing import prepare_run
from segkit.runs import Run
from segkit.settings import Settings
from segkit.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.verifying import CHECKSUMS, checksums, differences


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("finished")
    settings = Settings(segkit_home=place / "home", segmentation_products_per_prompt=5)
    run = prepare_run(catalogue(20), "Kitchen Things", model="offline", runs_dir=place, settings=settings)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)
    return run


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to be spoilt."""
    folder = tmp_path / finished.id
    shutil.copytree(finished.folder, folder)
    return Run(folder, finished.document)


@pytest.fixture
def sealed(run: Run) -> Run:
    lines = [f"{digest}  {name}\n" for name, digest in checksums(run.folder).items()]
    (run.folder / CHECKSUMS).write_text("".join(lines))
    return run


def test_an_untouched_run_has_no_difference(sealed: Run) -> None:
    assert differences(sealed) == []
    (sealed.folder / "events.jsonl").write_text("")
    assert differences(sealed) == [], "what goes on changing is not sealed"


def test_of_an_open_run_the_logs_are_checked(run: Run) -> None:
    """J8: each log carries its own checksum."""
    log = min(run.stage_folder("extract_taxonomy").glob("*.json"))
    log.write_bytes(log.read_bytes().replace(b"kettle", b"ketlle", 1))
    assert differences(run) == [f"segmentation/{log.name}: damaged, it does not match the checksum in it"]


@pytest.mark.parametrize("seed", range(25))
def test_every_corruption_is_named(seed: int, sealed: Run) -> None:
    """J8, J9, SEC-19: a flip, a cut, a swap, a loss or an addition anywhere among the sealed files."""
    draw = random.Random(seed)
    names = sorted(name for name, _ in checksums(sealed.folder).items())
    name = draw.choice(names)
    path = sealed.folder / name
    content = path.read_bytes()
    way = draw.choice(["flip", "cut", "swap", "lose", "add"])
    expected = {name}
    if way == "flip":
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
    elif way == "cut":
        path.write_bytes(content[: draw.randrange(len(content))])
    elif way == "lose":
        path.unlink()
    elif way == "add":
        (path.parent / "planted.json").write_bytes(content)
        expected = {(Path(name).parent / "planted.json").as_posix()}
    else:
        other = draw.choice([one for one in names if (sealed.folder / one).read_bytes() != content])
        path.write_bytes((sealed.folder / other).read_bytes())
        (sealed.folder / other).write_bytes(content)
        expected = {name, other}
    assert {line.partition(": ")[0] for line in differences(sealed)} == expected
