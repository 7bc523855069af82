"""JSON Schemas as Gemini takes them.

* ``raw``     for ``parametersJsonSchema`` and ``responseJsonSchema``: JSON Schema without the words Gemini ignores
* ``subset``  for ``parameters`` and ``responseSchema`` of older models: the OpenAPI 3.0 subset, references inlined

Both change schemas only: a *property* called ``const`` or ``$ref`` is a name and stays (edge case 28).
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from ..errors import UnsupportedParameter
from ..references import target

Schema: TypeAlias = dict[str, Any]

_DEPTH = 64
_NODES = 20_000
"""The most schemas one schema may grow to: inlined references multiply."""
_ONE = frozenset({"items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"})
_LISTS = frozenset({"anyOf", "oneOf", "allOf", "prefixItems"})
_MAPS = frozenset({"properties", "$defs", "definitions", "patternProperties"})
_IGNORED = frozenset({"$schema", "$comment", "discriminator", "examples", "readOnly", "writeOnly", "deprecated"})
_SUBSET = frozenset({
    "type", "format", "title", "description", "nullable", "enum", "items", "minItems", "maxItems", "properties",
    "required", "anyOf", "propertyOrdering", "minimum", "maximum", "minLength", "maxLength", "pattern",
    "minProperties", "maxProperties",
})  # fmt: skip
_FORMATS = frozenset({"date-time", "enum", "int32", "int64", "float", "double"})


def raw(schema: Mapping[str, Any], param: str) -> Schema:
    """JSON Schema in the words Gemini knows; raises UnsupportedParameter for one that is nested too deep."""
    walk = _Walk(schema, param, _raw)
    if isinstance(ref := schema.get("$ref"), str):  # the root must be an object of its own
        schema = {**walk.target(ref), **{key: value for key, value in schema.items() if key != "$ref"}}
    found: Schema = walk.schema(schema, 0)
    return found


def subset(schema: Mapping[str, Any], param: str) -> Schema:
    """The OpenAPI subset; raises UnsupportedParameter for a schema too deep, too large, or with a lost reference."""
    found: Schema = _Walk(schema, param, _subset).resolved(schema, 0, ())
    return found


class _Walk:
    def __init__(self, root: Mapping[str, Any], param: str, node: "Callable[[_Walk, Schema], Schema]") -> None:
        self._root, self._param, self._node = root, param, node
        self._left = _NODES

    def refuse(self, why: str) -> UnsupportedParameter:
        return UnsupportedParameter(self._param, f"Invalid schema for '{self._param}': {why}.")

    def _count(self, depth: int) -> None:
        self._left -= 1
        if depth > _DEPTH or self._left < 0:
            raise self.refuse("it is nested too deep or too large")

    def schema(self, schema: Any, depth: int) -> Any:
        """Rewrite a schema and those inside it; anything but an object (``true``, say) stays."""
        if not isinstance(schema, Mapping):
            return schema
        self._count(depth)
        return self._node(self, {key: self._inside(key, value, depth) for key, value in schema.items()})

    def _inside(self, key: str, value: Any, depth: int) -> Any:
        if key in _MAPS and isinstance(value, Mapping):
            return {name: self.schema(inner, depth + 1) for name, inner in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self.schema(inner, depth + 1) for inner in value]
        return self.schema(value, depth + 1) if key in _ONE else value

    def resolved(self, schema: Any, depth: int, stack: tuple[str, ...]) -> Any:
        """The same with references inlined; a recursive one is cut to an object without properties."""
        if not isinstance(schema, Mapping):
            return {} if schema is True else schema
        self._count(depth)
        if isinstance(ref := schema.get("$ref"), str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            if ref in stack:
                return self.resolved({"type": "object", **rest}, depth + 1, stack)
            return self.resolved({**self.target(ref), **rest}, depth + 1, (*stack, ref))
        inside: Schema = {}
        for key, value in schema.items():
            if key == "properties" and isinstance(value, Mapping):
                inside[key] = {name: self.resolved(inner, depth + 1, stack) for name, inner in value.items()}
            elif key in _LISTS and isinstance(value, list):
                inside[key] = [self.resolved(inner, depth + 1, stack) for inner in value]
            elif key == "items":
                inside[key] = self.resolved(value, depth + 1, stack)
            else:
                inside[key] = value
        return self._node(self, inside)

    def target(self, ref: str) -> Mapping[str, Any]:
        if (found := target(self._root, ref)) is None:
            raise self.refuse(f"the reference '{ref[:100]}' leads nowhere")
        return found


def _raw(_walk: _Walk, schema: Schema) -> Schema:
    schema = _constant(_bounds({key: value for key, value in schema.items() if key not in _IGNORED}))
    if "definitions" in schema:
        schema["$defs"] = {**schema.pop("definitions"), **schema.get("$defs", {})}
    if isinstance(ref := schema.get("$ref"), str):
        schema["$ref"] = ref.replace("#/definitions/", "#/$defs/", 1)
        beside = {key: value for key, value in schema.items() if not key.startswith("$")}
        if beside:  # nothing may stand beside a reference
            return {key: value for key, value in schema.items() if key != "$ref"} | {
                "anyOf": [{"$ref": schema["$ref"]}, *beside.get("anyOf", ())]
            }
    if isinstance(parts := schema.get("allOf"), list) and len(parts) == 1 and "anyOf" not in schema:
        schema["anyOf"] = schema.pop("allOf")
    return schema


def _subset(_walk: _Walk, schema: Schema) -> Schema:
    schema = _alternatives(_merged(_constant(_bounds(schema))))
    _types(schema)
    if "enum" in schema:
        _enumerate(schema)
    if schema.get("format") not in _FORMATS:
        schema.pop("format", None)
    kept = {key: value for key, value in schema.items() if key in _SUBSET}
    if kept.get("type") == "array" and not isinstance(kept.get("items"), Mapping):
        kept["items"] = {"type": "string"}  # demanded, even where anything goes
    if isinstance(properties := kept.get("properties"), Mapping):
        if not properties:
            del kept["properties"]
        kept["required"] = [name for name in kept.get("required") or () if name in properties]
    if not kept.get("required"):
        kept.pop("required", None)
    return kept


def _constant(schema: Schema) -> Schema:
    """``const`` as an enumeration of one: Gemini has no constants."""
    if "const" in schema:
        value = schema.pop("const")
        schema["enum"] = [value]
        if isinstance(value, str):
            schema.setdefault("type", "string")
    return schema


def _bounds(schema: Schema) -> Schema:
    """Exclusive bounds as inclusive ones: exact for integers, and a little wider for other numbers."""
    for word, other, step in (("exclusiveMinimum", "minimum", 1), ("exclusiveMaximum", "maximum", -1)):
        bound = schema.pop(word, None)
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            continue
        whole = schema.get("type") == "integer" and isinstance(bound, int)
        schema.setdefault(other, bound + step if whole else bound)
    return schema


def _merged(schema: Schema) -> Schema:
    """``allOf`` as one schema: what the parts say of the same word, the last one says."""
    parts = schema.pop("allOf", None)
    if not isinstance(parts, list):
        return schema
    whole: Schema = {}
    for part in [*(p for p in parts if isinstance(p, dict)), schema]:
        properties = {**whole.get("properties", {}), **part.get("properties", {})}
        required = list(dict.fromkeys([*whole.get("required", ()), *part.get("required", ())]))
        whole |= part
        if properties:
            whole["properties"] = properties
        if required:
            whole["required"] = required
    return whole


def _alternatives(schema: Schema) -> Schema:
    """``oneOf`` as ``anyOf``, and a null among them as ``nullable``."""
    among = [*(schema.pop("anyOf", None) or ()), *(schema.pop("oneOf", None) or ())]
    others = [one for one in among if isinstance(one, dict) and one.get("type") != "null"]
    if len(others) < len(among):
        schema["nullable"] = True
    if len(others) == 1:
        return {**others[0], **schema}
    if others:
        schema["anyOf"] = others
    return schema


def _types(schema: Schema) -> None:
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return
    others = [kind for kind in kinds if kind != "null"]
    if len(others) < len(kinds):
        schema["nullable"] = True
    if len(others) == 1:
        schema["type"] = others[0]
    else:
        del schema["type"]
        if others:
            schema.setdefault("anyOf", [{"type": kind} for kind in others])


def _enumerate(schema: Schema) -> None:
    """Enumerations are of strings: others are told to the model in words."""
    values = [value for value in schema["enum"] if value is not None]
    if len(values) < len(schema["enum"]):
        schema["nullable"] = True
    if values and all(isinstance(value, str) for value in values):
        schema["enum"], schema["type"] = values, "string"
        return
    del schema["enum"]
    told = "One of: " + ", ".join(str(value) for value in values)
    schema["description"] = f"{schema['description']} ({told})" if schema.get("description") else told
