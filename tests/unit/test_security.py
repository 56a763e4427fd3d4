"""Sealing, wrapping, hashing and tokens keep what design §6 promises."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout_common.security import (
    MasterKeys,
    SecretError,
    TenantKeys,
    new_data_key,
    new_token,
    read_master_key,
    token_hash,
    unwrap_key,
    wrap_key,
)

MASTER = bytes(32)
KEYS = TenantKeys("salon", {1: bytes(range(32))})


@given(st.text(max_size=200))
def test_sealed_text_opens_to_what_was_sealed(plain: str) -> None:
    try:
        plain.encode()
    except UnicodeEncodeError:
        return

    assert KEYS.open_text("text", KEYS.seal_text("text", plain)) == plain


def test_sealed_value_opens_under_its_own_tenant_and_purpose_only() -> None:
    sealed = KEYS.seal("contact", b"anna")

    with pytest.raises(SecretError, match="other tenant or purpose"):
        KEYS.open("text", sealed)
    with pytest.raises(SecretError, match="other tenant or purpose"):
        TenantKeys("other", KEYS.data_keys).open("contact", sealed)


@given(st.integers(min_value=0, max_value=32), st.integers(min_value=1, max_value=255))
def test_changed_sealed_value_is_refused(position: int, flip: int) -> None:
    sealed = bytearray(KEYS.seal("contact", b"anna@example.org"))
    sealed[position % len(sealed)] ^= flip

    with pytest.raises(SecretError):
        KEYS.open("contact", bytes(sealed))


@given(st.binary(max_size=40))
def test_bytes_that_were_never_sealed_are_refused_without_another_error(value: bytes) -> None:
    with pytest.raises(SecretError):
        KEYS.open("contact", value)


def test_wire_format_of_a_sealed_value_is_fixed() -> None:
    sealed = KEYS.seal("contact", b"x")

    assert sealed[0] == 1
    assert sealed[1:3] == b"\x00\x01"
    assert len(sealed) == 3 + 12 + 1 + 16


def test_old_data_key_still_opens_after_a_new_one_came() -> None:
    sealed = KEYS.seal("contact", b"anna")
    rotated = TenantKeys("salon", KEYS.data_keys | {2: new_data_key()})

    assert rotated.open("contact", sealed) == b"anna"
    assert rotated.seal("contact", b"anna")[1:3] == b"\x00\x02"
    assert rotated.contact_hash("phone", "+491") == KEYS.contact_hash("phone", "+491")


def test_contact_hash_differs_by_tenant_and_by_kind() -> None:
    other = TenantKeys("other", {1: new_data_key()})

    hashes = {
        KEYS.contact_hash("phone", "1"),
        KEYS.contact_hash("email", "1"),
        other.contact_hash("phone", "1"),
    }

    assert len(hashes) == 3


def test_data_key_opens_under_its_own_master_key_tenant_and_version_only() -> None:
    wrapped = wrap_key(MASTER, "salon", 1, b"k" * 32)

    assert unwrap_key(MASTER, "salon", 1, wrapped) == b"k" * 32
    for master, tenant_id, version in [
        (b"\x01" * 32, "salon", 1),
        (MASTER, "other", 1),
        (MASTER, "salon", 2),
    ]:
        with pytest.raises(SecretError, match="TURNOUT_MASTER_KEY"):
            unwrap_key(master, tenant_id, version, wrapped)


@pytest.mark.parametrize("value", ["", "not base64!", base64.b64encode(b"short").decode()])
def test_weak_master_key_is_refused_with_what_to_do(value: str) -> None:
    with pytest.raises(SecretError, match="openssl rand -base64 32"):
        read_master_key(value, None)


def test_master_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "master.key"
    file.write_text(base64.b64encode(MASTER).decode() + "\n")

    assert read_master_key(None, file) == MasterKeys((MASTER,))


@pytest.mark.parametrize("form", [b"\xef\xbb\xbf%s\r\n", b"%s\r\n\r\n", b"  %s"])
def test_master_key_that_an_editor_saved_its_own_way_is_read(tmp_path: Path, form: bytes) -> None:
    file = tmp_path / "master.key"
    file.write_bytes(form % base64.b64encode(MASTER))

    assert read_master_key(None, file) == MasterKeys((MASTER,))


def test_file_that_is_no_text_is_refused_without_a_word_of_it(tmp_path: Path) -> None:
    """Python's own error for it holds the whole file, and services write errors into their logs."""
    file = tmp_path / "master.key"
    file.write_bytes(base64.b64encode(MASTER) + b"\xff")

    with pytest.raises(SecretError, match=r"master\.key is no text") as caught:
        read_master_key(None, file)

    assert base64.b64encode(MASTER).decode() not in repr(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_keys_do_not_show_in_a_representation() -> None:
    assert repr(bytes(range(32)))[2:-1] not in repr(KEYS)


def test_token_is_stored_as_its_hash_only() -> None:
    token = new_token()

    assert len(token) >= 43
    assert token.encode() not in token_hash(token)
    assert token_hash(token) == token_hash(token)
    assert token_hash(token) != token_hash(new_token())
