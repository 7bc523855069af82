"""Virtual keys: how they look, and the digests that are kept in their place."""

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Sequence

from config.schema import Config

from ..errors import InvalidRequest

PREFIX = "sk-sl-"
PATTERN = re.compile(r"sk-sl-[0-9A-Za-z]{49}")
"""What a scanner of repositories looks for."""
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BODY = 43
"""Base62 digits of 256 bits."""
_CHECKSUM = 6
"""Base62 digits of 32 bits."""


def generate() -> str:
    """A new key: ``sk-sl-``, 256 random bits in base62 and a checksum, so that a typing error needs no look-up."""
    body = PREFIX + _base62(secrets.randbits(256), _BODY)
    return body + _base62(zlib.crc32(body.encode()), _CHECKSUM)


def is_well_formed(key: str) -> bool:
    """Whether ``key`` can be one that ``generate`` made."""
    return PATTERN.fullmatch(key) is not None and key[-_CHECKSUM:] == _base62(
        zlib.crc32(key[:-_CHECKSUM].encode()), _CHECKSUM
    )


def preview(key: str) -> str:
    """What may be shown of a key: the end is checksum and gives nothing of the secret away."""
    return f"{PREFIX}...{key[-4:]}" if key.startswith(PREFIX) else "imported"


def sha256_digest(key: str) -> str:
    """How keys of the config file and of other gateways are kept: they were made without our pepper."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


class Peppers:
    """The secrets that digests of virtual keys are made with, the current one first.

    A digest names its pepper by the pepper's own fingerprint, so rotating is: put the new one first and keep the old
    ones until no key uses them any more.
    """

    def __init__(self, peppers: Sequence[str]) -> None:
        encoded = [pepper.encode() for pepper in peppers]
        self._peppers = [(f"hmac:{hashlib.sha256(b'sluice pepper ' + p).hexdigest()[:8]}:", p) for p in encoded]

    @classmethod
    def of(cls, config: Config) -> "Peppers":
        given = (config.auth.pepper, *config.auth.previous_peppers)
        return cls([pepper.get_secret_value() for pepper in given if pepper is not None])

    def digest(self, key: str) -> str:
        """The digest under which a new key is kept; InvalidRequest while no pepper is configured."""
        if not self._peppers:
            raise InvalidRequest("Virtual keys need the option auth.pepper; it is not set.", code="pepper_missing")
        return self._digest(*self._peppers[0], key)

    def digests(self, key: str) -> tuple[str, ...]:
        """Every digest ``key`` may be kept under; empty when it cannot be a key at all, by its own checksum."""
        if not key.startswith(PREFIX):
            return (sha256_digest(key),)
        if not is_well_formed(key):
            return ()
        return (*(self._digest(name, pepper, key) for name, pepper in self._peppers), sha256_digest(key))

    def first(self, key: str) -> str:
        """The first of ``digests``, of a key that may be malformed, too."""
        if self._peppers and key.startswith(PREFIX) and key.isascii():
            return self._digest(*self._peppers[0], key)
        return sha256_digest(key)

    @staticmethod
    def _digest(name: str, pepper: bytes, key: str) -> str:
        return name + hmac.digest(pepper, key.encode(), "sha256").hex()
