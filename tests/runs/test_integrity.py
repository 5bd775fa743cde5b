"""A run folder is as it was written, or every file that is not is named."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from catalogues import answered_offline

from segkit.llm.cache import damaged_entries
from segkit.runs.integrity import CHECKSUMS, differences, logged_keys, write_checksums
from segkit.runs.run import Run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return answered_offline(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def home(tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cache that the finished run filled."""
    shutil.copytree(finished.folder.parent / "home", tmp_path / "home")
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def run(finished: Run, tmp_path: Path) -> Run:
    """A copy of a finished run, to be spoilt."""
    folder = tmp_path / finished.id
    shutil.copytree(finished.folder, folder)
    return Run(folder, finished.document)


@pytest.fixture
def sealed(run: Run) -> Run:
    write_checksums(run)
    return run


def test_an_untouched_run_has_no_difference(sealed: Run) -> None:
    assert differences(sealed) == []
    (sealed.folder / "events.jsonl").write_text("")
    assert differences(sealed) == [], "what goes on changing is not sealed"


def test_of_an_open_run_the_logs_are_checked(run: Run) -> None:
    """Each log carries its own checksum."""
    log = min(run.stage_folder("extract_taxonomy").glob("*.json"))
    log.write_bytes(log.read_bytes().replace(b"kettle", b"ketlle", 1))
    assert differences(run) == [f"segmentation/{log.name}: damaged, it does not match the checksum in it"]


@pytest.mark.parametrize("seeds", [range(25), pytest.param(range(25, 1025), marks=pytest.mark.long)])
def test_every_corruption_is_named(seeds: range, sealed: Run, home: Path) -> None:
    """A flip, a cut, a swap, a loss or an addition among logs, cache, results and manifest."""
    whole = {path: path.read_bytes() for root in (sealed.folder, home / "cache") for path in root.rglob("*.*")}
    whole = {path: content for path, content in whole.items() if path.is_file() and path.name not in CHANGING}
    for seed in seeds:
        expected = corrupt(random.Random(seed), whole)
        named = {line.partition(": ")[0] for line in differences(sealed) + damaged_entries(home, logged_keys(sealed))}
        # What is damaged in the manifest speaks of the file in that line, or of the manifest itself.
        wanted = {
            path.relative_to(sealed.folder).as_posix() if sealed.folder in path.parents else str(path)
            for path in expected
        }
        assert wanted <= named or (CHECKSUMS in wanted and named), f"seed {seed}: {wanted} but {named}"
        assert CHECKSUMS in wanted or named == wanted, f"seed {seed}: {wanted} but {named}"
        for path in expected:
            path.unlink(missing_ok=True)
            if path in whole:
                path.write_bytes(whole[path])


CHANGING = {"status.json", "events.jsonl", "run.lock", "calls.lock"}


def corrupt(draw: random.Random, whole: dict[Path, bytes]) -> set[Path]:
    """Spoil one file, or swap two; give the paths that are not as they were."""
    path = draw.choice(sorted(whole))
    content, way = whole[path], draw.choice(["flip", "cut", "swap", "lose", "add"])
    in_cache = path.parts[-3] == "cache"
    path.unlink()  # an entry of the cache is the same file as a log
    if way == "flip":
        place = draw.randrange(len(content))
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :])
    elif way == "cut" or (in_cache and way in ("lose", "add")):  # an entry that is gone is no damage
        path.write_bytes(content[: draw.randrange(len(content))])
    elif way == "swap":
        other = draw.choice(
            [one for one in sorted(whole) if whole[one] != content and (one.parts[-3] == "cache") == in_cache]
        )
        path.write_bytes(whole[other])
        other.unlink()
        other.write_bytes(content)
        return {path, other}
    elif way == "add":
        path.write_bytes(content)
        planted = path.parent / "planted.json"
        planted.write_bytes(content)
        return {planted}
    return {path}
