"""Keys, sealing, hashes and tokens (design §6).

At rest and on `inbound_webhooks` contact data is sealed with AES-256-GCM under a per-tenant data key; data keys are
wrapped by one master key. Wire format of a sealed value, version 1, in base64url without padding:
`0x01 | key version (2 bytes, big endian) | nonce (12) | ciphertext and tag`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SEAL_VERSION = 1
KEY_BYTES = 32
NONCE_BYTES = 12
TOKEN_PREFIX = "tt_"
#: Fewer different bytes than this are a pattern that someone typed: 32 random bytes have about 30 different ones.
LEAST_DIFFERENT_BYTES = 16
#: Keys that stand in public texts.
PUBLISHED_KEYS = (bytes(range(32)), bytes(range(1, 33)))


class SecretError(ValueError):
    """A key or a sealed value cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class MasterKeys:
    """Master keys, newest first: during a rotation there are two, else one."""

    keys: tuple[bytes, ...] = field(repr=False)

    @property
    def newest(self) -> bytes:
        return self.keys[0]

    def by_id(self, key_id: bytes) -> bytes | None:
        """The one that `master_key_id` names so, or None."""
        return next((key for key in self.keys if master_key_id(key) == key_id), None)


#: One key stands for itself, wherever several may be given.
MasterKey = MasterKeys | bytes


def read_master_key(value: str | None, file: Path | None) -> MasterKeys:
    """The master keys from their base64 text, given directly or in `file`: one, or during a rotation several, newest
    first, apart by a comma or on lines of their own.

    Raises SecretError when neither is set, the file is no text or a key is not 32 bytes; OSError. None shows the file's text.
    """
    if value is None and file is None:
        raise SecretError(
            "no master key: set TURNOUT_MASTER_KEY or TURNOUT_MASTER_KEY_FILE (32 bytes in base64)"
        )
    text = value if value is not None else _text_of(Path(str(file)))
    return MasterKeys(tuple(_decoded(part) for part in text.replace(",", "\n").split() or [""]))


def _text_of(file: Path) -> str:
    """Editors of Windows put a mark before the text. Python's error for what is no text holds all of it."""
    try:
        return file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise SecretError(f"{file} is no text: a master key is 32 bytes in base64")


def master_key_text(keys: MasterKeys, separator: str = ",") -> str:
    """What `read_master_key` reads."""
    return separator.join(base64.b64encode(key).decode() for key in keys.keys)


def master_key_id(key: bytes) -> bytes:
    """8 bytes that tell a master key from others and nothing of what it is."""
    return hashlib.sha256(b"turnout:master-key-id:" + key).digest()[:8]


def as_keys(master_key: MasterKey) -> MasterKeys:
    return MasterKeys((master_key,)) if isinstance(master_key, bytes) else master_key


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise SecretError("the master key is not base64; make one with `openssl rand -base64 32`") from error
    if len(key) != KEY_BYTES:
        raise SecretError(
            f"the master key has {len(key)} bytes, not 32; make one with `openssl rand -base64 32`"
        )
    return key


def is_guessable(key: bytes) -> bool:
    """Whether a master key is a published or typed one, which production refuses."""
    return key in PUBLISHED_KEYS or len(set(key)) < LEAST_DIFFERENT_BYTES


def new_data_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def new_master_key() -> bytes:
    return secrets.token_bytes(KEY_BYTES)


def wrap_key(master_key: MasterKey, tenant_id: str, version: int, data_key: bytes) -> bytes:
    """The data key encrypted under the newest master key, bound to its tenant and version."""
    nonce = os.urandom(NONCE_BYTES)
    cipher = AESGCM(as_keys(master_key).newest)
    return nonce + cipher.encrypt(nonce, data_key, _wrap_context(tenant_id, version))


def unwrap_key(master_key: MasterKey, tenant_id: str, version: int, wrapped: bytes) -> bytes:
    """The data key, by whichever master key opens it. Raises SecretError when none does or the row was moved."""
    for key in as_keys(master_key).keys:
        with contextlib.suppress(InvalidTag, ValueError):
            return AESGCM(key).decrypt(
                wrapped[:NONCE_BYTES], wrapped[NONCE_BYTES:], _wrap_context(tenant_id, version)
            )
    raise SecretError(
        f"data key {version} of tenant {tenant_id!r} does not open: is TURNOUT_MASTER_KEY the one it was made with?"
    )


def _wrap_context(tenant_id: str, version: int) -> bytes:
    return f"turnout:data-key:{tenant_id}:{version}".encode()


@dataclass(frozen=True)
class TenantKeys:
    """A tenant's data keys by version, and what is derived from them."""

    tenant_id: str
    data_keys: dict[int, bytes] = field(repr=False)
    _ciphers: dict[int, AESGCM] = field(init=False, repr=False, compare=False)
    _hash_key: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.data_keys:
            raise SecretError(f"tenant {self.tenant_id!r} has no data key")
        object.__setattr__(self, "_ciphers", {v: AESGCM(key) for v, key in self.data_keys.items()})
        first = self.data_keys[min(self.data_keys)]
        kdf = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"turnout:contact-hash")
        object.__setattr__(self, "_hash_key", kdf.derive(first))

    def seal(self, purpose: str, plain: bytes) -> bytes:
        """`plain` encrypted under the newest data key, bound to the tenant and `purpose`."""
        version = max(self.data_keys)
        nonce = os.urandom(NONCE_BYTES)
        head = bytes([SEAL_VERSION]) + version.to_bytes(2, "big") + nonce
        return head + self._ciphers[version].encrypt(nonce, plain, self._context(purpose))

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """The plain bytes. Raises SecretError when the value is of another tenant, purpose or key, or was changed."""
        if len(sealed) < 3 + NONCE_BYTES or sealed[0] != SEAL_VERSION:
            raise SecretError("a sealed value has an unknown format")
        cipher = self._ciphers.get(int.from_bytes(sealed[1:3], "big"))
        if cipher is None:
            raise SecretError(
                f"tenant {self.tenant_id!r} has no data key {int.from_bytes(sealed[1:3], 'big')}"
            )
        try:
            return cipher.decrypt(
                sealed[3 : 3 + NONCE_BYTES], sealed[3 + NONCE_BYTES :], self._context(purpose)
            )
        except InvalidTag as error:
            raise SecretError(
                "a sealed value does not open: other tenant or purpose, or it was changed"
            ) from error

    def seal_text(self, purpose: str, plain: str) -> str:
        """As `seal`, text in and base64url out, for JSON."""
        return base64.urlsafe_b64encode(self.seal(purpose, plain.encode())).rstrip(b"=").decode()

    def open_text(self, purpose: str, sealed: str) -> str:
        """As `open`, for what `seal_text` gave."""
        try:
            raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
        except ValueError as error:
            raise SecretError("a sealed value is not base64url") from error
        return self.open(purpose, raw).decode()

    def contact_hash(self, kind: str, normalised: str) -> str:
        """32 hex digits that stand for a contact (`phone`, `email`, `telegram` …) inside this tenant only."""
        digest = hmac.new(self._hash_key, f"{kind}:{normalised}".encode(), hashlib.sha256).hexdigest()
        return digest[:32]

    def _context(self, purpose: str) -> bytes:
        return f"turnout:{self.tenant_id}:{purpose}".encode()


def new_token() -> str:
    """An API token: 256 random bits, shown to its owner once."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """What is stored of a token. A plain SHA-256 is enough: a token has 256 random bits."""
    return hashlib.sha256(token.encode()).digest()


def equal(left: str | bytes, right: str | bytes) -> bool:
    """Constant-time comparison of two secrets."""
    a = left.encode() if isinstance(left, str) else left
    b = right.encode() if isinstance(right, str) else right
    return hmac.compare_digest(a, b)
