"""Tokens: what their file may hold, and whom they let in."""

from __future__ import annotations

import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segkit.cli.main import app
from segkit.errors import SettingsError
from segkit.service.tokens import TokenStore, add_token, read_tokens, rotate_token
from segkit.storage.disk import write_atomic


def test_a_token_is_shown_once_and_stored_as_a_hash(tmp_path: Path) -> None:
    path = tmp_path / "new" / "tokens.json"
    done = CliRunner().invoke(
        app, ["token", "create", "ann", "--tokens", str(path), "--max-cost-usd", "2.5", "--all-runs"]
    )
    secret = done.stdout.strip().splitlines()[-1]
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = TokenStore(path).find(secret)
    assert found is not None
    assert (found.name, float(found.max_cost_usd or 0), found.all_runs) == ("ann", 2.5, True)


def test_only_the_whole_token_is_let_in(tmp_path: Path) -> None:
    """Not a part of it, not its hash, not nothing, not one that expired."""
    path = tmp_path / "tokens.json"
    secret = add_token(path, "ann")
    late = add_token(path, "ben", expires=datetime.now(UTC) - timedelta(seconds=1))
    soon = add_token(path, "cem", expires=datetime.now(UTC) + timedelta(hours=1))
    book = TokenStore(path)
    assert book.find(soon) is not None
    for wrong in ("", secret[:-1], secret + "x", secret.upper(), read_tokens(path)[0].sha256, late, "\ud800é"):
        assert book.find(wrong) is None


WRONG: list[Any] = [
    [], {}, {"tokens": []}, {"tokens": [{"name": "a"}]}, {"tokens": [{"name": "a b", "sha256": "0" * 64}]},
    {"tokens": [{"name": "a", "sha256": "0"}]}, {"tokens": [{"name": "a", "sha256": "0" * 64, "max_cost": 1}]},
    {"tokens": [{"name": "a", "sha256": "0" * 64, "max_cost_usd": -1}]},
    {"tokens": [{"name": "a", "sha256": "0" * 64, "max_cost_usd": "NaN"}]},
    {"tokens": [{"name": "a", "sha256": "0" * 64, "all_runs": "no"}]},
    {"tokens": [{"name": "a", "sha256": "0" * 64, "expires": "2030-01-01T00:00:00"}]},
    {"tokens": [{"name": "a", "sha256": "0" * 64}, {"name": "a", "sha256": "1" * 64}]},
]  # fmt: skip


@pytest.mark.parametrize("told", WRONG, ids=str)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps(told))
    with pytest.raises(SettingsError) as caught:
        read_tokens(path)
    assert str(path) in caught.value.message
    assert "0" * 64 not in str(caught.value)


def test_a_broken_change_keeps_the_tokens_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    secret = add_token(path, "ann")
    book = TokenStore(path)
    path.write_text("{")
    os.utime(path, (1, 1))
    with pytest.raises(SettingsError):
        book.reload()
    book.reload()
    assert book.find(secret) is not None
    with pytest.raises(SettingsError, match="cannot be used"):
        add_token(path, "ben")


@pytest.mark.parametrize("gone", [True, False])
def test_the_last_token_can_be_withdrawn(tmp_path: Path, gone: bool) -> None:
    """A file that is removed, or holds no token any more, lets nobody in; a new one does again."""
    path = tmp_path / "tokens.json"
    secret = add_token(path, "ann")
    book, known = TokenStore(path), path.read_bytes()
    path.unlink()
    if not gone:
        path.write_text('{"tokens": []}')
    book.reload()
    assert book.find(secret) is None
    write_atomic(path, known)
    book.reload()
    assert book.find(secret) is not None


def test_a_rotated_token_keeps_its_limits_and_its_name(tmp_path: Path) -> None:
    """The old secret is refused from then on."""
    path = tmp_path / "tokens.json"
    old = add_token(path, "ann", max_products=7)
    store = TokenStore(path)
    new = rotate_token(path, "ann")
    store.reload()
    found = store.find(new)
    assert found is not None
    assert (found.name, found.max_products, store.find(old)) == ("ann", 7, None)
    with pytest.raises(SettingsError, match="no token"):
        rotate_token(path, "ben")


def test_a_file_that_is_gone_withdraws_no_run(tmp_path: Path) -> None:
    """Nobody is let in, but an editor may be about to write it again: no run is ended for that."""
    path = tmp_path / "tokens.json"
    secret = add_token(path, "ann")
    store = TokenStore(path)
    path.unlink()
    store.reload()
    assert (store.find(secret), store.is_withdrawn("ann")) == (None, False)
    assert "nobody is let in" in store.fault
    path.write_text('{"tokens": []}')
    store.reload()
    assert (store.fault, store.is_withdrawn("ann")) == ("", True)
