"""A run that is sent in batches is killed with SIGKILL at every step; then another process goes on.

After every kill the same holds (`resumed`): no batch is created twice, no question is paid twice, no finished log is
lost or changed, and the results are those of a run that asked one by one and that nobody disturbed, byte for byte.
"""

from __future__ import annotations

import errno
import random
import time
from collections import Counter
from pathlib import Path

import pytest
from endpoint import Endpoint
from victim import QUESTIONS, Nursery, Scene, Undisturbed, in_the_long_suite, results

from segkit.core.models import STAGES
from segkit.runs.interactions import intents, recover, scan
from segkit.runs.status import read_status

#: Extraction, two rounds of consolidation, refinement: each is one batch.
BATCHES = 4
_RECORD = "replace RUN/batches/segmentation-1-1-1.json"
# Where a life ends. The record of a batch is written as the intent, after the upload, before and after the batch is
# created, at its end, and when its answers are logged.
POINTS = [
    ("kill", "replace RUN/batches/segmentation-1-1-1.jsonl", 1),
    *(("kill", _RECORD, at) for at in (1, 2, 3, 4)),
    ("kill", "replace RUN/batches/segmentation-1-1-1.output.jsonl", 1),
    ("tear", "write RUN/segmentation/*.intent", 5),
    ("kill", "rename RUN/segmentation/*.json", 4),
    ("kill", "unlink RUN/batches/segmentation-1-1-1.jsonl", 1),
]
MORE_POINTS = [
    *(("kill", _RECORD, at) for at in (5, 6)),
    ("tear", "write RUN/batches/.segmentation-1-1-1.json*tmp", 4),
    ("kill", "create RUN/segmentation/*.intent", 3),
    ("kill", "unlink RUN/batches/segmentation-1-1-1.output.jsonl", 1),
    ("kill", "replace RUN/batches/refine_assignments-1-1-1.json", 4),
    ("kill", "replace RUN/batches/consolidate_taxonomy-3-1-1.json", 4),
]


@pytest.fixture
def scene(place: Path, endpoint: Endpoint, nursery: Nursery) -> Scene:
    endpoint.configure(batch_polls=1)
    given = {"SEGKIT_BATCH": "true", "SEGKIT_BATCH_WAIT": "true", "SEGKIT_PRICES_OF": "openai"}
    return Scene(place, endpoint, nursery, **given)


def resumed(scene: Scene, undisturbed: Undisturbed) -> None:
    """Go on to the end, and see that nothing was lost and nothing was paid twice."""
    for name in STAGES.values():
        assert scan(scene.run / name)[1] == []
    before = scene.logs()
    scene.whole_life()
    after = scene.logs()
    assert {name: after.get(name) for name in before} == before
    assert results(scene.run) == undisturbed[0]
    assert len(scene.endpoint.batches()) == BATCHES
    paid = Counter(entry["sha256"] for entry in scene.endpoint.ledger() if entry["status"] == 200)
    assert set(paid.values()) == {1}
    assert len(paid) == len(after) == QUESTIONS
    # Of an intent that was never written nothing can be told; whatever else is left names its batch, and goes.
    assert [found for name in STAGES.values() for path in intents(scene.run / name) if (found := recover(path))] == []
    assert float(read_status(scene.run).cost_usd) == pytest.approx(scene.endpoint.dollars())
    assert not list((scene.run / "batches").glob("*.jsonl"))


@pytest.mark.parametrize(("action", "label", "at"), [*POINTS, *in_the_long_suite(MORE_POINTS)])
def test_killed_at_a_named_point(action: str, label: str, at: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """At each step from the intent to the logs, and in the middle of a write."""
    assert scene.life(trap={"action": action, "label": label, "at": at}).end().killed, f"{label} has gone"
    resumed(scene, undisturbed)


@pytest.mark.parametrize("label", ["fsync RUN/segmentation/*.intent", "write RUN/segmentation/*.intent"])
def test_the_disk_fails_while_answers_are_logged(label: str, scene: Scene, undisturbed: Undisturbed) -> None:
    """The answers stay where they were downloaded until each is in the logs."""
    life = scene.life(trap={"action": "fail", "errno": errno.EIO, "label": label, "at": 3}).end()
    assert life.code == 1, life.noise
    assert "the disk fails" in life.told["error"]
    resumed(scene, undisturbed)


def test_killed_while_the_provider_creates_a_batch(scene: Scene, undisturbed: Undisturbed) -> None:
    """The batch is there some time after the process that asked for it is gone: the next one waits and finds it."""
    scene.environment["SEGKIT_TIMEOUT_SECONDS"] = "2"
    scene.endpoint.batch_fault("create_slow", seconds=1.5)
    life = scene.life()
    until = time.monotonic() + 60
    while "POST /v1/batches" not in scene.endpoint.batch_calls():
        assert time.monotonic() < until
        time.sleep(0.01)
    life.kill()
    assert scene.endpoint.batches() == []
    resumed(scene, undisturbed)


@pytest.mark.parametrize("seed", [1, *in_the_long_suite([(seed,) for seed in range(2, 20)])])
def test_killed_at_random_moments(seed: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """Three times, and nothing is left in a cache."""
    scene.environment["SEGKIT_CACHE"] = "false"
    draw = random.Random(seed)
    for _ in range(3):
        scene.life(kill_after=draw.uniform(0.05, 1.5)).end()
    resumed(scene, undisturbed)


@pytest.mark.long
def test_killed_at_every_file_operation(
    scene: Scene, undisturbed: Undisturbed, endpoint: Endpoint, tmp_path: Path
) -> None:
    """Every seventh of them, from a first start; a resumed run is killed at the next ones."""
    operations = len(scene.whole_life().told["ops"])
    for at in range(1, operations, 7):
        place = tmp_path / f"at{at}"
        place.mkdir()
        endpoint.reset()
        endpoint.configure(batch_polls=1)
        again = Scene(place, endpoint, scene.nursery, **{**scene.environment, "SEGKIT_HOME": str(place / "home")})
        again.life(trap={"action": "kill", "at": at}).end()
        again.life(trap={"action": "tear", "at": 40 + at}).end()
        resumed(again, undisturbed)
