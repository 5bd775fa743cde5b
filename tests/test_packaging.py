"""What segkit is built from: locked with hashes, and quiet when it is imported."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from catalogues import unmeasured

ROOT = Path(__file__).parents[1]
_HASHES = r"(?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+"
_BLOCK = re.compile(r"^([a-z0-9._-]+)==\S+(?: ; [^\\\n]+)? \\\n" + _HASHES, re.MULTILINE)


def locked() -> set[str]:
    """The packages of the lock; each has hashes."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    found = _BLOCK.findall(text)
    assert len(found) == len(re.findall(r"^[a-z0-9].*==", text, re.MULTILINE)), "one has no hash"
    return set(found)


def test_every_dependency_is_locked_with_hashes() -> None:
    """Whoever edits pyproject.toml and forgets `make lock` is told here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    optional = project["project"]["optional-dependencies"]
    named = re.search(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert named
    assert set(optional) - set(named[1].split()) == {"dbt"}  # a program beside segkit, of which nothing is imported
    extras = [optional[name] for name in named[1].split()]
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [one for extra in extras for one in extra]
    names = {re.sub(r"[._]", "-", re.split(r"[\[<>=!~; ]", one)[0].lower()) for one in wanted}
    assert names <= locked()


def pins(name: str) -> set[str]:
    """The `package==version` lines of a lock file, with the Pythons that they are for."""
    return set(re.findall(r"^([a-z0-9._-]+==[^\\\n]+) \\$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_what_a_run_needs_is_a_part_of_all_at_the_same_versions() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = {pin.partition("==")[0] for pin in pins("requirements-run.lock")}
    assert {re.split(r"[\[<>=]", one)[0] for one in project["project"]["dependencies"]} <= names
    assert {pin.partition(" ;")[0] for pin in pins("requirements-run.lock")} <= {
        pin.partition(" ;")[0] for pin in pins("requirements.lock")
    }
    assert not names & {"jupyterlab", "pytest", "moto", "fastapi"}


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-run.lock"])
def test_the_lock_names_no_registry(lock: str) -> None:
    """Hashes say what is installed; where it comes from is the machine's."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text


LISTEN = """
import sys
told = []
def hear(event, arguments):
    if event.startswith("socket.") and event not in ("socket.__new__",):
        told.append(f"{event} {arguments[1:]}")
    if event in ("subprocess.Popen", "os.exec", "os.fork"):
        told.append(event)
    if event == "open" and isinstance(arguments[0], str):
        told.append(f"open {arguments[2] & 3} {arguments[0]}")
sys.addaudithook(hear)
import MODULE
print("\\n".join(told))
"""


@pytest.mark.parametrize("module", ["segkit", "segkit.cli.main", "segkit.pipeline.stages"])
def test_an_import_touches_nothing(module: str, tmp_path: Path) -> None:
    """No network, no process, no file written, and none read that is not of Python, a package or segkit."""
    command = [sys.executable, "-B", "-c", LISTEN.replace("MODULE", module)]
    done = subprocess.run(command, cwd=tmp_path, env=unmeasured(), capture_output=True, text=True, check=True)
    own = (
        str(ROOT),
        sys.prefix,
        sys.base_prefix,
        str(Path(sys.prefix).resolve()),
        "/usr/lib",
        "/usr/share/zoneinfo",
        "/proc",
        "/sys",
    )
    events = done.stdout.splitlines()
    assert events
    assert not [event for event in events if not event.startswith("open ")]
    opened = [event.split(" ", 2)[1:] for event in events]
    assert not [path for way, path in opened if way != "0" and path != "/dev/null"]
    assert not [path for _, path in opened if not path.startswith((*own, "/dev/null"))]


def test_the_wheel_packs_named_files_only() -> None:
    """What is in the repository, and nothing that lies beside it, such as the notebooks of whoever works here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packed = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]) - {"sql"}
    command = ["git", "ls-files", "notebooks", "prompts"]
    stored = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert packed == set(stored)
