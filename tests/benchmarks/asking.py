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
    """Ask the same questions with segkit and with the bare loop."""
    os.environ.update(SEGKIT_CONCURRENCY=str(concurrency), SEGKIT_HOME=str(place / "home"))
    with Endpoint(fixed_answer_bytes=ANSWER, latency=latency) as endpoint:
        os.environ["OPENAI_BASE_URL"] = endpoint.url
        asked, run = questions(count), fresh_run(place)
        wall, cpu = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == count
        bare_wall, bare_cpu = timed(lambda: bare_loop(endpoint.url, asked, concurrency))
        again, _ = timed(lambda: ask_all(run, STAGE, asked, load_settings()))
        assert endpoint.count() == 2 * count
    ideal = -(-count // concurrency) * latency
    return {"wall": wall, "cpu": cpu, "bare": bare_wall, "bare_cpu": bare_cpu, "ideal": ideal, "again": again}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    share = 10 if parser.parse_args().quick else 1
    place = Path(tempfile.mkdtemp(prefix="segkit-bench-"))
    try:
        for count, latency, concurrency in ((2000, 0.2, 64), (4096, 1.0, 512), (2000, 0.0, 64)):
            count //= share
            got = measure(place / f"{count}-{latency}", count, latency, concurrency)
            print(count, latency, concurrency, {name: round(value, 3) for name, value in got.items()})
            print(
                "  wall/ideal",
                got["wall"] / got["ideal"] if got["ideal"] else "-",
                "wall/bare",
                got["wall"] / got["bare"],
                "cpu ms",
                got["cpu"] / count * 1000,
                "bare cpu ms",
                got["bare_cpu"] / count * 1000,
                "replays/s",
                count / got["again"],
            )
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
