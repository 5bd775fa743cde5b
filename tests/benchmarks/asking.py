"""How fast questions are asked, against a bare AsyncOpenAI loop with a semaphore that stores nothing.

    python tests/benchmarks/asking.py            # the table of this machine
    python tests/benchmarks/asking.py --quick    # a tenth of the questions

Every figure is a ratio measured in the same run, on the same local server in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from results import write_section

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from endpoint import Endpoint

from segkit.core.extract import extract_questions
from segkit.core.models import Answer, Prompt, Question
from segkit.core.questions import refine_schema
from segkit.core.validation import check_refine
from segkit.llm.ask import ask_all
from segkit.pipeline.extend import extend_run
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.interactions import scan
from segkit.runs.run import Run
from segkit.settings import load_settings

STAGE = "refine_assignments"
PROMPT = 3000
ANSWER = 1024
KINDS = ("kettle", "toaster", "ladle", "whisk")


def questions(count: int) -> list[Question]:
    """Make questions of 3 KB that the plain server answers validly."""
    return [_question(number) for number in range(1, count + 1)]


def _question(number: int) -> Question:
    ids = [f"P_{i}" for i in range(4)]
    text = f"question {number} ".ljust(PROMPT, "x")
    return Question(
        STAGE,
        number,
        Prompt(text, refine_schema(ids, ["S_0"])),
        {"expected_ids": ids, "product_ids": [0, 1, 2, 3]},
        lambda content, source, before: check_refine(content, ids, ["S_0"], source),
        lambda checked, content: Prompt(text, {}),
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
                    model="gpt-4o", messages=[{"role": "user", "content": question.prompt.text}], temperature=0.2
                )
                return reply.choices[0].message.content

        await asyncio.gather(*map(ask, asked))
        await client.close()

    asyncio.run(work())


def measure(place: Path, count: int, latency: float, concurrency: int, *, bare: bool = True) -> dict[str, float]:
    """Ask the same questions with segkit and, if wanted, with the bare loop; return seconds of both."""
    os.environ.update(SEGKIT_CONCURRENCY=str(concurrency), SEGKIT_HOME=str(place / "home"))
    with Endpoint(fixed_answer_bytes=ANSWER, latency=latency) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        asked, run = questions(count), fresh_run(place)
        wall, cpu = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == count
        bare_wall, bare_cpu = timed(lambda: bare_loop(endpoint.url, asked, concurrency)) if bare else (0.0, 0.0)
        again, _ = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == (1 + bare) * count, "a finished stage asks nothing"
    ideal = -(-count // concurrency) * latency
    return {"wall": wall, "cpu": cpu, "bare": bare_wall, "bare_cpu": bare_cpu, "ideal": ideal, "again": again}


def meeting_faults(place: Path, count: int) -> tuple[str, float, float]:
    """Ask under 5 % 429, 5 % 500 and 5 % malformed JSON at 50 ms: valid answers, requests ÷ least, seconds."""
    os.environ.update(SEGKIT_CONCURRENCY="64", SEGKIT_HOME=str(place / "home"))
    rates = {"429": {"rate": 0.05, "retry_after": "0.2"}, "500": 0.05, "not_json": 0.05}
    frame = things(4 * count)
    with Endpoint(latency=0.05, rates=rates, keep_bodies=False) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        run = prepare_run(frame, "Things", model="gpt-4o", runs_dir=place / "runs", products_per_prompt=4)
        asked = extract_questions(run.products, run.prompts, run.parameters)
        answers: list[Answer] = []
        wall, _ = timed(lambda: answers.extend(ask_all(run, "extract_taxonomy", asked, load_settings())))
        faults = sum(bool(entry["fault"]) for entry in endpoint.ledger())
        # A question that met three bad answers was cut, and its parts were answered.
        valid = count - len({answer.question.batch for answer in answers if answer.reason})
        return f"{valid} of {count}", endpoint.count() / (count + faults), wall


def adding_products(place: Path, batches: int) -> tuple[int, int, int]:
    """Add ten products to a finished run: the questions asked of it, of the new run, and the least possible."""
    # What is asked twice, to see how repeatable a run is, comes on top in both runs.
    os.environ.update(SEGKIT_CONCURRENCY="64", SEGKIT_HOME=str(place / "home"), SEGKIT_ASK_TWICE="0")
    with Endpoint(keep_bodies=False) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        sizes = {"products_per_prompt": 40, "products_per_refinement": 40}
        run = prepare_run(things(40 * batches), "Things", model="gpt-4o", runs_dir=place / "runs", **sizes)
        work_through(run)
        before = endpoint.count()
        work_through(extend_run(run, things(10, start=1_000_000)))
        return before, endpoint.count() - before, 3  # its own batch, the merge with the rest, its refinement


def work_through(run: Run) -> None:
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run)


def things(count: int, start: int = 0) -> pd.DataFrame:
    titles = [f"Solid number {start + i} {KINDS[i % len(KINDS)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(start, start + count), "title": titles})


def memory(count: int) -> float:
    """Give the MB that a process needs above its imports to ask so many questions."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", str(count)], capture_output=True, text=True, check=True
    )
    return float(done.stdout.split()[-1])


def print_memory(place: Path, count: int) -> None:
    os.environ.update(SEGKIT_CONCURRENCY="64", SEGKIT_HOME=str(place / "home"))
    with Endpoint(fixed_answer_bytes=ANSWER) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        ask_all(fresh_run(place / "first"), STAGE, questions(64), load_settings())
        asked, run = questions(count), fresh_run(place / "second")
        before = resident("VmRSS")
        ask_all(run, STAGE, asked, load_settings())
        print(resident("VmHWM") - before)


def resident(which: str) -> float:
    """Give MB of this process from the kernel; `ru_maxrss` would be that of the parent where that is larger."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def scanning(place: Path) -> float:
    """Give the logs a second that are read when resuming."""
    folder = next((place / "runs").glob("RUN_*")) / STAGE
    logs: list[object] = []
    wall, _ = timed(lambda: logs.extend(scan(folder)[0]))
    return len(logs) / wall


def table(place: Path, share: int) -> list[tuple[str, str, str]]:
    """Measure all rows: what was done, the figure, and what it must reach."""
    slow = measure(place / "slow", 2000 // share, 0.2, 64)
    # The bare loop opens 512 connections within 5 seconds or fails, and its figure is not needed here.
    wide = measure(place / "wide", 4096 // share, 1.0, 512, bare=False)
    fast = measure(place / "fast", 2000 // share, 0.0, 64)
    valid, requests, seconds = meeting_faults(place / "faults", 500 // share)
    all_asked, asked, least = adding_products(place / "added", 300 // share)
    few, many = memory(2000 // share), memory(8000 // share)
    milli = slow["cpu"] / (2000 // share) * 1000
    bare_milli = slow["bare_cpu"] / (2000 // share) * 1000
    return [
        ("wall ÷ ideal, 200 ms, 64 at once", f"{slow['wall'] / slow['ideal']:.3f}", "≤ 1.08"),
        ("the same ÷ the bare AsyncOpenAI loop", f"{slow['wall'] / slow['bare']:.3f}", "≤ 1.00"),
        ("wall ÷ ideal, 1 s, 512 at once", f"{wide['wall'] / wide['ideal']:.3f}", "≤ 1.25"),
        ("questions a second at 0 ms ÷ the bare loop", f"{fast['bare'] / fast['wall']:.2f}", "≥ 1.9"),
        ("CPU a question at 200 ms (bare loop)", f"{milli:.2f} ms ({bare_milli:.2f} ms)", "≤ 1.2 ms"),
        ("a finished stage again, interactions a second", f"{2000 // share / slow['again']:,.0f}", "≥ 8,000"),
        ("scan of the logs when resuming, files a second", f"{scanning(place / 'wide'):,.0f}", "≥ 10,000"),
        ("under 429, 500 and malformed JSON: valid", valid, "all"),
        ("… requests ÷ the least possible", f"{requests:.3f}", "≤ 1.02"),
        ("… seconds", f"{seconds:.1f}", "≤ 4"),
        ("ten products added: asked (of the whole run)", f"{asked} ({all_asked})", f"{least}"),
        ("memory above imports, as many and 4 × as many questions", f"{few:.0f} MB, {many:.0f} MB", "≤ 100 MB, flat"),
    ]


def main() -> None:
    """Print the table, and write it beside this file when it is the whole one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the questions; nothing is written")
    parser.add_argument(
        "--memory", type=int, metavar="N", help="print the MB that N questions need, and nothing else"
    )
    given = parser.parse_args()
    os.environ.setdefault("OPENAI_API_KEY", "none")
    # ext4 makes new files slowly right after a mass deletion: fresh folders, removed at the end.
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    try:
        if given.memory:
            print_memory(place, given.memory)
            return
        rows = table(place, 10 if given.quick else 1)
    finally:
        shutil.rmtree(place)
    write_section("Asking", "3 KB prompts, 1 KB answers, every answer logged", rows, keep=not given.quick)


if __name__ == "__main__":
    main()
