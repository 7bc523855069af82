"""Tools, functions, the choices among them, and strict schemas."""

from typing import Any

import pytest

from gateway.validation import validate_chat

from .chat_requests import CUSTOM, FUNCTION, STRICT_SCHEMA, Refusal, chat, refusal


def function(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **fields}}


def nested(levels: int) -> dict[str, Any]:
    """A strict schema of ``levels`` objects, one in another."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}
    return schema


def of(properties: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A strict object schema with all its properties required."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **fields
    }  # fmt: skip


@pytest.mark.parametrize(("tools", "code", "param"), [
    ([], "empty_array", "tools"),
    ([function(name=f"f{i}") for i in range(129)], "array_above_max_length", "tools"),
    ([3], "invalid_type", "tools[0]"),
    ([{"function": {"name": "f"}}], "missing_required_parameter", "tools[0].type"),
    ([{"type": "retrieval"}], "invalid_value", "tools[0].type"),
    ([{"type": "function"}], "missing_required_parameter", "tools[0].function"),
    ([{"type": "function", "function": None}], "invalid_type", "tools[0].function"),
])  # fmt: skip
def test_C_140_tools(tools: Any, code: str, param: str) -> None:
    assert refusal(chat(tools=tools))[:2] == (code, param)
    validate_chat(chat(tools=[function(name=f"f{i}") for i in range(128)]))


@pytest.mark.parametrize("name", ["", "get weather", "a" * 65, "naïve", "a.b", "a\n"])
def test_C_141_function_names(name: str) -> None:
    found = refusal(chat(tools=[function(name=name)]))
    assert found[:2] == ("invalid_value", "tools[0].function.name")
    assert "^[a-zA-Z0-9_-]{1,64}$" in found.message
    validate_chat(chat(tools=[function(name="aZ09_-" + "x" * 58)]))


@pytest.mark.parametrize("parameters", ["{}", [], 1, True])
def test_C_142_parameters_are_an_object(parameters: object) -> None:
    found = refusal(chat(tools=[function(parameters=parameters)]))
    assert found[:2] == ("invalid_type", "tools[0].function.parameters")
    validate_chat(chat(tools=[function(), function(name="g", parameters={})]))


def test_C_143_372_strict_parameters_are_in_the_subset() -> None:
    found = refusal(chat(tools=[function(strict=True, parameters={"type": "object", "properties": {}})]))
    assert found == Refusal(
        "invalid_function_parameters", "tools[0].function.parameters",
        "Invalid schema for function 'f': In context=(), 'additionalProperties' is required to be supplied and to be false.",
    )  # fmt: skip
    validate_chat(chat(tools=[function(strict=True, parameters=STRICT_SCHEMA)]))
    for strict in (False, None):
        validate_chat(chat(tools=[function(strict=strict, parameters={"type": "object", "allOf": []})]))
    assert refusal(chat(tools=[function(strict="yes")])).param == "tools[0].function.strict"


def test_C_144_description_is_text() -> None:
    assert refusal(chat(tools=[function(description=1)])).param == "tools[0].function.description"


@pytest.mark.parametrize(("custom", "param"), [
    ({}, "name"), ({"name": 1}, "name"), ({"name": "a", "description": 1}, "description"),
    ({"name": "a", "format": {}}, "format.type"), ({"name": "a", "format": {"type": "json"}}, "format.type"),
    ({"name": "a", "format": {"type": "text", "x": 1}}, "format.x"),
    ({"name": "a", "format": {"type": "grammar"}}, "format.grammar"),
    ({"name": "a", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}, "format.grammar.definition"),
    ({"name": "a", "format": {"type": "grammar", "grammar": {"syntax": "ebnf", "definition": ""}}}, "format.grammar.syntax"),
    ({"name": "a", "format": {"type": "grammar", "definition": "", "grammar": {"syntax": "regex", "definition": ""}}}, "format.definition"),
])  # fmt: skip
def test_C_145_custom_tools(custom: dict[str, Any], param: str) -> None:
    assert refusal(chat(tools=[{"type": "custom", "custom": custom}])).param == f"tools[0].custom.{param}"
    regex = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a+"}}
    validate_chat(chat(tools=[CUSTOM, {"type": "custom", "custom": {"name": "b", "format": regex}}]))
    validate_chat(chat(tools=[{"type": "custom", "custom": {"name": "b", "format": {"type": "text"}}}]))


@pytest.mark.parametrize("twin", [FUNCTION, {"type": "custom", "custom": {"name": "get_weather"}}])
def test_C_146_tool_names_are_unique(twin: dict[str, Any]) -> None:
    assert refusal(chat(tools=[FUNCTION, twin]))[:2] == ("invalid_value", f"tools[1].{twin['type']}.name")


def allowed(mode: object, *tools: Any) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(tools)}}


ONE_FUNCTION = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", [
    "none", "auto", "required", ONE_FUNCTION, {"type": "custom", "custom": {"name": "run_sql"}},
    allowed("auto", ONE_FUNCTION), allowed("required", ONE_FUNCTION, CUSTOM), allowed("auto"),
])  # fmt: skip
def test_C_147_tool_choices(choice: object) -> None:
    validate_chat(chat(tools=[FUNCTION, CUSTOM], tool_choice=choice))


@pytest.mark.parametrize(("choice", "code", "param"), [
    ("any", "invalid_value", ""), (1, "invalid_type", ""), ([], "invalid_type", ""),
    ({}, "missing_required_parameter", ".type"), ({"type": "any"}, "invalid_value", ".type"),
    ({"type": "function"}, "missing_required_parameter", ".function"),
    ({"type": "function", "name": "get_weather"}, "missing_required_parameter", ".function"),
    ({"type": "function", "function": {}}, "missing_required_parameter", ".function.name"),
    (allowed("none"), "invalid_value", ".allowed_tools.mode"),
    ({"type": "allowed_tools", "mode": "auto", "tools": []}, "missing_required_parameter", ".allowed_tools"),
    (allowed("auto", {"type": "function"}), "missing_required_parameter", ".allowed_tools.tools[0].function"),
])  # fmt: skip
def test_C_147_malformed_tool_choices(choice: object, code: str, param: str) -> None:
    assert refusal(chat(tools=[FUNCTION], tool_choice=choice))[:2] == (code, f"tool_choice{param}")


@pytest.mark.parametrize("choice", ["none", "auto", "required", ONE_FUNCTION])
def test_C_148_tool_choice_needs_tools(choice: object) -> None:
    assert refusal(chat(tool_choice=choice)) == Refusal(
        None, "tool_choice",
        "Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' are specified.",
    )  # fmt: skip


@pytest.mark.parametrize("choice", [
    {"type": "function", "function": {"name": "other"}}, {"type": "custom", "custom": {"name": "get_weather"}},
    allowed("auto", ONE_FUNCTION, {"type": "function", "function": {"name": "other"}}),
])  # fmt: skip
def test_C_149_tool_choice_names_a_tool(choice: object) -> None:
    assert refusal(chat(tools=[FUNCTION, CUSTOM], tool_choice=choice))[:2] == ("invalid_value", "tool_choice")


@pytest.mark.parametrize("value", [True, False])
def test_C_152_parallel_tool_calls_need_tools(value: bool) -> None:
    validate_chat(chat(tools=[FUNCTION], parallel_tool_calls=value))
    assert refusal(chat(parallel_tool_calls=value)) == Refusal(
        None, "parallel_tool_calls", "'parallel_tool_calls' is only allowed when 'tools' are specified."
    )


@pytest.mark.parametrize(("functions", "code", "param"), [
    ([], "empty_array", "functions"), ([{"name": "f"}] * 129, "array_above_max_length", "functions"),
    ([{}], "missing_required_parameter", "functions[0].name"), ([{"name": "a b"}], "invalid_value", "functions[0].name"),
    ([{"name": "f", "parameters": []}], "invalid_type", "functions[0].parameters"),
])  # fmt: skip
def test_C_153_functions(functions: Any, code: str, param: str) -> None:
    assert refusal(chat(functions=functions))[:2] == (code, param)


def test_C_153_functions_exclude_tools() -> None:
    found = refusal(chat(functions=[{"name": "f"}], tools=[FUNCTION]))
    assert found[:2] == ("invalid_parameter_combination", "functions")


@pytest.mark.parametrize(("choice", "code"), [
    ("required", "invalid_value"), ({"name": "g"}, "invalid_value"), ({}, "missing_required_parameter"), (1, "invalid_type"),
])  # fmt: skip
def test_C_154_function_call(choice: object, code: str) -> None:
    assert refusal(chat(functions=[{"name": "f"}], function_call=choice)).code == code
    for good in ("none", "auto", {"name": "f"}):
        validate_chat(chat(functions=[{"name": "f"}], function_call=good))
        assert refusal(chat(function_call=good)).param == "function_call"


ACCEPTED_SCHEMAS: list[dict[str, Any]] = [
    STRICT_SCHEMA,
    nested(10),
    of({}),
    of({"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "b": {"enum": [1, 2]}, "c": {"const": "x"}}),
    of({"next": {"$ref": "#"}, "node": {"$ref": "#/$defs/node"}}, **{"$defs": {"node": of({"x": {"type": "number"}})}}),
    of({"list": {"type": "array", "items": of({"a": {"type": "string"}}), "minItems": 1}}),
    of({"a": {"type": "string", "pattern": "^x", "format": "date", "description": "d"}}),
    of({f"p{i}": {"type": "string"} for i in range(5000)}),
    of({"e": {"type": "string", "enum": [str(i) for i in range(1000)]}}),
    of({"e": {"type": "string", "enum": ["x" * 400] * 250}}),
]


@pytest.mark.parametrize("schema", ACCEPTED_SCHEMAS)
def test_C_159_schemas_in_the_subset(schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "strict": True, "schema": schema}}
    validate_chat(chat(response_format=wanted))


REFUSED_SCHEMAS: list[tuple[dict[str, Any], str]] = [
    ({}, "In context=(), schema must be a JSON Schema of 'type: \"object\"', got 'type: \"None\"'."),
    ({"type": "array", "items": {"type": "string"}}, "got 'type: \"array\"'"),
    ({"type": ["object"]}, "got a 'type' that is an array"),
    ({"anyOf": [of({})]}, "'anyOf' is not permitted at the root"),
    ({**of({}), "anyOf": []}, "'anyOf' is not permitted at the root"),
    ({**STRICT_SCHEMA, "additionalProperties": True}, "'additionalProperties' is required"),
    ({**STRICT_SCHEMA, "required": ["city"]}, "Missing 'days'."),
    ({**STRICT_SCHEMA, "required": "city"}, "Missing 'city'."),
    ({**STRICT_SCHEMA, "required": ["city", "days", "x"]}, "lists 'x', which is not in properties"),
    (of({"a": {"type": "object"}}), "In context=('properties', 'a'), 'additionalProperties'"),
    (of({"a": {"properties": {}}}), "In context=('properties', 'a'), schema must have a 'type' key."),
    (of({"a": {"type": ["object", "null"]}}), "In context=('properties', 'a'), 'additionalProperties'"),
    (of({"a": {"type": "array", "items": {"type": "object"}}}), "In context=('properties', 'a', 'items'), "),
    (of({"a": {"anyOf": [{"type": "string"}, {"type": "object"}]}}), "In context=('properties', 'a', 'anyOf', '1'), "),
    (of({}, **{"$defs": {"d": {"type": "object"}}}), "In context=('$defs', 'd'), "),
    (of({"a": {}}), "schema must have a 'type' key."),
    (of({"a": True}), "schema must be an object, but got a boolean."),
    (of({"a": {"$ref": "https://example.com/s.json"}}), "'$ref' must point to a definition inside the schema."),
    (of({"a": {"type": "string", "enum": "x"}}), "'enum' must be an array, but got a string."),
    ({**of({}), "properties": []}, "'properties' must be an object, but got an array."),
    (nested(11), "exceeds the maximum nesting depth of 10"),
    (of({f"p{i}": {"type": "string"} for i in range(5001)}), "more than 5000 properties"),
    (of({"e": {"type": "string", "enum": [str(i) for i in range(1001)]}}), "more than 1000 enum values"),
    (of({"e": {"type": "string", "enum": ["x" * 60] * 251}}), "an enum of more than 250 values"),
    (of({"x" * 120_001: {"type": "string"}}), "more than 120000 characters"),
    (of({"e": {"const": "x" * 120_000}}), "more than 120000 characters"),
    *[(of({"a": {"type": "string", word: []}}), f"'{word}' is not permitted.") for word in ("allOf", "oneOf", "not", "if")],
]  # fmt: skip


@pytest.mark.parametrize(("schema", "words"), REFUSED_SCHEMAS)
def test_C_159_373_schemas_outside_the_subset(schema: dict[str, Any], words: str) -> None:
    wanted = {"name": "s", "strict": True, "schema": schema}
    found = refusal(chat(response_format={"type": "json_schema", "json_schema": wanted}))
    assert found[:2] == (None, "response_format")
    assert found.message.startswith("Invalid schema for response_format 's': In context=(")
    assert words in found.message
    validate_chat(chat(response_format={"type": "json_schema", "json_schema": {**wanted, "strict": False}}))
    in_a_tool = refusal(chat(tools=[function(strict=True, parameters=schema)]))
    assert in_a_tool[:2] == ("invalid_function_parameters", "tools[0].function.parameters")
