"""The objects of stored completions as OpenAI's live API answers them (checklist C-057 to C-083)."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ..errors import InvalidRequest, ResourceNotFound

JSON: TypeAlias = dict[str, Any]
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
_MAX_IMAGE = 8 * 1024 * 1024
_MAX_PAIRS, _MAX_NAME, _MAX_VALUE = 16, 64, 512
_DEFAULTS = {"top_p": 1.0, "temperature": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_TOTALS = ("prompt_tokens", "completion_tokens", "total_tokens")
_PARTS = ("text", "image_url")
"""The kinds of content parts that are kept (C-081)."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list. ``after`` is the id of the last item seen; the default order is the documented one (C-058)."""

    after: str | None = None
    limit: int = DEFAULT_LIMIT
    order: Literal["asc", "desc"] = "asc"
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def parse_page(query: Iterable[tuple[str, str]]) -> Page:
    """Read a query string's decoded pairs; unknown ones are ignored. Raises InvalidRequest (C-059, C-063, C-067)."""
    values: dict[str, str] = {}
    metadata: dict[str, str] = {}
    for name, value in query:
        if name.startswith("metadata[") and name.endswith("]"):
            metadata[name[len("metadata[") : -1]] = value
        else:
            values[name] = value
    order = values.get("order", "asc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(
            "Invalid value for 'order'. Supported values are: 'asc' and 'desc'.", param="order", code="invalid_value"
        )
    return Page(
        values.get("after"),
        _limit(values.get("limit")),
        "asc" if order == "asc" else "desc",
        values.get("model"),
        metadata,
    )


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if not (text.isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        raise InvalidRequest("Invalid type for 'limit': expected an integer.", param="limit", code="invalid_type")
    limit = int(text)
    if limit < 1:
        raise InvalidRequest(
            f"Invalid 'limit': integer below minimum value. Expected a value >= 1, but got {limit} instead.",
            param="limit", code="integer_below_min_value",
        )  # fmt: skip
    if limit > MAX_LIMIT:
        raise InvalidRequest(
            f"Invalid 'limit': integer above maximum value. Expected a value <= {MAX_LIMIT}, but got {limit} instead.",
            param="limit", code="integer_above_max_value",
        )  # fmt: skip
    return limit


def parse_update(body: Any) -> dict[str, str]:
    """The new metadata of an update's body: nothing but metadata can be changed (C-073, C-074)."""
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.")
    for name in body:
        if name != "metadata":
            raise InvalidRequest(f"Unknown parameter: '{name[:64]}'.", param=name[:64], code="unknown_parameter")
    if "metadata" not in body:
        raise InvalidRequest(
            "Missing required parameter: 'metadata'.", param="metadata", code="missing_required_parameter"
        )
    return checked_metadata(body["metadata"])


def checked_metadata(value: Any) -> dict[str, str]:
    """At most 16 pairs, names of 64 and values of 512 characters (C-131); null is an empty map."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad_metadata("expected an object with string values.", "invalid_type")
    if len(value) > _MAX_PAIRS:
        raise _bad_metadata(f"too many properties: at most {_MAX_PAIRS}.", "object_above_max_properties")
    for name, text in value.items():
        if not isinstance(text, str):
            raise _bad_metadata("expected string values.", "invalid_type")
        if len(name) > _MAX_NAME or len(text) > _MAX_VALUE:
            raise _bad_metadata(
                f"names have at most {_MAX_NAME} and values {_MAX_VALUE} characters.", "string_above_max_length"
            )
    return dict(value)


def _bad_metadata(what: str, code: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid 'metadata': {what}", param="metadata", code=code)


def not_found(completion_id: str) -> ResourceNotFound:
    shown = completion_id[:128].encode("utf-8", "replace").decode()
    return ResourceNotFound(f"Completion {shown} not found", param="completion_id")


def unknown_after() -> InvalidRequest:
    return InvalidRequest("Invalid 'after': no such item in this list.", param="after", code="invalid_value")


def listing(items: Sequence[JSON], has_more: bool) -> JSON:
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }


def deleted(completion_id: str) -> JSON:
    return {"object": "chat.completion.deleted", "id": completion_id, "deleted": True}


def stored_object(request: Mapping[str, Any], completion: Mapping[str, Any], request_id: str | None) -> JSON:
    """A completion as it is read back: with what was asked for, and leaner than it was answered (C-070)."""
    usage = completion.get("usage") or {}
    seed = request.get("seed")
    return {
        "object": "chat.completion",
        "id": completion["id"],
        "model": completion["model"],
        "created": completion["created"],
        "request_id": request_id,
        "tool_choice": request.get("tool_choice"),
        "usage": {name: usage.get(name, 0) for name in _TOTALS},
        "seed": secrets.randbits(63) if seed is None else seed,
        **{name: default if request.get(name) is None else request[name] for name, default in _DEFAULTS.items()},
        "system_fingerprint": completion.get("system_fingerprint"),
        "input_user": request.get("user"),
        "service_tier": completion.get("service_tier"),
        "tools": request.get("tools"),
        "metadata": dict(request.get("metadata") or {}),
        "choices": [{**choice, "message": _answer(choice.get("message") or {})} for choice in completion["choices"]],
        "response_format": request.get("response_format"),
    }


def _answer(message: Mapping[str, Any]) -> JSON:
    kept = {k: v for k, v in message.items() if v or k not in ("refusal", "annotations")}
    return {**kept, "tool_calls": message.get("tool_calls"), "function_call": message.get("function_call")}


def input_messages(completion_id: str, messages: Iterable[Mapping[str, Any]]) -> list[JSON]:
    """The messages that were sent, not the answer; ids count from 0 (C-079)."""
    return [{"id": f"{completion_id}-{index}", **_input_message(m)} for index, m in enumerate(messages)]


def _input_message(message: Mapping[str, Any]) -> JSON:
    content = message.get("content")
    parts = None
    if isinstance(content, list):
        parts = [_part(part) for part in content if _is_kept(part)]
        content = " ".join(part["text"] for part in parts if part["text"] is not None)
    item = {"role": message.get("role"), "content": content, "name": message.get("name"), "content_parts": parts}
    for name in ("tool_calls", "tool_call_id"):
        if message.get(name) is not None:
            item[name] = message[name]
    return item


def _is_kept(part: Any) -> bool:
    """Parts of other kinds and images above 8 MiB are left out of the stored copy (C-055)."""
    if not isinstance(part, dict) or part.get("type") not in _PARTS:
        return False
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else None
    return not (isinstance(url, str) and url.startswith("data:") and len(url) * 3 // 4 > _MAX_IMAGE)


def _part(part: Mapping[str, Any]) -> JSON:
    filled: JSON = {"type": part["type"], "text": None, "image_url": None, "input_audio": None, "file": None}
    filled[part["type"]] = part.get(part["type"])
    return filled
