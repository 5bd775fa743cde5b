"""Settings from the environment: what is empty is not set, and what cannot be read shows no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from catalogues import unmeasured

from segkit.database.connection import connect, query
from segkit.errors import DatabaseError, SettingsError
from segkit.settings import RANGES, Settings, load_settings
from segkit.storage.redaction import safe_text

PASSWORD = "a-secret-of-nobody"
#: Addresses that people paste, each with a password in it; the last of them PostgreSQL can read.
UNREADABLE = {
    "an @ that is not encoded": f"postgresql://u:x@{PASSWORD}@127.0.0.1:9/name",
    "a / that is not encoded": f"postgresql://u:x/{PASSWORD}@127.0.0.1:9/name",
    "a / behind an @": f"postgresql://u:x@y/{PASSWORD}@127.0.0.1:9/name",
    "a ? that is not encoded": f"postgresql://u:x?{PASSWORD}=@127.0.0.1:9/name",
    "half a bracket": f"postgresql://u:[{PASSWORD}@127.0.0.1:9/name",
    "a bracket as the host": f"postgresql://u:{PASSWORD}@[127.0.0.1:9/name",
    "no scheme": f"u:{PASSWORD}@127.0.0.1:9/name",
    "another database": f"mysql://u:{PASSWORD}@127.0.0.1:9/name",
    "no host": f"postgresql://u:{PASSWORD}/name",
    "brackets around it": f"postgresql://u:[{PASSWORD}]@127.0.0.1:9/name",
    "an unknown parameter": f"postgresql://u:{PASSWORD}@127.0.0.1:9/name?colour=red",
}


def variables() -> list[str]:
    fields = Settings.model_fields.items()
    return [str(field.validation_alias or name.upper()) for name, field in fields]


@pytest.mark.parametrize("name", variables())
def test_an_empty_variable_is_an_unset_one(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker Compose and CI pass a variable that nobody set as an empty text."""
    monkeypatch.delenv(name, raising=False)
    default = load_settings()
    monkeypatch.setenv(name, "")
    assert load_settings() == default


@pytest.mark.parametrize("name", ["products_per_prompt", "taxonomies_per_consolidation", "max_retries"])
def test_a_range_holds_for_the_environment(name: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    least, most = RANGES[name]
    for value in (least, most):
        monkeypatch.setenv(f"SEGMENTATION_{name}".upper(), str(value))
        assert getattr(load_settings(), f"segmentation_{name}") == value
    for value in (least - 1, most + 1):
        monkeypatch.setenv(f"SEGMENTATION_{name}".upper(), str(value))
        with pytest.raises(SettingsError, match=f"SEGMENTATION_{name.upper()} = '{value}'"):
            load_settings()


@pytest.mark.parametrize("url", UNREADABLE.values(), ids=UNREADABLE)
def test_a_database_url_never_shows_its_password(
    url: str, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    settings = load_settings()
    for ask in (lambda: connect(url, connect_timeout=2), lambda: query(url, "SELECT 1")):
        with pytest.raises(DatabaseError) as error:
            ask()
        assert PASSWORD not in f"{error.value} {error.value.__cause__}"
    assert PASSWORD not in repr(settings)
    whole = url.partition("u:")[2].rpartition("@")[0]
    if whole:  # where there is no @, nothing says that it is a password
        assert PASSWORD not in safe_text(f"{url} has {whole!r}", settings.secrets)
    assert PASSWORD not in "".join(capfd.readouterr())


def test_a_run_goes_on_where_the_database_is_not_used(place: Path) -> None:
    """The address is looked at by those who need it; a run without Postgres needs none."""
    Path("products.csv").write_text("product_id,title\n1,Red lamp\n2,Blue lamp\n")
    environment = unmeasured() | {"DATABASE_URL": UNREADABLE["another database"]}
    commands = {
        "plan products.csv -c Lamps -m offline": (0, ""),
        "db status": (1, "DATABASE_URL is not the URL of a PostgreSQL server"),
    }
    for words, (code, text) in commands.items():
        command = [sys.executable, "-m", "segkit", *words.split()]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert PASSWORD not in done.stdout + done.stderr
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize(
    "more", ["pgbouncer=true&connection_limit=1&pool_timeout=5", "schema=public", "sslmode=prefer"]
)
def test_parameters_of_other_clients_are_understood(more: str, postgres_url: str) -> None:
    """As the pages of Supabase and Prisma show them."""
    joined = f"{postgres_url}{'&' if '?' in postgres_url else '?'}{more}"
    assert query(joined, "SELECT 1 AS one")["one"].tolist() == [1]


def test_a_schema_of_prisma_is_searched(postgres_url: str) -> None:
    with connect(postgres_url) as connection:
        connection.execute("CREATE SCHEMA elsewhere")
        connection.execute("CREATE TABLE elsewhere.things AS SELECT 7 AS seven")
    joined = f"{postgres_url}{'&' if '?' in postgres_url else '?'}schema=elsewhere"
    assert query(joined, "SELECT seven FROM things")["seven"].tolist() == [7]
