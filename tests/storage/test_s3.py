"""Files in S3, on two servers that were written by different people, and on servers with rules of their own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import REGION, SECRET, S3Server, s3_environment
from servers import rclone_s3

from segkit.errors import StorageError
from segkit.storage.s3 import S3Storage


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real S3 server that is not moto."""
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as url:
        yield url


@pytest.fixture(params=["moto", "rclone"])
def storage(request: pytest.FixtureRequest, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    if request.param == "moto":
        return a_storage(s3)
    for name, value in s3_environment(request.getfixturevalue("rclone"), "bucket").items():
        monkeypatch.setenv(name, value)
    return S3Storage(f"s3://bucket/{secrets.token_hex(4)}", REGION)


def a_storage(s3: S3Server, bucket: str = "") -> S3Storage:
    """A storage of its own: the one of `open_storage` lives as long as the process, and so does its address."""
    return S3Storage(f"s3://{bucket or os.environ['S3_BUCKET']}/a/prefix", REGION)


def test_a_file_is_read_as_it_was_written(storage: S3Storage) -> None:
    data = bytes(range(256)) * 20
    storage.create("RUN_1/segmentation/a b+é.json", data)
    assert storage.read("RUN_1/segmentation/a b+é.json") == data
    assert storage.names("RUN_1") == {"RUN_1/segmentation/a b+é.json": len(data)}
    assert storage.folders() == {"RUN_1"}
    assert storage.uri("RUN_1/x").endswith("/RUN_1/x")


def test_a_file_is_created_once_and_replaced_at_will(storage: S3Storage) -> None:
    storage.create("RUN_1/a", b"one")
    with pytest.raises(FileExistsError, match="RUN_1/a"):
        storage.create("RUN_1/a", b"two")
    assert storage.read("RUN_1/a") == b"one"
    storage.replace("RUN_1/a", b"two")
    assert storage.read("RUN_1/a") == b"two"


def test_what_is_not_there_is_told_as_such(storage: S3Storage) -> None:
    with pytest.raises(FileNotFoundError):
        storage.read("RUN_1/nothing")
    storage.remove("RUN_1/nothing")
    assert storage.names("RUN_1") == {}


def test_an_empty_file_is_a_file(storage: S3Storage) -> None:
    storage.replace("RUN_1/empty", b"")
    assert storage.read("RUN_1/empty") == b""
    storage.remove("RUN_1/empty")
    with pytest.raises(FileNotFoundError):
        storage.read("RUN_1/empty")


def test_a_probe_leaves_nothing(storage: S3Storage) -> None:
    storage.probe()
    assert storage.folders() == set()


@pytest.mark.parametrize("storage", ["rclone", pytest.param("moto", marks=pytest.mark.long)], indirect=True)
def test_more_files_than_a_page_of_a_listing(storage: S3Storage) -> None:
    """S3 lists a thousand files at a time."""
    names = [f"RUN_1/{i}" for i in range(1003)]
    for name in names:
        storage.replace(name, b"x")
    assert sorted(storage.names("RUN_1")) == sorted(names)


@pytest.mark.parametrize("fault", [500, 503, "reset", "lost"])
def test_a_passing_fault_is_tried_again(s3: S3Server, fault: Any) -> None:
    """Also where the file was stored and only the answer was lost."""
    storage, faults = a_storage(s3), [fault]
    storage.create("RUN_1/before", b"")
    s3.history.clear()
    s3.order = lambda method, key: faults.pop(0) if faults else None
    storage.create("RUN_1/a", b"one")
    assert storage.read("RUN_1/a") == b"one"
    assert s3.count("PUT") == 2


def test_a_fault_that_stays_is_told_after_a_few_attempts(s3: S3Server) -> None:
    storage = a_storage(s3)
    s3.order = lambda method, key: 503
    with pytest.raises(
        StorageError, match=r"fails at GET of s3://bucket-\w+/a/prefix/RUN_1/a, 5 times: 503 SlowDown"
    ):
        storage.read("RUN_1/a")
    assert s3.count("GET") == 5


def test_a_refusal_is_told_at_once_with_what_helps(s3: S3Server) -> None:
    storage = a_storage(s3)
    s3.order = lambda method, key: 403 if method == "GET" and "probe" in key else None
    with pytest.raises(StorageError, match="AccessDenied") as told:
        storage.probe()
    assert "s3:GetObject" in told.value.hint
    assert SECRET not in str(told.value)
    assert s3.count("GET") == 1


def test_a_bucket_that_is_not_there(s3: S3Server) -> None:
    with pytest.raises(StorageError, match="NoSuchBucket") as told:
        a_storage(s3, "bucket-of-nobody").probe()
    assert "S3_BUCKET" in told.value.hint


def test_a_server_that_gives_other_bytes_is_found_by_the_probe(s3: S3Server) -> None:
    s3.order = lambda method, key: "corrupt" if method == "PUT" else None
    with pytest.raises(StorageError, match="gives other bytes than it was sent"):
        a_storage(s3).probe()


def test_bytes_that_change_on_the_way_are_refused_by_the_server(s3: S3Server) -> None:
    """The strict layer itself: what it is told must be what it gets."""
    import urllib3

    headers = {"x-amz-content-sha256": "0" * 64}
    assert urllib3.request("PUT", f"{s3.url}/x/y", body=b"data", headers=headers).status == 400


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StorageError, match="credentials") as told:
        a_storage(s3)
    assert "AWS_ACCESS_KEY_ID" in told.value.hint


def object_lock(method: str, headers: dict[str, str]) -> tuple[int, str] | None:
    """Refuse what Amazon refuses in a bucket with Object Lock: a PUT without a checksum."""
    has = "HTTP_CONTENT_MD5" in headers or any(name.startswith("HTTP_X_AMZ_CHECKSUM_") for name in headers)
    return (400, "InvalidRequest") if method == "PUT" and not has else None


@pytest.mark.parametrize("status", [400, 501])
def test_a_server_that_refuses_conditions(status: int, s3: S3Server) -> None:
    """Some stores answer an If-None-Match with an error instead of ignoring it: then it is looked for first."""
    storage = a_storage(s3)
    s3.rule = lambda method, headers: (status, "NotImplemented") if "HTTP_IF_NONE_MATCH" in headers else None
    storage.probe()
    storage.create("RUN_1/a", b"one")
    with pytest.raises(FileExistsError, match="RUN_1/a"):
        storage.create("RUN_1/a", b"two")
    s3.history.clear()
    storage.create("RUN_1/b", b"two", listed=True)
    assert [method for method, _ in s3.history] == ["PUT"], "a caller that has listed the files saves a look"
    assert (storage.read("RUN_1/a"), storage.read("RUN_1/b")) == (b"one", b"two")


def test_a_bucket_with_object_lock(s3: S3Server) -> None:
    """Such a bucket, or one with a default retention, demands a checksum with each file."""
    storage = a_storage(s3)
    s3.rule = object_lock
    storage.probe()
    storage.create("RUN_1/a", b"one")
    storage.replace("RUN_1/a", b"two")
    assert storage.read("RUN_1/a") == b"two"


@pytest.mark.parametrize("end", ["", "/"])
def test_an_address_with_a_path(end: str, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Supabase and others serve S3 below a path."""
    s3.path = "/storage/v1/s3"
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url + s3.path + end)
    storage = a_storage(s3)
    storage.probe()
    storage.create("RUN_1/a b+é", b"one")
    assert storage.read("RUN_1/a b+é") == b"one"
    assert storage.names("RUN_1") == {"RUN_1/a b+é": 3}


def test_an_answer_that_breaks_off_is_asked_for_again(s3: S3Server) -> None:
    storage, faults = a_storage(s3), ["cut", "cut"]
    storage.create("RUN_1/a", b"one" * 1000)
    s3.order = lambda method, key: faults.pop() if method == "GET" and faults else None
    assert storage.read("RUN_1/a") == b"one" * 1000
    s3.order = lambda method, key: "cut" if method == "GET" else None
    with pytest.raises(StorageError, match="fails at GET"):
        storage.read("RUN_1/a")
