"""JSON Schemas as Gemini takes them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import UnsupportedParameter
from adapters.gemini.schema import raw, subset

from .gemini_types import types

TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"$ref": "#/$defs/v"}}}, "v": {"type": "integer"}},
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node", "description": "The root."}},
}  # fmt: skip


def test_E_027_raw_keeps_json_schema_but_for_the_words_gemini_ignores():
    schema = {
        "$schema": "x", "type": "object", "additionalProperties": False, "required": ["a"],
        "properties": {
            "a": {"type": ["string", "null"], "examples": ["x"], "pattern": "^a"},
            "b": {"const": 5},
            "c": {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 10},
            "d": {"type": "number", "exclusiveMinimum": 0.5},
            "e": {"oneOf": [{"const": "x"}, {"type": "null"}]},
        },
    }  # fmt: skip
    assert raw(schema, "p") == {
        "type": "object", "additionalProperties": False, "required": ["a"],
        "properties": {
            "a": {"type": ["string", "null"], "pattern": "^a"},
            "b": {"enum": [5]},
            "c": {"type": "integer", "minimum": 1, "maximum": 9},
            "d": {"type": "number", "minimum": 0.5},
            "e": {"oneOf": [{"enum": ["x"], "type": "string"}, {"type": "null"}]},
        },
    }  # fmt: skip


def test_E_027_raw_keeps_references_alone_and_the_root_an_object():
    got = raw(TREE, "p")
    assert got["properties"]["root"] == {"description": "The root.", "anyOf": [{"$ref": "#/$defs/node"}]}
    assert got["$defs"]["node"]["properties"]["next"] == {"$ref": "#/$defs/node"}
    rooted = {
        "definitions": {"a": {"type": "object", "properties": {"x": {"$ref": "#/definitions/a"}}}},
        "$ref": "#/definitions/a",
    }
    assert raw(rooted, "p") == {
        "type": "object", "properties": {"x": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"type": "object", "properties": {"x": {"$ref": "#/$defs/a"}}}},
    }  # fmt: skip


WORDS = ("const", "$ref", "title", "additionalProperties", "$schema", "oneOf", "allOf", "examples", "exclusiveMinimum")


@pytest.mark.parametrize("shape", [raw, subset])
@pytest.mark.parametrize("name", WORDS)
def test_E_028_a_property_named_like_a_keyword_stays(shape, name):
    schema = {"type": "object", "properties": {name: {"type": "string", "title": "T"}}, "required": [name]}
    assert shape(schema, "p") == schema


def test_subset_inlines_references_and_cuts_recursion():
    got = subset(TREE, "p")
    assert got == {
        "type": "object",
        "properties": {
            "root": {
                "type": "object",
                "description": "The root.",
                "properties": {"next": {"type": "object"}, "v": {"type": "integer"}},
            }
        },
    }


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": ["string", "null"]}, {"type": "string", "nullable": True}),
        ({"type": ["string", "integer"]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"type": "string", "nullable": True}),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"anyOf": [{"type": "string"}, {"type": "integer"}]}),
        ({"const": "a"}, {"type": "string", "enum": ["a"]}),
        ({"type": "integer", "enum": [1, 2]}, {"type": "integer", "description": "One of: 1, 2"}),
        ({"enum": ["a", None]}, {"type": "string", "enum": ["a"], "nullable": True}),
        ({"type": "string", "format": "uuid"}, {"type": "string"}),
        ({"type": "string", "format": "date-time"}, {"type": "string", "format": "date-time"}),
        ({"type": "array"}, {"type": "array", "items": {"type": "string"}}),
        ({"type": "array", "items": True}, {"type": "array", "items": {}}),
        ({"type": "object", "properties": {}, "required": ["a"]}, {"type": "object"}),
        (
            {"allOf": [{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, {"properties": {"b": {"type": "string"}}}]},
            {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "required": ["a"]},
        ),
        ({"type": "string", "default": "x", "uniqueItems": True, "multipleOf": 2, "x-y": 1}, {"type": "string"}),
    ],
)  # fmt: skip
def test_E_027_subset_of_openapi(schema, expected):
    got = subset({"type": "object", "properties": {"p": schema}}, "p")["properties"]["p"]
    assert got == expected
    types.Schema.model_validate(got)


def test_a_lost_reference_is_refused_by_name():
    for shape, schema in ((subset, {"properties": {"a": {"$ref": "#/$defs/nope"}}}), (raw, {"$ref": "https://x"})):
        with pytest.raises(UnsupportedParameter) as caught:
            shape(schema, "tools[0].function.parameters")
        assert caught.value.param == "tools[0].function.parameters"


def test_a_schema_that_explodes_is_refused_in_time():
    defs = {
        f"d{n}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/d{n + 1}"} for k in "abcdefgh"}}
        for n in range(12)
    }
    defs["d12"] = {"type": "string"}
    with pytest.raises(UnsupportedParameter):
        subset({"$defs": defs, "$ref": "#/$defs/d0"}, "p")


@pytest.mark.parametrize("shape", [raw, subset])
def test_a_schema_nested_too_deep_is_refused(shape):
    schema = {"type": "string"}
    for _ in range(500):
        schema = {"type": "array", "items": schema}
    with pytest.raises(UnsupportedParameter):
        shape(schema, "p")


NODE = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": ["integer", "null"]}, {"const": 1}, {"enum": ["a", 1]}, True, {}, {"$ref": "#/$defs/x"}, {"type": "array"}]),
    lambda inner: st.one_of(
        st.builds(lambda a: {"type": "array", "items": a}, inner),
        st.builds(lambda a, b: {"type": "object", "properties": {"const": a, "x": b}, "required": ["x"]}, inner, inner),
        st.builds(lambda k, a: {k: a}, st.sampled_from(["anyOf", "oneOf", "allOf"]), st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(NODE)
def test_any_schema_becomes_one_that_google_knows(node):
    schema = {"type": "object", "$defs": {"x": {"type": "string"}}, "properties": {"p": node}}
    before = json.dumps(schema)
    found = subset(schema, "p")
    assert "$" not in json.dumps(found)
    if node is not True:
        types.Schema.model_validate(found)
    raw(schema, "p")
    assert json.dumps(schema) == before
