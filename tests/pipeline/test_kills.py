"""A process is killed with SIGKILL at seeded moments and at every file operation; then another one goes on.

After every kill the same is checked (`resumed`): no finished log is lost or changed, every request is in a log
or an intent, only questions that were in flight are asked again, and the results are those of a run
that nobody disturbed, byte for byte.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint import Endpoint
from victim import QUESTIONS, RUN_ID, Nursery, Scene, Undisturbed, in_the_long_suite, results

from segkit.core.models import STAGES
from segkit.errors import RefusedError, RunError
from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.events import read_events
from segkit.runs.interactions import intents, scan
from segkit.runs.run import Run, current_state, open_run
from segkit.runs.status import read_status
from segkit.storage.locks import owned

# Where a life ends: how, at which operation, and at which of its kind. Between the request and the result stand the
# intent (opened, written), the raw answer (opened, written), the rest (opened, written, synced) and the rename.
POINTS = [
    ("kill", "rename RUN", 1),
    ("tear", "write RUN/segmentation/*.intent", 9),
    ("kill", "rename RUN/segmentation/*.json", 4),
    ("kill", "replace RUN/status.json", 1),
    ("kill", "replace RUN/results/batch_assignments.parquet", 1),
    ("kill", "rename RUN/refine_assignments/*.json", 6),
]
#: The others, in the long suite.
MORE_POINTS = [
    ("kill", "create RUN/segmentation/*.intent", 2),
    ("tear", "write RUN/segmentation/*.intent", 1),
    ("kill", "write RUN/segmentation/*.intent", 5),
    ("tear", "write RUN/segmentation/*.intent", 14),
    ("kill", "fsync RUN/segmentation/*.intent", 3),
    ("kill", "link cache/*.json", 5),
    ("tear", "write RUN/.status.json*tmp", 2),
    ("tear", "write RUN/consolidate_taxonomy/*.intent", 8),
    ("tear", "write RUN/results/.merges.parquet*tmp", 1),
    ("tear", "write RUN/results/.lineage.parquet*tmp", 1),
]


@pytest.fixture
def scene(place: Path, endpoint: Endpoint, nursery: Nursery) -> Scene:
    endpoint.configure(latency=0.01)
    return Scene(place, endpoint, nursery)


def test_what_is_acknowledged_survives_a_power_cut(undisturbed: Undisturbed) -> None:
    """A file is synced before it gets its name, and its folder after that, for each log and each result."""
    operations = undisturbed[1]
    for folder, renamed, written in (
        ("segmentation", "rename RUN/segmentation/*.json", "fsync RUN/segmentation/*.intent"),
        ("refine_assignments", "rename RUN/refine_assignments/*.json", "fsync RUN/refine_assignments/*.intent"),
        ("results", "replace RUN/results/ledger.parquet", "fsync RUN/results/.ledger.parquet*tmp"),
    ):
        named = [at for at, told in enumerate(operations) if told == renamed]
        for number, at in enumerate(named, start=1):
            assert operations[:at].count(written) >= number, "a file has its name before it is on disk"
            assert f"fsync RUN/{folder}" in operations[at:], "a name is not on disk"
        assert named


def check_the_dead(scene: Scene) -> Counter[str]:
    """See that a kill left every log whole and every request visible; give the prompts that were in flight."""
    for name in STAGES.values():
        assert scan(scene.run / name)[1] == []
    in_flight = scene.open_prompts()
    # Whatever was asked is in a log or an intent.
    assert not scene.asked_prompts() - scene.logged_prompts() - in_flight
    return in_flight


def resumed(scene: Scene, expected: dict[str, bytes], in_flight: Counter[str], before: dict[str, bytes]) -> None:
    """Go on to the end, and see that nothing was lost, little repeated, and the results are the expected ones."""
    asked = scene.asked_prompts()
    scene.whole_life()
    after = scene.logs()
    assert {name: after.get(name) for name in before} == before
    repeated = scene.asked_prompts() - asked
    assert not (repeated & asked) - in_flight, "a question was repeated that was not in flight"
    assert results(scene.run) == expected
    assert not list(scene.run.rglob("*.tmp")), "stray temporary files are swept"


@pytest.mark.parametrize(("action", "label", "at"), [*POINTS, *in_the_long_suite(MORE_POINTS)])
def test_killed_at_a_named_point(action: str, label: str, at: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """At each step from the intent to the result, and in the middle of a write."""
    assert undisturbed[1].count(label) >= at, f"{label} has gone: name the step that took its place"
    assert scene.life(trap={"action": action, "label": label, "at": at}).end().killed
    resumed(scene, undisturbed[0], check_the_dead(scene), scene.logs())


@pytest.mark.parametrize("seed", range(6))
def test_killed_at_a_random_moment(seed: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """Some time after its start, with requests in flight; nothing is left in a cache."""
    scene.environment["SEGKIT_CACHE"] = "false"
    moment(seed, scene, undisturbed[0])


def moment(seed: int, scene: Scene, expected: dict[str, bytes]) -> None:
    """Kill once, some time after the start; a life that was faster is a resumed one already."""
    draw = random.Random(seed)
    scene.endpoint.configure(latency=[0.0, 0.08], seed=seed)
    scene.life(kill_after=draw.uniform(0.05, 0.9)).end()
    resumed(scene, expected, check_the_dead(scene), scene.logs())


@pytest.mark.parametrize("at", [1, 8, 12])
def test_killed_while_requests_hang(at: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """The endpoint has the request and says nothing; it is an intent, and is asked once more."""
    for _ in range(at - 1):
        scene.endpoint.queue("ok")
    scene.endpoint.queue("hang")
    life = scene.life()
    scene.endpoint.wait(at)
    hanging = scene.endpoint.bodies()[at - 1]
    settle(scene)
    life.kill()
    in_flight = check_the_dead(scene)
    assert hanging
    assert hanging["messages"][0]["content"] in in_flight
    resumed(scene, undisturbed[0], in_flight, scene.logs())
    assert scene.endpoint.count() == QUESTIONS + 1
    assert "outcome_unknown" in {event["event"] for event in read_events(scene.run)}


def settle(scene: Scene) -> None:
    """Wait until only the hanging request is left, and nothing new has come for a second."""
    seen, quiet, until = 0, 0, time.monotonic() + 60
    while quiet < 10:
        assert time.monotonic() < until, f"{scene.endpoint.in_flight()} requests are in flight"
        time.sleep(0.1)
        now = scene.endpoint.count()
        quiet = quiet + 1 if now == seen and scene.endpoint.in_flight() == 1 else 0
        seen = now


def test_an_answer_on_disk_is_not_paid_again(scene: Scene, undisturbed: Undisturbed) -> None:
    """Killed between the raw answer and its log, the answer is taken from the intent."""
    scene.environment["SEGKIT_CONCURRENCY"] = "1"
    assert scene.life(trap={"action": "kill", "label": "fsync RUN/segmentation/*.intent", "at": 3}).end().killed
    check_the_dead(scene)
    scene.whole_life()
    assert scene.endpoint.count() == QUESTIONS
    assert results(scene.run) == undisturbed[0]
    scene.whole_life()
    assert scene.endpoint.count() == QUESTIONS, "a finished run asks nothing"
    assert sum(scene.open_prompts().values()) == 0


def test_ten_kills_in_a_row_never_go_back(scene: Scene, undisturbed: Undisturbed) -> None:
    """The number of finished logs never falls, however often the resuming process is killed too."""
    ten_kills(0, scene, undisturbed[0])


def ten_kills(seed: int, scene: Scene, expected: dict[str, bytes]) -> None:
    """Kill ten lives one after another, at seeded file operations."""
    draw = random.Random(1000 + seed)
    logs: dict[str, bytes] = {}
    kept: list[int] = []
    in_flight: Counter[str] = Counter()
    for _ in range(10):
        action = draw.choice(["kill", "tear"])
        scene.life(trap={"action": action, "at": draw.randint(20, 60)}).end()
        assert {name: scene.logs().get(name) for name in logs} == logs
        logs = scene.logs()
        kept.append(len(logs))
        in_flight |= check_the_dead(scene)
    assert kept == sorted(kept)
    resumed(scene, expected, in_flight, logs)
    # Each life had at most four questions in flight.
    assert scene.endpoint.count() <= QUESTIONS + 4 * 10


def test_what_a_killed_process_left_is_no_lock(scene: Scene, undisturbed: Undisturbed) -> None:
    """The lock of a dead owner holds nobody back, and its run is not called running."""
    scene.endpoint.queue("hang")
    life = scene.life()
    scene.endpoint.wait(1)
    with pytest.raises(RunError, match=rf"at work in another process: pid {life.pid} on "), owned(lock(scene)):
        pass
    assert current_state(scene.run) == "running"
    life.kill()
    assert lock(scene).read_text(encoding="utf-8") != ""
    assert current_state(scene.run) == "failed"
    with owned(lock(scene)):
        pass
    scene.whole_life()
    assert results(scene.run) == undisturbed[0]


def test_an_answer_in_flight_outlives_the_refusal_of_its_neighbour(
    endpoint: Endpoint, new_run: Callable[..., Run]
) -> None:
    """Of a question cut in two one half is refused for good; the answer to the other one is still kept."""
    endpoint.queue("content_filter")
    endpoint.queue("401", delay=0.3)
    endpoint.queue("slow", seconds=0.8)
    run = new_run(6)
    with pytest.raises(RefusedError):
        extract_taxonomy(run)
    logs, _ = scan(run.stage_folder("extract_taxonomy"))
    assert sorted(log.log["metadata"]["outcome"] for log in logs) == ["filtered", "valid"]
    assert intents(run.stage_folder("extract_taxonomy")) == []


def lock(scene: Scene) -> Path:
    return scene.run / "calls.lock"


def test_two_processes_never_work_on_one_run(scene: Scene) -> None:
    """The second one ends, says who is at work, and asks nothing."""
    scene.environment["SEGKIT_TIMEOUT_SECONDS"] = "900"  # the first one works until it is killed
    scene.endpoint.queue("hang")
    life = scene.life()
    scene.endpoint.wait(1)
    code = f"from segkit import *\nextract_taxonomy(open_run({RUN_ID!r}))"
    environment = {**scene.environment, "PATH": "/usr/bin:/bin"}
    second = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=scene.place, capture_output=True, text=True, timeout=300
    )
    assert f"at work in another process: pid {life.pid} on " in second.stderr
    assert scene.endpoint.count() <= 6
    assert max(Counter(entry["sha256"] for entry in scene.endpoint.ledger()).values()) == 1
    assert life.kill().killed


def test_every_state_of_a_status_can_be_read(scene: Scene) -> None:
    """At a kill in the middle of its writing the status is the one before."""
    assert scene.life(trap={"action": "tear", "label": "write RUN/.status.json*tmp", "at": 3}).end().killed
    assert read_status(scene.run).document["run_id"] == RUN_ID
    assert open_run(RUN_ID, scene.place / "runs").document["run_id"] == RUN_ID


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 300))
def test_killed_at_200_random_moments(seed: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """The same at 200 seeded moments, without a cache for every second one."""
    scene.environment["SEGKIT_CACHE"] = ("false", "true")[seed % 2]
    moment(seed, scene, undisturbed[0])


@pytest.mark.long
@pytest.mark.parametrize("action", ["kill", "tear"])
@pytest.mark.parametrize("at", range(1, 301))
def test_killed_at_every_file_operation(at: int, action: str, scene: Scene, undisturbed: Undisturbed) -> None:
    """Before the n-th file operation of a whole run, and in the middle of it."""
    if at > len(undisturbed[1]):
        pytest.skip(f"a run has {len(undisturbed[1])} operations")
    scene.life(trap={"action": action, "at": at}).end()
    resumed(scene, undisturbed[0], check_the_dead(scene), scene.logs())


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_a_hundred_kills_in_rows_of_ten(seed: int, scene: Scene, undisturbed: Undisturbed) -> None:
    """Ten runs with ten kills each."""
    ten_kills(seed, scene, undisturbed[0])
