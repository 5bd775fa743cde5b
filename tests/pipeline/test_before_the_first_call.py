"""What can be known before the first call is said before it, and before a run is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from catalogues import catalogue
from endpoint import Endpoint
from pydantic import SecretStr

from segkit.core.catalogue.titles import lacks_titles
from segkit.errors import SettingsError
from segkit.llm import completions
from segkit.llm.transports.choose import needs_key, require_key
from segkit.pipeline.extend import extend_run
from segkit.pipeline.prepare import prepare_run
from segkit.pipeline.segment import run_stages
from segkit.pipeline.stages import extract_taxonomy
from segkit.runs.run import Run
from segkit.settings import Settings, load_settings

NewRun = Callable[..., Run]


@pytest.mark.parametrize(
    ("endpoint", "needed"),
    [
        ("https://api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://me.openai.azure.com/openai/v1", True),
        ("https://api.groq.com/openai/v1", True),
        ("https://openrouter.ai/api/v1", True),
        ("https://generativelanguage.googleapis.com/v1beta/openai", True),
        ("https://api.mistral.ai/v1", True),
        ("https://notopenai.com/v1", False),
        ("https://api.openai.com.example.org/v1", False),
        ("https://llm.example.org/v1", False),
        ("http://127.0.0.1:8000/v1", False),
        ("offline@4", False),
    ],
)
def test_hosts_that_need_a_key(endpoint: str, needed: bool) -> None:
    assert needs_key(endpoint) == needed
    if needed:
        with pytest.raises(SettingsError, match="there is no API key for"):
            require_key(endpoint, Settings(openai_api_key=None))
    assert require_key(endpoint, Settings(openai_api_key=SecretStr("k"))) == "k"


def test_a_slip_in_the_name_of_the_offline_model_is_recognised() -> None:
    for model, meant in (("ofline", True), ("Offline", True), ("gpt-4o", False)):
        with pytest.raises(SettingsError) as caught:
            require_key("https://api.openai.com/v1", Settings(openai_api_key=None), model)
        assert ("did you mean --model offline" in caught.value.hint) == meant


def test_a_cap_without_a_price_makes_no_run(endpoint: Endpoint, place: Path) -> None:
    """Whether the cap is the settings' or the run's own."""
    frame, settings = catalogue(6), load_settings()
    with pytest.raises(SettingsError, match="price of my-own-model is not known"):
        prepare_run(frame, "Things", model="my-own-model", max_cost_usd=1, settings=settings)
    assert not list(place.rglob("run.json"))
    prepare_run(frame, "Things", model="my-own-model", max_calls=9, settings=settings)
    assert endpoint.count() == 0


def test_an_extension_without_a_key_makes_no_run(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint is that of the earlier run, whatever the settings name now."""
    finished = new_run(6)
    run_stages(finished)
    monkeypatch.setattr("segkit.llm.transports.choose._PROVIDERS", ("127.0.0.1",))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SettingsError, match="there is no API key for 127"):
        extend_run(finished, catalogue(9))
    assert len(list(finished.folder.parent.glob("RUN_*"))) == 1


def test_a_question_whose_schema_is_too_large_is_cut_before_it_is_asked(
    endpoint: Endpoint, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request with more properties than the provider takes leaves, and every product is placed."""
    monkeypatch.setattr(completions, "_SCHEMA_LIMITS", (("127.0.0.1", 1000, 30),))
    run = new_run(44, products_per_prompt=44)
    extract_taxonomy(run)
    asked = [len(entry["asked"]) for entry in endpoint.ledger()]
    assert (sum(asked), max(asked)) == (44, 22)
    assert (run.result("batch_assignments")["category"] != "").all()


@pytest.mark.parametrize(
    ("count", "missing", "allowed", "asks"),
    [(100, 5, 0, False), (100, 6, 0, True), (100, 6, 6, False), (1, 1, 0, True), (20, 1, 0, False), (19, 1, 0, True)],
)
def test_more_than_five_percent_without_a_title(count: int, missing: int, allowed: int, asks: bool) -> None:
    frame = catalogue(count)
    frame.loc[: missing - 1, "title"] = "n/a"
    assert lacks_titles(frame, allowed) == asks
