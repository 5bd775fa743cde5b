"""The command line in the process of the tests: as fast as a function call, with what it prints."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from segkit.cli.main import main

Segkit = Callable[..., tuple[int, str, str]]


def command_line(capsys: pytest.CaptureFixture[str]) -> Segkit:
    """Return a function that runs a command and returns its exit code, what it printed, and its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        return int(ended.value.code or 0), *capsys.readouterr()

    return run
