"""The packages that only an exporter needs: none of them is imported before it is used."""

from __future__ import annotations

from segkit.errors import SettingsError


def missing_package(package: str, extra: str) -> SettingsError:
    """Return the error for a package that is not installed; it names the extra that brings it."""
    what = f"the package {package} is not installed"
    return SettingsError(what, f"in a checkout: make setup, or pip install '.[{extra}]'")
