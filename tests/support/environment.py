"""The environment of the tests: nothing that the developer's shell or `.env` says reaches segkit."""

from __future__ import annotations

import os

from segkit.settings import Settings

#: What segkit does not read itself, and its libraries do: clients of OpenAI, S3, Postgres and Jupyter, and terminals.
PREFIXES = ("SEGKIT_", "SEGMENTATION_", "OPENAI_", "AWS_", "PG", "JUPYTER_", "PAPERMILL_", "MPL")
NAMES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "columns", "lines", "no_color", "force_color"}


def variables() -> set[str]:
    """Return the name of every variable that the settings read."""
    aliases = [field.validation_alias for field in Settings.model_fields.values()]
    return {name.upper() for name in Settings.model_fields} | {str(alias) for alias in aliases if alias}


def forget_the_developer() -> None:
    """Remove from this process, and so from its children, what could change how segkit works."""
    for name in list(os.environ):
        if name.startswith(PREFIXES) or name.lower() in NAMES or name in variables():
            del os.environ[name]
