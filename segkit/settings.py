"""Settings from the environment or a `.env` file, read in this one place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from segkit.errors import SettingsError

#: The permitted range of each number that a user may choose, both ends included.
RANGES: Mapping[str, tuple[int, int]] = {
    "temperature": (0, 2),
    "products_per_prompt": (1, 1000),
    "taxonomies_per_consolidation": (2, 200),
    "products_per_refinement": (1, 1000),
    "products_per_assignment": (1, 400),  # without a decision endpoint 100
    "most_unseen": (0, 1),
    "cascade": (0, 1),
    "max_retries": (1, 20),
    "max_output_tokens": (1, 1_000_000),
    "max_unassigned": (0, 2**63 - 1),
    "ask_twice": (0, 100_000),
    "max_calls": (0, 2**63 - 1),
    "max_cost_usd": (0, 1_000_000),
    "concurrency": (1, 4096),
}


def within(name: str, default: Any) -> Any:
    """Return a pydantic field of which every value has to lie in the range of that name."""
    least, most = RANGES[name]
    return Field(default, ge=least, le=most)


# `user:password@`, where the password may itself hold an @ or a / that was not encoded; and parameters of libpq.
_IN_FRONT = [
    re.compile(rf"(?:^(?![\w+]+://)|://)[^:/?#@\s]*:({inside})@")
    for inside in (r"[^@]*", r"[^/?#]*", r"[^?#]*", r".*")
]
_PASSWORD_PARAMETER = re.compile(r"(?:^|[?&\s])(?:ssl)?password\s*=\s*('[^']*'|[^&\s]+)", re.IGNORECASE)


class Settings(BaseSettings):
    """Every environment variable that segkit reads; field names are the variables' names in lower case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", case_sensitive=False, hide_input_in_errors=True
    )

    storage_backend: Literal["local", "s3"] = "local"
    storage_root: Path = Path("runs")
    s3_bucket: str = ""
    s3_region: str = "us-east-1"
    default_model: str = "gpt-4o"
    default_temperature: float | None = within("temperature", 0.2)
    segmentation_products_per_prompt: int = within("products_per_prompt", 40)
    segmentation_taxonomies_per_consolidation: int = within("taxonomies_per_consolidation", 20)
    segmentation_products_per_refinement: int = within("products_per_refinement", 40)
    segmentation_max_retries: int = within("max_retries", 3)

    database_url: SecretStr | None = None
    openai_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"
    openai_organization: str = Field("", validation_alias="OPENAI_ORG_ID")
    openai_project: str = Field("", validation_alias="OPENAI_PROJECT_ID")

    segkit_home: Path = Path(".segkit")
    segkit_concurrency: int = within("concurrency", 16)
    segkit_requests_per_minute: int | None = Field(None, ge=1)
    segkit_input_tokens_per_minute: int | None = Field(None, ge=1)
    segkit_output_tokens_per_minute: int | None = Field(None, ge=1)
    segkit_timeout_seconds: float = Field(180, gt=0)
    segkit_connect_seconds: float = Field(10, gt=0)
    segkit_max_output_tokens: int | None = within("max_output_tokens", None)
    segkit_output_limit_name: Literal["", "max_tokens", "max_completion_tokens"] = ""
    segkit_max_extra_calls: int | None = Field(None, ge=0)
    segkit_max_calls: int | None = within("max_calls", None)
    segkit_max_cost_usd: Decimal | None = within("max_cost_usd", None)
    segkit_max_wait_seconds: float = Field(120, ge=0)
    segkit_backoff_seconds: float = Field(0.5, ge=0)
    segkit_executor: str = ""
    segkit_batch: bool | None = None
    segkit_batch_wait: bool = False
    segkit_stream: bool | None = None
    segkit_transport: Literal["http", "sdk"] = "http"
    segkit_response_format: Literal["json_schema", "json_object", "text"] = "json_schema"
    segkit_ask_twice: int = within("ask_twice", 200)
    segkit_cache: bool = True
    segkit_prices: Path | None = None
    segkit_prices_of: str = ""
    segkit_s3_prefix: str = Field("", pattern=r"^[\w./=-]*$")
    segkit_compress_logs: bool = False
    segkit_missing_products: Literal["fail", "skip"] = "fail"
    segkit_product_key: str = Field("", max_length=63)

    segkit_tokens: Path | None = None
    segkit_serve_runs: int = Field(2, ge=0, le=256)
    segkit_serve_queue: int = Field(20, ge=0, le=100_000)
    segkit_serve_body_bytes: int = Field(2_000_000, ge=1000, le=100_000_000)

    @field_validator("default_temperature", mode="before")
    @classmethod
    def _no_temperature(cls, value: object) -> object:
        """`none` leaves the temperature out: some models refuse every value but their own."""
        return None if isinstance(value, str) and value.strip().lower() == "none" else value

    @field_validator("openai_base_url")
    @classmethod
    def _plain_url(cls, url: str) -> str:
        if not url.startswith(("http://", "https://")):
            raise ValueError("must start with http:// or https://")
        urlsplit(url)  # raises ValueError for a host in half a bracket
        return url.rstrip("/")

    @property
    def bucket(self) -> str:
        """The root of all runs in S3, `s3://bucket/prefix`; raises SettingsError where S3_BUCKET is not set."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", self.s3_bucket):
            raise SettingsError(f"S3_BUCKET = {self.s3_bucket!r} is no bucket", "set S3_BUCKET to the name of yours")
        return f"s3://{self.s3_bucket}/{self.segkit_s3_prefix.strip('/')}".rstrip("/")

    @property
    def secrets(self) -> list[SecretStr]:
        """Everything that must never be written down: the key, the URL of the database, and the password in it."""
        url = self.database_url.get_secret_value() if self.database_url else ""
        return [
            secret for secret in (self.openai_api_key, self.database_url, *map(SecretStr, _passwords(url))) if secret
        ]

    def environment(self) -> dict[str, str]:
        """Return the variables that give a child process these settings, secrets included."""
        names = {name: field.validation_alias or name.upper() for name, field in type(self).model_fields.items()}
        return {str(names[name]): _as_text(getattr(self, name)) for name in self.model_fields_set}


def _as_text(value: object) -> str:
    """Write a setting as its variable is written."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return "none" if value is None else str(value)


def _passwords(url: str) -> list[str]:
    """Return the passwords in a URL or in `name=value` words, as they are written and as they are meant.

    A URL that no library reads may hold one too, so it is not parsed, but searched.
    """
    found = [match[1] for pattern in _IN_FRONT for match in pattern.finditer(url)]
    found += [match[1].strip("'") for match in _PASSWORD_PARAMETER.finditer(url)]
    words = [word for text in found for word in (text, unquote(text), text.strip("[]"))]
    return list(dict.fromkeys(filter(None, words)))


def load_settings() -> Settings:
    """Read the settings; raise SettingsError with the variable and its value when one cannot be used."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).upper()
        value = "" if "key" in name.lower() or "url" in name.lower() else f" = {first['input']!r}"
        raise SettingsError(f"{name}{value}: {first['msg']}", f"set {name} to another value") from None


@cache
def project_folder(name: str) -> Path:
    """Find `prompts`, `notebooks` or `sql`: in the checkout beside the package, or inside the installed one."""
    package = Path(__file__).parent
    beside, inside = package.parent / name, package / "_project" / name
    return beside if beside.is_dir() else inside
