"""The disk fails at the n-th file operation, or is really full: nothing paid is lost, and nothing more is asked.

A fault is set before the operation in a process of its own (`victim`), or comes from a real file system: a tmpfs of
a few pages in a private mount namespace. After every fault the same is checked (`mended`): the run goes on once the
fault is gone, each question was asked exactly once, and the results are those of a run that nobody disturbed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint import Endpoint
from victim import QUESTIONS, RUN_ID, Life, Nursery, Scene, Undisturbed, in_the_long_suite, results

from segkit.runs.events import read_events
from segkit.runs.interactions import recover

# The first question goes alone: its 2nd write is its answer, the 3rd the rest of its log.
HOME = "mkdir "  # the folder above the cache, which is watched itself and so has no name
WRITE = "write RUN/segmentation/*.intent"
RESERVE = "posix_fallocate RUN/segmentation/*.intent"
# Before the first intent, at the intent, its room, the raw answer, the rest, sync, rename, status and results.
POINTS = [
    ("EACCES", "mkdir RUN*making", 1, True),
    ("ENOSPC", RESERVE, 1, True),
    ("ENOSPC", RESERVE, 3, False),
    ("EIO", WRITE, 6, True),
    ("EIO", "rename RUN/segmentation/*.json", 3, False),
    ("EIO", "fsync RUN/results", 1, False),
]
#: The others, in the long suite.
MORE_POINTS = [
    ("ENOSPC", "write RUN*making/products.parquet", 1, False),
    ("ENOSPC", "write RUN*making/.status.json*tmp", 1, False),
    ("EACCES", "open RUN/calls.lock", 1, True),
    ("EACCES", "create RUN/segmentation/*.intent", 1, True),
    ("EACCES", WRITE, 2, True),
    ("EIO", "fsync RUN/segmentation/*.intent", 1, True),
    ("ENOSPC", "write RUN/.status.json*tmp", 2, True),
    ("ENOSPC", "posix_fallocate RUN/consolidate_taxonomy/*.intent", 2, True),
    ("EIO", "truncate RUN/segmentation/*.intent", 1, False),
    ("ENOSPC", "write RUN/results/.lineage.parquet*tmp", 1, False),
]


@pytest.fixture(scope="module")
def private() -> Iterator[Nursery]:
    """A nursery that may mount file systems which nobody else sees; skipped where the system forbids it."""
    try:
        nursery = Nursery(private=True)
    except (OSError, AssertionError):
        pytest.skip("mount namespaces are not allowed here")
    with nursery:
        yield nursery


@pytest.fixture
def scene(place: Path, endpoint: Endpoint, nursery: Nursery) -> Scene:
    endpoint.configure(latency=0.01)
    return Scene(place, endpoint, nursery)


def check_the_end(life: Life, scene: Scene, reason: str) -> None:
    """See that a life ended with an error of segkit that names a path and the reason, and with no noise."""
    assert life.code == 1, life.told.get("trace", "") + life.noise
    told = life.told["error"]
    assert f"runs/{RUN_ID}" in told
    assert reason in told
    assert "Traceback" not in life.noise
    assert "never retrieved" not in life.noise


def mended(scene: Scene, expected: dict[str, bytes], lost: int = 0, tries: int = 0) -> None:
    """Go on with a sound disk; see that only `lost` questions were asked twice, and that the results are right.

    `tries` are those that the endpoint refused.
    """
    scene.whole_life()
    assert scene.endpoint.count() == QUESTIONS + lost + tries
    assert results(scene.run) == expected
    # One whose own beginning is not whole was never asked; on a disk that also refuses to remove it, it stays.
    left = [path.name for path in scene.run.rglob("*.intent") if "request" in (recover(path) or {})]
    assert len(left) == lost, left


def lost_answers(scene: Scene) -> int:
    """Count the questions that were asked and whose answers are not on disk."""
    asked = scene.endpoint.count()
    kept = [recover(path) or {} for path in scene.run.rglob("*.intent")]
    return asked - len(scene.logs()) - sum("body" in log or "body_base64" in log for log in kept)


def fail(scene: Scene, expected: dict[str, bytes], name: str, **trap: Any) -> None:
    """Let operations fail, and see that the run ends well: whole without its cache, or to be resumed."""
    number = getattr(errno, name)
    life = scene.life(trap={"action": "fail", "errno": number, **trap}).end()
    ops, failed_at = life.told["ops"], life.told["failed_at"]
    lost = 0
    if life.code == 0:  # the cache is a help, and the name in a lock is for people
        assert failed_at < 0 or "cache" in ops[failed_at] or "calls.lock" in ops[failed_at] or ops[failed_at] == HOME
    else:
        check_the_end(life, scene, os.strerror(number))
        # Those of the other three workers that are on their way when it is noticed.
        assert sum(op.startswith("create ") for op in ops[failed_at + 1 :]) <= 3
        lost = lost_answers(scene)
        # A disk that is full has room reserved for the answers; one that breaks for good loses those in flight.
        breaks = trap.get("forever") and number != errno.ENOSPC
        assert lost <= (4 if breaks else 1)
        assert breaks or lost == 0 or ops[failed_at].endswith(".intent")
    print(f"{ops[failed_at]} failed: {life.told['error']}")
    mended(scene, expected, lost=lost)


@pytest.mark.parametrize(("name", "label", "at", "forever"), [*POINTS, *in_the_long_suite(MORE_POINTS)])
def test_the_disk_fails_at_a_named_point(
    name: str, label: str, at: int, forever: bool, scene: Scene, undisturbed: Undisturbed
) -> None:
    """One error that says where and why, then everything is found again."""
    assert undisturbed[1].count(label) >= at, f"{label} has gone: name the step that took its place"
    fail(scene, undisturbed[0], name, label=label, at=at, forever=forever)


def test_everything_fails_from_one_moment_on(scene: Scene, undisturbed: Undisturbed) -> None:
    """A disk that breaks while answers are in flight: one error, and only those answers are asked for again."""
    scene.endpoint.configure(latency=0.15)
    # Three writes for the first question, which goes alone, then the beginnings of four, then their answers.
    trap = {"action": "fail", "errno": errno.EIO, "label": WRITE, "at": 8}
    life = scene.life(trap={**trap, "spread": True}).end()
    check_the_end(life, scene, "Input/output error")
    assert "could not be saved" in life.told["error"]
    lost = lost_answers(scene)
    assert 1 <= lost <= 4
    mended(scene, undisturbed[0], lost=lost)


def test_an_answer_that_cannot_be_saved_is_an_event(scene: Scene, undisturbed: Undisturbed) -> None:
    """Where only the log cannot be written, the events name it; its question is asked once more."""
    scene.environment["SEGKIT_CONCURRENCY"] = "1"
    life = scene.life(trap={"action": "fail", "errno": errno.EACCES, "label": WRITE, "at": 2}).end()
    check_the_end(life, scene, "Permission denied")
    (event,) = [event for event in read_events(scene.run) if event["event"] == "answer_not_saved"]
    assert (scene.run / "segmentation" / event["file"]).exists()
    mended(scene, undisturbed[0], lost=1)


def test_who_waits_for_another_try_asks_no_more(scene: Scene, undisturbed: Undisturbed) -> None:
    """A question that backs off when the disk fails for another one is not sent again."""
    scene.environment["SEGKIT_BACKOFF_SECONDS"] = "1"
    scene.endpoint.queue("500")
    # Two writes and the log of the refused try, then a beginning each, then the answers.
    life = scene.life(trap={"action": "fail", "errno": errno.EIO, "label": WRITE, "at": 8}).end()
    check_the_end(life, scene, "Input/output error")
    asked = [entry["sha256"] for entry in scene.endpoint.ledger()]
    assert asked.count(asked[0]) == 1
    assert len(asked) > 1
    mended(scene, undisturbed[0], tries=1, lost=1)


@pytest.mark.parametrize("trouble", ["read-only", "deleted"])
def test_a_folder_that_cannot_be_written_costs_nothing(trouble: str, scene: Scene, undisturbed: Undisturbed) -> None:
    """Found before the first paid call."""
    assert scene.life(trap={"action": "kill", "label": "open RUN/calls.lock", "at": 1}).end().killed
    folder = scene.run / "segmentation"
    shutil.rmtree(folder)
    if trouble == "read-only":
        folder.write_bytes(b"")  # root may write everywhere but into a file
    life = scene.life().end()
    check_the_end(life, scene, {"read-only": "Not a directory", "deleted": "No such file"}[trouble])
    assert scene.endpoint.count() == 0
    folder.unlink(missing_ok=True)
    folder.mkdir()
    mended(scene, undisturbed[0])


@pytest.fixture
def small_disk(place: Path, endpoint: Endpoint, private: Nursery) -> Iterator[Scene]:
    """A scene whose runs stand on a tmpfs of their own."""
    endpoint.configure(latency=0.01)
    scene = Scene(place, endpoint, private)
    (place / "runs").mkdir()
    if private.command("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place / "runs")):
        pytest.skip("mounting is not allowed here")
    yield scene
    private.command("umount", str(place / "runs"))


def resize(scene: Scene, options: str) -> None:
    assert scene.nursery.command("mount", "-o", f"remount,{options}", str(scene.place / "runs")) == 0


def fill(scene: Scene, expected: dict[str, bytes], options: str) -> None:
    """Run on a disk of some size, and then on a larger one."""
    resize(scene, options)
    life = scene.life().end()
    if life.code:
        check_the_end(life, scene, "No space left on device")
    else:
        assert options.startswith("size"), "it was meant to be too small"
    resize(scene, "size=64m,nr_inodes=10000")
    mended(scene, expected)


@pytest.mark.parametrize("options", ["size=24k", "size=72k", "size=116k", "size=180k", "nr_inodes=24"])
def test_a_disk_that_is_really_full(options: str, small_disk: Scene, undisturbed: Undisturbed) -> None:
    """A tmpfs without room, or without inodes, at some point of the run."""
    fill(small_disk, undisturbed[0], options)


def test_a_disk_that_fills_up_while_the_model_works(small_disk: Scene, undisturbed: Undisturbed) -> None:
    """Something else takes the last byte between the requests and their answers: none of them is asked again."""
    small_disk.endpoint.configure(latency=1.5)
    life = small_disk.life()
    small_disk.endpoint.wait(3)  # the first, which goes alone, and some of the four after it
    filler = small_disk.run.parent / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024))
    assert shutil.disk_usage(filler.parent).free == 0
    check_the_end(life.end(), small_disk, "No space left on device")
    assert lost_answers(small_disk) == 0
    filler.unlink()
    small_disk.endpoint.configure(latency=0.01)
    mended(small_disk, undisturbed[0])


def test_a_disk_that_becomes_read_only(small_disk: Scene, undisturbed: Undisturbed) -> None:
    """As a system remounts a disk with errors; nothing is asked."""
    assert small_disk.life(trap={"action": "kill", "label": "open RUN/calls.lock", "at": 1}).end().killed
    resize(small_disk, "ro")
    check_the_end(small_disk.life().end(), small_disk, "Read-only file system")
    assert small_disk.endpoint.count() == 0
    resize(small_disk, "rw")
    mended(small_disk, undisturbed[0])


@pytest.mark.parametrize("trouble", ["full", "read-only", "a file"])
def test_the_cache_is_a_help_and_nothing_else(
    trouble: str, place: Path, endpoint: Endpoint, private: Nursery, undisturbed: Undisturbed
) -> None:
    """A cache that cannot be written is told once, and the run goes on."""
    scene = Scene(place, endpoint, private)
    home = place / "home"
    if trouble == "a file":
        home.write_bytes(b"")
    else:
        home.mkdir()
        options = "size=8k" if trouble == "full" else "ro"
        if private.command("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)):
            pytest.skip("mounting is not allowed here")
    mended(scene, undisturbed[0])
    told = [event["event"] for event in read_events(scene.run) if event["event"].startswith("cache")]
    assert told == ["cache_not_written"]
    assert not list(Path(f"{private.root}{home}").rglob("*.tmp"))


@pytest.mark.long
@pytest.mark.parametrize("forever", [False, True])
@pytest.mark.parametrize("name", ["ENOSPC", "EIO", "EACCES"])
@pytest.mark.parametrize("at", range(1, 301))
def test_the_disk_fails_at_every_operation(
    at: int, name: str, forever: bool, scene: Scene, undisturbed: Undisturbed
) -> None:
    """The n-th operation on a file, for every n, once and for good."""
    if at > len(undisturbed[1]):
        pytest.skip(f"a run has {len(undisturbed[1])} operations")
    if name == "ENOSPC" and undisturbed[1][at - 1].startswith("write RUN/") and "intent" in undisturbed[1][at - 1]:
        pytest.skip("the room for this write is reserved")
    fail(scene, undisturbed[0], name, at=at, forever=forever)


@pytest.mark.long
@pytest.mark.parametrize("kilobytes", range(4, 260, 4))
def test_every_size_of_a_disk(kilobytes: int, small_disk: Scene, undisturbed: Undisturbed) -> None:
    """A tmpfs of every size up to that of a whole run."""
    fill(small_disk, undisturbed[0], f"size={kilobytes}k")
