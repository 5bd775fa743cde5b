"""What the terminal shows while a run works."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from segkit.cli.progress import progress_table
from segkit.runs.status import as_status

STAGE = {
    "planned": 25,
    "done": 10,
    "retries": 2,
    "input_tokens": 12345,
    "output_tokens": 678,
    "cost_usd": "0.1234",
    "unknown_cost": 0,
    "seconds": 20.0,
}


def drawn(status: dict[str, object]) -> str:
    out = StringIO()
    Console(file=out, width=120).print(progress_table(as_status(status), 21.0))
    return out.getvalue()


def test_progress_tells_stage_batches_retries_tokens_cost_and_time_left() -> None:
    text = drawn({"stage": "segmentation", "notebook": "10_extract_taxonomy", "stages": {"segmentation": STAGE}})
    assert "10_extract_taxonomy · 21 s" in text
    assert text.splitlines()[-1].split() == [
        "extract",
        "10/25",
        "2",
        "12,345",
        "678",
        "$0.1234",
        "20.0",
        "s",
        "30",
        "s",
    ]


def test_an_unknown_cost_is_not_shown_as_zero() -> None:
    assert "unknown" in drawn({"stages": {"segmentation": {**STAGE, "unknown_cost": 1}}})


def test_nothing_is_known_at_the_start() -> None:
    assert "starting" in drawn({})
