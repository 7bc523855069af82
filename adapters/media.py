"""Images, documents and sound inside messages: data URLs as clients really write them (edge case 22)."""

import base64
import binascii
import re
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from .errors import UnsupportedParameter

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_ALIASES = {"image/jpg": "image/jpeg", "image/pjpeg": "image/jpeg", "application/x-pdf": "application/pdf"}
_URL_SAFE = str.maketrans("-_", "+/")
_BLANK = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Media:
    type: str
    """A media type in lower case, without parameters; the bytes' own where they tell."""
    data: str
    """Standard base64 with its padding."""


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def read(url: str, param: str) -> Media:
    """Decode a data URL; raises UnsupportedParameter for one that is broken or empty."""
    head, comma, body = url[5:].partition(",")
    if not is_data_url(url) or not comma:
        raise UnsupportedParameter(param, f"Invalid '{param}': expected a data URL.")
    words = head.split(";")
    if any(word.strip().lower() == "base64" for word in words):
        data = of_base64(body, param)
    else:
        data = base64.b64encode(unquote_to_bytes(body)).decode()
    return Media(sniff(data) or _type(words[0]), data)


def of_base64(text: str, param: str) -> str:
    """Normalise base64 (blanks, url-safe letters, missing padding); raises UnsupportedParameter."""
    data = _BLANK.sub("", text.replace("%2B", "+").replace("%2F", "/").replace("%3D", "=")).translate(_URL_SAFE)
    data = data.rstrip("=")
    data += "=" * (-len(data) % 4)
    try:
        binascii.a2b_base64(data, strict_mode=True)
    except binascii.Error:
        raise UnsupportedParameter(param, f"Invalid '{param}': the data is not valid base64.") from None
    if not data:
        raise UnsupportedParameter(param, f"Invalid '{param}': the data is empty.")
    return data


def sniff(data: str) -> str | None:
    """The media type that the first bytes of base64 ``data`` tell, for the types whose declaration providers check."""
    start = base64.b64decode(data[:32] + "=" * (-len(data[:32]) % 4))
    for magic, media_type in _MAGIC:
        if start.startswith(magic):
            return media_type
    return "image/webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else None


def _type(declared: str) -> str:
    media_type = declared.strip().lower()
    return _ALIASES.get(media_type, media_type) or "text/plain"
