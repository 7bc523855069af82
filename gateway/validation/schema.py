"""The subset of JSON Schema that strict tools and strict response formats may use (checklist C-143, C-159).

Source: the Structured Outputs guide; the wording is that of OpenAI's refusals.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from .violation import clip, describe_type

MAX_PROPERTIES = 5_000
MAX_LEVELS = 10
MAX_NAME_CHARS = 120_000
"""Of all property names, definition names, enum values and const values together."""
MAX_ENUM_VALUES = 1_000
LARGE_ENUM = 250
MAX_LARGE_ENUM_CHARS = 15_000
"""Of the string values of one enum with more than LARGE_ENUM values."""

_NOT_PERMITTED = ("allOf", "oneOf", "not", "dependentRequired", "dependentSchemas", "if", "then", "else")
_KINDS = ("type", "anyOf", "$ref", "enum", "const")

Context: TypeAlias = tuple[str, ...]


class SchemaError(Exception):
    """Why a schema is outside the subset, where: ``In context=('properties', 'a'), ...``."""

    def __init__(self, reason: str, context: Context = ()) -> None:
        shown = ", ".join(f"'{clip(step)}'" for step in context[: 2 * MAX_LEVELS])
        super().__init__(f"In context=({shown}{',' if len(context) == 1 else ''}), {reason}")


@dataclass(slots=True)
class _Totals:
    properties: int = 0
    chars: int = 0
    enum_values: int = 0


def check_strict(schema: dict[str, Any]) -> None:
    """Raise SchemaError for the first rule that ``schema`` breaks. Linear in its size; references are not followed."""
    if "anyOf" in schema:
        raise SchemaError("'anyOf' is not permitted at the root.")
    if schema.get("type") != "object":
        raise SchemaError(f"schema must be a JSON Schema of 'type: \"object\"', got {_type_of(schema)}.")
    totals = _Totals()
    stack: list[tuple[Any, Context, int]] = [(schema, (), 1)]
    while stack:
        node, context, level = stack.pop()
        if type(node) is not dict:
            raise SchemaError(f"schema must be an object, but got {describe_type(node)}.", context)
        if level > MAX_LEVELS:
            raise SchemaError(f"the schema exceeds the maximum nesting depth of {MAX_LEVELS}.")
        _check_keywords(node, context)
        if _is_object(node):
            _check_object(node, context)
        _count(node, context, totals)
        stack.extend(reversed(list(_children(node, context, level))))


def _type_of(schema: dict[str, Any]) -> str:
    kind = schema.get("type", "None")
    return f"'type: \"{clip(kind)}\"'" if type(kind) is str else f"a 'type' that is {describe_type(kind)}"


def _is_object(node: dict[str, Any]) -> bool:
    kind = node.get("type")
    return kind == "object" or (type(kind) is list and "object" in kind) or "properties" in node


def _check_keywords(node: dict[str, Any], context: Context) -> None:
    for keyword in _NOT_PERMITTED:
        if keyword in node:
            raise SchemaError(f"'{keyword}' is not permitted.", context)
    if not any(kind in node for kind in _KINDS):
        raise SchemaError("schema must have a 'type' key.", context)
    reference = node.get("$ref")
    if reference is not None and not (type(reference) is str and reference.startswith("#")):
        raise SchemaError("'$ref' must point to a definition inside the schema.", context)
    for keyword, kind in (
        ("properties", dict),
        ("$defs", dict),
        ("definitions", dict),
        ("anyOf", list),
        ("enum", list),
    ):
        if keyword in node and type(node[keyword]) is not kind:
            expected = describe_type(kind())
            raise SchemaError(f"'{keyword}' must be {expected}, but got {describe_type(node[keyword])}.", context)


def _check_object(node: dict[str, Any], context: Context) -> None:
    if node.get("additionalProperties") is not False:
        raise SchemaError("'additionalProperties' is required to be supplied and to be false.", context)
    properties, required = node.get("properties", {}), node.get("required", [])
    listed = {name for name in required if type(name) is str} if type(required) is list else set()
    for name in properties:
        if name not in listed:
            raise SchemaError(
                "'required' is required to be supplied and to be an array including every key in properties. "
                f"Missing '{clip(name)}'.",
                context,
            )
    for name in listed - properties.keys():
        raise SchemaError(f"'required' lists '{clip(name)}', which is not in properties.", context)


def _count(node: dict[str, Any], context: Context, totals: _Totals) -> None:
    names = [*node.get("properties", ()), *node.get("$defs", ()), *node.get("definitions", ())]
    values = node.get("enum", [])
    texts = [value for value in values if type(value) is str]
    size = sum(map(len, texts))
    if len(values) > LARGE_ENUM and size > MAX_LARGE_ENUM_CHARS:
        raise SchemaError(
            f"an enum of more than {LARGE_ENUM} values may have {MAX_LARGE_ENUM_CHARS} characters, but has {size}.",
            context,
        )
    constant = node.get("const")
    totals.properties += len(node.get("properties", ()))
    totals.chars += size + sum(map(len, names)) + (len(constant) if type(constant) is str else 0)
    totals.enum_values += len(values)
    for total, most, noun in (
        (totals.properties, MAX_PROPERTIES, "properties"),
        (totals.enum_values, MAX_ENUM_VALUES, "enum values"),
        (totals.chars, MAX_NAME_CHARS, "characters of names, enum values and const values"),
    ):
        if total > most:
            raise SchemaError(f"the schema has more than {most} {noun}.")


def _children(node: dict[str, Any], context: Context, level: int) -> Iterator[tuple[Any, Context, int]]:
    for name, child in node.get("properties", {}).items():
        yield child, (*context, "properties", name), level + _nests(child)
    for keyword in ("$defs", "definitions"):
        for name, child in node.get(keyword, {}).items():
            yield child, (*context, keyword, name), 1
    for index, child in enumerate(node.get("anyOf", ())):
        yield child, (*context, "anyOf", str(index)), level
    if "items" in node:
        yield node["items"], (*context, "items"), level + _nests(node["items"])


def _nests(child: Any) -> int:
    """A level is an object within another; arrays and scalars add none."""
    return int(type(child) is dict and _is_object(child))
