"""The service over runs that live in S3: what it starts, and what the service of another machine tells of them."""

from __future__ import annotations

import secrets
from pathlib import Path

import orjson
import pytest
from rest_service import Service, fill_products, settled, wish
from s3_server import S3Server, s3_environment

from segkit.runs.mirror import OWNER
from segkit.settings import load_settings
from segkit.storage.s3 import S3Storage

START = "/api/segmentation/start"


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Storage:
    """The bucket of the settings, as another machine sees it."""
    monkeypatch.setenv("STORAGE_BACKEND", "s3")
    return S3Storage(load_settings().bucket, "us-east-1")


@pytest.mark.long
def test_a_run_in_s3_is_told_by_two_machines(
    tmp_path: Path, postgres_url: str, s3: S3Server, bucket: S3Storage
) -> None:
    """One service makes a run in S3 and follows it; another one, with an empty home, tells the same.

    It says no more than it knows: whose the run is stands where it was started. What is at work elsewhere is neither
    stopped nor resumed here, and while S3 fails nothing is started and nothing is left.
    """
    fill_products(postgres_url, range(1, 21))
    environment = {"DATABASE_URL": postgres_url, "STORAGE_BACKEND": "s3"}
    environment |= s3_environment(s3.url, load_settings().s3_bucket)
    here, there = (Service(tmp_path / name, **environment) for name in ("here", "there"))
    for service in (here, there):
        service.token("operator", all_runs=True)
        service.token("ann")
    with here, there:
        with here.client("ann") as client:
            run_id = client.post(START, json=wish(*range(1, 7))).json()["run_id"]
            path = f"/api/segmentation/{run_id}"
            assert (told := settled(client, run_id))["status"] == "completed", told
            status, results = client.get(f"{path}/status").json(), client.get(f"{path}/results").json()
            assert len(results["segments"]) == 6
        with there.client() as other, there.client("ann") as stranger:
            assert settled(other, run_id) == status, "also of a run that nobody has listed yet"
            assert other.get(f"{path}/results").json() == results
            assert "<html" in other.get(f"{path}/report.html").text
            assert [run["run_id"] for run in other.get("/api/segmentation/runs").json()["runs"]] == [run_id]
            assert stranger.get(f"{path}/status").status_code == 404

            # One that a third machine works on.
            busy = f"RUN_20260101T000000Z_{secrets.token_hex(2)}"
            for name in ("run.json", "status.json"):
                bucket.create(
                    f"{busy}/{name}", bucket.read(f"{run_id}/{name}").replace(run_id.encode(), busy.encode())
                )
            working = orjson.loads(bucket.read(f"{busy}/status.json")) | {"state": "running", "summary": {}}
            bucket.replace(f"{busy}/status.json", orjson.dumps(working))
            bucket.create(f"{busy}/{OWNER}", orjson.dumps({"host": "a-third", "pid": 1, "folder": "/", "since": ""}))
            path = f"/api/segmentation/{busy}"
            assert other.get(f"{path}/status").json()["status"] == "running"
            for route in ("cancel", "resume"):
                assert other.post(f"{path}/{route}").status_code == 409
            assert not (there.place / "runs" / busy / "stop").exists()
            bucket.replace(f"{busy}/status.json", orjson.dumps(working | {"state": "failed", "reason": "it broke"}))
            bucket.remove(f"{busy}/{OWNER}")
            assert settled(other, busy)["detail"] == "it broke", "what became of it there is seen here"
        with here.client("ann") as client, there.client() as other:
            s3.order = lambda method, key: 403 if method == "PUT" and "products" in key else None
            told = client.post(START, json=wish(7, 8), headers={"idempotency-key": "k"})
            assert (told.status_code, told.json()["detail"]) == (
                503,
                "the storage cannot be written; nothing was started",
            )
            assert bucket.folders() == {run_id, busy}
            s3.order = lambda method, key: 403 if method == "GET" else None
            told = other.get(f"/api/segmentation/RUN_20260101T000000Z_{secrets.token_hex(2)}/status")
            assert (told.status_code, told.json()["detail"]) == (503, "the storage cannot be read")
