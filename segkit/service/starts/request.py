"""What a client wants to start, and who it is."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal

import orjson

from segkit.core.catalogue.ids import given_ids
from segkit.runs.run import Run
from segkit.service.tokens import Token
from segkit.service.workers import Workers


@dataclass(frozen=True, slots=True)
class StartRequest:
    """What a client wants to start: a run of its own, or one that builds on an `earlier` one (`how`)."""

    product_ids: tuple[int | str, ...]
    category: str
    model: str
    temperature: float | None = None
    no_temperature: bool = False  # send none; without it, None takes the operator's default
    max_cost_usd: Decimal | None = None
    max_unassigned: int | None = None
    prompts: str | None = None
    products_per_prompt: int | None = None
    ask_duplicates: bool = False
    extract_sample: str = ""
    most_unseen: float | None = None
    cascade: float | None = None
    earlier: str = ""
    how: Literal["", "extend", "assign"] = ""
    total: int = 0  # products with those of the earlier run
    taxonomy: str = ""  # the edited categories of the earlier run, as JSON

    @property
    def products(self) -> int:
        """How many products the run has."""
        return self.total or len(self.product_ids)

    @property
    def facts(self) -> dict[str, Any]:
        """The fields for a log, as far as they were given: products and categories are counted."""
        counts = {"product_ids": len(self.product_ids)}
        if self.taxonomy:
            counts["taxonomy"] = len(orjson.loads(self.taxonomy)["categories"])
        return {**self._given, **counts}

    @property
    def sha256(self) -> str:
        return hashlib.sha256(orjson.dumps(self._given, default=str)).hexdigest()

    @property
    def _given(self) -> dict[str, Any]:
        """The fields; those that came later only where they are used, so that a key made before stays good."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in given.items() if value or name not in _LATER}


_LATER = (
    "prompts", "products_per_prompt", "ask_duplicates", "extract_sample", "most_unseen", "cascade",
    "earlier", "how", "total", "taxonomy",
)  # fmt: skip


def derived_start(
    run: Run, workers: Workers, how: Literal["extend", "assign"], product_ids: tuple[int | str, ...],
    *, max_cost_usd: Decimal | None, max_unassigned: int | None, model: str | None = None, taxonomy: str = "",
) -> StartRequest:  # fmt: skip
    """Return the start of a run that builds on an earlier one: its category, and its model unless one is given."""
    products = int(run.document["input"]["products"]) + len(product_ids)
    total = workers.call(_count_products, run, packed(product_ids), products=products)
    return StartRequest(
        product_ids, run.parameters.category, model or run.parameters.model, max_cost_usd=max_cost_usd,
        max_unassigned=max_unassigned, earlier=run.id, how=how, total=total, taxonomy=taxonomy,
    )  # fmt: skip


def _count_products(run: Run, product_ids: bytes) -> int:
    """Count the products of a run and those that come in."""
    numbers = run.products["product_id"].tolist()
    known = {*numbers, *map(str, numbers), *given_ids(run.products)}
    return len(numbers) + sum(product_id not in known for product_id in unpacked(product_ids))


def packed(product_ids: tuple[int | str, ...]) -> bytes:
    """Pack ids for another process: pickle keeps the other threads waiting, ten times as long."""
    return orjson.dumps(product_ids)


def unpacked(product_ids: bytes) -> tuple[int | str, ...]:
    return tuple(orjson.loads(product_ids))


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the token, the address, and the id of the request."""

    token: Token
    address: str
    request_id: str
