"""The notebooks as CI anywhere would run them: nbmake, in a folder of their own, with their own parameters."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from segkit.settings import project_folder


def test_nbmake_executes_every_notebook(tmp_path: Path) -> None:
    """In a copy, so that the runs of a test never stand among the user's own."""
    for name in ("notebooks", "prompts"):
        shutil.copytree(project_folder(name), tmp_path / name, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    left_out = ("OPENAI_", "SEGKIT_", "DATABASE_URL", "DEFAULT_", "SEGMENTATION_", "STORAGE_", "PYTEST_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--nbmake", "notebooks"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
