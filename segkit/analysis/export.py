"""The assignments of a run as one file for other programs: CSV, JSONL or Parquet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import pandas as pd

from segkit.runs.run import Run

# A spreadsheet takes a cell for a formula that begins so, in each of its lines and behind blanks of any kind.
_FORMULA = re.compile(r"(^|[\r\n])(?=[^\S\t\r\n]*[=+\-@\t\r＝＋－＠])")


def exported(run: Run) -> pd.DataFrame:
    """Give a row a product: `product_id`, `title`, `category` in the end (empty where there is none).

    Also `first_category`, before refinement; the `confidence` of that; `state` and `reason` as in the ledger.
    """
    lineage = run.result("lineage")[["product_id", "refined_category", "category", "confidence"]]
    names = {"refined_category": "category", "category": "first_category"}
    frame = run.products[["product_id", "title"]].merge(lineage.rename(columns=names), on="product_id", how="left")
    return frame.merge(run.result("ledger"), on="product_id", how="left", validate="1:1")


def as_csv(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Write a frame as CSV; unless `raw`, an apostrophe keeps spreadsheets from running a text as a formula."""
    if not raw:
        texts = frame.select_dtypes(include=["str", "object"]).columns
        frame = frame.assign(**{name: frame[name].map(_unformulated, na_action="ignore") for name in texts})
    return frame.to_csv(index=False, lineterminator="\r\n").encode()


def as_jsonl(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Write a frame as one JSON object a line; what is missing is null."""
    return frame.to_json(orient="records", lines=True, force_ascii=False, double_precision=15).encode()


def as_parquet(frame: pd.DataFrame, raw: bool = False) -> bytes:
    """Write a frame as Parquet."""
    data = io.BytesIO()
    frame.to_parquet(data, index=False)
    return data.getvalue()


WRITERS: dict[str, Callable[[pd.DataFrame, bool], bytes]] = {"csv": as_csv, "jsonl": as_jsonl, "parquet": as_parquet}


def _unformulated(text: object) -> object:
    return _FORMULA.sub(r"\1'", text) if isinstance(text, str) else text
