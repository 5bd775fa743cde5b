"""A taxonomy to start from: of a finished run or of a file, with the edits that a person makes to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from segkit.core.taxonomy.assign import StartingPoint
from segkit.core.taxonomy.conflicts import HISTORY
from segkit.core.taxonomy.edits import Edit, Edited, edited
from segkit.core.taxonomy.files import (
    TaxonomyFile,
    base_taxonomy,
    edits_of,
    is_taxonomy_file,
    read_taxonomy_file,
    taxonomy_document,
)
from segkit.core.taxonomy.keys import choices, completed, numbers_kept, of_results, open_splits
from segkit.core.taxonomy.repeat import repeated_edits
from segkit.core.text import quantity
from segkit.display import PLAIN_TEXT, html_table, html_text
from segkit.errors import RunError, TaxonomyError
from segkit.runs.run import Run, open_run
from segkit.settings import Settings

_SHOWN = ["key", "category_name", "definition", "includes", "excludes", "state", "product_count"]


@dataclass(frozen=True)
class Taxonomy:
    """Categories with lasting keys and the edits made to them; every edit returns a new object.

    taxonomy = run.taxonomy().merge("C-4", into="C-1").rename("C-1", "Rotary Dimmers")
    taxonomy                      # the categories as they are then, and what changes
    assign_run(taxonomy)          # a new run; only products of split, deleted or redefined categories are asked about

    `base` is the taxonomy before the edits, `run` the run it is of (None for a list that stands for itself), `name`
    the file it was read from, `category` what the products are, `remarks` what a person should know about the file.
    """

    base: pd.DataFrame
    edits: tuple[Edit, ...] = ()
    run: Run | None = None
    name: str = ""
    category: str = ""
    remarks: tuple[str, ...] = ()

    @cached_property
    def result(self) -> Edited:
        """The taxonomy after its edits, and what they change; raises TaxonomyError where they cannot be applied."""
        return edited(self.base, self.edits)

    @property
    def frame(self) -> pd.DataFrame:
        """A row a category, after the edits, with its `key`; see `core.taxonomy.keys` for the columns."""
        return self.result.taxonomy

    @property
    def changes(self) -> pd.DataFrame:
        """A row an edit that changes something: `action`, `key`, `category_name` before, `now`, `note`."""
        return pd.DataFrame(
            [change_row(edit, self.base, self.result) for edit in self.result.changes],
            columns=["action", "key", "category_name", "now", "note"],
        )

    def rename(self, key: str, name: str, note: str = "") -> Taxonomy:
        """Give a category another name; nothing is asked."""
        return self._with(Edit("rename", key, name, note=note))

    def redefine(
        self,
        key: str,
        definition: str | None = None,
        *,
        includes: str | None = None,
        excludes: str | None = None,
        note: str = "",
    ) -> Taxonomy:
        """Define a category anew, or what it includes and excludes; its products are asked about again."""
        return self._with(Edit("redefine", key, "", definition, includes, excludes, note=note))

    def merge(self, key: str, into: str, note: str = "") -> Taxonomy:
        """Put all products of a category into another one; nothing is asked, and the key is retired."""
        return self._with(Edit("merge_into", key, into=(into,), note=note))

    def split(self, key: str, into: Sequence[str] = (), note: str = "") -> Taxonomy:
        """Replace a category by two parts or more, "Name" or "Name: definition"; its products are asked again.

        Without parts, its products are extracted on their own, and the kinds found are proposed as categories.
        """
        return self._with(Edit("split", key, into=tuple(into), note=note))

    def delete(self, key: str, note: str = "") -> Taxonomy:
        """Remove a category; its products are asked about again, and may fit no other one."""
        return self._with(Edit("delete", key, note=note))

    def add(
        self, name: str, definition: str = "", *, includes: str = "", excludes: str = "", note: str = ""
    ) -> Taxonomy:
        """Add a category under a new key, for new products and for those that fitted nowhere."""
        return self._with(Edit("add", "", name, definition, includes, excludes, note=note))

    def lock(self, key: str, note: str = "") -> Taxonomy:
        """Refuse edits of a category from now on, until it is unlocked."""
        return self._with(Edit("lock", key, note=note))

    def unlock(self, key: str, note: str = "") -> Taxonomy:
        """Allow edits of a category again."""
        return self._with(Edit("unlock", key, note=note))

    def accept(self, key: str, note: str = "") -> Taxonomy:
        """Make a proposed category one into which products are put."""
        return self._with(Edit("accept", key, note=note))

    def repeat(self, edited_run: Run) -> Taxonomy:
        """Repeat the edits of another run on these categories, which their run found anew.

        Categories are taken for the same ones by their names, also by former ones, and by the products that both runs
        have placed. Nothing is resolved silently: `remarks` name each edit that cannot be repeated, with the reason.
        """
        if self.run is None:
            raise TaxonomyError(f"{self.name} belongs to no run, so no edits can be repeated on it", "segkit run")
        earlier = taxonomy_of_run(edited_run).base
        same = numbers_kept(earlier, edited_run.result("lineage"), self.run.result("lineage")).kept
        found = repeated_edits(self.base, earlier, edits_so_far(edited_run), same)
        taxonomy, waiting, refused = self, list(found.edits), dict[Edit, str]()
        for edit in [*waiting, *waiting]:  # twice: a name may become free by a later edit
            try:
                taxonomy = taxonomy._with(edit)
                refused.pop(edit, None)
            except TaxonomyError as error:
                refused[edit] = error.message
        return replace(taxonomy, remarks=(*self.remarks, *found.unplaced, *refused.values()))

    def _with(self, edit: Edit) -> Taxonomy:
        """Add an edit; one of the same kind for the same key is replaced. Raises TaxonomyError at once."""
        others = [each for each in self.edits if not edit.key or (each.action, each.key) != (edit.action, edit.key)]
        changed = replace(self, edits=(*others, edit))
        return changed if changed.result else self

    def _repr_html_(self) -> str:
        changes = self.changes
        shown = html_table(self.frame[_SHOWN].to_dict("list"))
        count = quantity(len(changes), "edit")
        head = f"<p class='{PLAIN_TEXT}'><b>{html_text(self.origin)}</b> · {count}</p>"
        return head + shown + (html_table(changes.to_dict("list")) if len(changes) else "")

    def __repr__(self) -> str:
        size, edits = quantity(len(self.frame), "category"), quantity(len(self.edits), "edit")
        return f"<Taxonomy of {self.origin}, {size}, {edits}>"

    @property
    def origin(self) -> str:
        """The run, or else the file, that the taxonomy is of."""
        return self.run.id if self.run else self.name


def change_row(edit: Edit, base: pd.DataFrame, result: Edited) -> dict[str, Any]:
    """Describe a change: what a category was called, and what it is now."""
    names = dict(zip(base["key"], base["category_name"], strict=True))
    after: Any = result.taxonomy.set_index("key")
    now = {
        "rename": edit.name,
        "merge_into": ", ".join(
            f"{key} ({after.loc[key, 'category_name']})" for key in edit.into if key in after.index
        ),
        "split": ", ".join(
            f"{key} ({after.loc[key, 'category_name']})" for key in str(after["into"].get(edit.key, "")).split()
        )
        or "parts to be proposed",
        "add": edit.name,
        "redefine": str(after["definition"].get(edit.key, "")),
    }.get(edit.action, "")
    was = names.get(edit.key, "")
    return {"action": edit.action, "key": edit.key, "category_name": was, "now": now, "note": edit.note}


def taxonomy_of_run(run: Run) -> Taxonomy:
    """Return the taxonomy of a finished run, to edit it or to put products into it."""
    if not run.has_result("ledger"):
        raise RunError(f"{run.id} is not finished, so it has no taxonomy yet", f"segkit resume {run.id}")
    has_own = run.has_result("categories")
    frame = completed(run.result("categories")) if has_own else of_results(run.result("taxonomies"))
    return Taxonomy(frame, run=run, category=run.parameters.category)


def open_taxonomy(name: str | Path, runs_dir: Path, settings: Settings) -> Taxonomy:
    """Return the taxonomy of the run or of the file that a text names."""
    if not is_taxonomy_file(name):
        return taxonomy_of_run(open_run(str(name), runs_dir, settings))
    return taxonomy_of_file(Path(name), lambda run_id: open_run(run_id, runs_dir, settings))


def edited_taxonomy(run: Run, document: Mapping[str, Any]) -> Taxonomy:
    """Return the taxonomy of a run with the edits in a document, as `segkit taxonomy export` writes it as JSON.

    Raises TaxonomyError for a document that is of another run.
    """
    if document.get("run", run.id) != run.id:
        raise TaxonomyError(f"the taxonomy is of {document['run']}, not of {run.id}", "send it to its own run")
    return _with_edits(taxonomy_of_run(run), taxonomy_document("taxonomy.json", document))


def _with_edits(found: Taxonomy, file: TaxonomyFile) -> Taxonomy:
    edits, remarks = edits_of(file, found.base)
    return replace(found, edits=tuple(edits), name=file.name, remarks=tuple(remarks))


def taxonomy_of_file(path: Path, open_named: Any) -> Taxonomy:
    """Return the taxonomy of a file: its edits of the run that it names, or itself if it names none.

    `open_named` opens a run by its id. Where that run is gone, the file stands for itself, and a remark says so.
    """
    return taxonomy_of_rows(read_taxonomy_file(path), open_named)


def taxonomy_of_rows(file: TaxonomyFile, open_named: Any) -> Taxonomy:
    """Return the taxonomy of a file that was read."""
    remarks: list[str] = []
    if file.run:
        try:
            found = taxonomy_of_run(open_named(file.run))
        except RunError as error:
            remarks.append(f"{error.message}: {file.name} is used by itself, and every product is asked about")
        else:
            return _with_edits(found, file)
    base = base_taxonomy(file)
    edits, more = edits_of(file, base) if file.has_keys else ([], [])
    if base.empty:
        raise TaxonomyError(f"{file.name} holds no category", "each row needs a name")
    return Taxonomy(base, tuple(edits), None, file.name, file.category, (*remarks, *more))


def edits_so_far(run: Run) -> pd.DataFrame:
    """Return the edits that a run began with, and those of the runs before it, oldest first (see HISTORY)."""
    if run.file("edits.parquet").exists():
        return run.archived("edits")
    return pd.DataFrame(columns=HISTORY).astype("str")


def edit_history(given: Taxonomy, run_id: str) -> pd.DataFrame:
    """Return the edits of a taxonomy, as those of a run that begins with it, after those of the runs before it."""
    new = given.changes.assign(run=run_id)[HISTORY].astype("str")
    return pd.concat([edits_so_far(given.run), new], ignore_index=True) if given.run else new


def starting_point(run: Run) -> StartingPoint:
    """Return what a run with a given taxonomy starts from, beside its products; nothing for any other run."""
    if not run.parameters.taxonomy:
        return StartingPoint()
    empty = pd.DataFrame({"product_id": [], "key": []})
    tables = [run.archived(name) if run.file(f"{name}.parquet").exists() else empty for name in ("asked", "left")]
    return start_from(run.archived("taxonomy"), *tables)


def start_from(taxonomy: pd.DataFrame, asked: pd.DataFrame, left: pd.DataFrame) -> StartingPoint:
    """Return the starting point of a run that begins with a taxonomy.

    `asked` are the products that are asked about again, with the `key` of their category if an edit is the reason;
    `left` are those that fitted nowhere and were extracted.
    """
    keys, split = dict(zip(asked["product_id"].tolist(), asked["key"].tolist(), strict=True)), open_splits(taxonomy)
    edited_products = {product: key for product, key in keys.items() if key}
    apart = frozenset(product for product, key in edited_products.items() if key in split)
    extracted = frozenset(left["product_id"].tolist())
    return StartingPoint(tuple(choices(taxonomy)), edited_products, apart, frozenset(keys), extracted)
