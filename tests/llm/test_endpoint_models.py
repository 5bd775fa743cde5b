"""What endpoints say of their models, in the forms of the servers that people have, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from segkit.cli.main import main
from segkit.errors import EndpointError
from segkit.llm.transports.models import (
    EndpointModels,
    ListedModel,
    ask_models,
    read_models,
    remember,
    remembered,
)
from segkit.pipeline.plan.model_limits import fitting_options, tokens_needed
from segkit.settings import Settings

# fmt: off
LISTS: list[tuple[str, Any, ListedModel]] = [
    ("OpenAI", {"object": "list", "data": [
        {"id": "gpt-4o", "object": "model", "created": 1715367049, "owned_by": "system"}]},
     ListedModel("gpt-4o")),
    ("vLLM", {"object": "list", "data": [
        {"id": "Qwen/Qwen3-8B", "object": "model", "owned_by": "vllm", "root": "Qwen/Qwen3-8B", "parent": None,
         "max_model_len": 16384, "permission": []}]},
     ListedModel("Qwen/Qwen3-8B", 16384)),
    ("llama.cpp", {"models": [{"name": "old form"}], "object": "list", "data": [
        {"id": "smollm2", "object": "model", "owned_by": "llamacpp",
         "meta": {"vocab_type": 2, "n_vocab": 49152, "n_ctx_train": 8192, "n_embd": 576, "n_params": 134515008}}]},
     ListedModel("smollm2", 8192)),
    ("Ollama", {"object": "list", "data": [
        {"id": "llama3.2:latest", "object": "model", "created": 1, "owned_by": "library"}]},
     ListedModel("llama3.2:latest")),
    ("LM Studio", {"object": "list", "data": [
        {"id": "qwen2.5-7b-instruct", "object": "model", "type": "llm", "arch": "qwen2", "state": "loaded",
         "max_context_length": 32768, "loaded_context_length": 4096}]},
     ListedModel("qwen2.5-7b-instruct", 4096)),
    ("OpenRouter", {"data": [
        {"id": "openai/gpt-4o-mini", "name": "OpenAI: GPT-4o-mini", "context_length": 128000,
         "pricing": {"prompt": "0.00000015"},
         "top_provider": {"context_length": 128000, "max_completion_tokens": 16384, "is_moderated": True}}]},
     ListedModel("openai/gpt-4o-mini", 128000, 16384)),
    ("Groq", {"object": "list", "data": [
        {"id": "llama-3.1-8b-instant", "active": True, "context_window": 131072, "max_completion_tokens": 8192}]},
     ListedModel("llama-3.1-8b-instant", 131072, 8192)),
    ("Mistral", {"object": "list", "data": [
        {"id": "mistral-small-latest", "capabilities": {"completion_chat": True}, "max_context_length": 131072}]},
     ListedModel("mistral-small-latest", 131072)),
    ("Gemini", {"models": [
        {"name": "models/gemini-2.0-flash", "inputTokenLimit": 1048576, "outputTokenLimit": 8192}]},
     ListedModel("models/gemini-2.0-flash", 1048576, 8192)),
    ("LiteLLM", {"data": [
        {"model_name": "prod", "model_info": {"max_input_tokens": 128000}}]},
     ListedModel("prod", 128000)),
    ("Together", [{"id": "meta/llama", "context_length": 8192.0}], ListedModel("meta/llama", 8192)),
    ("names alone", {"models": ["a-model"]}, ListedModel("a-model")),
]
# fmt: on


@pytest.mark.parametrize(("body", "expected"), [row[1:] for row in LISTS], ids=[row[0] for row in LISTS])
def test_a_list_of_models(body: Any, expected: ListedModel) -> None:
    assert read_models(body) == (expected,)


@pytest.mark.parametrize("body", [None, [], {}, {"data": "no"}, {"data": [None, 7, {}, {"id": 5}]}, "text", 3])
def test_what_is_no_list_holds_no_model(body: Any) -> None:
    assert read_models(body) == ()


@pytest.mark.parametrize("value", [0, -1, "8192", None, True, 1.5])
def test_a_context_that_is_no_number_of_tokens_is_not_known(value: Any) -> None:
    assert read_models({"data": [{"id": "m", "max_model_len": value}]}) == (ListedModel("m"),)


@contextmanager
def server(replies: dict[str, Any]) -> Iterator[str]:
    """A server that knows some addresses, `GET /v1/models` and so on; other ones it answers with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            self.rfile.read(length)
            found = replies.get(f"{self.command} {self.path}")
            status, body = found if isinstance(found, tuple) else (200 if found is not None else 404, found)
            sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: Any) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1"
    finally:
        listening.shutdown()
        listening.server_close()


def asked(replies: dict[str, Any], model: str) -> EndpointModels:
    with server(replies) as url:
        return ask_models(url, model, Settings())


def test_llama_cpp_states_the_context_of_a_slot() -> None:
    """The model was trained with 8,192 tokens, the server gives each of its two slots 2,048."""
    found = asked(
        {
            "GET /v1/models": LISTS[2][1],
            "GET /props": {"default_generation_settings": {"n_ctx": 2048}, "total_slots": 2},
        },
        "smollm2",
    )
    assert (found.find("smollm2"), found.slots) == (ListedModel("smollm2", 2048), 2)


def test_ollama_states_the_context_of_a_model() -> None:
    """What it is loaded with, or the `num_ctx` that was set, or the largest that it can have."""
    shown = {"parameters": 'stop  "<|end|>"\nnum_ctx   4096', "model_info": {"llama.context_length": 131072}}
    replies = {"GET /v1/models": LISTS[3][1], "POST /api/show": shown}
    assert asked(replies, "llama3.2").find("llama3.2") == ListedModel("llama3.2:latest", 4096)
    replies["POST /api/show"] = {"model_info": {"llama.context_length": 131072}}
    assert asked(replies, "llama3.2").find("llama3.2") == ListedModel("llama3.2:latest", 131072)
    replies["GET /api/ps"] = {"models": [{"name": "llama3.2:latest", "context_length": 8192}]}
    assert asked(replies, "llama3.2").find("llama3.2") == ListedModel("llama3.2:latest", 8192)


def test_lm_studio_states_it_elsewhere() -> None:
    replies = {"GET /v1/models": {"data": [{"id": "qwen2.5-7b-instruct"}]}, "GET /api/v0/models": LISTS[4][1]}
    assert asked(replies, "x").find("qwen2.5-7b-instruct") == ListedModel("qwen2.5-7b-instruct", 4096)


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ((401, "{}"), "refuses the key: 401"),
        ((404, "{}"), "answers 404"),
        ((503, "loading"), "answers 503"),
        ((200, "<html>"), "answers no JSON"),
    ],
)
def test_what_is_no_list_is_named(reply: tuple[int, str], message: str) -> None:
    with pytest.raises(EndpointError, match=message):
        asked({"GET /v1/models": reply}, "m")


def test_nobody_there() -> None:
    with pytest.raises(EndpointError, match="cannot be reached"):
        ask_models("http://127.0.0.1:9/v1", "m", Settings())


def test_a_misspelt_model_is_named(tmp_path: Path) -> None:
    models = (ListedModel("qwen3-8b", 4096), ListedModel("llama3.2:latest"))
    found = EndpointModels("http://127.0.0.1:8080/v1", models)
    assert found.unlisted("qwen3-8b") == found.unlisted("llama3.2") == ""
    assert found.unlisted("qwen3_8b") == "127.0.0.1 lists no model qwen3_8b; did you mean qwen3-8b?"
    assert found.unlisted("zzz") == "127.0.0.1 lists no model zzz; it lists qwen3-8b, llama3.2:latest"
    assert EndpointModels("http://x/v1", ()).unlisted("anything") == ""
    assert remembered(found.endpoint, tmp_path) is None
    remember(found, tmp_path)
    assert remembered(found.endpoint, tmp_path) == found
    assert remembered("http://127.0.0.1:8081/v1", tmp_path) is None
    next((tmp_path / "endpoints").iterdir()).write_text("{")
    assert remembered(found.endpoint, tmp_path) is None


@pytest.mark.parametrize(
    ("context", "most_output", "slots", "fits", "options"),
    [
        (128_000, None, None, True, "the settings fit"),
        (128_000, 16_384, 4, True, "--concurrency 4"),
        (4096, None, 2, False, "--products-per-prompt"),
        (128_000, 2048, None, False, "--products-per-prompt"),
        (600, None, None, False, "too short for one product"),
    ],
)
def test_settings_that_fit(
    context: int, most_output: int | None, slots: int | None, fits: bool, options: str
) -> None:
    good, text = fitting_options("m", context, most_output, slots, Settings())
    assert good == fits
    assert options in text


def test_the_largest_number_that_fits_is_named() -> None:
    settings = Settings()
    _, text = fitting_options("m", 6000, None, None, settings)
    products = int(text.split("--products-per-prompt ")[1].split()[0])
    need: Callable[[int], int] = lambda count: tokens_needed(count, "m", settings)  # noqa: E731
    assert need(products) <= 6000 < need(products + 1)


def test_doctor_and_a_later_plan_name_a_misspelt_model(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan asks nothing: it reads the list that the doctor was given."""
    replies = {"GET /v1/models": LISTS[2][1], "GET /props": {"n_ctx": 4096, "total_slots": 2}}
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/none")
    with server(replies) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        for model in ("smollm2", "smolm2"):
            with pytest.raises(SystemExit):
                main(["doctor", "--model", model])
    shown = capsys.readouterr().out
    assert "lists smollm2: a context of 4,096 tokens, answers 2 at once" in shown
    assert "--concurrency 2" in shown
    assert "lists no model smolm2; did you mean smollm2?" in shown
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(SystemExit):
        main(["plan", "sample", "-c", "Coffee Makers", "-m", "smolm2"])
    warned = capsys.readouterr().err
    assert "lists no model smolm2; did you mean smollm2?" in warned
    assert "count as free" in warned
