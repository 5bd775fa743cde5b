"""Finding the cluster of a run: one of this machine, which is started here, or a running one by its address."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from segkit.errors import SettingsError, StoppedError
from segkit.settings import Settings

if TYPE_CHECKING:
    from distributed import Client

_LOCAL = re.compile(r"dask(?::([1-9][0-9]{0,3}))?")
_ADDRESS = re.compile(r"(?:tcp|tls|ws|wss|ucx)://[^\s/@]+")
_CONNECT_SECONDS = 10
# What Dask reports of workers that come and go is reported by the events of the run.
_LOGGERS = ("distributed", "distributed.nanny", "distributed.scheduler", "distributed.worker", "distributed.client")


def check_executor(executor: str) -> None:
    """Raise SettingsError for an executor that is none, and where Dask is not installed."""
    if not executor:
        return
    if not (_LOCAL.fullmatch(executor) or _ADDRESS.fullmatch(executor)):
        what = f"{executor[:80]!r} is no executor"
        raise SettingsError(what, "it is `dask`, `dask:4` for four workers, or an address: tcp://scheduler:8786")
    try:
        import distributed  # noqa: F401
    except ImportError:
        raise SettingsError("Dask is not installed", "in a checkout: make setup, or pip install '.[dask]'") from None


@contextmanager
def cluster_of(settings: Settings, *, needed: bool = True) -> Iterator[Settings]:
    """Start the workers of this machine, where the settings ask for them and they are needed, until the block ends.

    Yields the settings with the address of the scheduler, for all stages of a run.
    """
    check_executor(settings.segkit_executor)
    local = _LOCAL.fullmatch(settings.segkit_executor)
    if not local or not needed:
        yield settings
        return
    from distributed import LocalCluster

    _quiet()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()  # macOS
    workers = int(local[1] or cores or 1)
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",
        silence_logs=logging.CRITICAL,
        preload=["segkit.llm.cluster.local_worker"],
        env=settings.environment(),
    ) as cluster:
        yield settings.model_copy(update={"segkit_executor": cluster.scheduler_address})


@asynccontextmanager
async def connected(settings: Settings, run_id: str) -> AsyncIterator[Client]:
    """Yield a client of the scheduler that the settings name; raise StoppedError where it cannot be reached."""
    from distributed import Client

    _quiet()
    address = settings.segkit_executor
    client: Any = Client(address, asynchronous=True, set_as_default=False, timeout=_CONNECT_SECONDS)
    try:
        try:
            await client
        except (OSError, TimeoutError) as error:
            raise unreachable(address, run_id, error) from None
        yield client
    finally:
        await client.close(timeout=2)


def unreachable(address: str, run_id: str, why: object = "") -> StoppedError:
    """Return the error of a cluster that is not there, or not there any more."""
    told = f": {why}" if str(why) else ""
    what = f"the scheduler {address} cannot be reached{told}"
    return StoppedError(
        what, f"all answers are kept; without a cluster: segkit resume {run_id}; with one: --executor {address}"
    )


def _quiet() -> None:
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
