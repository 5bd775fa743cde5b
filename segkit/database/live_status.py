"""The row of a run in Postgres while the run works: its state, and how many of its products are worked off.

Only where `DATABASE_URL` names a server. A thread writes what `status.json` says; a server that is down, slow, or
without tables is told of once in `events.jsonl` and tried again later, and never holds the run up.
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
INSERT INTO segmentation_runs AS known
       (id, created_at, status, model_config, processing_params, total_products, processed_products)
SELECT %s, %s, %s, %s, %s, %s, %s WHERE pg_try_advisory_xact_lock(hashtextextended(%s, 0))
ON CONFLICT (id) DO UPDATE SET (status, total_products, processed_products)
   = (excluded.status, excluded.total_products, excluded.processed_products)
WHERE (known.status, known.total_products, known.processed_products)
   IS DISTINCT FROM (excluded.status, excluded.total_products, excluded.processed_products)
"""


@contextmanager
def told_live(run: Run, *, wanted: bool = True, settings: Settings | None = None) -> Iterator[None]:
    """Tell Postgres how far a run is, as long as the block lasts, and in what state it is at its end."""
    secret = (settings or load_settings()).database_url
    url = secret.get_secret_value() if secret else ""
    if not (wanted and url):
        yield
        return
    ended = threading.Event()
    teller = threading.Thread(target=partial(_tell, run, url, ended), name="live progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join(timeout=10)  # what a server takes longer for is left to the sync


def _tell(run: Run, url: str, ended: threading.Event) -> None:
    """Write the row whenever it changed, and once more at the end."""
    written: Row = ()
    complained, pause = False, 0.0
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
            if not complained:
                complained = True
                with suppress(SegkitError):  # the disk; the run itself will tell
                    log_event(run.folder, "live_progress_failed", reason=error.message, hint=error.hint)
        if at_end:
            return


def _write(url: str, row: Row) -> None:
    """Write the row unless a sync of the run is at work: that one writes it too, and has the last word."""
    from psycopg.types.json import Jsonb  # here, since most runs have no DATABASE_URL

    from segkit.database.connection import connect, mapped
    from segkit.database.load import lock_name

    values = [Jsonb(value) if isinstance(value, dict) else value for value in row[:-1]]
    hint = "the run goes on; `segkit sync RUN` writes its row later"
    with mapped(url, "telling the progress", hint=hint), connect(url, connect_timeout=3) as connection:
        connection.execute(_LIMITS)
        connection.execute(_WRITE, (*values, lock_name(row[0])))
