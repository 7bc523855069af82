"""Content parts of a message -> content blocks: text, images, documents and cache markers."""

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import media
from ..errors import UnsupportedParameter
from ..interface import JSON
from .platform import Platform

_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
_TEXTUAL = re.compile(r"text/.*|application/(json|xml|yaml|x-yaml|javascript|x-ndjson|toml|sql)|.*\+(json|xml)")


def text_block(text: str) -> JSON:
    return {"type": "text", "text": text}


def marker(part: Mapping[str, Any]) -> JSON | None:
    """The cache marker that a part asks for, in Anthropic's own words or as ``prompt_cache_breakpoint``."""
    if "cache_control" not in part and "prompt_cache_breakpoint" not in part:
        return None
    own = part.get("cache_control")
    return cache_control(own if isinstance(own, dict) else part.get("prompt_cache_breakpoint"))


def cache_control(asked: Any) -> JSON | None:
    """Anthropic's marker. OpenAI's times to live (30m, 12h) become the nearest one that is no loss, an hour."""
    if not isinstance(asked, Mapping):
        return None
    ttl = asked.get("ttl")
    if ttl is None:
        return {"type": "ephemeral"}
    return {"type": "ephemeral", "ttl": "5m" if ttl == "5m" else "1h"}


def blocks(parts: Iterable[Mapping[str, Any]], path: str, platform: Platform) -> list[JSON]:
    """The blocks of content parts that have no blank text; ``path`` names them in errors."""
    made: list[JSON] = []
    for index, part in enumerate(parts):
        where = f"{path}[{index}]"
        read = _PARTS.get(str(part.get("type")))
        if read is None:
            raise UnsupportedParameter(where, f"Content of type '{part.get('type')}' is not supported with this model.")
        block = read(part, where, platform)
        if mark := marker(part):
            block["cache_control"] = mark
        made.append(block)
    return made


def _text(part: Mapping[str, Any], _path: str, _platform: Platform) -> JSON:
    return text_block(part["text"])


def _image(part: Mapping[str, Any], path: str, platform: Platform) -> JSON:
    image = part.get("image_url")
    url = str((image.get("url") if isinstance(image, dict) else image) or "")
    if media.is_data_url(url):
        return _image_block(media.read(url, f"{path}.image_url.url"), path)
    if not platform.fetches_urls:
        raise UnsupportedParameter(
            f"{path}.image_url.url",
            "Images by URL are not supported with this model: send the image as a data URL.",
        )
    return {"type": "image", "source": {"type": "url", "url": url}}


def _image_block(image: media.Media, path: str) -> JSON:
    if image.type not in _IMAGES:
        raise UnsupportedParameter(
            path, f"Images of type '{image.type}' are not supported with this model: send PNG, JPEG, GIF or WebP."
        )
    return {"type": "image", "source": {"type": "base64", "media_type": image.type, "data": image.data}}


def _file(part: Mapping[str, Any], path: str, platform: Platform) -> JSON:
    given = part.get("file")
    file: Mapping[str, Any] = given if isinstance(given, dict) else {}
    if file_id := file.get("file_id"):
        if not platform.files:
            raise UnsupportedParameter(f"{path}.file.file_id", "Uploaded files are not supported with this model.")
        return {"type": "document", "source": {"type": "file", "file_id": file_id}}
    data, param = str(file.get("file_data") or ""), f"{path}.file.file_data"
    if media.is_data_url(data):
        read = media.read(data, param)
    else:
        whole = media.of_base64(data, param)
        read = media.Media(media.sniff(whole) or "application/pdf", whole)
    if read.type.startswith("image/"):
        return _image_block(read, path)
    name = file.get("filename")
    return {"type": "document", "source": _document(read, param), **({"title": str(name)} if name else {})}


def _document(read: media.Media, param: str) -> JSON:
    if read.type == "application/pdf":
        return {"type": "base64", "media_type": read.type, "data": read.data}
    if not _TEXTUAL.fullmatch(read.type):
        raise UnsupportedParameter(
            param, f"Files of type '{read.type}' are not supported with this model: send a PDF, an image or text."
        )
    try:
        text = base64.b64decode(read.data).decode()
    except UnicodeDecodeError:
        raise UnsupportedParameter(param, f"Invalid '{param}': the text is not UTF-8.") from None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _audio(_part: Mapping[str, Any], path: str, _platform: Platform) -> JSON:
    raise UnsupportedParameter(path, "Audio input is not supported with this model.")


_PARTS: Mapping[str, Callable[[Mapping[str, Any], str, Platform], JSON]] = {
    "text": _text,
    "image_url": _image,
    "file": _file,
    "input_audio": _audio,
}
