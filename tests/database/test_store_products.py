"""Loading the products of a file into Postgres, without a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segkit.cli.main import app
from segkit.database.sync import products_from_postgres
from segkit.settings import Settings


def test_the_products_of_a_file_can_be_segmented_over_rest(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`segkit db load` adds what is missing, once; what is there stays."""
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "home"))
    file = tmp_path / "catalogue.csv"
    file.write_text("product_id,title\n910000001,A red kettle\n910000002,A blue ladle\n")
    for added in (2, 0):
        done = CliRunner().invoke(app, ["db", "load", str(file), "--json"])
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"products": 2, "added": added}
    found = products_from_postgres([910000002, 910000001], Settings(database_url=postgres_url))
    assert sorted(found["title"]) == ["A blue ladle", "A red kettle"]
