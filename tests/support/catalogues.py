"""Catalogues, runs and values that several test modules share."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd
import pytest
from openpyxl import Workbook

from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.stages import consolidate_taxonomy, extract_taxonomy, refine_assignments
from segkit.runs.run import Run
from segkit.settings import Settings

DATA = Path(__file__).parents[3] / "shared" / "data"
KEY = "sk-test-9f8e7d6c5b4a-not-a-real-key"


def catalogue(count: int) -> pd.DataFrame:
    kinds = ("kettle", "toaster", "ladle", "whisk")
    titles = [f"Solid number {i} {kinds[i % len(kinds)]}" for i in range(count)]
    return pd.DataFrame({"product_id": range(100, 100 + count), "title": titles})


def answered_offline(place: Path) -> Run:
    """A run of twenty products in which every question is answered by the offline model; `place` holds its cache."""
    settings = Settings(segkit_home=place / "home", segmentation_products_per_prompt=5)
    run = prepare_run(catalogue(20), "Kitchen Things", model="offline", runs_dir=place, settings=settings)
    for stage in (extract_taxonomy, consolidate_taxonomy, refine_assignments):
        stage(run, settings)
    return run


def unmeasured(**more: str) -> dict[str, str]:
    """The environment for a child whose coverage adds nothing to what is measured elsewhere, and costs a third."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")} | more


def data(name: str) -> Path:
    """A real catalogue; the test is skipped where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data")
    return path


def write_trade_files(folder: Path, products: pd.DataFrame) -> None:
    """Write three files as shops have them: a Shopify export, an Amazon listings report, a workbook of two sheets."""
    shopify, amazon, sheet = (products["title"].iloc[start : start + 20].tolist() for start in (0, 20, 40))
    with (folder / "products_export.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["Handle", "Title", "Body (HTML)", "Vendor", "Variant SKU", "Variant Price"])
        for i, title in enumerate(shopify):
            rows.writerow(
                [f"maker-{i}", title, "<p>For <b>coffee</b>,\nat home</p>", "Halvenn", f"SKU-{i}-B", "19.99"]
            )
            rows.writerow([f"maker-{i}", "", "", "", f"SKU-{i}-W", "18.99"])
    lines = ["item-name\titem-description\tlisting-id\tseller-sku\tprice\tasin1"]
    lines += [
        f"{'' if i else chr(34)}{title} für Kaffee\t\t0{i}\tSKU-{i:05}\t9.50\tB{i}" for i, title in enumerate(amazon)
    ]
    (folder / "listings.txt").write_bytes("\r\n".join(lines).encode("cp1252", "ignore"))
    book = Workbook()
    book.active.append(["Made by the purchasing department"])
    page = book.create_sheet("Products")
    for row in (["Catalogue 2026"], [], ["Item no.", "Description", "List price"]):
        page.append(row)
    for i, title in enumerate(sheet):
        page.append([f"{i:07}", title, 19.9 + i])
    book.save(folder / "catalogue.xlsx")
