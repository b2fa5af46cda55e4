"""Idempotency keys as the headers bring them, and fingerprints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from order_api.idempotency import MalformedKey, fingerprint, key_of

VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)


def test_no_header_means_no_key() -> None:
    assert key_of({}) is None
    assert key_of({"Idempotency-Key": [], "X-Idempotency-Key": []}) is None


@given(VISIBLE)
def test_a_quoted_key_is_the_key_within_the_quotes(key: str) -> None:
    quoted = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert key_of({"Idempotency-Key": [quoted]}) == key


@given(VISIBLE.filter(lambda key: not key.startswith('"')))
def test_a_bare_key_is_taken_as_it_is(key: str) -> None:
    assert key_of({"X-Idempotency-Key": [f" {key}\t"]}) == key


@given(st.text(max_size=300))
def test_any_text_gives_a_key_of_the_allowed_kind_or_is_refused(text: str) -> None:
    try:
        key = key_of({"Idempotency-Key": [text]})
    except MalformedKey:
        return
    assert key is not None
    assert 1 <= len(key) <= 255
    assert all(0x21 <= ord(character) <= 0x7E for character in key)


def test_both_headers_must_agree() -> None:
    assert key_of({"Idempotency-Key": ['"a"'], "X-Idempotency-Key": ["a"]}) == "a"
    with pytest.raises(MalformedKey):
        key_of({"Idempotency-Key": ["a"], "X-Idempotency-Key": ["b"]})
    with pytest.raises(MalformedKey):
        key_of({"X-Idempotency-Key": ["a", "b"]})


def test_the_fingerprint_does_not_see_the_order_of_names() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": [1, 2]}) != fingerprint({"a": [2, 1]})
    assert len(fingerprint({})) == 32
