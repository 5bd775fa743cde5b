"""What the terminal shows while a run works."""

from __future__ import annotations

import time
from collections.abc import Callable
from io import StringIO

import pytest
from rich.console import Console

from segkit.cli.progress import progress_table, watched
from segkit.runs.run import Run
from segkit.runs.status import as_status, update_status

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


ACTIVITY = {
    "in_flight": 16,
    "answering": 2,
    "oldest": "b3",
    "since": 1_700_000_000.0,
    "tokens": 1234,
    "retry": "b2: HTTP 429: slow down",
    "width": 2,
}


def test_what_is_in_flight_stands_below_the_stages() -> None:
    """With the age of the oldest request, which grows while nothing else changes."""
    status = {"stage": "segmentation", "stages": {"segmentation": STAGE}, "activity": ACTIVITY}
    assert drawn(status).splitlines()[-3:] == [
        f"16 in flight, b3 for {time.time() - 1_700_000_000:.0f} s; 1,234 tokens of 2 so far",
        "the endpoint answers about 2 at once (--concurrency)",
        "last retry: b2: HTTP 429: slow down",
    ]


def test_a_line_a_minute_where_nobody_sees_a_table(
    new_run: Callable[..., Run], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also without notebooks; it names what is in flight and why something was retried."""
    monkeypatch.setattr("segkit.cli.progress._LINE_EVERY", 0.5)
    run = new_run(2, model="offline")
    with watched(run):
        update_status(run.folder, stage="segmentation", stages={"segmentation": STAGE}, activity=ACTIVITY)
        time.sleep(1.2)
    first, second, *_ = (line.split("s  ", 1)[1] for line in capfd.readouterr().err.splitlines())
    assert first == "extract"
    assert second.startswith("extract: 10 of 25 questions answered · 2 retries · $0.1234 · 20 s")
    assert "16 in flight, b3 for " in second
    assert second.endswith(
        "the endpoint answers about 2 at once (--concurrency) · last retry: b2: HTTP 429: slow down"
    )


def test_a_run_that_waits_for_answers_says_so(new_run: Callable[..., Run], capfd: pytest.CaptureFixture[str]) -> None:
    """Where nobody sees a table, a line for each notebook, and what a second Ctrl-C would do."""
    run = new_run(2, model="offline")
    with watched(run):
        update_status(run.folder, notebook="10_extract_taxonomy")
        time.sleep(0.6)
        (run.folder / "stop").touch()
        time.sleep(0.6)
    lines = [line.split("s  ", 1)[1] for line in capfd.readouterr().err.splitlines()]
    assert lines == [
        "10_extract_taxonomy",
        "stopping: waiting for the answers in flight; a second Ctrl-C discards them",
    ]
