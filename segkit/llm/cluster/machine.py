"""What a worker has to have in common with the machine of the run: versions, settings, and a key of its own."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segkit.errors import SettingsError
from segkit.llm.transports.choose import require_key
from segkit.settings import Settings, load_settings

# Settings that are the same on all machines; secrets, the database and the caps are not among them.
_SHARED = (
    "openai_organization",
    "openai_project",
    "segkit_backoff_seconds",
    "segkit_cache",
    "segkit_compress_logs",
    "segkit_concurrency",
    "segkit_connect_seconds",
    "segkit_max_output_tokens",
    "segkit_max_wait_seconds",
    "segkit_output_limit_name",
    "segkit_prices_of",
    "segkit_stream",
    "segkit_timeout_seconds",
    "segkit_transport",
)
# The machine of the run keeps these for all workers, and the database is its business.
_KEPT_ELSEWHERE = (
    "database_url",
    "segkit_executor",
    "segkit_input_tokens_per_minute",
    "segkit_max_calls",
    "segkit_max_cost_usd",
    "segkit_output_tokens_per_minute",
    "segkit_requests_per_minute",
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all shares of a session; it travels to the workers, and holds no secret."""

    session: str
    topic: str
    versions: dict[str, str]
    endpoint: str
    model: str
    needs_key: bool
    settings: dict[str, Any]
    home: str
    prices: str


def terms_of(session: str, topic: str, model: str, endpoint: str, settings: Settings) -> Terms:
    """Return what the workers have to know of this machine."""
    return Terms(
        session,
        topic,
        versions(),
        endpoint,
        model,
        model != "offline" and settings.openai_api_key is not None,
        {name: getattr(settings, name) for name in _SHARED},
        str(settings.segkit_home.resolve()),
        str(settings.segkit_prices.resolve()) if settings.segkit_prices else "",
    )


def worker_settings(terms: Terms) -> Settings:
    """Return the settings of this worker: its own secrets, all else as on the machine of the run.

    The cache is that of the machine of the run where this worker sees it.
    """
    changes: dict[str, Any] = {**terms.settings, **dict.fromkeys(_KEPT_ELSEWHERE)}
    changes["segkit_executor"] = ""
    if Path(terms.home).is_dir():
        changes["segkit_home"] = Path(terms.home)
    changes["segkit_prices"] = Path(terms.prices) if terms.prices else None
    return load_settings().model_copy(update=changes)


def check_machine(terms: Terms, settings: Settings, worker: str) -> None:
    """Raise SettingsError where this worker cannot ask what the machine of the run would."""
    own = versions()
    if own != terms.versions:
        found, wanted = (
            ", ".join(f"{name} {number}" for name, number in each.items()) for each in (own, terms.versions)
        )
        raise SettingsError(f"worker {worker} has {found}; this machine has {wanted}", "install the same on both")
    if settings.segkit_prices and not settings.segkit_prices.is_file():
        what = f"worker {worker} has no {settings.segkit_prices}"
        raise SettingsError(what, "put the file of SEGKIT_PRICES where all machines see it")
    if terms.needs_key:
        if not settings.openai_api_key:
            what = f"worker {worker} has no API key"
            raise SettingsError(what, "set OPENAI_API_KEY in the environment of the workers")
        require_key(terms.endpoint, settings)


def check_worker(terms: Terms, dask_worker: Any) -> str:
    """Return why this worker cannot take part, or an empty text."""
    try:
        check_machine(terms, worker_settings(terms), str(dask_worker.name))
    except SettingsError as error:
        return str(error)
    return ""


def versions() -> dict[str, str]:
    """Return the versions that have to be the same on all machines."""
    return {"segkit": version("segkit"), "Python": ".".join(platform.python_version_tuple()[:2])}
