"""Parameters as papermill and schedulers give them arrive in the types that a run wants, or one line says which."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from catalogues import catalogue

from segkit.errors import InputError, ProductsError, SettingsError
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import segment
from segkit.pipeline.values import conditions, typed_caps, typed_parameters
from segkit.settings import load_settings


def test_what_looks_like_another_type_is_taken_as_what_is_meant() -> None:
    given = {
        "category": 2024,
        "seed": "7",
        "temperature": "0.5",
        "prompts": 1,
        "max_output_tokens": "",
        "model": None,
    }
    assert typed_parameters(given) == {"category": "2024", "seed": 7, "temperature": 0.5, "prompts": "1"}
    assert typed_caps({"max_calls": "20", "max_cost_usd": 0.1}) == {"max_calls": 20, "max_cost_usd": Decimal("0.1")}


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [("seed", "x", "a whole number"), ("seed", 1.5, "a whole number"), ("temperature", "warm", "a number"),
     ("seed", True, "a whole number"), ("product_line", ["a"], "a text")],
)  # fmt: skip
def test_a_value_of_no_use_is_refused_in_one_line(name: str, value: Any, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is ") as error:
        typed_parameters({name: value})
    assert error.value.hint == f"{meant} is expected"


def test_conditions_come_in_three_ways() -> None:
    assert conditions({"a": "b"}) == conditions("a=b") == conditions(["a=b", ""]) == {"a": "b"}
    assert conditions("") == conditions(None) == {}
    with pytest.raises(ProductsError, match="is no condition"):
        conditions("a")


def test_the_same_seed_as_a_text_makes_the_same_run(place: Path) -> None:
    runs = [
        prepare_run(catalogue(60), 2024, model="offline", seed=seed, runs_dir=place / "runs") for seed in (7, "7")
    ]
    assert runs[0].parameters == runs[1].parameters
    assert runs[0].parameters.category == "2024"


def test_a_cap_holds_wherever_a_stage_is_executed(place: Path) -> None:
    """It is kept with the run; a cap of the environment goes before it."""
    with pytest.raises(Exception, match="2 calls"):
        segment(catalogue(120), "Kitchen Things", model="offline", runs_dir=place / "runs", max_calls=2,
                products_per_prompt=10)  # fmt: skip
    run = prepare_run(catalogue(6), "Kitchen Things", model="offline", runs_dir=place / "runs", max_cost_usd="1.5")
    assert run.capped(load_settings()).segkit_max_cost_usd == Decimal("1.5")
    more = load_settings().model_copy(update={"segkit_max_cost_usd": Decimal(3)})
    assert run.capped(more).segkit_max_cost_usd == Decimal(3)
    with pytest.raises(InputError, match="max_cost_usd"):
        prepare_run(catalogue(6), "Kitchen Things", model="offline", runs_dir=place / "runs", max_cost_usd="much")
