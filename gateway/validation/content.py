"""Message content: a string, or parts of the types that the role may use (checklist C-202, C-214..C-217)."""

from typing import Any

from .checks import Check, array, matching, one_of, record, string, string_or, tagged
from .violation import Violation, missing

URL_SCHEMES = ("https://", "http://", "data:")

_breakpoint = record({"mode": one_of("explicit"), "ttl": one_of("30m", "12h")}, required=("mode",))


def _url(value: Any) -> None:
    string(value)
    if not value[:8].lower().startswith(URL_SCHEMES):
        raise Violation(
            "Invalid ", ". Expected a valid URL, but got a value with an invalid format.", code="invalid_value"
        )


def _file_source(file: Any) -> None:
    _file(file)
    if file.get("file_id") is None and file.get("file_data") is None:
        raise missing("file_id")


_file = record({"file_id": string, "filename": string, "file_data": string})


def _part(kind: str, content: Check) -> Check:
    return record({kind: content, "prompt_cache_breakpoint": _breakpoint}, required=(kind,))


_text_part = _part("text", string)


def text_part(part: Any) -> None:
    if len(part) == 2 and type(part.get("text")) is str:  # the usual one: its type and its text
        return
    _text_part(part)


PARTS: dict[str, Check] = {
    "text": text_part,
    "image_url": _part(
        "image_url",
        record({"url": _url, "detail": one_of("auto", "low", "high", "original")}, required=("url",)),
    ),
    "input_audio": _part(
        "input_audio", record({"data": string, "format": one_of("wav", "mp3")}, required=("data", "format"))
    ),
    "file": _part("file", _file_source),
    "refusal": record({"refusal": string}, required=("refusal",)),
}


def parts(*kinds: str) -> Check:
    """One part or more of the given types."""
    return array(tagged({kind: PARTS[kind] for kind in kinds}), of="objects", nonempty=True)


def content(*kinds: str) -> Check:
    """A string, or parts of the given types."""
    return string_or(parts(*kinds), "one of a string or array of objects")


participant_name = matching(r"^[^\s<|\\/>]+$")
