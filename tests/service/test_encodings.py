"""Which clients get compressed results: those whose `Accept-Encoding` accepts gzip (RFC 9110, section 12.5.3)."""

from __future__ import annotations

import pytest

from segkit.service.http.results import accepts_gzip


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip ; q=0.001, identity", True),
        ("*", True),
        ("gzip;q=1.0", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000, *", False),
        ("br, *;q=0", False),
        ("x-gzip-like", False),
        ("gzip;q=nonsense", False),
    ],
)
def test_gzip_is_accepted_by_name_or_by_star(header: str, accepts: bool) -> None:
    assert accepts_gzip(header) is accepts
