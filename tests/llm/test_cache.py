"""The cache: found by everything that could change an answer, served only when whole and the same."""

import json
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from catalogues import unmeasured

from segkit.core.models import Parameters, Prompt
from segkit.llm.cache import LEFT_OUT, cache_key, claim, look_up, release, remember
from segkit.llm.completions import shape_for
from segkit.runs.events import read_events
from segkit.runs.interactions import write_whole
from segkit.settings import Settings

ENDPOINT = "https://api.example.com/v1"
SCHEMA = {"type": "object", "properties": {"P_0": {"type": "string"}}, "required": ["P_0"]}
PROMPT = "Sort under v0.\nSubcategories:\n[S_0] Dimmers: Dim\nProducts:\n[P_0] One\n[P_1] Two"


def body(**changes: Any) -> dict[str, Any]:
    """The body of a request; `changes` are parameters, the stage, the most tokens, or the prompt or schema."""
    asking = Prompt(changes.pop("prompt", PROMPT), changes.pop("schema", SCHEMA))
    stage = changes.pop("stage", "refine_assignments")
    given = {"model": "gpt-4o", "temperature": 0.2, "response_format": "json_schema", **changes}
    most_tokens = given.pop("most_tokens", None)
    parameters = Parameters("Switches", endpoint=ENDPOINT, max_output_tokens=most_tokens, **given)
    return shape_for(parameters.model, ENDPOINT).body(asking, stage, parameters, 2)


KEY = cache_key(ENDPOINT, body())

OTHER_KEYS: dict[str, Callable[[], str]] = {
    "model": lambda: cache_key(ENDPOINT, body(model="gpt-4o-mini")),
    "base_url": lambda: cache_key("https://api.example.com/v2", body()),
    "temperature": lambda: cache_key(ENDPOINT, body(temperature=0.3)),
    "no temperature": lambda: cache_key(ENDPOINT, body(temperature=None)),
    "zero temperature": lambda: cache_key(ENDPOINT, body(temperature=0.0)),
    "max tokens": lambda: cache_key(ENDPOINT, body(most_tokens=1000)),
    "response format": lambda: cache_key(ENDPOINT, body(response_format="json_object")),
    "schema": lambda: cache_key(ENDPOINT, body(schema={**SCHEMA, "required": []})),
    "schema order": lambda: cache_key(ENDPOINT, body(schema={**SCHEMA, "required": ["P_0", "P_1"]})),
    "stage": lambda: cache_key(ENDPOINT, body(stage="extract_taxonomy")),
    "template version": lambda: cache_key(ENDPOINT, body(prompt=PROMPT.replace("v0", "v1"))),
    "taxonomy": lambda: cache_key(ENDPOINT, body(prompt=PROMPT.replace("Dimmers: Dim", "Dimmers: Dims"))),
    "batch content": lambda: cache_key(ENDPOINT, body(prompt=PROMPT.replace("Two", "Three"))),
    "batch order": lambda: cache_key(ENDPOINT, body(prompt=PROMPT.replace("One", "x").replace("Two", "One"))),
    "one space": lambda: cache_key(ENDPOINT, body(prompt=PROMPT + " ")),
    "system text": lambda: cache_key(
        ENDPOINT, {**body(), "messages": [{"role": "system", "content": "x"}, *body()["messages"]]}
    ),
    "role": lambda: cache_key(ENDPOINT, {**body(), "messages": [{"role": "system", "content": PROMPT}]}),
    "another field": lambda: cache_key(ENDPOINT, {**body(), "top_p": 0.9}),
    "null field": lambda: cache_key(ENDPOINT, {**body(), "seed": None}),
}


@pytest.mark.parametrize("other", OTHER_KEYS.values(), ids=OTHER_KEYS)
def test_whatever_can_change_an_answer_changes_the_key(other: Callable[[], str]) -> None:
    """Two requests that differ in one field have different keys."""
    assert other() != KEY


def test_all_these_keys_are_different_from_one_another() -> None:
    """No two of the changes above fall together."""
    keys = {name: other() for name, other in OTHER_KEYS.items()}
    assert len(set(keys.values())) == len(keys)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("ab", {"c": ""}), ("a", {"bc": ""})),
        (("x", {"a": "b", "c": "d"}), ("x", {"a": 'b","c":"d'})),
        (("x", {"a": ["bc"]}), ("x", {"a": ["b", "c"]})),
        (("x", {"a": 1}), ("x", {"a": "1"})),
        (("x", {"a": None}), ("x", {})),
        (("x", {"a": {"b": 1}}), ("x", {"a": '{"b":1}'})),
        (('x","body":{}', {}), ("x", {})),
    ],
)
def test_field_boundaries_count(one: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    """Characters that move across a boundary make another request."""
    assert cache_key(*one) != cache_key(*other)


def turned(value: Any) -> Any:
    """The same value with every dict in the opposite order."""
    if isinstance(value, dict):
        return {key: turned(inner) for key, inner in reversed(value.items())}
    return [turned(inner) for inner in value] if isinstance(value, list) else value


def test_the_same_request_has_the_same_key() -> None:
    """In another order of its dicts, after JSON and after pickling."""
    assert list(turned(body())) != list(body())
    for same in (body(), turned(body()), json.loads(json.dumps(body())), pickle.loads(pickle.dumps(body()))):
        assert cache_key(ENDPOINT, same) == KEY


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_the_same_key_in_another_process(hash_seed: str) -> None:
    """With another PYTHONHASHSEED, and in a process of its own."""
    code = "import json, sys; from segkit.llm.cache import cache_key; print(cache_key(*json.load(sys.stdin)))"
    environment = unmeasured(PYTHONHASHSEED=hash_seed)
    told = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([ENDPOINT, turned(body())]),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert told.stdout.strip() == KEY


def test_the_key_is_the_same_for_ever() -> None:
    """A fixed request keeps a fixed key, on every system and version, or a paid cache is lost."""
    assert cache_key("e", {"model": "é 😀", "n": [1, 0.2, None, True]}) == "2b5f455f4ea6569d75f9d1e3b388a2c4"


def test_what_does_not_change_an_answer_is_no_part_of_a_request() -> None:
    """Key, timeout, workers, retries, run and time are left out, each with its reason."""
    assert set(body()) == {"model", "messages", "temperature", "response_format", "stream", "max_tokens"}
    assert {"api key", "timeout", "retries", "run id", "time"} <= set(LEFT_OUT)
    assert all(LEFT_OUT.values())


def test_how_a_request_is_worded_changes_no_key() -> None:
    """Streaming, and the name under which an endpoint knows the limit, change no answer."""
    asked = body()
    (limit,) = {asked[name] for name in ("max_tokens", "max_completion_tokens") if name in asked}
    plain = {k: v for k, v in asked.items() if k not in ("stream", "max_tokens", "max_completion_tokens")}
    for other in ({"max_tokens": limit}, {"max_completion_tokens": limit}, {"max_tokens": limit, "stream": True}):
        assert cache_key(ENDPOINT, {**plain, **other}) == KEY
    assert cache_key(ENDPOINT, {**plain, "max_tokens": limit + 1}) != KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"openai_api_key": "sk-another-key"},
        {"segkit_timeout_seconds": 5},
        {"segkit_concurrency": 1},
        {"segmentation_max_retries": 9},
        {"segkit_requests_per_minute": 1},
        {"segkit_transport": "sdk"},
    ],
)
def test_settings_that_change_no_answer_change_no_key(place: Path, changes: dict[str, Any]) -> None:
    """The same request under other settings has the same key."""
    settings = Settings(**changes)
    assert settings != Settings()
    assert cache_key(settings.openai_base_url, body()) == cache_key(Settings().openai_base_url, body())


# --- entries ----------------------------------------------------------------------------------------

REQUEST = {"endpoint": ENDPOINT, "model": "gpt-4o"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def keep(home: Path, prompt: str = PROMPT, key: str = KEY) -> Path:
    """Log an answer and remember it; gives the path of the cache entry."""
    log = {"context": {}, "prompt": prompt, "request": REQUEST, "body": "{}", "metadata": {"cache_key": key}}
    remember(home, key, write_whole(home / "run", 1, 1, log), home / "run")
    return entry_of(home, key)


def entry_of(home: Path, key: str = KEY) -> Path:
    return home / "cache" / key[:2] / f"{key}.json"


def ask(home: Path, key: str = KEY, prompt: str = PROMPT, request: dict[str, Any] | None = None) -> bool:
    """Whether the cache serves this request."""
    found = look_up(home, key, prompt, request or REQUEST, home / "run")
    assert found is None or found.log["prompt"] == prompt
    return found is not None


def events(home: Path) -> list[str]:
    return [event["event"] for event in read_events(home / "run")]


def test_a_remembered_answer_is_found(home: Path) -> None:
    """Work that has a valid result is found again; other work is not."""
    assert not ask(home)
    keep(home)
    assert ask(home)
    assert not ask(home, key="0" * 32)
    assert events(home) == []


@pytest.mark.parametrize("dated", [0, 4_102_444_800], ids=["1970", "2100"])
def test_no_clock_makes_an_answer_stale(dated: int, home: Path) -> None:
    """An entry of the future, or of long ago, is as good as any: nothing expires, so no clock can do harm."""
    entry = keep(home)
    os.utime(entry, (dated, dated))
    assert ask(home)
    assert events(home) == []


def test_an_entry_is_written_once(home: Path) -> None:
    """Who comes second leaves the first entry as it is."""
    first = keep(home).read_bytes()
    keep(home)
    assert entry_of(home).read_bytes() == first
    assert events(home) == []


def test_every_truncation_is_set_aside(home: Path) -> None:
    """A cut entry is renamed and kept, told, and never served."""
    data = keep(home).read_bytes()
    ends = range(0, len(data), 7)
    for end in ends:
        entry_of(home).unlink(missing_ok=True)
        entry_of(home).write_bytes(data[:end])
        assert not ask(home), f"served after {end} bytes"
        assert not entry_of(home).exists()
    kept = sorted(path.stat().st_size for path in entry_of(home).parent.iterdir())
    assert kept == list(ends), "a damaged entry was deleted or overwritten"
    assert events(home) == ["cache_entry_set_aside"] * len(ends)


def test_every_flipped_bit_is_a_miss(home: Path) -> None:
    """One changed bit anywhere, and the entry is not served."""
    data = keep(home).read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        entry_of(home).unlink(missing_ok=True)
        entry_of(home).write_bytes(flipped)
        assert not ask(home), f"served with bit {place % 8} of byte {place} flipped"


def test_a_set_aside_entry_can_be_bought_again(home: Path) -> None:
    """After the damage the same key works as before."""
    keep(home)
    entry_of(home).unlink()
    entry_of(home).write_bytes(b"")
    assert not ask(home)
    keep(home)
    assert ask(home)


@pytest.mark.parametrize(
    ("prompt", "request_"), [("another", REQUEST), (PROMPT, {**REQUEST, "model": "x"}), (PROMPT, {"model": "gpt-4o"})]
)
def test_a_collision_is_a_miss_and_told(home: Path, prompt: str, request_: dict[str, Any]) -> None:
    """The stored request is compared with the asked one; another one is never served, and not moved away."""
    keep(home)
    assert not ask(home, prompt=prompt, request=request_)
    assert events(home) == ["cache_entry_of_another_request"]
    assert ask(home)


class Bomb:
    """Loading its pickle would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_never_loaded(home: Path) -> None:
    """A payload in the cache is a damaged entry, not code."""
    trace = home / "exploded"
    entry_of(home).parent.mkdir(parents=True)
    entry_of(home).write_bytes(pickle.dumps(Bomb(trace)))
    pickle.loads(pickle.dumps(Bomb(home / "armed")))
    assert (home / "armed").exists(), "the payload is a dud, so this test proves nothing"
    assert not ask(home)
    assert not trace.exists()


@pytest.mark.parametrize("stray", [b"[]", b"{}", b"null", b"\xff\xfe", b'{"sha256": "x"}'])
def test_a_stray_file_is_ignored_with_a_warning(home: Path, stray: bytes) -> None:
    """Whatever lies under the name of an entry, it is no answer."""
    entry_of(home).parent.mkdir(parents=True)
    entry_of(home).write_bytes(stray)
    assert not ask(home)
    assert events(home) == ["cache_entry_set_aside"]


def test_a_folder_in_place_of_an_entry(home: Path) -> None:
    """What cannot be read is a miss."""
    entry_of(home).mkdir(parents=True)
    assert not ask(home)


def test_a_cache_that_cannot_be_written_is_told_and_nothing_else(home: Path) -> None:
    """A file stands where the cache should be; the log is there all the same."""
    (home / "cache").write_text("in the way")
    keep(home)
    assert events(home) == ["cache_not_written"]
    assert len(list((home / "run").glob("*.json"))) == 1


def test_a_deleted_cache_is_a_miss(home: Path) -> None:
    """No cache, no hit, no error."""
    keep(home).unlink()
    assert not ask(home)
    assert events(home) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system")
def test_a_cache_on_another_file_system_holds_a_copy(home: Path) -> None:
    """Where no link is possible, the entry is copied whole."""
    import tempfile

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == home.stat().st_dev:
            pytest.skip("both folders are on one file system")
        log = {"context": {}, "prompt": PROMPT, "request": REQUEST, "metadata": {"cache_key": KEY}}
        remember(Path(other), KEY, write_whole(home / "run", 1, 1, log), home / "run")
        assert look_up(Path(other), KEY, PROMPT, REQUEST, home / "run")
        assert [path.name for path in entry_of(Path(other)).parent.iterdir()] == [f"{KEY}.json"]


def test_random_damage_is_never_served(home: Path) -> None:
    """Bytes cut out, doubled or overwritten at random places."""
    data = keep(home).read_bytes()
    chance = random.Random(2)
    for _ in range(300):
        start, end = sorted(chance.choices(range(len(data)), k=2))
        broken = data[:start] + chance.choice([b"", b"\0", data[start:end] * 2]) + data[end:]
        if broken == data:
            continue
        entry_of(home).unlink(missing_ok=True)
        entry_of(home).write_bytes(broken)
        assert not ask(home)


def test_a_request_is_claimed_by_one_process_at_a_time(tmp_path: Path) -> None:
    """The others wait for its answer; the claims of a process end with it."""
    home, key, other = tmp_path / "home", "0123456789abcdef" * 2, "fedcba9876543210" * 2
    code = "from pathlib import Path; from segkit.llm.cache import claim; import sys; "
    code += "print(claim(Path(sys.argv[1]), sys.argv[2]))"

    def elsewhere(wanted: str) -> str:
        command = [sys.executable, "-c", code, str(home), wanted]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=unmeasured()).stdout.strip()

    assert claim(home, key)
    assert not claim(home, key)  # by another thread of this process
    assert elsewhere(key) == "False"
    assert elsewhere(other) == "True"
    assert claim(home, other)  # that process has ended
    release(home, key)
    assert elsewhere(key) == "True"
    release(home, other)
