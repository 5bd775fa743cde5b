"""Redaction: no secret in what is written down, in any dress, and nothing else changed."""

import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from segkit.storage.redaction import redactor

KEY = 'sk-proj-aB3/xY+9=tail_é"1234567890'
BODY = '{"error": {"message": "Incorrect key %s for you"}}'


def redacted(text: bytes, *keys: str | None) -> bytes:
    return redactor([SecretStr(key) if key is not None else None for key in keys or (KEY,)])(text)


DRESSES = {
    "plain": KEY,
    "URL-encoded": quote(KEY, safe=""),
    "JSON": json.dumps(KEY)[1:-1],
    "hex": KEY.encode().hex(),
    "bearer": f"Bearer {KEY}",
    "twice": f"{KEY}{KEY}",
}


@pytest.mark.parametrize("dress", DRESSES.values(), ids=DRESSES)
def test_a_key_is_taken_out_in_every_dress(dress: str) -> None:
    """What a provider sends back of a key never reaches a file."""
    clean = redacted((BODY % dress).encode())
    assert b"[secret]" in clean
    assert dress.encode() not in clean
    assert KEY.encode() not in clean


@pytest.mark.parametrize("lead", ["", "a", "ab", "abc", "user:"])
@pytest.mark.parametrize("tail", ["", "z", "zy", ":more"])
@pytest.mark.parametrize("urlsafe", [False, True])
def test_a_key_inside_base64_is_taken_out(lead: str, tail: str, urlsafe: bool) -> None:
    """Wherever the key begins inside what was encoded, nearly all of it is gone."""
    encode = base64.urlsafe_b64encode if urlsafe else base64.b64encode
    encoded = encode((lead + KEY + tail).encode())
    clean = redacted(b"Authorization: Basic " + encoded)
    assert b"[secret]" in clean
    assert len(clean) < len(b"Authorization: Basic [secret]") + len(lead) * 2 + len(tail) * 2 + 9


def test_every_given_secret_is_taken_out() -> None:
    """The key and the database's address, also where one holds the other."""
    url = f"postgresql://me:{KEY}@db/x"
    clean = redacted(f"{KEY} and {url}".encode(), KEY, url)
    assert clean == b"[secret] and [secret]"


def test_white_space_around_a_secret_is_no_part_of_it() -> None:
    """A key read from a file with a line break is found without it."""
    assert redacted(b"key sk-12345678 here", " sk-12345678\n") == b"key [secret] here"


@pytest.mark.parametrize("keys", [(None,), ("",), ("  ",), ("abc",)])
def test_no_secret_or_a_tiny_one_tears_no_holes(keys: tuple[str | None, ...]) -> None:
    """An empty value must not match everywhere."""
    assert redacted(b"abc and more", *keys) == b"abc and more"


@given(st.binary(max_size=200))
def test_other_bytes_stay_as_they_are(data: bytes) -> None:
    """Raw answers are kept byte for byte where they hold no secret."""
    assert redacted(data, "sk-0123456789abcdefghijklmnop") == data


@given(st.text("abcXYZ019-_+/=", min_size=16, max_size=60), st.binary(max_size=40), st.binary(max_size=40))
def test_any_key_between_any_bytes(key: str, before: bytes, after: bytes) -> None:
    """Plain, hex, URL-encoded, and in JSON."""
    for dress in (key.encode(), key.encode().hex().encode(), quote(key, safe="").encode(), json.dumps(key).encode()):
        clean = redacted(before + dress + after, key)
        assert dress.strip(b'"') not in clean
