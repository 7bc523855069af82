"""JSON Schemas in the subset that Claude's constrained decoding compiles.

Source: platform.claude.com, "Structured outputs", sections "JSON Schema limitations" and "Schema complexity limits",
and recorded 400 answers: every object is closed, references must not be circular or external, and bounds (minimum,
maxLength, pattern...) do not exist. What is lost that way is told in the description, so that the model may still
follow it.
"""

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ..interface import JSON
from ..jsonio import dumps
from ..references import target

_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)  # fmt: skip
_KEPT = frozenset({"type", "enum", "const", "title", "description", "default", "required", "$ref"})
_UNIONS = {"anyOf": "anyOf", "oneOf": "anyOf", "allOf": "allOf"}
_IGNORED = frozenset({"$schema", "$id", "$comment", "examples", "strict"})
_NO_SCHEMAS = frozenset({"$defs", "definitions", "properties", "enum", "const", "default", "examples"})
"""Keywords whose value holds no schema of this place."""
_MAX_REFERENCES = 64
"""Of a root that refers to another."""


class _Inexpressible(Exception):
    """The schema means something that the subset cannot say."""


class Room:
    """What one request may have compiled, its format and its strict tools together: more of anything is a 400."""

    def __init__(self) -> None:
        self._tools, self._unions = 20, 16
        self._optional = 23  # 24 are allowed, but not in one schema (recorded)

    def strict(self, schema: Any, *, tool: bool = False) -> JSON | None:
        """The schema in the subset; None where its meaning would be another (open objects, recursion) or no room is left."""
        made = closed(schema)
        if made is None:
            return None
        optional, unions = _weight(made)
        if tool > self._tools or optional > self._optional or unions > self._unions:
            return None
        self._tools -= tool
        self._optional -= optional
        self._unions -= unions
        return made


def closed(schema: Any) -> JSON | None:
    """The schema in the subset, however large it is; None where its meaning would be another."""
    try:
        return _strict(schema)
    except _Inexpressible:
        return None


def _weight(schema: JSON) -> tuple[int, int]:
    """How many properties need not be there, and how many schemas are of several types."""
    optional = unions = 0
    stack = [schema]
    while stack:
        node = stack.pop()
        unions += "anyOf" in node or isinstance(node.get("type"), list)
        optional += len(_dict(node.get("properties")).keys() - _names(node.get("required")))
        for inside in ("properties", "$defs", "definitions"):
            stack += _dict(node.get(inside)).values()
        stack += (*node.get("anyOf", ()), *node.get("allOf", ()))
        if "items" in node:
            stack.append(node["items"])
    return optional, unions


def _strict(schema: Any) -> JSON:
    if not isinstance(schema, dict):
        raise _Inexpressible
    definitions = {
        f"#/{place}/{name}": definition
        for place in ("$defs", "definitions")
        for name, definition in _dict(schema.get(place)).items()
    }
    named = {name: _references(definition) for name, definition in definitions.items()}
    if any(not found <= definitions.keys() for found in (_references(schema), *named.values())):
        raise _Inexpressible
    try:
        TopologicalSorter(named).prepare()
    except CycleError:
        raise _Inexpressible from None
    return _closed(schema)


def _references(schema: Any) -> set[str]:
    """Every ``$ref`` in a schema, its definitions left out."""
    found: set[str] = set()
    stack = [schema]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                found.add(node["$ref"])
            stack += _dict(node.get("properties")).values()
            stack += [value for key, value in node.items() if key not in _NO_SCHEMAS]
    return found


def _closed(schema: Any) -> JSON:
    if not isinstance(schema, dict) or not schema:
        raise _Inexpressible  # true, false and {} take anything or nothing
    schema = _flat(schema)
    made: JSON = {}
    lost: JSON = {}
    for key, value in schema.items():
        if key in _KEPT:
            made[key] = value
        elif key in _UNIONS and isinstance(value, list):
            made[_UNIONS[key]] = [_closed(option) for option in value]
        elif key in ("properties", "$defs", "definitions"):
            made[key] = {name: _closed(inner) for name, inner in _dict(value).items()}
        elif key == "items":
            made[key] = _closed(value)
        elif (key == "format" and str(value) in _FORMATS) or (key == "minItems" and value in (0, 1)):
            made[key] = value
        elif key not in _IGNORED and key != "additionalProperties":
            lost[key] = value
    _close_object(schema, made)
    if ("enum" in made or "const" in made) and made.get("type") != "object":
        made.pop("type", None)  # the values tell it; beside a list of types, of a nullable one say, they are a 400
    if lost:
        told = ", ".join(f"{key}: {dumps(value).decode()}" for key, value in lost.items())
        made["description"] = f"{made['description']} ({told})" if made.get("description") else f"({told})"
    return made


def _flat(schema: JSON) -> JSON:
    """One part of ``allOf`` is merged. Of several, references are not taken, and no closed object could be all."""
    parts = schema.get("allOf")
    if not isinstance(parts, list):
        return schema
    if len(parts) == 1 and isinstance(parts[0], dict):
        return _flat({**parts[0], **{key: value for key, value in schema.items() if key != "allOf"}})
    if any("$ref" in part or _is_object(part) for part in parts if isinstance(part, dict)):
        raise _Inexpressible
    return schema


def _is_object(schema: Mapping[str, Any]) -> bool:
    kinds = schema.get("type")
    return kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in schema


def _close_object(schema: Mapping[str, Any], made: JSON) -> None:
    if not _is_object(schema):
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
    root = _resolved(schema) if isinstance(schema, dict) else None
    if root is None or root.get("type", "object") not in ("object", ["object"], ["object", "null"], ["null", "object"]):
        return None
    return {**_merged_union(root), "type": "object"}


def _resolved(schema: JSON) -> JSON | None:
    """The root without a ``$ref``: the definition itself, its siblings laid over it."""
    for _ in range(_MAX_REFERENCES):
        reference = schema.get("$ref")
        if reference is None:
            return schema
        _, _, place = str(reference).partition("#/")
        if (found := target(schema, f"#/{place}")) is None:
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
    shared: JSON = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    for key in _UNIONS:
        options = merged.pop(key, None)
        if not isinstance(options, list):
            continue
        branches = [_resolved({**shared, **option}) or {} for option in options if isinstance(option, dict)]
        demands = [_names(branch.get("required")) for branch in branches] or [set()]
        for branch in branches:
            merged["properties"] = {**_dict(branch.get("properties")), **_dict(merged.get("properties"))}
        demanded = set.union(*demands) if key == "allOf" else set.intersection(*demands)
        merged["required"] = sorted(demanded | _names(merged.get("required")))
    return merged


def _dict(value: Any) -> JSON:
    return value if isinstance(value, dict) else {}


def _names(value: Any) -> set[str]:
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()
