"""`segkit completion`: what a real bash completes with the script that is printed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_PROBE = """
eval "$(segkit completion bash)"
try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _segkit_completion segkit; echo "$*: ${COMPREPLY[*]}"; }
try segkit exp
try segkit prompts d
try segkit show RUN_
try segkit run --response-format ""
"""
_RUN = "RUN_20261101T090000Z_0ff1"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_real_bash_completes_commands_options_and_runs(place: Path) -> None:
    (place / "runs" / _RUN).mkdir(parents=True)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ended = subprocess.run(["bash", "-c", _PROBE], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "segkit exp: explain export",
        "segkit prompts d: diff",
        f"segkit show RUN_: {_RUN}",
        "segkit run --response-format : json_schema json_object text",
    ]
    assert ended.stderr == ""


@pytest.mark.parametrize(("shell", "first"), [("zsh", "#compdef segkit"), ("fish", "complete --command segkit")])
def test_zsh_and_fish_get_their_own_script(shell: str, first: str) -> None:
    segkit = Path(sys.executable).parent / "segkit"
    ended = subprocess.run([segkit, "completion", shell], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith(first)
