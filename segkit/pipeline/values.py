"""Values as notebooks, papermill and schedulers give them, in the types that a run wants; an empty one is none."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, get_args, get_type_hints

from segkit.core.models import Parameters
from segkit.errors import ProductsError, SettingsError

_WORDS: dict[type, str] = {int: "a whole number", float: "a number", str: "a text", Decimal: "a number of dollars"}
_WORDS |= {bool: "true or false"}
_NUMBERS = (int, float, Decimal)
#: What holds for a run wherever it is executed, beside the parameters that shape its result.
CAPS = {"max_calls": int, "max_cost_usd": Decimal, "batch": bool}
CHOICES = {"repeats": int, "halving": bool, "fresh": bool}


def typed_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a run that were given, each in its type; raise SettingsError for what has none.

    papermill makes numbers of what looks like one (`-p category 2024`) and schedulers pass texts (`seed` = "7").
    """
    hints = get_type_hints(Parameters)
    return {
        name: _typed(name, value, _plain(hints.get(name, type(value))))
        for name, value in given.items()
        if value not in (None, "")
    }


def typed_caps(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the caps of a run that were given (most calls, most dollars), and whether it is sent in batches."""
    return {name: _typed(name, value, CAPS[name]) for name, value in given.items() if value not in (None, "")}


def typed_choices(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an experiment was asked to do, each in its type: repeats, halving, fresh."""
    return {name: _typed(name, value, CHOICES[name]) for name, value in given.items()}


def typed_switch(name: str, value: Any) -> bool | None:
    """Return yes or no as a notebook or a scheduler writes it; None where it is empty."""
    return None if value in (None, "") else _yes_or_no(name, value)


def conditions(where: Mapping[str, str] | str | Sequence[str] | None) -> dict[str, str]:
    """Return the columns and the values that rows must have, from a mapping, `COLUMN=VALUE`, or several of these."""
    if isinstance(where, Mapping):
        return dict(where)
    texts = [where] if isinstance(where, str) else list(where or ())
    return dict(_condition(text) for text in texts if text)


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column:
        raise ProductsError(f"--where {text!r} is no condition", '--where category="Dimmer Switches"')
    return column, value


def _plain(hint: Any) -> type:
    """Return the type that is meant by `X` or `X | None`."""
    kinds = [kind for kind in get_args(hint) if kind is not types.NoneType] or [hint]
    return kinds[0] if isinstance(kinds[0], type) else object


def _typed(name: str, value: Any, kind: type) -> Any:
    if isinstance(value, bool) and kind is not bool:
        raise _refused(name, value, kind)
    if kind is bool:
        return _yes_or_no(name, value)
    if kind is str and isinstance(value, (int, float)):
        return str(value)
    if kind in (int, float, Decimal) and isinstance(value, (str, int, float, Decimal)):
        try:
            number = kind(str(value).strip())
        except (ValueError, ArithmeticError):
            raise _refused(name, value, kind) from None
        return number
    if kind in _WORDS and not isinstance(value, kind):
        raise _refused(name, value, kind)
    return value


def _yes_or_no(name: str, value: Any) -> bool:
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if (text := str(value).strip().lower()) not in known:
        raise _refused(name, value, bool)
    return known[text]


def _refused(name: str, value: Any, kind: type) -> SettingsError:
    meant = _WORDS.get(kind, "another value")
    return SettingsError(f"{name} is {value!r}", f"{meant} is expected")
