"""JSON Schemas within what Claude's structured outputs accept."""

from collections.abc import Mapping
from typing import Any

from ..jsonio import dumps

_REFUSED = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength", "maxItems",
    "uniqueItems", "minProperties", "maxProperties",
})  # fmt: skip
"""Keywords that are a 400; they are told in the description instead."""
_MAPS = ("properties", "$defs", "definitions")
"""Keywords whose value maps names to schemas: a property may well be called ``minimum`` (edge case 28)."""
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")


def closed(schema: Any) -> Any:
    """A copy whose objects take no further properties and whose refused keywords are words in the description."""
    if not isinstance(schema, Mapping):
        return schema
    told = {key: value for key, value in schema.items() if key in _REFUSED}
    if schema.get("minItems") not in (None, 0, 1):
        told["minItems"] = schema["minItems"]
    out: dict[str, Any] = {key: _inside(key, value) for key, value in schema.items() if key not in told}
    if told:
        text = dumps(told).decode()
        out["description"] = f"{schema['description']} {text}" if schema.get("description") else text
    if schema.get("type") == "object" or "properties" in schema:
        out["additionalProperties"] = False
    return out


def _inside(key: str, value: Any) -> Any:
    if key in _MAPS and isinstance(value, Mapping):
        return {name: closed(inner) for name, inner in value.items()}
    if key in _LISTS and isinstance(value, list):
        return [closed(inner) for inner in value]
    return closed(value) if key in ("items", "not", "contains") else value
