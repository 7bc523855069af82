"""JSON Schemas in the subset that Claude's constrained decoding compiles.

Source: platform.claude.com, "Structured outputs", section "JSON Schema limitations", and recorded 400 answers:
every object is closed, references must not be circular or external, and bounds (minimum, maxLength, pattern...)
do not exist. What is lost that way is told in the description, so that the model may still follow it.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from ..interface import JSON

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)  # fmt: skip
_KEPT = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref"})
_UNIONS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_IGNORED = frozenset({"$schema", "$id", "$comment", "examples", "strict"})
_MAX_DEPTH = 64


class _Inexpressible(Exception):
    """The schema means something that the subset cannot say."""


def strict(schema: Any) -> JSON | None:
    """The schema in the subset, or None where its meaning would be another (open objects, recursion)."""
    try:
        return _strict(schema)
    except _Inexpressible:
        return None


def _strict(schema: Any) -> JSON:
    if not isinstance(schema, dict):
        raise _Inexpressible
    definitions = {
        f"#/{place}/{name}": definition
        for place in ("$defs", "definitions")
        for name, definition in (schema.get(place) or {}).items()
    }
    _check_references(schema, definitions, ())
    return _closed(schema)


def _check_references(schema: Any, definitions: Mapping[str, Any], inside: tuple[str, ...]) -> None:
    """Walk every path that references open; one that meets itself is circular."""
    if isinstance(schema, list):
        for item in schema:
            _check_references(item, definitions, inside)
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference not in definitions or reference in inside or len(inside) > _MAX_DEPTH:
            raise _Inexpressible
        _check_references(definitions[reference], definitions, (*inside, reference))
    for key, value in schema.items():
        if key not in ("$defs", "definitions", "enum", "const", "default", "examples"):
            _check_references(value, definitions, inside)


def _closed(schema: Any) -> JSON:
    if not isinstance(schema, dict) or not schema:
        raise _Inexpressible  # true, false and {} take anything or nothing
    made: JSON = {}
    lost: JSON = {}
    for key, value in schema.items():
        if key in _KEPT:
            made[key] = value
        elif key in _UNIONS:
            made[_UNIONS[key]] = [_closed(option) for option in value]
        elif key in ("properties", "$defs", "definitions"):
            made[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key == "items":
            made[key] = _closed(value)
        elif (key == "format" and value in _FORMATS) or (key == "minItems" and value in (0, 1)):
            made[key] = value
        elif key not in _IGNORED and key != "additionalProperties":
            lost[key] = value
    _close_object(schema, made)
    if lost:
        told = ", ".join(f"{key}: {orjson.dumps(value).decode()}" for key, value in lost.items())
        made["description"] = f"{made['description']} ({told})" if made.get("description") else f"({told})"
    return made


def _close_object(schema: Mapping[str, Any], made: JSON) -> None:
    kinds = schema.get("type")
    is_object = kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in schema
    if not is_object:
        return
    if schema.get("additionalProperties", False) is not False or "patternProperties" in schema:
        raise _Inexpressible  # a dictionary: closing it would leave it empty
    if "properties" not in schema and "additionalProperties" not in schema and not _composed(schema):
        raise _Inexpressible  # an open object
    made["additionalProperties"] = False


def _composed(schema: Mapping[str, Any]) -> bool:
    return any(key in schema for key in (*_UNIONS, "$ref"))


def tool_input(schema: Any) -> JSON | None:
    """The schema of a tool's arguments, whose root must say ``type: object``; None if it cannot be one."""
    if schema is None or schema == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(schema, dict):
        return None
    root = _resolved(schema)
    if root is None or root.get("type", "object") not in ("object", ["object"], ["object", "null"], ["null", "object"]):
        return None
    merged = _merged_union(root)
    return {**merged, "type": "object"}


def _resolved(schema: JSON) -> JSON | None:
    """The root without a ``$ref``: the definition itself, its siblings laid over it."""
    for _ in range(_MAX_DEPTH):
        reference = schema.get("$ref")
        if reference is None:
            return schema
        _, _, place = str(reference).partition("#/")
        found: Any = schema
        for step in place.split("/"):
            found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            return None
        schema = {**found, **{key: value for key, value in schema.items() if key != "$ref"}}
        if "$ref" in found:
            schema["$ref"] = found["$ref"]
    return None


def _merged_union(schema: JSON) -> JSON:
    """A root union is refused: one object with the properties of every branch stands for it.

    Required is what every branch (``allOf``: any branch) requires.
    """
    merged = dict(schema)
    for key in _UNIONS:
        options = merged.pop(key, None)
        if not isinstance(options, list):
            continue
        branches = [b for b in (_resolved({**_definitions(schema), **o}) for o in options if isinstance(o, dict)) if b]
        properties = dict(merged.get("properties") or {})
        for branch in branches:
            properties = {**(branch.get("properties") or {}), **properties}
        demands = [set(branch.get("required") or ()) for branch in branches]
        demanded = set.union(*demands) if key == "allOf" and demands else set.intersection(*demands or [set()])
        merged["properties"] = properties
        merged["required"] = sorted(demanded | set(merged.get("required") or ()))
    return merged


def _definitions(schema: Mapping[str, Any]) -> JSON:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}
