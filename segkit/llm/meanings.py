"""What endpoints mean by their codes, phrases and finish reasons: one table, as data.

Its rows were collected from OpenAI, Azure, Gemini, Anthropic's compatibility layer, Mistral, Groq, DeepSeek, xAI,
OpenRouter, Bedrock gateways, Alibaba, Zhipu, vLLM, SGLang, TGI, llama.cpp, Ollama, LM Studio and LiteLLM. The same
table serves statuses, errors inside a good response or inside a choice, and finish reasons.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Meaning = Literal[
    "too_long",  # a smaller question may pass
    "filtered",  # something in the question or in the answer is not wanted
    "refused",  # the model itself does not want to answer
    "length",  # the answer was cut at the limit of its length
    "bad_answer",  # the provider found the model's answer invalid
    "passing",  # a trouble of the server that passes
    "wait",  # the server wants to be left alone for a while
    "bad_parameter",  # a field of the request
    "no_credit",
    "no_key",
    "no_access",
]

_CODES: dict[Meaning, str] = {
    "no_credit": """insufficient_quota credit_balance_exhausted billing_hard_limit_reached billing_not_active
        insufficient_balance insufficient_credits insufficient_funds payment_required billing_error
        spend_limit_reached spending_limit_exceeded insufficient_user_quota Arrearage account_overdue out_of_credits
        budget_exceeded quota_exhausted""",
    "too_long": """context_length_exceeded string_above_max_length request_too_large max_tokens_exceeded
        exceed_context_size_error ContextWindowExceededError context_window_exceeded ContextLengthExceededError
        context_length_error prompt_too_long input_too_long tokens_limit_reached token_limit_exceeded
        model_max_prompt_tokens_exceeded model_context_window_exceeded payload_too_large request_entity_too_large
        request_too_long content_too_large max_context_length_exceeded max_prompt_length_exceeded
        input_length_exceeded context_overflow too_many_tokens 3051""",
    "filtered": """content_filter content_filtered content_policy_violation ContentPolicyViolationError
        content_policy responsible_ai_policy_violation moderation moderation_blocked content_moderation
        moderation_error flagged flagged_input prompt_blocked blocked_prompt prohibited_content safety image_safety
        safety_error unsafe_content blocklist spii recitation language data_inspection_failed sensitive
        sensitive_content content_exists_risk risk_control guardrail_intervened guardrail_violation
        content_blocked policy_violation 1301""",
    "refused": "refusal refused model_refusal",
    "length": """length max_tokens model_length max_output_tokens max_length max_new_tokens max_completion_tokens
        token_limit output_limit length_capped max_tokens_reached incomplete limit""",
    "bad_answer": """json_validate_failed tool_use_failed output_parse_failed json_generation_failed
        invalid_model_output malformed_function_call malformed_response unexpected_tool_call repetition
        json_parse_failed json_validation_error""",
    "bad_parameter": """unsupported_parameter unsupported_value unknown_parameter invalid_parameter
        unrecognized_parameter extra_forbidden unsupported_params UnsupportedParamsError invalid_json_schema
        invalid_schema unsupported_schema unsupported_response_format invalid_response_format schema_too_complex""",
    "no_key": """invalid_api_key incorrect_api_key api_key_invalid authentication_error AuthenticationError
        unauthenticated unauthorized invalid_authentication missing_api_key token_expired invalid_token""",
    "no_access": """model_not_found model_not_available model_not_allowed model_access_denied no_access
        permission_denied permission_error access_denied access_terminated forbidden not_found not_found_error
        unsupported_country_region_territory ModelNotFoundError resource_not_found deployment_not_found
        DeploymentNotFound model_terms_required model_decommissioned model_deprecated""",
    "wait": """rate_limit_exceeded rate_limit_error RateLimitError rate_limit_reached rate_limited
        too_many_requests resource_exhausted throttling ThrottlingException throttled quota_exceeded
        service_tier_capacity_exceeded capacity_exceeded model_loading model_not_ready ModelNotReadyException
        unavailable unavailable_error service_unavailable ServiceUnavailableError loading tokens_per_minute""",
    "passing": """server_error internal_server_error InternalServerError internal_error internal api_error
        overloaded overloaded_error engine_overloaded timeout Timeout request_timeout deadline_exceeded
        gateway_timeout bad_gateway upstream_error provider_error provider_unavailable error abort aborted
        cancelled network_error
        insufficient_system_resource APIConnectionError ModelErrorException ModelTimeoutException other unknown
        finish_reason_unspecified engine_error""",
}

#: How an endpoint says that its model takes no system message.
NO_SYSTEM_MESSAGE = (
    r"(?:system (?:role|message|prompt|instruction)s?|role\W{1,4}system|developer (?:role|message|instruction)s?)"
    r".{0,60}(?:not |un|must|only)"
)

# Looked for in the text of an error, in lower case. The first that fits counts.
_PHRASES: tuple[tuple[Meaning, str], ...] = (
    ("no_credit", r"credit balance|insufficient (?:balance|credit|fund)|(?:no|out of|any|available) credits?\b"),
    ("no_credit", r"spend(?:ing)? limit|hard limit|arrears|overdue|payment required|top up|add credits"),
    (
        "no_key",
        r"api[ _-]?key (?:is |was )?(?:not valid|invalid|expired|missing)|(?:invalid|incorrect|wrong) api[ _-]?key",
    ),
    ("filtered", r"content exists risk|content (?:management|policy|filter)|responsible ai|guardrail|moderation"),
    ("filtered", r"\bflagged\b|usage (?:guidelines|policies)|(?:safety|content)[ _](?:system|filter|check|polic)"),
    (
        "filtered",
        r"(?:blocked|rejected|filtered|refused) (?:by|for|due to|because of) [\w ]*(?:safety|policy|content|filter)",
    ),
    (
        "filtered",
        r"(?:prompt|input|output|request|response|content|text) (?:was |is |has been )?(?:blocked|filtered)\b",
    ),
    ("filtered", r"inappropriate|prohibited content|sensitive (?:content|words?|information)|\bunsafe\b|harmful"),
    ("bad_parameter", r"word .{0,4}json"),
    (
        "too_long",
        r"context[ _-]?(?:length|window|size|limit|overflow)|contextwindow|\bn_ctx\b|max_model_len|max_seq_len",
    ),
    (
        "too_long",
        r"(?:maximum|max\.?) (?:model|prompt|input|sequence|context|total|request)[ _]?(?:length|len|size|tokens?)",
    ),
    ("too_long", r"(?:inputs?|prompt)\W.{0,60}max_new_tokens|max_input_(?:tokens|length)|max_total_tokens"),
    ("bad_parameter", r"max(?:imum)?_?(?:new_|completion_|output_)?tokens\b.{0,160}(?:at most|output|completion) "),
    (
        "too_long",
        r"(?:prompt|inputs?|messages?|request|query|question|payload|text|conversation|tokens?)\b.{0,60}"
        r"(?:too (?:long|large|big|many)|\bexceed|(?:longer|larger|greater|more) than|above|over the|beyond)"
        r".{0,60}(?:tokens?|length|long|large|limit|maximum|max\b|model|context|allowed|supported|size|$)",
    ),
    ("too_long", r"too (?:many|much) (?:input |prompt |total )?(?:tokens|text)|too long for|context.{0,12}overflow"),
    ("too_long", r"range of input length|(?:input|prompt) length should"),
    (
        "too_long",
        r"reduce (?:the |your )?(?:length|size|number of tokens|prompt|input|message)",
    ),
    (
        "bad_parameter",
        r"\bschema\b|response[_ ]?format|json[_ ]?(?:schema|object|mode)|structured output|\bgrammar\b",
    ),
    ("bad_parameter", r"max_(?:completion_|output_|new_)?tokens"),
    (
        "bad_parameter",
        r"(?:unsupported|unknown|unrecogni[sz]ed|unexpected|not (?:a )?(?:supported|permitted|allowed|known)|extra)"
        r".{0,40}(?:parameter|field|argument|value|key|input)",
    ),
    ("bad_parameter", r"\btemperature\b|\bstream(?:_options|ing)?\b"),
    ("bad_parameter", NO_SYSTEM_MESSAGE),
    ("wait", r"rate limit|too many requests|quota|overloaded|loading|try again (?:later|in)|throttl|busy"),
)

#: The fields of a request that an error may speak of, and how errors name them.
PARAMETERS: dict[str, str] = {
    "json_word": r"word .{0,4}json",
    "output_limit": r"max_?(?:completion_?|output_?|new_?)?tokens",
    "temperature": r"temperature",
    "stream": r"\bstream(?:_options|ing)?\b",
    "system_message": NO_SYSTEM_MESSAGE,
    "response_format": r"response_?\s?format|json_?\s?object|json mode|schema|grammar|structured output",
}

#: Keywords of a JSON schema that an answer does not need.
KEYWORDS = ("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum")

_LARGER = re.compile(r"limit\D{0,20}([\d,]+).{0,120}?requested\D{0,20}([\d,]+)|request too large", re.DOTALL)


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.lower())


_MEANINGS = {_plain(code): meaning for meaning, codes in _CODES.items() for code in codes.split()}
_FINISHES = {name: meaning for name, meaning in _MEANINGS.items() if meaning != "no_access"}
_COMPILED = tuple((meaning, re.compile(pattern, re.DOTALL)) for meaning, pattern in _PHRASES)
_WORDS = re.compile(r"\b[A-Za-z]+(?:_[A-Za-z]+)+\b|\b[A-Z][A-Za-z]+(?:Error|Exception|Violation)\b")


def meaning_of_names(names: Iterable[str]) -> Meaning | None:
    """Return the meaning of the first known code, type or status among `names`."""
    return next((_MEANINGS[plain] for name in names if (plain := _plain(name)) in _MEANINGS), None)


def meaning_of_text(text: str) -> Meaning | None:
    """Return what the text of an error means: by a code that stands in it, else by a phrase."""
    words = (word for word in _WORDS.findall(text) if _MEANINGS.get(_plain(word)) not in (None, "length"))
    if found := meaning_of_names(words):
        return found
    lowered = text.lower()
    return next((meaning for meaning, pattern in _COMPILED if pattern.search(lowered)), None)


def meaning_of_finish(reason: str) -> Meaning | None:
    """Return what a finish reason means, like `SAFETY` or `content_filter: SPII`; None for a good end."""
    for part in (reason, *re.split(r"[\s:;,/.]+", reason)):
        plain = _plain(part).removeprefix("finishreason")
        if plain in _FINISHES:
            return _FINISHES[plain]
    return None


def parameter_of(names: Iterable[str], text: str) -> str:
    """Return which field of a request an error speaks of, a key of `PARAMETERS`, or an empty text."""
    for source in (*names, text):
        for parameter, pattern in PARAMETERS.items():
            if re.search(pattern, source, re.IGNORECASE):
                return parameter
    return ""


def keywords_in(text: str) -> tuple[str, ...]:
    """Return the keywords of a JSON schema that an error names."""
    return tuple(keyword for keyword in KEYWORDS if re.search(rf"\b{keyword}\b", text))


def asks_for_too_much(text: str) -> bool:
    """Report whether a rate limit speaks of a request that is larger than the limit itself: no wait lets it pass."""
    found = _LARGER.search(text.lower())
    if not found:
        return False
    if found[1] is None:
        return True
    limit, requested = (int(number.replace(",", "") or 0) for number in found.groups())
    return requested > limit > 0
