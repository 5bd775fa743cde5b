"""Methods of a run whose code stands in a folder above this one; the package fills them in when it is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: The functions by the name of the method; each takes the run first.
METHODS: dict[str, Callable[..., Any]] = {}
