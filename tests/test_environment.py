"""The tests pass whatever the developer's shell says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from catalogues import unmeasured
from environment import variables

from segkit.settings import Settings, load_settings

ROOT = Path(__file__).parents[1]
#: Tests that prepare runs, ask a server, read settings and start processes.
TESTS = ("pipeline/test_plan.py", "runs/test_run.py", "test_environment.py::test_the_settings_are_the_defaults")


def test_the_settings_are_the_defaults() -> None:
    # The tests ask each product once, unless they say otherwise.
    assert load_settings() == Settings.model_construct(segkit_ask_twice=0)


@pytest.mark.long
def test_odd_variables_change_no_test(tmp_path: Path) -> None:
    """Every variable that segkit reads has a value that it refuses, in the environment and in `.env`."""
    odd = dict.fromkeys(variables(), "something odd")
    elsewhere = {"HTTP_PROXY": "http://127.0.0.1:9", "AWS_ENDPOINT_URL": "odd", "PGHOST": "odd", "COLUMNS": "20"}
    (tmp_path / ".env").write_text("".join(f"{name}=something odd\n" for name in sorted(odd)))
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not long", "-p", "no:cacheprovider", *tests]
    environment = unmeasured(**odd, **elsewhere)
    done = subprocess.run(
        [*command, f"--rootdir={ROOT}", "-c", str(ROOT / "pyproject.toml")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-3000:] + done.stderr[-1000:]
