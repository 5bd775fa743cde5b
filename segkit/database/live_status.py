"""The row of a run in Postgres while the run works: its state and its number of processed products.

Only if `DATABASE_URL` names a server. A thread copies `status.json`; a server that is down, slow or without tables is
reported once in `events.jsonl`, tried again later, and never delays the run.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from segkit.database.run_tables import Row, run_row
from segkit.errors import SegkitError
from segkit.runs.events import log_event
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

_EVERY = 2.0  # seconds between two looks at the status
_AGAIN = 30.0  # seconds before a server that failed is tried again
_LIMITS = "SET LOCAL statement_timeout = '3s'; SET LOCAL lock_timeout = '1s'"
_WRITE = """
INSERT INTO segmentation_runs AS present
       (id, created_at, status, model_config, processing_params, total_products, processed_products)
SELECT %s, %s, %s, %s, %s, %s, %s WHERE pg_try_advisory_xact_lock(hashtextextended(%s, 0))
ON CONFLICT (id) DO UPDATE SET (status, total_products, processed_products)
   = (excluded.status, excluded.total_products, excluded.processed_products)
WHERE (present.status, present.total_products, present.processed_products)
   IS DISTINCT FROM (excluded.status, excluded.total_products, excluded.processed_products)
"""


@contextmanager
def publish_status(run: Run, *, wanted: bool = True, settings: Settings | None = None) -> Iterator[None]:
    """Keep the row of a run up to date while the block runs, and write its final state at the end."""
    secret = (settings or load_settings()).database_url
    url = secret.get_secret_value() if secret else ""
    if not (wanted and url):
        yield
        return
    ended = threading.Event()
    writer = threading.Thread(target=partial(_write_changes, run, url, ended), name="live status", daemon=True)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join(timeout=10)  # a slower server is left to the sync


def _write_changes(run: Run, url: str, ended: threading.Event) -> None:
    """Write the row whenever it changed, and once more at the end."""
    written: Row = ()
    is_reported, pause = False, 0.0
    while True:
        at_end = ended.wait(pause)
        pause = _EVERY
        try:
            row = run_row(run.folder)
            if row[:-1] != written:
                _write(url, row)
                written = row[:-1]
        except SegkitError as error:
            pause = _AGAIN
            if not is_reported:
                is_reported = True
                with suppress(SegkitError):  # the disk; the run itself will report it
                    log_event(run.folder, "live_progress_failed", reason=error.message, hint=error.hint)
        if at_end:
            return


def _write(url: str, row: Row) -> None:
    """Write the row unless a sync of the run is working, which writes it too."""
    from psycopg.types.json import Jsonb  # here, since most runs have no DATABASE_URL

    from segkit.database.connection import connect, translated_errors
    from segkit.database.load import lock_name

    values = [Jsonb(value) if isinstance(value, dict) else value for value in row[:-1]]
    hint = "the run goes on; `segkit sync RUN` writes its row later"
    with translated_errors(url, "writing the status", hint=hint), connect(url, connect_timeout=3) as connection:
        connection.execute(_LIMITS)
        connection.execute(_WRITE, (*values, lock_name(row[0])))
