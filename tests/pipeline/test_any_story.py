"""Any story of a run: it lives, dies, meets faults, loses files and is edited, and ends as if nothing had been."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from endpoint import Endpoint
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from victim import QUESTIONS, Life, Nursery, Scene
from victim import results as all_results

IN_FLIGHT = 4  # questions at once, so many may be repeated after a kill
# What the endpoint may do without changing the result; each costs at most so many requests more.
PASSING = {"429": 1, "500": 1, "502": 1, "drop_id": 1, "truncated_envelope": 1, "choices_empty": 1, "fence": 0}
FOUND = ("taxonom", "segments", "refined_segments", "ledger", "merges")


class Story(RuleBasedStateMachine):
    """One run and all that may happen to it; `make_scene` and `expected` are set by the test."""

    make_scene: Callable[[], Scene]
    expected: dict[str, bytes]

    @initialize()
    def begin(self) -> None:
        self.scene = type(self).make_scene()
        self.known: dict[str, bytes] = {}
        self.spare = 0  # requests that may be made beyond those that the run needs

    @rule()
    def live(self) -> None:
        self.scene.whole_life()
        self.look()
        assert results(self.scene.run) == self.expected

    @rule(action=st.sampled_from(["kill", "tear"]), at=st.integers(1, 120))
    def die(self, action: str, at: int) -> None:
        life = self.scene.life(trap={"action": action, "at": at}).end()
        self.spare += IN_FLIGHT if life.killed else 0
        self.look()

    @precondition(lambda self: self.scene.endpoint.queued() < 2)  # a third one could use up a question's attempts
    @rule(fault=st.sampled_from(sorted(PASSING)))
    def meet_a_fault(self, fault: str) -> None:
        self.scene.endpoint.queue(fault)
        self.spare += PASSING[fault] + 1

    @precondition(lambda self: self.known)
    @rule(which=st.integers(0), where=st.integers(0), way=st.sampled_from(["flip", "cut", "lose"]))
    def damage_a_log(self, which: int, where: int, way: str) -> None:
        """A log, and the entry of the cache that is the same file."""
        name = sorted(self.known)[which % len(self.known)]
        damage(self.scene.run / name, where, way)
        del self.known[name]
        self.spare += 1

    @rule(which=st.integers(0), where=st.integers(0), way=st.sampled_from(["flip", "cut", "lose"]))
    def damage_the_cache(self, which: int, where: int, way: str) -> None:
        """Only the entry, the log stays as it is."""
        entries = sorted((self.scene.place / "home/cache").glob("*/*.json"))
        if entries:
            entry = entries[which % len(entries)]
            content = entry.read_bytes()
            entry.unlink()  # it shares its bytes with a log
            entry.write_bytes(content)
            damage(entry, where, way)

    @precondition(lambda self: (self.scene.run / "status.json").exists())
    @rule(content=st.sampled_from([None, b"", b"{", b'{"state": "compl']))
    def damage_the_status(self, content: bytes | None) -> None:
        """The status is a digest of the logs."""
        path = self.scene.run / "status.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    @precondition(lambda self: (self.scene.run / "run.json").exists())
    @rule(name=st.sampled_from(["products.parquet", "prompts/extract_taxonomy_prompt.txt"]))
    def edit_the_input(self, name: str) -> None:
        """A run whose input was edited asks nothing and says which file it was."""
        path, asked = self.scene.run / name, self.scene.endpoint.count()
        before = path.read_bytes()
        path.write_bytes(before + b" and more")
        life: Life = self.scene.life().end()
        assert life.code == 1, life.noise
        assert f"{name} was changed since the run began" in life.told["error"]
        assert self.scene.endpoint.count() == asked
        path.write_bytes(before)

    def look(self) -> None:
        """No finished log is lost or changed; each request is a log, an intent, or was damaged."""
        logs = self.scene.logs()
        assert {name: logs.get(name) for name in self.known} == self.known
        self.known = logs
        lost = self.scene.asked_prompts() - self.scene.logged_prompts() - self.scene.open_prompts()
        assert sum(lost.values()) <= self.spare

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            self.scene.whole_life()
            assert results(self.scene.run) == self.expected, "other results than those of an undisturbed run"
            assert self.scene.endpoint.count() <= QUESTIONS + self.spare, "an answered question was asked again"
            asked = self.scene.endpoint.count()
            self.scene.whole_life()
            assert self.scene.endpoint.count() == asked, "a finished run asked again"


def results(run: Path) -> dict[str, bytes]:
    """What a run found; which attempt stated it differs with what happened."""
    return {name: content for name, content in all_results(run).items() if name.startswith(FOUND)}


def damage(path: Path, where: int, way: str) -> None:
    content = path.read_bytes()
    place = where % len(content)
    if way == "lose":
        path.unlink()
    elif way == "cut":
        path.write_bytes(content[:place])
    else:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def tell(place: Path, endpoint: Endpoint, nursery: Nursery, stories: int, steps: int) -> None:
    numbers = itertools.count()

    def make_scene() -> Scene:
        endpoint.reset()
        folder = place / f"story{next(numbers)}"
        folder.mkdir()
        return Scene(folder, endpoint, nursery)

    undisturbed = make_scene()
    undisturbed.whole_life()
    told = type("Told", (Story,), {"make_scene": staticmethod(make_scene), "expected": results(undisturbed.run)})
    # A story takes seconds, so a failing one is told as it is: to look for the shortest would take an hour.
    chosen = settings(
        max_examples=stories,
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    run_state_machine_as_test(told, settings=chosen)


def test_any_story_ends_well(place: Path, endpoint: Endpoint, nursery: Nursery) -> None:
    tell(place, endpoint, nursery, stories=4, steps=6)


@pytest.mark.long
def test_any_long_story_ends_well(place: Path, endpoint: Endpoint, nursery: Nursery) -> None:
    tell(place, endpoint, nursery, stories=40, steps=12)
