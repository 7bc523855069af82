"""Tools and response formats."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.errors import UnsupportedParameter

from . import replay
from .anthropic_requests import ADAPTER, TIME, USER, WEATHER, ask, body, json_schema, message, prepared, refused, result
from .anthropic_types import problems


def test_E_026_a_tool_without_parameters_has_an_empty_schema() -> None:
    assert body(ask(tools=[TIME]))["tools"] == [{"name": "time", "input_schema": {"type": "object", "properties": {}}}]


ROOTS: list[tuple[dict[str, Any], set[str], list[str]]] = [
    ({"properties": {"a": {"type": "string"}}}, {"a"}, []),
    ({"$ref": "#/$defs/P", "$defs": {"P": {"type": "object", "properties": {"a": {}}, "required": ["a"]}}}, {"a"}, ["a"]),
    (
        {
            "anyOf": [
                {"type": "object", "properties": {"k": {}, "a": {}}, "required": ["k", "a"]},
                {"type": "object", "properties": {"k": {}, "b": {}}, "required": ["k", "b"]},
            ]
        },
        {"k", "a", "b"},
        ["k"],
    ),
    ({"allOf": [{"properties": {"a": {}}, "required": ["a"]}, {"properties": {"b": {}}, "required": ["b"]}]}, {"a", "b"}, ["a", "b"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "properties", "required"), ROOTS)
def test_the_root_of_a_tools_schema_says_that_it_is_an_object(
    schema: dict[str, Any], properties: set[str], required: list[str]
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    made = body(ask(tools=[tool]))["tools"][0]["input_schema"]
    assert made["type"] == "object"
    assert set(made["properties"]) == properties
    assert sorted(made.get("required", [])) == required
    assert not {"$ref", "anyOf", "oneOf", "allOf"} & made.keys()


def strict_tool(**schema: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], **schema}
    return {"type": "function", "function": {"name": "f", "parameters": parameters, "strict": True}}


def test_E_029_strict_is_sent_where_the_model_compiles_the_schema() -> None:
    made = body(ask(tools=[strict_tool()]))["tools"][0]
    assert made["strict"] is True
    assert made["input_schema"]["additionalProperties"] is False
    for request, model in (
        (ask(tools=[strict_tool()]), "claude-sonnet-4-20250514"),
        (ask(tools=[strict_tool(properties={"a": {"type": "object", "additionalProperties": {"type": "string"}}})]), "claude-opus-5"),
        (ask(tools=[strict_tool(properties={"a": {"$ref": "#"}})]), "claude-opus-5"),
    ):  # fmt: skip
        sent = prepared(request, model)
        assert "strict" not in json.loads(sent.body)["tools"][0]
        assert sent.dropped == ("tools.function.strict",)


def test_E_029_no_more_than_twenty_tools_are_strict() -> None:
    tools = [strict_tool() for _ in range(22)]
    for at, tool in enumerate(tools):
        tool["function"]["name"] = f"f{at}"
    assert sum("strict" in tool for tool in body(ask(tools=tools))["tools"]) == 20


def fields(number: int, kind: Any, *, required: bool) -> dict[str, Any]:
    names = [f"f{at}" for at in range(number)]
    return {"type": "object", "properties": dict.fromkeys(names, kind), "required": names if required else []}


NULLABLE = {"anyOf": [{"type": "string"}, {"type": "null"}]}


@pytest.mark.parametrize("schema", [fields(16, {"type": ["string", "null"]}, required=True), fields(16, NULLABLE, required=True), fields(23, {"type": "string"}, required=False)])  # fmt: skip
def test_E_029_schemas_that_may_be_compiled_are(schema: Any) -> None:
    assert "output_config" in body(ask(response_format=json_schema(schema)))


@pytest.mark.parametrize("schema", [fields(17, {"type": ["string", "null"]}, required=True), fields(17, NULLABLE, required=True), fields(24, {"type": "string"}, required=False)])  # fmt: skip
def test_E_029_a_schema_of_too_many_nullable_or_optional_fields_is_a_tool_that_must_be_called(schema: Any) -> None:
    made = body(ask(response_format=json_schema(schema)))
    assert made["tool_choice"]["type"] == "tool"
    assert "output_config" not in made
    assert schema["properties"] == made["tools"][0]["input_schema"]["properties"]


def test_E_029_the_format_and_strict_tools_share_what_may_be_compiled() -> None:
    tools = [strict_tool(**fields(9, NULLABLE, required=True)) for _ in range(2)]
    tools[1]["function"]["name"] = "g"
    sent = prepared(ask(tools=tools))
    assert ["strict" in tool for tool in json.loads(sent.body)["tools"]] == [True, False]
    assert sent.dropped == ("tools.function.strict",)
    sent = prepared(ask(tools=tools, response_format=json_schema(fields(9, NULLABLE, required=True))))
    assert ["strict" in tool for tool in json.loads(sent.body)["tools"]] == [False, False]
    assert "output_config" in json.loads(sent.body)


@pytest.mark.parametrize(
    "nullable",
    [{"type": ["string", "null"], "enum": ["c", "f", None]}, {"type": ["string", "null"], "enum": ["c", "f"]}],
)
def test_a_nullable_enumeration_is_told_by_its_values(nullable: dict[str, Any]) -> None:
    made = body(ask(tools=[strict_tool(properties={"a": nullable})]))["tools"][0]
    assert made["strict"] is True
    assert made["input_schema"]["properties"]["a"] == {"enum": nullable["enum"]}


def test_parts_that_hold_at_once_are_compiled_only_where_they_can() -> None:
    base = {"$defs": {"A": {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}}}
    one = strict_tool(**base, properties={"a": {"allOf": [{"$ref": "#/$defs/A"}], "description": "An A."}})
    made = body(ask(tools=[one]))["tools"][0]
    assert made["input_schema"]["properties"]["a"] == {"$ref": "#/$defs/A", "description": "An A."}
    letters = {"allOf": [{"type": "string"}, {"enum": ["x", "y"]}]}  # recorded
    assert body(ask(tools=[strict_tool(properties={"a": letters})]))["tools"][0]["strict"] is True
    other = {"type": "object", "properties": {"y": {"type": "string"}}, "required": ["y"]}
    for parts in ([{"$ref": "#/$defs/A"}, other], [base["$defs"]["A"], other]):
        sent = prepared(ask(tools=[strict_tool(**base, properties={"a": {"allOf": parts}})]))
        assert "strict" not in json.loads(sent.body)["tools"][0]
        assert sent.dropped == ("tools.function.strict",)


def test_E_017_a_compiled_answer_continues_nothing() -> None:
    begun = {"role": "assistant", "content": "So"}
    made = body(ask(USER, begun, response_format=json_schema(SCHEMA)), "claude-sonnet-4-5")
    assert made["messages"][-1] == {"role": "user", "content": [{"type": "text", "text": "Continue."}]}
    assert body(ask(USER, begun), "claude-sonnet-4-5")["messages"][-1]["role"] == "assistant"


CHOICES: list[tuple[Any, Any]] = [
    ("none", {"type": "none"}),
    ("required", {"type": "any"}),
    ({"type": "function", "function": {"name": "time"}}, {"type": "tool", "name": "time"}),
    ("auto", None),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_E_030_tool_choice_in_all_forms_keeps_the_tools(choice: Any, expected: Any) -> None:
    made = body(ask(tools=[WEATHER, TIME], tool_choice=choice))
    assert made.get("tool_choice") == expected
    assert len(made["tools"]) == 2


@pytest.mark.parametrize(("mode", "expected"), [("auto", None), ("required", {"type": "any"})])
def test_E_032_allowed_tools_filter(mode: str, expected: Any) -> None:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "time"}}]}
    made = body(ask(tools=[WEATHER, TIME], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}))
    assert [tool["name"] for tool in made["tools"]] == ["time"]
    assert made.get("tool_choice") == expected


def test_E_033_a_choice_that_names_no_tool_is_refused() -> None:
    assert refused(ask(tools=[TIME], tool_choice={"type": "function", "function": {"name": "x"}})) == "tool_choice"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", {"type": "any", "disable_parallel_tool_use": True}),
        ("none", {"type": "none"}),
    ],
)
def test_E_034_one_call_at_a_time(choice: Any, expected: Any) -> None:
    assert body(ask(tools=[TIME], tool_choice=choice, parallel_tool_calls=False))["tool_choice"] == expected
    assert "tool_choice" not in body(ask(parallel_tool_calls=False))


def test_a_model_that_cannot_be_forced_says_so() -> None:
    request = ask(tools=[TIME, WEATHER], tool_choice={"type": "function", "function": {"name": "time"}})
    assert refused(request, "claude-opus-5-5") == "tool_choice"
    made = json.loads(prepared(request, "claude-opus-5-5", unsupported="drop").body)
    assert ([t["name"] for t in made["tools"]], made["tool_choice"]) == (["time"], {"type": "auto"})


def test_E_035_a_custom_tool_is_a_function_with_one_string() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x+/"}}
    tool = {"type": "custom", "custom": {"name": "shell", "description": "Runs.", "format": grammar}}
    sent = prepared(
        ask(
            USER,
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {"name": "shell", "input": "ls"}}]},
            result("c"),
            tools=[tool],
            tool_choice={"type": "custom", "custom": {"name": "shell"}},
        )
    )  # fmt: skip
    made = json.loads(sent.body)
    assert not problems(made)
    assert made["messages"][1]["content"][0]["input"] == {"input": "ls"}
    assert "start: /x+/" in json.dumps(made["tools"])
    reply = message({"type": "tool_use", "id": "toolu_1", "name": "shell", "input": {"input": "pwd"}}, stop="tool_use")
    choice = ADAPTER.parse(reply, sent).completion["choices"][0]
    assert choice["message"]["tool_calls"] == [
        {"id": "toolu_1", "type": "custom", "custom": {"name": "shell", "input": "pwd"}}
    ]


def test_web_search_is_a_server_tool() -> None:
    place = {"type": "approximate", "approximate": {"city": "Rome", "country": "IT"}}
    sent = prepared(ask(web_search_options={"user_location": place, "search_context_size": "high"}, tools=[TIME]))
    made = json.loads(sent.body)
    assert not problems(made)
    assert made["tools"][1] == {
        "type": "web_search_20250305",
        "name": "web_search",
        "user_location": {"type": "approximate", "city": "Rome", "country": "IT"},
    }
    assert sent.dropped == ("web_search_options.search_context_size",)


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


def test_a_schema_is_compiled_by_models_that_can() -> None:
    made = body(ask(response_format=json_schema(SCHEMA)))
    schema = made["output_config"]["format"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["n"] == {"type": "integer", "description": "(minimum: 1)"}
    assert "tools" not in made


def test_E_028_a_property_may_be_called_like_a_keyword() -> None:
    names = ["$ref", "const", "title", "additionalProperties", "minimum", "anyOf"]
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
    made = body(ask(response_format=json_schema(schema)))
    assert list(made["output_config"]["format"]["schema"]["properties"]) == names


@pytest.mark.parametrize(
    ("schema", "model"),
    [
        (SCHEMA, "claude-3-5-sonnet-20241022"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "claude-opus-5"),
        ({"type": "object", "properties": {"next": {"$ref": "#"}}}, "claude-opus-5"),
        ({"type": "object"}, "claude-opus-5"),
    ],
)
def test_E_082_other_schemas_are_a_tool_that_must_be_called(schema: Any, model: str) -> None:
    sent = prepared(ask(response_format=json_schema(schema)), model)
    made = json.loads(sent.body)
    assert not problems(made)
    (tool,) = made["tools"]
    assert made["tool_choice"] == {"type": "tool", "name": tool["name"], "disable_parallel_tool_use": True}
    reply = message({"type": "tool_use", "id": "t", "name": tool["name"], "input": {"n": 3}}, stop="tool_use")
    done = replay.completion(ADAPTER.parse(reply, sent), id="c", created=1, model="m")["choices"][0]
    assert (done["message"]["content"], done["finish_reason"]) == ('{"n":3}', "stop")
    assert "tool_calls" not in done["message"]


def test_E_083_the_answer_tool_stands_beside_real_tools() -> None:
    made = body(ask(tools=[TIME], response_format=json_schema(SCHEMA)), "claude-3-5-sonnet-20241022")
    assert [t["name"] for t in made["tools"]] == ["time", "json_answer"]
    assert made["tool_choice"]["type"] == "any"
    forced = body(
        ask(tools=[TIME], tool_choice="required", response_format=json_schema(SCHEMA)), "claude-3-5-sonnet-20241022"
    )
    assert [t["name"] for t in forced["tools"]] == ["time"]


def test_a_schema_is_told_to_a_model_that_neither_compiles_it_nor_can_be_forced() -> None:
    made = body(ask(response_format=json_schema({"type": "object"})), "claude-opus-5-5")
    assert "JSON Schema" in made["system"][-1]["text"]
    assert "tools" not in made


def test_json_object_is_told_and_begun() -> None:
    sent = prepared(ask(response_format={"type": "json_object"}), "claude-sonnet-4-5")
    made = json.loads(sent.body)
    assert not problems(made)
    assert made["messages"][-1] == {"role": "assistant", "content": [{"type": "text", "text": "{"}]}
    reply = ADAPTER.parse(message({"type": "text", "text": '"a":1}'}), sent)
    assert reply.completion["choices"][0]["message"]["content"] == '{"a":1}'
    sent = prepared(ask(response_format={"type": "json_object"}), "claude-sonnet-5")
    assert json.loads(sent.body)["messages"][-1]["role"] == "user"
    reply = ADAPTER.parse(message({"type": "text", "text": '```json\n{"a":1}\n```'}), sent)
    assert reply.completion["choices"][0]["message"]["content"] == '{"a":1}'


GARBAGE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "type",
                    "properties",
                    "items",
                    "anyOf",
                    "allOf",
                    "$ref",
                    "$defs",
                    "required",
                    "format",
                    "minItems",
                    "enum",
                ]
            ),
            inner | st.sampled_from(["object", "#", "#/$defs/a", "string"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(GARBAGE, GARBAGE, st.sampled_from(["claude-3-5-haiku-latest", "claude-opus-5", "claude-opus-5-5"]))
def test_any_schema_is_sent_or_refused(schema: Any, extension: Any, model: str) -> None:
    """Nothing that a client calls a schema, or puts into an extension, makes the translation fail otherwise."""
    function = {"name": "f", "strict": True, "parameters": schema if isinstance(schema, dict) else {}}
    for request in (
        ask(tools=[{"type": "function", "function": function}]),
        ask(response_format=json_schema(schema)),
        ask(thinking=extension, cache_control=extension),
        ask(
            USER,
            {"role": "assistant", "content": "x", "thinking_blocks": extension, "reasoning_details": extension},
            USER,
        ),
    ):
        with contextlib.suppress(UnsupportedParameter):
            json.loads(prepared(request, model).body)
