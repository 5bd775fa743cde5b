"""The table of meanings, a test a line: what providers, routers and local servers say, and what segkit does then."""

from __future__ import annotations

import json
from typing import Any

import pytest

from segkit.llm.meanings import asks_for_too_much, meaning_of_finish
from segkit.llm.responses import NextStep, classify_response
from segkit.llm.transports.base import Response


def step(status: int, body: Any) -> NextStep:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_response(Response(status, {}, data), "m", "api.test")


def error(message: str = "no", **facts: Any) -> dict[str, Any]:
    return {"error": {"message": message, **facts}}


RAW = '{"error":{"message":"no","code":"context_length_exceeded"}}'
TOO_LONG: dict[str, tuple[int, Any]] = {
    "OpenAI": (400, error("too many tokens", code="context_length_exceeded")),
    "OpenAI, a string": (400, error(code="string_above_max_length", param="messages")),
    "Azure": (400, error("This model's maximum context length is 8192 tokens", code="context_length_exceeded")),
    "GitHub Models": (413, error("Request body too large. Max size: 8000 tokens.", code="tokens_limit_reached")),
    "Copilot": (
        400,
        error("prompt token count of 9 exceeds the limit of 8", code="model_max_prompt_tokens_exceeded"),
    ),
    "Anthropic": (400, error("prompt is too long: 9021 tokens > 8192 maximum", type="invalid_request_error")),
    "Anthropic, both": (400, error("input length and `max_tokens` exceed context limit: 9000 + 4000 > 8192")),
    "Anthropic, bytes": (413, error("Request exceeds the maximum size", type="request_too_large")),
    "Gemini": (
        400,
        [
            error(
                "The input token count (9) exceeds the maximum number of tokens allowed (8).",
                status="INVALID_ARGUMENT",
            )
        ],
    ),
    "Mistral": (
        400,
        {"object": "error", "message": "9021 tokens: too large for the maximum context length", "code": "3051"},
    ),
    "Mistral, by code": (400, {"object": "error", "message": "not valid", "code": 3051}),
    "Groq": (413, error("Request too large for model m on tokens per minute (TPM)", code="rate_limit_exceeded")),
    "DeepSeek": (400, error("This model's maximum context length is 65536 tokens. However, you requested 70000")),
    "xAI": (400, {"code": "x", "error": "This model's maximum prompt length is 8192 but the request contains 9021."}),
    "OpenRouter": (400, error("Provider returned error", code=400, metadata={"raw": RAW, "provider_name": "x"})),
    "OpenRouter, its own": (400, error("This endpoint's maximum context length is 8192 tokens", code=400)),
    "Bedrock": (400, {"__type": "ValidationException", "message": "Input is too long for requested model."}),
    "Bedrock by LiteLLM": (400, error("litellm.BadRequestError: BedrockException - Input is too long", code="400")),
    "LiteLLM": (400, error("litellm.ContextWindowExceededError: m", code="400", type="invalid_request_error")),
    "vLLM": (
        400,
        error("The decoder prompt (9021) is longer than the maximum model length of 8192", type="BadRequestError"),
    ),
    "vLLM, the limit": (
        400,
        error("'max_tokens' is too large: 4000. This model's maximum context length is 8192 tokens", code=400),
    ),
    "vLLM, flat": (400, {"object": "error", "message": "maximum context length is 8192", "type": "BadRequestError"}),
    "SGLang": (400, {"message": "The input (9 tokens) is longer than the model's context length (8 tokens)."}),
    "TGI": (
        422,
        {"error": "`inputs` tokens + `max_new_tokens` must be <= 8192. Given: 9021", "error_type": "validation"},
    ),
    "llama.cpp": (
        400,
        error(
            "the request exceeds the available context size", code=400, type="exceed_context_size_error", n_ctx=1024
        ),
    ),
    "llama.cpp, older": (500, error("the request exceeds the available context size", code=500, type="server_error")),
    "Ollama": (400, {"error": "input length exceeds maximum context length"}),
    "LM Studio": (400, {"error": "Trying to keep the first 4000 tokens when context the overflows."}),
    "Alibaba": (400, error("Range of input length should be [1, 30720]", code="invalid_parameter_error")),
    "Cohere": (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}),
    "FastAPI": (400, {"detail": {"error": {"message": "no", "code": "context_length_exceeded"}}}),
    "FastAPI, a text": (400, {"detail": "prompt too long for this model"}),
    "inside a 200": (200, error(code="context_length_exceeded")),
    "inside a choice": (
        200,
        {"choices": [{"finish_reason": "error", "error": {"code": 400, "message": "prompt is too long"}}]},
    ),
    "a 429 above its limit": (429, error("on tokens per min (TPM): Limit 30,000, Requested 45,000.", type="tokens")),
    "413 without a word": (413, b""),
}


@pytest.mark.parametrize(("status", "body"), TOO_LONG.values(), ids=TOO_LONG)
def test_too_long(status: int, body: Any) -> None:
    found = step(status, body)
    assert (found.step, found.trouble, found.money) == ("cut", "too_long", "not_paid")


INNER = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}}
FILTERED: dict[str, tuple[int, Any]] = {
    "OpenAI": (400, error("no", code="content_policy_violation")),
    "Azure": (400, error("no", code="content_filter", innererror=INNER)),
    "Azure, the inner error alone": (400, error("no", code="BadRequest", innererror=INNER)),
    "Azure, what was filtered": (
        400,
        error("no", innererror={"content_filter_result": {"jailbreak": {"filtered": True}}}),
    ),
    "LiteLLM": (400, error("litellm.ContentPolicyViolationError: no", code="400")),
    "LiteLLM, the provider's": (400, error("no", code="400", provider_specific_fields={"innererror": INNER})),
    "OpenRouter": (
        403,
        error("Your input was flagged", code=403, metadata={"reasons": ["hate"], "flagged_input": "x"}),
    ),
    "DeepSeek": (400, error("Content Exists Risk", type="invalid_request_error", code="invalid_request_error")),
    "Alibaba": (400, error("Input data may contain inappropriate content.", code="data_inspection_failed")),
    "Zhipu": (400, error("no", code="1301")),
    "xAI": (403, {"error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_X"}),
    "Anthropic": (400, error("Output blocked by content filtering policy", type="invalid_request_error")),
    "Bedrock": (400, {"message": "no", "code": "guardrail_intervened"}),
    "inside a 200": (200, error("The prompt was blocked", code="content_filter")),
}


@pytest.mark.parametrize(("status", "body"), FILTERED.values(), ids=FILTERED)
def test_filtered(status: int, body: Any) -> None:
    found = step(status, body)
    assert (found.step, found.trouble) == ("cut", "filtered")


NO_CREDIT: dict[str, tuple[int, Any]] = {
    "OpenAI": (429, error("You exceeded your current quota", type="insufficient_quota", code="insufficient_quota")),
    "Anthropic": (400, error("Your credit balance is too low to access the API", type="invalid_request_error")),
    "DeepSeek": (402, error("Insufficient Balance", code="invalid_request_error")),
    "xAI": (403, {"code": "x", "error": "Your team has used all available credits or reached its spending limit"}),
    "OpenRouter": (402, error("This request requires more credits", code=402)),
    "Alibaba": (400, error("Access denied", code="Arrearage")),
    "LiteLLM": (400, error("no", type="budget_exceeded", code="400")),
}


@pytest.mark.parametrize(("status", "body"), NO_CREDIT.values(), ids=NO_CREDIT)
def test_no_credit(status: int, body: Any) -> None:
    found = step(status, body)
    assert found.step == "stop"
    assert "no credit at api.test" in found.why


ACCESS: dict[str, tuple[int, Any, str]] = {
    "OpenAI, the key": (401, error("Incorrect API key provided", code="invalid_api_key"), "OPENAI_API_KEY"),
    "Gemini, the key": (
        400,
        [error("API key not valid.", status="INVALID_ARGUMENT", details=[{"reason": "API_KEY_INVALID"}])],
        "OPENAI_API_KEY",
    ),
    "lm-proxy, the key": (403, {"detail": {"error": {"message": "no", "code": "invalid_api_key"}}}, "OPENAI_API_KEY"),
    "OpenAI, the model": (404, error("The model does not exist", code="model_not_found"), "--model"),
    "Ollama, the model": (404, error("model 'm' not found", type="not_found_error"), "--model"),
    "a country": (403, error("no", code="unsupported_country_region_territory"), "--model"),
}


@pytest.mark.parametrize(("status", "body", "hint"), ACCESS.values(), ids=ACCESS)
def test_no_access(status: int, body: Any, hint: str) -> None:
    found = step(status, body)
    assert found.step == "stop"
    assert hint in found.hint


WAITS: dict[str, tuple[int, Any, str]] = {
    "OpenAI": (
        429,
        error("Rate limit reached: Limit 30000, Used 28000, Requested 4000.", code="rate_limit_exceeded"),
        "wait",
    ),
    "Gemini": (429, [error("Resource has been exhausted (e.g. check quota).", status="RESOURCE_EXHAUSTED")], "wait"),
    "Mistral": (429, {"object": "error", "message": "Requests rate limit exceeded", "code": "1300"}, "wait"),
    "inside a choice": (
        200,
        {"choices": [{"finish_reason": "error", "error": {"code": 429, "message": "busy"}}]},
        "wait",
    ),
    "inside a 200": (200, error("slow down", code=429), "wait"),
    "llama.cpp loads": (503, error("Loading model", code=503, type="unavailable_error"), "again"),
    "Hugging Face loads": (503, {"error": "the model is loading", "estimated_time": 20.0}, "again"),
    "Anthropic": (529, error("Overloaded", type="overloaded_error"), "again"),
    "a gateway": (502, b"<html>Bad gateway</html>", "again"),
    "LiteLLM": (500, error("Internal Server Error", code="500"), "again"),
    "inside a choice, 502": (200, {"choices": [{"finish_reason": "error", "error": {"code": 502}}]}, "again"),
    "an end that is none": (200, {"choices": [{"finish_reason": "error", "message": {"content": ""}}]}, "again"),
    "DeepSeek": (200, {"choices": [{"finish_reason": "insufficient_system_resource", "message": {}}]}, "again"),
    "SGLang": (200, {"choices": [{"finish_reason": "abort", "message": {"content": "x"}}]}, "again"),
}


@pytest.mark.parametrize(("status", "body", "wanted"), WAITS.values(), ids=WAITS)
def test_what_passes(status: int, body: Any, wanted: str) -> None:
    assert step(status, body).step == wanted


@pytest.mark.parametrize("body", [WAITS["llama.cpp loads"][1], WAITS["Hugging Face loads"][1], b""])
def test_a_server_that_loads_its_model_is_waited_for(body: Any) -> None:
    assert step(503, body).patient
    assert not step(502, b"").patient


PARAMETERS: dict[str, tuple[int, Any, str, str]] = {
    "OpenAI, temperature": (
        400,
        error("Unsupported value", param="temperature", code="unsupported_value"),
        "temperature",
        "--temperature none",
    ),
    "in words": (400, error("temperature is not supported with this model"), "temperature", "--temperature none"),
    "OpenAI, the name": (
        400,
        error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'", param="max_tokens"),
        "output_limit",
        "--max-output-tokens",
    ),
    "OpenAI, the size": (
        400,
        error("max_tokens is too large: 32768. This model supports at most 16384 completion tokens"),
        "output_limit",
        "--max-output-tokens",
    ),
    "Mistral": (
        422,
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"]}]},
        },
        "output_limit",
        "--max-output-tokens",
    ),
    "OpenAI, the format": (
        400,
        error("'response_format' of type 'json_schema' is not supported", param="response_format"),
        "response_format",
        "--response-format",
    ),
    "OpenAI, a keyword": (
        400,
        error("Invalid schema for response_format: 'minLength' is not permitted.", code="invalid_json_schema"),
        "response_format",
        "--response-format",
    ),
    "Gemini": (
        400,
        [error("The specified schema produces a constraint that has too many states", status="INVALID_ARGUMENT")],
        "response_format",
        "--response-format",
    ),
    "llama.cpp": (
        400,
        error("failed to parse grammar", type="invalid_request_error"),
        "response_format",
        "--response",
    ),
    "the word": (
        400,
        error("'messages' must contain the word 'json' in some form", param="messages"),
        "json_word",
        "--response-format text",
    ),
    "a stream": (400, error("stream_options is unknown", code="unknown_parameter"), "stream", "stream"),
}


@pytest.mark.parametrize(("status", "body", "parameter", "hint"), PARAMETERS.values(), ids=PARAMETERS)
def test_a_refused_field_is_named_with_what_mends_it(status: int, body: Any, parameter: str, hint: str) -> None:
    found = step(status, body)
    assert (found.step, found.parameter, found.unknown) == ("stop", parameter, False)
    assert hint in found.hint


@pytest.mark.parametrize("code", ["json_validate_failed", "tool_use_failed", "output_parse_failed"])
def test_a_bad_answer(code: str) -> None:
    """The provider checked the answer; it was made, so it may have been paid."""
    found = step(400, error("no valid JSON", code=code, failed_generation="{"))
    assert (found.step, found.trouble, found.money) == ("invalid", "bad_answer", "unknown")


@pytest.mark.parametrize(("status", "unknown"), [(400, True), (422, True), (405, False), (451, False)])
def test_a_refusal_that_nobody_knows(status: int, unknown: bool) -> None:
    found = step(status, error("zorgle", type="invalid_request_error"))
    assert (found.step, found.unknown) == ("stop", unknown)


FINISHES = {
    "length": "length",
    "model_length": "length",
    "MAX_TOKENS": "length",
    "max_output_tokens": "length",
    "FINISH_REASON_MAX_TOKENS": "length",
    "model_context_window_exceeded": "too_long",
    "content_filter": "filtered",
    "content_filter: PROHIBITED_CONTENT": "filtered",
    "SAFETY": "filtered",
    "RECITATION": "filtered",
    "BLOCKLIST": "filtered",
    "SPII": "filtered",
    "sensitive": "filtered",
    "guardrail_intervened": "filtered",
    "refusal": "refused",
    "MALFORMED_FUNCTION_CALL": "bad_answer",
    "error": "passing",
    "abort": "passing",
    "insufficient_system_resource": "passing",
    "stop": None,
    "STOP": None,
    "end_turn": None,
    "eos_token": None,
    "stop_sequence": None,
    "COMPLETE": None,
    "tool_calls": None,
    "function_call": None,
    "": None,
}


@pytest.mark.parametrize(("reason", "meaning"), FINISHES.items())
def test_a_finish_reason(reason: str, meaning: str | None) -> None:
    assert meaning_of_finish(reason) == meaning


@pytest.mark.parametrize(
    ("text", "too_much"),
    [
        ("Limit 30000, Used 28000, Requested 4000", False),
        ("Limit 6000, Requested 7145, please reduce your message size", True),
        ("limit: 1,000 tokens; requested: 2,000", True),
        ("Limit 0, Requested 7145", False),
        ("Request too large for model", True),
        ("slow down", False),
    ],
)
def test_a_request_above_the_limit_itself(text: str, too_much: bool) -> None:
    assert asks_for_too_much(text) is too_much
