"""`python -m segkit.test_runner`: the tests phase by phase, without any outside service, a line each."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

# fmt: off
PHASES = {
    "models": ("folding", "json_text", "replies", "completions", "refusals", "limits", "costs", "redaction",
               "offline"),
    "storage": ("interactions", "cache", "runs", "logs", "embedded_postgres", "postgres",
                "checksums", "database", "database_indexes", "sync_kills"),
    "batching": ("batching", "products", "prompts", "sample"),
    "stages": ("extracting", "consolidating", "refining", "results", "calls", "stages", "planning",
               "resuming"),
    "notebooks": ("notebooks", "executing", "jupyter", "figures", "tables", "report"),
}
# fmt: on


def main() -> int:
    """Run every phase, print a line each, and give 1 when one of them failed."""
    tests = Path(__file__).parents[1] / "tests"
    if not tests.is_dir():
        print(f"there are no tests beside the package ({tests}): run this from a checkout", file=sys.stderr)
        return 1
    return max([_run_phase(number, name, tests) for number, name in enumerate(PHASES, start=1)])


def _run_phase(number: int, name: str, tests: Path) -> int:
    began = time.monotonic()
    files = [str(tests / f"test_{module}.py") for module in PHASES[name]]
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-m", "not long", *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tests.parent)
    counts = ", ".join(
        re.findall(r"\d+ (?:passed|failed|skipped|errors?)", done.stdout.rpartition("\n=")[2] or done.stdout)
    )
    good = done.returncode == 0
    print(
        f"phase {number} {name:<10} {'ok' if good else 'FAILED':<7} {counts} in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    if not good:
        print(done.stdout + done.stderr)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
