"""Choose the transport for a model, and know an endpoint by its host: does it need a key, is it private."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from difflib import get_close_matches
from urllib.parse import urlsplit

from segkit.errors import SettingsError
from segkit.llm.transports.base import NotSentError, Response, Transport
from segkit.llm.transports.decisions import CHAT
from segkit.settings import Settings

# Hosts that answer no question without a key.
# fmt: off
_PROVIDERS = (
    "openai.com", "openai.azure.com", "services.ai.azure.com", "anthropic.com", "generativelanguage.googleapis.com",
    "mistral.ai", "groq.com", "deepseek.com", "x.ai", "openrouter.ai", "together.ai", "together.xyz",
    "fireworks.ai", "cerebras.ai", "perplexity.ai", "cohere.com", "cohere.ai", "moonshot.ai", "moonshot.cn",
    "router.huggingface.co", "sambanova.ai", "deepinfra.com", "nebius.com", "novita.ai", "aliyuncs.com",
)
# fmt: on


class NoTransport:
    """The transport of a run that may make no call: the budget stops it before anything is sent."""

    async def send(self, body: bytes, heard: Callable[[int], None], *, fresh: bool = False) -> Response:
        raise NotSentError("no call is allowed", passing=False)

    async def close(self) -> None:
        pass


def open_transport(model: str, endpoint: str, settings: Settings, path: str = CHAT) -> Transport:
    """Return the transport of a model: the offline model, HTTP, or the OpenAI SDK (`SEGKIT_TRANSPORT=sdk`).

    `path` is that of chat completions or of decisions, behind the address of the endpoint.
    Raises SettingsError when the endpoint needs a key and there is none.
    """
    if settings.segkit_max_calls == 0:
        return NoTransport()  # what the logs answer needs no key, and no offline model of the same version
    # Each import costs up to a second, and a run needs one of them.
    if model == "offline":
        from segkit.llm.transports.offline import OfflineTransport

        return OfflineTransport(endpoint)
    key = require_key(endpoint, settings)
    if settings.segkit_transport == "sdk":
        from segkit.llm.transports.openai_sdk import SdkTransport

        return SdkTransport(endpoint, settings, key, path=path)
    from segkit.llm.transports.http import HttpTransport

    return HttpTransport(endpoint, settings, key, path)


def needs_key(endpoint: str) -> bool:
    """Report whether an endpoint surely refuses a request without a key: every host of a provider does."""
    host = urlsplit(endpoint).hostname or ""
    return any(host == own or host.endswith(f".{own}") for own in _PROVIDERS)


def require_key(endpoint: str, settings: Settings, model: str = "") -> str:
    """Return the API key, or an empty text where there is none and none is needed.

    Raises SettingsError when the endpoint needs one, or when the key cannot stand in a header.
    """
    key = settings.openai_api_key.get_secret_value().strip() if settings.openai_api_key else ""
    if not key and needs_key(endpoint):
        what = f"there is no API key for {urlsplit(endpoint).hostname}"
        hint = "set OPENAI_API_KEY, or try without a key: --model offline"
        if get_close_matches(model.casefold(), ["offline"], cutoff=0.8):
            hint = f"did you mean --model offline, not {model}? else set OPENAI_API_KEY"
        raise SettingsError(what, hint)
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("the API key holds a line break or another odd character", "set OPENAI_API_KEY anew")
    return key


def is_private(host: str) -> bool:
    """Report whether a host is this machine or one of a private network."""
    if host in ("localhost", "host.docker.internal") or host.endswith((".local", ".localhost", ".internal", ".lan")):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host and bool(host)  # a name of the local network, as in docker compose
    return address.is_private or address.is_loopback
