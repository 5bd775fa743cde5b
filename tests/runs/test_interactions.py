"""Interaction logs: a crash at any byte loses nothing that was paid, and a changed byte is noticed."""

import json
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segkit.runs.interactions import (
    DamagedError,
    begin,
    finish,
    intents,
    keep_raw,
    place_of,
    raw_body,
    read,
    recover,
    reopened,
    scan,
    started_at,
    sweep,
    write_whole,
)

HEAD: dict[str, Any] = {
    "context": {"batch_size": 1, "expected_ids": ["P_0"], "note": 'a ",\n  "http_status": 5'},
    "prompt": 'Sort:\n[P_0] "Dimmer",\n  "response": {}',
    "request": {"model": "gpt-4o", "temperature": 0.2},
}
BODY = '{"choices": [{"message": {"content": "é 😀"}}]}'.encode()
TAIL: dict[str, Any] = {"response": "é 😀", "metadata": {"cache_key": "ab" * 16, "attempt": 1, "cost_usd": None}}
NAME = re.compile(r"\d{8}T\d{6}Z_b7_a2_[0-9a-f]{8}\.(json|intent)")


def finished(folder: Path, body: bytes = BODY) -> Path:
    intent = begin(folder, 7, 2, HEAD)
    keep_raw(intent, 200, body)
    return finish(intent, TAIL)


def test_the_three_steps_make_one_json(tmp_path: Path) -> None:
    """A log is plain JSON that any program reads, with head, raw answer and tail in this order."""
    path = finished(tmp_path)
    log = json.loads(path.read_bytes())
    assert list(log) == ["context", "prompt", "request", "http_status", "body", "response", "metadata", "sha256"]
    assert {key: log[key] for key in HEAD} == HEAD
    assert (log["http_status"], log["body"]) == (200, BODY.decode())
    assert {key: log[key] for key in TAIL} == TAIL
    interaction = read(path)
    assert interaction.log == {name: value for name, value in log.items() if name != "sha256"}
    assert interaction.metadata["cache_key"] == "ab" * 16


@pytest.mark.parametrize("compress", [False, True])
def test_an_intent_that_outlived_its_log_is_swept(tmp_path: Path, compress: bool) -> None:
    """Killed between the compressed log and the end of its intent, or both came from S3."""
    intent = begin(tmp_path, 7, 2, HEAD)
    keep_raw(intent, 200, BODY)
    left, other = intent.path.read_bytes(), begin(tmp_path, 8, 1, HEAD)
    log = finish(intent, TAIL, compress=compress)
    whole = log.read_bytes()
    for content in (left, left[:40], b""):
        intent.path.write_bytes(content)
        assert intents(tmp_path) == [other.path], "what is finished may not be adopted over its log"
        sweep(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([log.name, other.path.name])
        assert log.read_bytes() == whole
    intent.path.write_bytes(left)
    log.write_bytes(whole[:-9])
    sweep(tmp_path)
    assert intents(tmp_path) == [intent.path, other.path], "the log is damaged, and here is its answer"


def test_an_intent_becomes_its_log(tmp_path: Path) -> None:
    """Until the log is finished it is listed as an intent, afterwards no more."""
    intent = begin(tmp_path, 7, 2, HEAD)
    assert intents(tmp_path) == [intent.path]
    assert scan(tmp_path) == ([], [])
    keep_raw(intent, 200, BODY)
    final = finish(intent, TAIL)
    assert intents(tmp_path) == []
    assert [logged.path for logged in scan(tmp_path)[0]] == [final]
    assert started_at(intent) == f"{intent.begun:%Y-%m-%dT%H:%M:%SZ}"


def test_a_stage_that_never_asked_has_no_logs(tmp_path: Path) -> None:
    """A missing folder is an empty one."""
    assert scan(tmp_path / "segmentation") == ([], [])
    assert intents(tmp_path / "segmentation") == []


def test_names_are_ascii_and_short(tmp_path: Path) -> None:
    """Names hold the time, batch, attempt and a random part, and only plain characters."""
    assert NAME.fullmatch(finished(tmp_path).name)
    assert NAME.fullmatch(begin(tmp_path, 7, 2, HEAD).path.name)


def test_many_in_the_same_moment_have_their_own_files(tmp_path: Path) -> None:
    """Threads that begin at once never share or overwrite a file."""
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: finished(tmp_path), range(400)))
    assert len(set(paths)) == 400
    assert len(scan(tmp_path)[0]) == 400


def test_two_processes_have_their_own_files(tmp_path: Path) -> None:
    """Neither do processes."""
    code = "import sys, pathlib\nfrom segkit.runs.interactions import begin\n"
    code += "for _ in range(100): begin(pathlib.Path(sys.argv[1]), 1, 1, {'context': {}})"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [worker.wait(30) for worker in workers] == [0, 0]
    assert len(intents(tmp_path)) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe half",
        b"\0\n\r\t\x1b",
        b'",\n  "sha256": "',
        b'",\n  "http_status": 1',
        "\u2028😀".encode(),
        b"\xed\xa0\x80",
    ],
)
def test_the_raw_body_comes_back_byte_for_byte(tmp_path: Path, body: bytes) -> None:
    """Whatever came over the wire is kept exactly, text or not."""
    assert raw_body(read(finished(tmp_path, body)).log) == body


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_any_body_comes_back(tmp_path_factory: pytest.TempPathFactory, body: bytes) -> None:
    """The same for any bytes."""
    assert raw_body(read(finished(tmp_path_factory.mktemp("logs"), body)).log) == body


def test_a_log_without_a_body_has_an_empty_one(tmp_path: Path) -> None:
    """Nothing came back, and nothing is made up."""
    path = finish(begin(tmp_path, 7, 2, HEAD), TAIL)
    assert raw_body(read(path).log) == b""


def test_a_cached_answer_is_written_whole(tmp_path: Path) -> None:
    """A log that asks nothing is never seen as an intent."""
    path = write_whole(tmp_path, 7, 2, {**HEAD, "http_status": 200, "body": "x", **TAIL})
    assert read(path).log["body"] == "x"
    assert intents(tmp_path) == []


# --- damage -----------------------------------------------------------------------------------------


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """No single bit of a finished log can change unseen."""
    path = finished(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with pytest.raises(DamagedError, match=re.escape(path.name)):
            read(path)


def test_every_truncation_of_a_log_is_noticed(tmp_path: Path) -> None:
    """A file under its final name is whole, or told as damaged."""
    path = finished(tmp_path)
    data = path.read_bytes()
    for end in range(len(data)):
        path.write_bytes(data[:end])
        with pytest.raises(DamagedError):
            read(path)
    path.write_bytes(data + b"\n")
    with pytest.raises(DamagedError):
        read(path)


def test_an_edited_log_is_noticed(tmp_path: Path) -> None:
    """Changing a word, or the checksum itself, is seen."""
    path = finished(tmp_path)
    data = path.read_bytes()
    for old, new in ((b"gpt-4o", b"gpt-4x"), (b'"sha256": "', b'"sha256": "0')):
        path.write_bytes(data.replace(old, new, 1))
        with pytest.raises(DamagedError):
            read(path)


def test_a_sealed_file_that_is_no_json_is_damaged(tmp_path: Path) -> None:
    """A checksum over nonsense does not make it a log."""
    import hashlib

    content = b"not JSON at all"
    path = tmp_path / "stray.json"
    path.write_bytes(content + b',\n  "sha256": "' + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n')
    with pytest.raises(DamagedError, match=r"stray\.json"):
        read(path)


def test_swapped_contents_are_readable_but_one_damaged_log_spoils_no_other(tmp_path: Path) -> None:
    """Damaged logs are given apart, good ones are still read."""
    paths = [finished(tmp_path) for _ in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-10])
    logs, damaged = scan(tmp_path)
    assert {logged.path for logged in logs} == {paths[0], paths[2]}
    assert damaged == [paths[1]]


# --- crashes ----------------------------------------------------------------------------------------


def prefixes(folder: Path) -> tuple[bytes, list[int]]:
    """The bytes of a finished log, and where its head and its raw part ended."""
    intent = begin(folder, 7, 2, HEAD)
    head = intent.file.tell()
    keep_raw(intent, 200, BODY)
    raw = intent.file.tell()
    return finish(intent, TAIL).read_bytes(), [head, raw]


def test_every_prefix_is_recovered_as_an_intent(tmp_path: Path) -> None:
    """Killed at any byte, what was written before is read, and never a half-written value.

    Once the raw answer is on disk, no later kill makes it unreadable.
    """
    data, (head, raw) = prefixes(tmp_path)
    whole = json.loads(data)
    path = tmp_path / "x.intent"
    for end in range(len(data) + 1):
        path.write_bytes(data[:end] + bytes(100))  # the room that is reserved
        found = recover(path)
        assert found is None or found.items() <= whole.items(), f"half a value after {end} bytes: {found}"
        assert end < head or (found and HEAD.items() <= found.items()), f"the head is lost after {end} bytes"
        assert end < raw or (found and raw_body(found) == BODY), f"a paid answer is lost after {end} bytes"
        assert (found is not None and "http_status" in found) <= (end > head)


def test_nothing_is_recovered_from_nothing(tmp_path: Path) -> None:
    """An empty or foreign file is no intent."""
    for data in (b"", b"{", b"\0" * 50, b"not JSON", b'{\n  "context": {"a'):
        (tmp_path / "x.intent").write_bytes(data)
        assert recover(tmp_path / "x.intent") is None, data


def test_a_random_byte_never_breaks_recovery(tmp_path: Path) -> None:
    """A damaged intent raises nothing."""
    data, _ = prefixes(tmp_path)
    chance = random.Random(1)
    path = tmp_path / "x.intent"
    for _ in range(300):
        broken = bytearray(data)
        broken[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(broken)
        assert recover(path) is None or isinstance(recover(path), dict)


FULL = """
import pathlib, resource, signal, sys
from segkit.runs.interactions import begin, keep_raw
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, step = pathlib.Path(sys.argv[1]), sys.argv[2]
head = {"context": {}, "prompt": "x" * (2000 if step == "begin" else 10)}
if step == "begin":
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    intent = begin(folder, 1, 1, head)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
    keep_raw(intent, 200, b"y" * 2000)
except OSError as error:
    print("told", error.errno)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a limit on the size of files")
@pytest.mark.parametrize("step", ["begin", "keep_raw"])
def test_a_disk_that_takes_half_a_write_is_told(tmp_path: Path, step: str) -> None:
    """A write that stores only its first part is an error, never a silent cut."""
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path, step], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("told"), f"half a file without an error: {done}"
    assert len(intents(tmp_path)) == (step == "keep_raw"), "an intent that was never whole is left"


def test_a_folder_that_is_gone_is_told_before_anything_is_asked(tmp_path: Path) -> None:
    """Without an intent on disk there is no request."""
    with pytest.raises(OSError, match="No such file"):
        begin(tmp_path / "gone", 1, 1, HEAD)


def test_a_name_tells_batch_and_attempt(tmp_path: Path) -> None:
    """An intent says by its name what was asked."""
    assert place_of(begin(tmp_path, 12, 3, HEAD).path) == (12, 3)


def test_an_answered_intent_can_be_finished_after_any_kill(tmp_path: Path) -> None:
    """Killed anywhere behind the answer, the intent becomes the very log it would have become."""
    data, (_, raw) = prefixes(tmp_path)
    for end in range(raw, len(data) + 1):
        path = begin(tmp_path, 7, 2, HEAD).path
        path.write_bytes(data[:end] + bytes(100))
        begun = recover(path)
        assert begun is not None
        intent = reopened(path, begun)
        assert path.stat().st_size == raw, f"half of what followed is left after {end} bytes"
        assert started_at(intent).replace("-", "").replace(":", "") == path.name[:16]
        assert finish(intent, TAIL).read_bytes() == data


def test_the_room_of_an_answer_is_taken_before_it_is_asked(tmp_path: Path) -> None:
    """On a full disk an answer still has its place; the log is cut to its length."""
    intent = begin(tmp_path, 7, 2, HEAD)
    assert intent.path.stat().st_blocks * 512 >= 65_536
    assert recover(intent.path) == HEAD, "what is reserved is no part of it"
    keep_raw(intent, 200, BODY)
    found = recover(intent.path)
    assert found is not None
    assert raw_body(found) == BODY
    log = finish(intent, TAIL)
    assert log.read_bytes().endswith(b'"\n}\n')
    assert read(log).log["http_status"] == 200


def test_an_answer_larger_than_its_room_is_kept_too(tmp_path: Path) -> None:
    intent = begin(tmp_path, 7, 2, HEAD, room=16)
    keep_raw(intent, 200, BODY * 1000)
    assert raw_body(read(finish(intent, TAIL)).log) == BODY * 1000
