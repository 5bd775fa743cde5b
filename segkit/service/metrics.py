"""Figures for Prometheus: of the runs a token may see, and of the answers of the service."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from segkit.runs.status import StageFigures, Status, read_status, total

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_SECONDS = 60  # between two counts of the bytes on disk
_FIGURES = {"calls": "calls", "cached": "cached_answers", "retries": "retries"}
_TOKENS = {"input": "input_tokens", "cached": "cached_tokens", "output": "output_tokens"}


class Metrics:
    """Counts requests, and sums up runs when it is asked."""

    def __init__(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        name, text = "segkit_http_request_seconds", "How long answers took, whole."
        self._requests = Histogram(name, text, labels, buckets=_BUCKETS, registry=self._registry)
        self._answers: dict[tuple[str, str, int], Histogram] = {}  # finding one by its labels takes longer
        self._lock = threading.Lock()
        self._bytes, self._counted = 0, 0.0
        self._ended: dict[str, tuple[int, Status]] = {}

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        if key not in self._answers:
            self._answers[key] = self._requests.labels(method, route, str(status))
        self._answers[key].observe(seconds)

    def page(self, run_states: Iterable[tuple[str, str]], *, whole: bool) -> bytes:
        """Write the figures of some runs, given with their states; of the machine and all requests too if `whole`."""
        registry = CollectorRegistry()
        registry.register(_Runs(self._families(list(run_states), whole)))
        return generate_latest(registry) + (generate_latest(self._registry) if whole else b"")

    def _families(self, run_states: list[tuple[str, str]], whole: bool) -> list[Metric]:
        runs = GaugeMetricFamily("segkit_runs", "Runs by state.", labels=["state"])
        counts = Counter(state for _, state in run_states)
        for state in ("running", "completed", "failed", "cancelled"):
            runs.add_metric([state], counts[state])
        stages = [
            (name, figures) for run_id, _ in run_states for name, figures in self._status(run_id).stages.items()
        ]
        return [runs, *_spent(stages), *(self._storage() if whole else ())]

    def _status(self, run_id: str) -> Status:
        """Read a run's status, again only when it was written again."""
        path = self._runs_dir / run_id / "status.json"
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return Status()
        with self._lock:
            if run_id not in self._ended or self._ended[run_id][0] != changed:
                self._ended[run_id] = (changed, read_status(path.parent))
            return self._ended[run_id][1]

    def _storage(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._counted > _SECONDS or not self._counted:
                self._bytes, self._counted = _size(self._runs_dir), time.monotonic()
        yield GaugeMetricFamily("segkit_storage_bytes", "Bytes of all runs on disk.", value=self._bytes)
        free = shutil.disk_usage(self._runs_dir).free
        yield GaugeMetricFamily("segkit_storage_free_bytes", "Bytes free on the disk of the runs.", value=free)


class _Runs:
    """What the registry asks for families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _spent(stages: list[tuple[str, StageFigures]]) -> Iterator[Metric]:
    """Sum up what stages took; a run that is removed makes these fall, as a restart of a counter does."""
    names = sorted({name for name, _ in stages})
    sums = {name: total(figures for stage, figures in stages if stage == name) for name in names}
    for key, title in _FIGURES.items():
        yield _counter(f"segkit_{title}", f"{title.replace('_', ' ').capitalize()} by stage.", key, sums)
    tokens = CounterMetricFamily("segkit_tokens", "Tokens of paid calls.", labels=["stage", "kind"])
    for kind, key in _TOKENS.items():
        for name, figures in sums.items():
            tokens.add_metric([name, kind], getattr(figures, key))
    yield tokens
    yield _counter("segkit_cost_usd", "Dollars spent, as far as prices are known.", "cost_usd", sums)
    yield _counter("segkit_unpriced_calls", "Calls whose cost is not known.", "unpriced", sums)
    yield _counter("segkit_stage_seconds", "Seconds that stages took.", "seconds", sums)


def _counter(title: str, help_text: str, key: str, sums: Mapping[str, StageFigures]) -> Metric:
    family = CounterMetricFamily(title, help_text, labels=["stage"])
    for name, figures in sums.items():
        family.add_metric([name], float(getattr(figures, key)))
    return family


def _size(runs_dir: Path) -> int:
    """Count the bytes below a folder; what vanishes meanwhile does not count."""
    total = 0
    for folder, _, names in os.walk(runs_dir):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 (Path takes five times as long)
            except OSError:
                continue
    return total
