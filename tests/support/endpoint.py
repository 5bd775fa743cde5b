"""A fake OpenAI-compatible endpoint over real HTTP, with a queue of faults and a history.

    with Endpoint() as endpoint:
        endpoint.queue("429", retry_after="7")
        ...  # ask endpoint.url
        assert endpoint.count("extract_taxonomy") == 2

It runs in its own process and answers every prompt that keeps docs/contract.md, and typed choice questions under
`/v1/decisions`. `endpoint_answers` and `endpoint_decisions` hold its right answers, `endpoint_faults` the table of
faults, `endpoint_server` the server; this is the handle that tests use.
By hand: `python tests/support/endpoint.py --port 8123`.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from http.client import HTTPConnection
from typing import Any, Self

from endpoint_faults import make_trigger


class Endpoint:
    """One fake endpoint in a process of its own, from `with` to the end of it.

    Options are those of `configure`, and `keep_bodies` (False: the ledger holds hashes only), `limits`
    (`{"requests_per_minute": 60}`, and `seconds` for another window) and `fixed_answer_bytes` (a constant body of
    that size for benchmarks, without faults, and with a ledger of times alone). `streams=False`
    refuses requests with `stream`, `decisions=False` knows no `/v1/decisions`, and `slots` is how many requests are
    worked on at once while the others wait in their order. They hold again after each `reset`.
    """

    def __init__(self, **options: Any) -> None:
        self.options = prepared(options)

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, "--port", "0", "--parent", str(os.getpid())]
        # A session of its own: a Ctrl-C meant for the code under test must not end its endpoint.
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
        try:
            self.port = int(self.process.stdout.readline())
            self.control("start_with", self.options)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process that `with` started, at once: clients see their connections reset."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    @property
    def url(self) -> str:
        """What goes into OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def ledger(self) -> list[dict[str, Any]]:
        """One entry a request, in order of arrival, the last 50,000 of them.

        Keys: n, monotonic, wall, seconds (once settled), method, path, headers, authorized, model, stage, ids (all
        id lines), asked (ids to place), sha256, schema_ok, fault, skipped (a fault without meaning here), status
        (None until a byte is sent), finished (the whole reply has left).
        """
        return self.control("ledger")

    def bodies(self) -> list[dict[str, Any] | None]:
        """The requests themselves, one for each entry of the ledger; None where bodies are not kept."""
        return [json.loads(body) if body else None for body in self.control("bodies")]

    def count(self, stage: str | None = None) -> int:
        """Requests since the start or the last reset, of a stage or of any kind."""
        state = self.control("state")
        return state["total"] if stage is None else state["stages"].get(stage, 0)

    def in_flight(self) -> int:
        """Requests received and not yet answered."""
        return self.control("state")["in_flight"]

    def in_flight_peak(self) -> int:
        """The most requests that were ever in flight together."""
        return self.control("state")["in_flight_peak"]

    def queued(self) -> int:
        """Entries of the queue that no request has met yet."""
        return self.control("state")["queued"]

    def wait(self, count: int, stage: str | None = None, seconds: float = 120.0) -> None:
        """Wait until so many requests have arrived; raises TimeoutError."""
        end = time.monotonic() + seconds
        while (arrived := self.count(stage)) < count:
            if time.monotonic() > end:
                raise TimeoutError(f"{arrived} of {count} requests arrived in {seconds} s")
            time.sleep(0.01)

    def queue(self, name: str, **chosen: Any) -> None:
        """Let the next request that fits meet a fault; later calls stand behind.

        `chosen`: stage, contains (a text in the prompt, and the title that the fault is about), times, delay
        (seconds), headers, and the parameters of the fault.
        """
        self.control("queue", make_trigger(name, **chosen))

    def rule(self, name: str, **chosen: Any) -> None:
        """Let every request that fits meet a fault, after the queue; `chosen` as there, `times` without end."""
        self.control("rule", make_trigger(name, **{"times": None, **chosen}))

    def batch_fault(self, name: str, times: int = 1, **chosen: Any) -> None:
        """Let the next step of a batch that fits meet a fault of `endpoint_batches.BATCH_FAULTS`."""
        self.control("batch_fault", {"name": name, "times": times, **chosen})

    def batches(self) -> list[dict[str, Any]]:
        """The batches that were created."""
        return self.control("batches")

    def batch_calls(self) -> list[str]:
        """The requests for files and batches, as `POST /v1/files`; they are not in the ledger."""
        return self.control("batch_calls")

    def dollars(self, price_in: float = 2.5, price_out: float = 10.0) -> float:
        """What the answers of the ledger cost at some dollars a million tokens; those in batches cost half."""
        paid = [(entry["tokens"], 0.5 if entry["batch"] else 1.0) for entry in self.ledger() if entry.get("tokens")]
        return sum(share * (t[0] * price_in + t[1] * price_out) for t, share in paid) / 1e6

    def configure(self, **options: Any) -> None:
        """Change some options: latency, faults (a new queue), rules, rates, seed, api_key, limits, keep_bodies.

        `latency` is in seconds, or a pair to draw from; `faults` and `rules` are lists of names or of dicts such as
        `{"name": "429", "retry_after": "7"}`; `rates` is `{"500": 0.05}` or `{"429": {"rate": 0.05, "retry_after":
        "0"}}`; `api_key` is the only key let in. A batch is at work until it was polled `batch_polls` times (None:
        until `control("finish_batches")`); `batch_api=False` takes the Batch API away.
        """
        self.control("configure", prepared(options))

    def reset(self, configuration: bool = True) -> None:
        """Forget the history and all triggers, and go back to the first options; with False the history alone."""
        self.control("reset", {"configuration": configuration})

    def control(self, action: str, sent: Any = None) -> Any:
        """Ask the process; each call has its own connection, so that any thread may ask."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", f"/_control/{action}", json.dumps(sent))
            response = connection.getresponse()
            got = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(got["error"])
        return got


def prepared(options: dict[str, Any]) -> dict[str, Any]:
    """Write names of faults out as triggers, so that a wrong one fails here and not in the server."""
    ready = dict(options)
    for key, times in (("faults", 1), ("rules", None)):
        if key in ready:
            ready[key] = [trigger(item, times) for item in ready[key]]
    if "rates" in ready:
        ready["rates"] = [rated(name, item) for name, item in ready["rates"].items()]
    return ready


def trigger(item: str | dict[str, Any], times: int | None) -> dict[str, Any]:
    """A trigger from a name or a dict with a name."""
    chosen = {"name": item} if isinstance(item, str) else item
    return make_trigger(**{"times": times, **chosen})


def rated(name: str, item: float | dict[str, Any]) -> dict[str, Any]:
    """A trigger with its rate."""
    chosen = dict(item) if isinstance(item, dict) else {"rate": item}
    rate = chosen.pop("rate")
    return {**make_trigger(name, **chosen), "rate": rate}


def main() -> None:
    """Run the server until it is stopped, or until its parent is gone."""
    from endpoint_server import serve

    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible endpoint on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parent", type=int, default=None)
    chosen = parser.parse_args()
    asyncio.run(serve(chosen.port, chosen.parent))


if __name__ == "__main__":
    main()
