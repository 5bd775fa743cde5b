"""How fast questions are asked, against a bare AsyncOpenAI loop with a semaphore that stores nothing.

    python tests/benchmarks/asking.py            # the table of this machine
    python tests/benchmarks/asking.py --quick    # a tenth of the questions

Every figure is a ratio measured in the same run, on the same local server in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from endpoint import Endpoint

from segkit.calls import ask_all
from segkit.models import Asking, Question
from segkit.preparing import prepare_run
from segkit.replies import check_refine, refine_schema
from segkit.runs import Run
from segkit.settings import load_settings

STAGE = "refine_assignments"
PROMPT = 3000
ANSWER = 1024


def questions(count: int) -> list[Question]:
    """Make questions of 3 KB that the plain server answers validly."""
    return [_question(number) for number in range(1, count + 1)]


def _question(number: int) -> Question:
    ids = [f"P_{i}" for i in range(4)]
    text = f"question {number} ".ljust(PROMPT, "x")
    return Question(
        STAGE,
        number,
        Asking(text, refine_schema(ids, ["S_0"])),
        {"expected_ids": ids, "product_ids": [0, 1, 2, 3]},
        lambda content, source, before: check_refine(content, ids, ["S_0"], source),
        lambda checked, content: Asking(text, {}),
        lambda checked, trouble: [],
    )


def fresh_run(folder: Path) -> Run:
    frame = pd.DataFrame({"product_id": [1], "title": ["a product"]})
    return prepare_run(frame, "Things", model="gpt-4o", runs_dir=folder / "runs")


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Give wall and CPU seconds of some work in this process."""
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bare_loop(url: str, asked: list[Question], concurrency: int) -> None:
    """Ask with AsyncOpenAI and a semaphore, and store nothing."""
    from openai import AsyncOpenAI

    async def work() -> None:
        client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
        semaphore = asyncio.Semaphore(concurrency)

        async def ask(question: Question) -> str | None:
            async with semaphore:
                reply = await client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": question.asking.prompt}], temperature=0.2
                )
                return reply.choices[0].message.content

        await asyncio.gather(*map(ask, asked))
        await client.close()

    asyncio.run(work())


def measure(place: Path, count: int, latency: float, concurrency: int) -> dict[str, float]:
    """Ask the same questions with segkit and with the bare loop; give seconds of both."""
    os.environ.update(SEGKIT_CONCURRENCY=str(concurrency), SEGKIT_HOME=str(place / "home"))
    with Endpoint(fixed_answer_bytes=ANSWER, latency=latency) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        asked, run = questions(count), fresh_run(place)
        wall, cpu = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == count
        bare_wall, bare_cpu = timed(lambda: bare_loop(endpoint.url, asked, concurrency))
        again, _ = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == 2 * count, "a finished stage asks nothing"
    ideal = -(-count // concurrency) * latency
    return {"wall": wall, "cpu": cpu, "bare": bare_wall, "bare_cpu": bare_cpu, "ideal": ideal, "again": again}


def table(place: Path, share: int) -> list[tuple[str, str, str]]:
    """Measure all rows: what was done, the figure, and what it must reach."""
    slow = measure(place / "slow", 2000 // share, 0.2, 64)
    wide = measure(place / "wide", 4096 // share, 1.0, 512)
    fast = measure(place / "fast", 2000 // share, 0.0, 64)
    milli = slow["cpu"] / (2000 // share) * 1000
    bare_milli = slow["bare_cpu"] / (2000 // share) * 1000
    return [
        ("wall ÷ ideal, 200 ms, 64 at once", f"{slow['wall'] / slow['ideal']:.3f}", "≤ 1.08"),
        ("the same ÷ the bare AsyncOpenAI loop", f"{slow['wall'] / slow['bare']:.3f}", "≤ 1.00"),
        ("wall ÷ ideal, 1 s, 512 at once", f"{wide['wall'] / wide['ideal']:.3f}", "≤ 1.25"),
        ("questions a second at 0 ms ÷ the bare loop", f"{fast['bare'] / fast['wall']:.2f}", "≥ 1.9"),
        ("CPU a question at 200 ms (bare loop)", f"{milli:.2f} ms ({bare_milli:.2f} ms)", "≤ 1.2 ms"),
        ("a finished stage again, interactions a second", f"{2000 // share / slow['again']:,.0f}", "≥ 8,000"),
    ]


def main() -> None:
    """Print the table, and write it beside this file when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the questions; nothing is written")
    quick = parser.parse_args().quick
    os.environ.setdefault("OPENAI_API_KEY", "none")
    # ext4 makes new files slowly right after a mass deletion: fresh folders, removed at the end.
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    try:
        rows = table(place, 10 if quick else 1)
    finally:
        shutil.rmtree(place)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    lines = ["| 3 KB prompts, 1 KB answers, every answer logged | measured | must |", "|---|---|---|"]
    text = "\n".join(
        [f"Measured by `make bench` on {machine}.", "", *lines, *(f"| {' | '.join(row)} |" for row in rows), ""]
    )
    print(text)
    if not quick:
        (Path(__file__).parent / "results.md").write_text(f"# Asking\n\n{text}", encoding="utf-8")


if __name__ == "__main__":
    main()
