"""What an endpoint says of its models: which there are, how much text each takes, how many questions at once."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from segkit.errors import EndpointError
from segkit.llm.transports.choose import is_private, require_key
from segkit.settings import Settings
from segkit.storage.disk import write_atomic

if TYPE_CHECKING:
    import aiohttp

# Where servers state the tokens of a context, the one that is in force first; a dot goes into an object.
_CONTEXT = (
    "loaded_context_length",  # LM Studio, of a model that is loaded
    "max_model_len",  # vLLM, SGLang
    "meta.n_ctx",  # llama.cpp
    "context_length",  # OpenRouter, Together, Ollama (of a loaded model)
    "max_context_length",  # LM Studio, Mistral
    "context_window",  # Groq
    "max_input_tokens",  # LiteLLM
    "model_info.max_input_tokens",
    "inputTokenLimit",  # Gemini
    "meta.n_ctx_train",  # llama.cpp: what the model was trained with, the server may give less
)
_OUTPUT = (
    "top_provider.max_completion_tokens",  # OpenRouter
    "max_completion_tokens",  # Groq
    "max_output_tokens",  # LiteLLM
    "outputTokenLimit",
)
_NAMES = ("id", "name", "model", "model_name")
_SECONDS = 5.0
_FRESH_SECONDS = 30 * 86_400


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as an endpoint lists it; None is what the endpoint does not say."""

    name: str
    context: int | None = None
    most_output: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointModels:
    """The models of an endpoint, and how many questions its server answers at once (None: not stated)."""

    endpoint: str
    models: tuple[ListedModel, ...]
    slots: int | None = None

    def find(self, name: str) -> ListedModel | None:
        """Return a model by its name; Ollama lists `name:latest` for `name`, Gemini `models/name`."""
        wanted = {name, f"{name}:latest", f"models/{name}"}
        return next((model for model in self.models if model.name in wanted), None)

    def unlisted(self, name: str) -> str:
        """Return a sentence where the endpoint does not list a model; empty where it does, or lists none."""
        if not self.models or self.find(name):
            return ""
        names = [model.name for model in self.models]
        near = get_close_matches(name, names, n=1, cutoff=0.6)
        meant = f"did you mean {near[0]}?" if near else f"it lists {', '.join(names[:5])}"
        return f"{urlsplit(self.endpoint).hostname} lists no model {name}; {meant}"


def read_models(body: Any) -> tuple[ListedModel, ...]:
    """Read a list of models in the form of any server: `data` or `models`, objects or names alone."""
    rows = body
    if isinstance(body, dict):
        rows = next((body[name] for name in ("data", "models") if isinstance(body.get(name), list)), [])
    return tuple(model for row in rows if (model := _model(row))) if isinstance(rows, list) else ()


def with_properties(found: EndpointModels, properties: Mapping[str, Any]) -> EndpointModels:
    """Add what llama.cpp states under `/props`: its slots, and the context that each of them has."""
    context = _number(properties, "default_generation_settings.n_ctx") or _number(properties, "n_ctx")
    models = tuple(replace(each, context=context or each.context) for each in found.models)
    return replace(found, models=models, slots=_number(properties, "total_slots") or found.slots)


def with_shown(found: EndpointModels, name: str, shown: Mapping[str, Any]) -> EndpointModels:
    """Add what Ollama states of one model under `/api/show`: the `num_ctx` in force, or else its largest context."""
    lines = [line.split() for line in str(shown.get("parameters", "")).splitlines()]
    chosen = next(
        (int(line[1]) for line in lines if len(line) == 2 and line[0] == "num_ctx" and line[1].isdigit()), 0
    )
    facts = shown.get("model_info")
    facts = facts if isinstance(facts, dict) else {}
    largest = next((value for key, value in facts.items() if key.endswith(".context_length")), None)
    context = chosen or (largest if isinstance(largest, int) else None)
    wanted = found.find(name)
    models = tuple(replace(m, context=m.context or context) if m == wanted else m for m in found.models)
    return replace(found, models=models)


def ask_models(endpoint: str, model: str, settings: Settings) -> EndpointModels:
    """Ask an endpoint for its models, at no cost; a server of one's own is asked for its context and slots too.

    Raises EndpointError, with what came instead, where there is no list.
    """
    headers = {"user-agent": "segkit"}
    if key := require_key(endpoint, settings):
        headers["authorization"] = f"Bearer {key}"
    return asyncio.run(_ask(endpoint, model, headers))


def remember(found: EndpointModels, home: Path) -> None:
    """Keep the list of an endpoint, so that a run can warn of a misspelt model without asking."""
    path = _path(found.endpoint, home)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, orjson.dumps({"at": time.time(), **asdict(found)}))


def remembered(endpoint: str, home: Path) -> EndpointModels | None:
    """Return the list that an endpoint gave within the last 30 days; None where there is none."""
    try:
        kept = orjson.loads(_path(endpoint, home).read_bytes())
        if time.time() - kept["at"] > _FRESH_SECONDS:
            return None
        models = tuple(ListedModel(**model) for model in kept["models"])
        return EndpointModels(kept["endpoint"], models, kept["slots"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _ask(endpoint: str, model: str, headers: Mapping[str, str]) -> EndpointModels:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
        found = EndpointModels(endpoint, read_models(await _listed(session, f"{endpoint}/models")))
        if not is_private(urlsplit(endpoint).hostname or ""):
            return found
        root = endpoint.removesuffix("/v1")
        if properties := await _optional(session, "GET", f"{root}/props"):
            found = with_properties(found, properties)
        if of_lm_studio := read_models(await _optional(session, "GET", f"{root}/api/v0/models")):
            found = replace(found, models=of_lm_studio)
        if loaded := read_models(await _optional(session, "GET", f"{root}/api/ps")):
            found = replace(found, models=tuple(_better(each, loaded) for each in found.models))
        listed = found.find(model)
        if listed and listed.context is None:
            shown = await _optional(session, "POST", f"{root}/api/show", {"model": model})
            found = with_shown(found, model, shown or {})
        return found


def _better(model: ListedModel, loaded: Sequence[ListedModel]) -> ListedModel:
    """Return a model with the context that it has while it is loaded."""
    context = next((each.context for each in loaded if each.name == model.name and each.context), model.context)
    return replace(model, context=context)


async def _listed(session: aiohttp.ClientSession, url: str) -> Any:
    import aiohttp

    from segkit.llm.transports.http import described

    try:
        async with session.get(url, allow_redirects=False) as reply:
            body = await reply.content.read(20_000_000)
            if reply.status in (401, 403):
                raise EndpointError(f"{url} refuses the key: {reply.status}", "set OPENAI_API_KEY")
            if reply.status != 200:
                raise EndpointError(f"{url} answers {reply.status}", "OPENAI_BASE_URL usually ends with /v1")
            return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise EndpointError(f"{url} answers no JSON", "OPENAI_BASE_URL usually ends with /v1") from None
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise EndpointError(f"{url} cannot be reached: {described(error)}", "is the server running?") from None


async def _optional(session: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> dict[str, Any] | None:
    """Return what another address of the same server states, or None where there is no such address."""
    import aiohttp

    try:
        async with session.request(method, url, json=body, allow_redirects=False) as reply:
            found = orjson.loads(await reply.content.read(5_000_000)) if reply.status == 200 else None
            return found if isinstance(found, dict) else None
    except (aiohttp.ClientError, OSError, TimeoutError, orjson.JSONDecodeError):
        return None


def _model(row: Any) -> ListedModel | None:
    if isinstance(row, str):
        return ListedModel(row)
    if not isinstance(row, dict):
        return None
    name = next((row[key] for key in _NAMES if isinstance(row.get(key), str) and row[key]), None)
    context = next((found for path in _CONTEXT if (found := _number(row, path))), None)
    output = next((found for path in _OUTPUT if (found := _number(row, path))), None)
    return ListedModel(name, context, output) if name else None


def _number(row: Mapping[str, Any], path: str) -> int | None:
    value: Any = row
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _path(endpoint: str, home: Path) -> Path:
    return home / "endpoints" / f"{hashlib.sha256(endpoint.encode()).hexdigest()[:16]}.json"
