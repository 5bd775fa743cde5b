"""Run folders: the one place where a run lives, and the only hand-over between its stages."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from segkit.core.models import FOLDERS, Parameters
from segkit.core.prompt_sets import shown_name
from segkit.core.prompts import prompt_hash
from segkit.core.text import quantity
from segkit.display import PLAIN_TEXT, html_table, html_text, visible
from segkit.errors import RunError
from segkit.runs.discovery import register_all, register_run
from segkit.runs.events import log_event, timestamp
from segkit.runs.methods import METHODS
from segkit.runs.mirror import LOCKS, fetch, is_filled
from segkit.runs.ownership import is_owned
from segkit.runs.status import Status, read_status
from segkit.settings import Settings, load_settings
from segkit.storage.disk import disk_error, write_atomic
from segkit.storage.memory import release_memory

if TYPE_CHECKING:
    import pandas as pd

    from segkit.runs.taxonomy import Taxonomy

SCHEMA_VERSION = 1
RUN_ID = re.compile(r"RUN_[0-9]{8}T[0-9]{6}Z_[0-9a-f]{4,8}")
_END_OF_ID = re.compile(r"[0-9a-fA-F]{3,8}", re.ASCII)
# What a resume may change beside the parameters.
_NO_PARAMETERS = ("products_per_prompt", "stream")
LISTED = (
    "id", "state", "category", "model", "prompts", "input", "products", "categories", "cost_usd", "seconds", "note",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk: its folder and its `run.json`."""

    folder: Path
    document: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.document["run_id"])

    @property
    def parameters(self) -> Parameters:
        """The parameters of the run, with what a resume has changed of its requests."""
        changed = {name: value for name, value in self.changed_requests.items() if name not in _NO_PARAMETERS}
        return Parameters(**{**self.document["parameters"], **changed})

    @property
    def most_products(self) -> int:
        """The most products that a prompt may have since a resume asked for fewer; 0 where none did."""
        return int(self.changed_requests.get("products_per_prompt") or 0)

    @property
    def stream(self) -> bool | None:
        """Whether answers are received token by token; None where neither the run nor a resume was told."""
        chosen = self.changed_requests.get("stream", self.document.get("stream"))
        return None if chosen is None else bool(chosen)

    def change_requests(self, changes: Mapping[str, Any]) -> Run:
        """Record what a resume changes of the requests of this run, with the time, and return the run as it is then.

        Parameters that shape only the request may change (temperature, response format, limit of the output,
        endpoint, stream), `products_per_prompt` may ask for smaller questions (the batches stay as they are), and
        `cascade` may promise less or more.
        """
        entry = {"at": timestamp(), "to": dict(changes)}
        document = {**self.document, "request_changes": [*self.document.get("request_changes", []), entry]}
        try:
            write_atomic(self.folder / "run.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        except OSError as error:
            raise disk_error(self.folder, error) from None
        log_event(self.folder, "requests_changed", **changes)
        return replace(self, document=document)

    @property
    def changed_requests(self) -> dict[str, Any]:
        """What resumes have changed of the requests of this run (see `change_requests`)."""
        changes = self.document.get("request_changes", [])
        return {name: value for change in changes for name, value in change["to"].items()}

    def file(self, name: str) -> Path:
        """Return the path of a file of the run, after fetching it where only S3 has it; it may be missing in both."""
        return self.files(name)[0]

    def files(self, *names: str) -> list[Path]:
        """Return the paths of some files of the run, like `file`; those in S3 are fetched at the same time."""
        fetch(self.folder, *names)
        return [self.folder / name for name in names]

    @property
    def products(self) -> pd.DataFrame:
        """The products of the run; raises RunError when they are not those it was made with."""
        data = self.file("products.parquet").read_bytes()
        if hashlib.sha256(data).hexdigest() != self.document["input"]["sha256"]:
            raise self._changed("products.parquet")
        return _frame(io.BytesIO(data))

    def archived(self, name: str) -> pd.DataFrame:
        """Read a table that the run started from: its `taxonomy`, or the rows of an `earlier` run (maybe none)."""
        return _frame(self.file(f"{name}.parquet"))

    @property
    def new_products(self) -> pd.DataFrame:
        """The products that the run places itself: all, but for those whose rows it took over from an earlier run."""
        products = self.products
        if not self.parameters.taxonomy:
            return products
        is_new = ~products["product_id"].isin(self.archived("earlier")["product_id"])
        return products[is_new].reset_index(drop=True)

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of the run by stage; raises RunError when they are not those it was made with."""
        keys = list(self.document["prompts"])
        paths = self.files(*(f"prompts/{prompt_path(self.folder, key).name}" for key in keys))
        texts = {key: path.read_text(encoding="utf-8") for key, path in zip(keys, paths, strict=True)}
        for key, text in texts.items():
            if prompt_hash(text) != self.document["prompts"][key]:
                raise self._changed(f"prompts/{prompt_path(self.folder, key).name}")
        return texts

    @property
    def prompt_set(self) -> str:
        """The name of the prompt set by its content: `v0*` where a text is not the one that the package ships."""
        return shown_name(self.parameters.prompts, self.document["prompts"])

    @property
    def status(self) -> Status:
        return read_status(self.folder)

    def _changed(self, name: str) -> RunError:
        what = f"{self.folder / name} was changed since the run began"
        return RunError(what, "put it back, or make a new run: what did not change comes from the cache")

    def capped(self, settings: Settings) -> Settings:
        """Return the settings with what the run was made with, where they have none of their own.

        These are its caps, and whether its questions are sent as batches of the provider. Whether answers are
        streamed is the run's to say.
        """
        kept: dict[str, Any] = {} if self.stream is None else {"segkit_stream": self.stream}
        made_with = self.document.get("caps", {})
        for name, read in (("max_calls", int), ("max_cost_usd", Decimal), ("batch", _as_bool)):
            if made_with.get(name) is not None and getattr(settings, f"segkit_{name}") is None:
                kept[f"segkit_{name}"] = read(str(made_with[name]))
        return settings.model_copy(update=kept)

    def stage_folder(self, stage: str) -> Path:
        return self.folder / FOLDERS[stage]

    def taxonomy(self) -> Taxonomy:
        """Return the categories of the run, to edit them: `run.taxonomy().merge("C-4", into="C-1")`.

        Raises RunError if the run is not finished.
        """
        from segkit.runs.taxonomy import taxonomy_of_run

        return taxonomy_of_run(self)

    def result(self, name: str) -> pd.DataFrame:
        """Read a result, like `taxonomies`; raise RunError when its stage has not finished."""
        if not self.has_result(name):
            raise RunError(f"{self.id} has no results/{name}.parquet yet", f"segkit resume {self.id}")
        return _frame(self.folder / "results" / f"{name}.parquet")

    def has_result(self, name: str) -> bool:
        return self.file(f"results/{name}.parquet").exists()

    @property
    def assignments(self) -> pd.DataFrame:
        """Every product with its category at the end: `product_id`, `title`, `category`, `confidence` and more.

        See `core.results.assignments_table` for the columns. Raises RunError if the run has no results yet.
        """
        from segkit.core.results import assignments_table

        results = (self.result(name) for name in ("lineage", "ledger", "taxonomies", "refined_segments"))
        return assignments_table(self.products, *results)

    def explain(self, product_id: int | str) -> Any:
        """Return how a product got its category, in sentences with their evidence (`segkit.explain`)."""
        return METHODS["explain"](self, product_id)

    def audit(self) -> Any:
        """Check the run for what should make one doubt it (`segkit.audit`)."""
        return METHODS["audit"](self)

    def __repr__(self) -> str:
        return visible(f"<Run {_facts(self)}>")

    def _repr_html_(self) -> str:
        """Show the run in Jupyter: what it segments, its state, and its categories with their products."""
        head = f"<p class='{PLAIN_TEXT}'><b>{html_text(self.parameters.category)}</b> · {html_text(_facts(self))}</p>"
        if not self.has_result("taxonomies"):
            return head
        table = self.result("taxonomies")[["category_name", "product_count", "definition"]]
        return head + html_table(table.rename(columns={"product_count": "products"}).to_dict("list"))

    def save_result(self, name: str, frame: pd.DataFrame) -> None:
        """Write a result as Parquet; equal frames give equal bytes."""
        try:
            write_atomic(self.folder / "results" / f"{name}.parquet", frame.to_parquet(index=False))
        except OSError as error:
            raise disk_error(self.folder, error) from None
        release_memory()


def _as_bool(text: str) -> bool:
    return text == "True"


def _facts(run: Run) -> str:
    products = quantity(run.document["input"]["products"], "product")
    return " · ".join([run.id, products, f"model {run.parameters.model}", run.status.state])


def _frame(source: Path | io.BytesIO) -> pd.DataFrame:
    import pandas as pd

    return pd.read_parquet(source)


def open_run(name: str, runs_dir: str | Path = "runs", settings: Settings | None = None) -> Run:
    """Open a run by its id, the end of its id, the path of its folder, `latest` or `latest-completed`."""
    place, run_id = Path(runs_dir), name
    if "/" in name and Path(name).is_dir():
        place, run_id = Path(name).parent, Path(name).resolve().name
    if run_id in ("latest", "latest-completed"):
        run_id = _latest(place, settings, completed=run_id == "latest-completed")
    elif _END_OF_ID.fullmatch(run_id):
        run_id = _ending_with(run_id, place, settings)
    if not RUN_ID.fullmatch(run_id):
        raise RunError(f"{run_id[:80]!r} is no run id", "they look like RUN_20250618T120301Z_8d24; see `segkit runs`")
    register_run(place, run_id, settings or load_settings())
    return Run(place / run_id, _document(place / run_id))


def is_run_name(text: str) -> bool:
    """Report whether a text names a run as `open_run` takes it; where a file has that name, it does not."""
    if text in ("latest", "latest-completed") or RUN_ID.fullmatch(text):
        return True
    return _END_OF_ID.fullmatch(text) is not None and not Path(text).exists()


def is_stopping(run: Run) -> bool:
    """Report whether somebody asked the process that works on a run to stop."""
    return (run.folder / "stop").exists()


def _latest(runs_dir: Path, settings: Settings | None, *, completed: bool) -> str:
    """Return the id of the run that was made last, whatever moment its id names."""
    ids = run_ids(runs_dir, settings)
    if not ids:
        raise RunError(f"there are no runs in {runs_dir}", "start one with `segkit run`")
    newest_first = sorted(ids, key=lambda run_id: _made_at(runs_dir / run_id))[::-1]
    if not completed:
        return newest_first[0]
    for run_id in newest_first:
        if current_state(runs_dir / run_id) == "completed":
            return run_id
    raise RunError(f"no run in {runs_dir} is completed", "see `segkit runs`")


def _made_at(folder: Path) -> tuple[str, int]:
    """Return when a run was made: by its `run.json` (empty if it does not tell), within a second by that file."""
    try:
        return str(_document(folder).get("created_at", "")), (folder / "run.json").stat().st_mtime_ns
    except RunError:
        return "", 0


def _ending_with(digits: str, runs_dir: Path, settings: Settings | None) -> str:
    """Return the id of the one run whose id ends with some digits."""
    found = [run_id for run_id in run_ids(runs_dir, settings) if run_id.endswith(digits.lower())]
    if len(found) != 1:
        what = f"{len(found)} runs end with {digits}: {', '.join(found)}" if found else f"no run ends with {digits}"
        raise RunError(what, "see `segkit runs`")
    return found[0]


def run_ids(runs_dir: Path, settings: Settings | None = None) -> list[str]:
    """List the ids of the runs in a folder, oldest first; with STORAGE_BACKEND=s3 those in the bucket too."""
    register_all(runs_dir, settings or load_settings(), RUN_ID.fullmatch)
    if not runs_dir.is_dir():
        return []
    found = [
        name for name in os.listdir(runs_dir) if RUN_ID.fullmatch(name) and (runs_dir / name / "run.json").exists()
    ]
    return sorted(found, key=lambda name: (name[:20], (runs_dir / name / "run.json").stat().st_mtime_ns))


def list_runs(runs_dir: Path, settings: Settings | None = None) -> pd.DataFrame:
    """List the runs of a folder, oldest first: a row each, with id, state, model, prompts, products and more."""
    import pandas as pd

    frame = pd.DataFrame(read_runs(runs_dir, settings), columns=list(LISTED))
    return frame.astype({"products": "Int64", "categories": "Int64"})


def read_runs(runs_dir: Path, settings: Settings | None = None) -> list[dict[str, Any]]:
    """Give the rows of `list_runs`, without pandas, which takes longer to import than a thousand runs to read."""
    return [_row(runs_dir / run_id) for run_id in run_ids(runs_dir, settings)]


def current_state(folder: Path) -> str:
    """Return the word for the state of a run: running, waiting, completed or failed.

    A run that says it is running while nobody works on it waits for its next step, as between two notebooks. It has
    failed where the process that worked on it was killed: its name is left in the lock.
    """
    return _state(folder, read_status(folder))


def _state(folder: Path, status: Status) -> str:
    if status.state != "running" or is_owned(folder):
        return status.state
    return "failed" if any(is_filled(folder / lock) for lock in LOCKS) else "waiting"


def _row(folder: Path) -> dict[str, Any]:
    document, status = _document(folder), read_status(folder)
    told = {name: document["parameters"][name] for name in ("category", "model")}
    told["prompts"] = shown_name(document["parameters"]["prompts"], document["prompts"])
    figures = {name: status.summary.get(name) for name in ("categories", "cost_usd", "seconds")}
    facts = {"state": _state(folder, status), "input": _input(document), "products": document["input"]["products"]}
    return {"id": folder.name, **facts, **told, **figures, "note": status.document.get("note") or None}


def _input(document: Mapping[str, Any]) -> str:
    """Return the name of the file that a run was made from, and the run that it extends."""
    name, extended = Path(str(document["input"]["source"])).name, document["parameters"].get("extends")
    return f"{name}, extends {extended}" if extended else name


def _document(folder: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads((folder / "run.json").read_bytes())
    except FileNotFoundError:
        raise RunError(f"there is no run {folder.name} in {folder.parent}", "see `segkit runs`") from None
    except orjson.JSONDecodeError as error:
        raise RunError(f"{folder / 'run.json'} is damaged: {error}", "restore it from a copy") from None
    if document.get("schema_version", 0) > SCHEMA_VERSION:
        raise RunError(
            f"{folder.name} was made by segkit {document.get('segkit_version')}", "upgrade segkit to read it"
        )
    return document


def prompt_path(folder: Path, key: str) -> Path:
    """Give the place of a prompt in a run folder."""
    return folder / "prompts" / f"{key}_prompt.txt"
