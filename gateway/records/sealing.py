"""Stored completions at rest: AES-256-GCM with a key of the operator's, or plain when none is configured."""

import base64
import binascii
import hashlib
import hmac
import os
from typing import Any, Protocol

from config.schema import StoredCompletions as Options

from ..errors import StoreUnavailable
from .database import DatabaseError

_PLAIN, _AES_GCM = b"\x00", b"\x01"
_NONCE = 12


class Sealer(Protocol):
    """``context`` names the record: sealed bytes moved to another record do not open."""

    def seal(self, data: bytes, context: str) -> bytes: ...

    def unseal(self, sealed: bytes, context: str) -> bytes: ...

    def digests(self, value: str) -> tuple[bytes, ...]:
        """What an exact match on ``value`` looks for; the first is what new records get."""
        ...


class Plain:
    """No encryption; sealed records written while there was a key cannot be read."""

    def seal(self, data: bytes, context: str) -> bytes:  # noqa: ARG002 - the Protocol's
        return _PLAIN + data

    def unseal(self, sealed: bytes, context: str) -> bytes:  # noqa: ARG002 - the Protocol's
        if sealed[:1] != _PLAIN:
            raise unreadable()
        return sealed[1:]

    def digests(self, value: str) -> tuple[bytes, ...]:
        return (hashlib.sha256(value.encode()).digest(),)


class AESGCM(Plain):
    """Encrypts new records; plain ones from before the key was configured are still read."""

    def __init__(self, key: bytes) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers import aead
        except ImportError:
            raise DatabaseError(
                "stored_completions.encryption_key needs the extra: pip install 'sluice-gateway[encryption]'"
            ) from None
        self._cipher: Any = aead.AESGCM(key)
        self._invalid = InvalidTag
        self._index_key = hmac.digest(key, b"sluice index of metadata", "sha256")

    def seal(self, data: bytes, context: str) -> bytes:
        nonce = os.urandom(_NONCE)
        return _AES_GCM + nonce + bytes(self._cipher.encrypt(nonce, data, context.encode()))

    def unseal(self, sealed: bytes, context: str) -> bytes:
        if sealed[:1] != _AES_GCM:
            return super().unseal(sealed, context)
        try:
            return bytes(self._cipher.decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], context.encode()))
        except self._invalid:
            raise unreadable() from None

    def digests(self, value: str) -> tuple[bytes, ...]:
        return (hmac.digest(self._index_key, value.encode(), "sha256"), *super().digests(value))


def sealer(options: Options) -> Sealer:
    """What the configuration asks for; raises DatabaseError for a key that is not 32 bytes of base64."""
    if options.encryption_key is None:
        return Plain()
    try:
        key = base64.b64decode(options.encryption_key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        raise DatabaseError("stored_completions.encryption_key: must be 32 bytes in base64")
    return AESGCM(key)


def unreadable() -> StoreUnavailable:
    return StoreUnavailable(
        "The stored completion cannot be decrypted with the configured key.", code="records_unavailable"
    )
