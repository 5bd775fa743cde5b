"""A run with a real llama.cpp server and a real small model: not what is answered, but what is kept of it."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import llama
import pandas as pd
import pytest
from catalogues import unmeasured

from segkit.core.models import STAGES
from segkit.runs.events import read_events
from segkit.runs.integrity import differences
from segkit.runs.interactions import intents, scan
from segkit.runs.run import open_run

TITLES = [
    " ".join(words)
    for words in product(
        ("Aro", "Bela", "Cima", "Dora"),
        ("espresso machine", "drip coffee maker", "French press", "moka pot", "cold brew maker"),
    )
]
# As for any small model: few products a prompt, as many questions at once as the server has places, a short answer.
# Three stages are asked for; what takes the time is the tokens of the answers, about 1,500.
OPTIONS = [
    *("--products-per-prompt", "3", "--extract-sample", "6", "--products-per-assignment", "7"),
    *("--temperature", "0", "--max-output-tokens", "400", "--concurrency", "2", "--ask-twice", "0"),
    *("--no-sync", "--no-notebooks", "--yes"),
]


@pytest.mark.long
def test_a_run_with_a_real_server_and_a_real_small_model(place: Path) -> None:
    """Every product ends in one state, logs are the calls that were answered, and tokens are those of the bodies."""
    if why := llama.why_missing():
        pytest.skip(f"no llama.cpp: {why}")
    table = pd.DataFrame({"product_id": range(1, len(TITLES) + 1), "title": TITLES})
    table.to_csv(place / "products.csv", index=False)
    with llama.llama() as server:
        command = [sys.executable, "-m", "segkit", "run", "products.csv", "-c", "Coffee Makers", "-m", llama.MODEL]
        environment = unmeasured(OPENAI_BASE_URL=server.url, SEGMENTATION_MAX_RETRIES="2")
        done = subprocess.run(
            [*command, *OPTIONS], cwd=place, env=environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, done.stderr
        asked, answered = server.asked, server.answered
    run = open_run("latest", place / "runs")
    ledger = run.result("ledger")
    assert len(ledger) == ledger["product_id"].nunique() == len(TITLES)
    assert set(ledger["state"]) <= {"assigned", "out_of_scope"}
    logs = [log for stage in STAGES for log in scan(run.stage_folder(stage))[0]]
    total, bodies = run.status.total, [json.loads(log.body)["usage"] for log in logs]
    assert not [path for stage in STAGES for path in intents(run.stage_folder(stage))]
    assert len(logs) == total.calls == len(answered) > 4
    # llama.cpp closes each connection after a stream, and announces that it stays open: a request may meet the end.
    unread = [event for event in read_events(run.folder) if event["event"] == "no_answer"]
    assert {event["money"] for event in unread} <= {"not_paid"}
    assert len(answered) <= asked <= len(answered) + len(unread)
    tokens = sum(prompt for prompt, _ in answered), sum(completion for _, completion in answered)
    stated = sum(usage["prompt_tokens"] for usage in bodies), sum(usage["completion_tokens"] for usage in bodies)
    assert stated == tokens == (total.input_tokens, total.output_tokens)
    assert (total.cost_usd, total.unpriced, total.unmetered) == (0, 0, 0)
    assert all(log.log["request"]["stream"] for log in logs)
    assert differences(run) == []
