"""Chat Completions -> Messages, and whole answers back."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import anthropic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import registry
from adapters.anthropic import Anthropic, models
from adapters.anthropic.options import Options
from adapters.errors import ErrorKind, UnsupportedParameter
from adapters.interface import Target, UpstreamRequest
from adapters.params import PARAMS
from adapters.usage import Usage

from . import replay
from .anthropic_types import problems

ADAPTER = Anthropic()
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(20)).decode()
USER = {"role": "user", "content": "Hi"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {"type": "function", "function": {"name": "time"}}


def target(model: str = "claude-opus-4-5", **fields: Any) -> Target:
    return Target(**{"base_url": "https://api.anthropic.com", "model": model, "api_key": "sk-ant-x", **fields})


def prepared(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> UpstreamRequest:
    return ADAPTER.prepare({"model": "m", **request}, target(model, **fields))


def body(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> Any:
    """The body we would send, which must be lawful."""
    made = json.loads(prepared(request, model, **fields).body)
    typed = {k: v for k, v in made.items() if not (k == "thinking" and "block_binding" in v)}
    assert not problems(typed)
    return made


def ask(*messages: Mapping[str, Any], **rest: Any) -> dict[str, Any]:
    return {"messages": list(messages) or [USER], **rest}


def refused(request: Mapping[str, Any], model: str = "claude-opus-4-5", **fields: Any) -> str:
    with pytest.raises(UnsupportedParameter) as caught:
        prepared(request, model, **fields)
    return caught.value.param


def called(*ids: str, content: Any = None, **extras: Any) -> dict[str, Any]:
    calls = [
        {"id": i, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}} for i in ids
    ]
    return {"role": "assistant", "content": content, "tool_calls": calls, **extras}


def result(identity: str, content: Any = "sunny", **extras: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": identity, "content": content, **extras}


# Requests as a whole


def test_the_request_is_addressed_and_signed() -> None:
    sent = prepared(ask(stream=True), headers={"x-extra": "1"})
    assert sent.url == "https://api.anthropic.com/v1/messages"
    assert sent.headers["x-api-key"] == "sk-ant-x"
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["x-extra"] == "1"
    assert "anthropic-beta" not in sent.headers
    assert json.loads(sent.body)["stream"] is True
    assert sent.stream
    assert prepared(ask(), base_url="http://127.0.0.1:1/v1").url == "http://127.0.0.1:1/v1/messages"


def test_options_are_decoded_once_and_name_the_bad_key() -> None:
    options = ADAPTER.options({"beta": ["a-1", "b-2"], "version": "2026-10-21"})
    sent = prepared(ask(), options=options)
    assert (sent.headers["anthropic-beta"], sent.headers["anthropic-version"]) == ("a-1,b-2", "2026-10-21")
    for bad in ({"betas": []}, {"beta": "x"}, {"version": 1}, {"same_as": []}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ADAPTER.options(bad)


def test_the_adapter_is_found_by_name() -> None:
    assert isinstance(registry.load("anthropic"), Anthropic)


def test_every_parameter_has_a_fate() -> None:
    assert set(PARAMS) <= set(ADAPTER.params)


def test_the_validator_notices_what_is_wrong() -> None:
    good = body(ask(USER, called("a"), result("a"), tools=[WEATHER]))
    assert problems({**good, "nonsense": 1})
    assert problems({**good, "messages": [*good["messages"], good["messages"][-1]]})
    for at in range(3):
        turned = json.loads(json.dumps(good))
        turned["messages"][at]["content"][0]["nonsense"] = 1
        assert problems(turned)
    assert problems({**good, "messages": good["messages"][:2]})
    assert problems({k: v for k, v in good.items() if k != "max_tokens"})


def test_C_101_null_is_absent() -> None:
    nothing = dict.fromkeys(set(PARAMS) - {"messages", "model"})
    assert body(ask(**nothing)) == body(ask())


def test_E_085_values_that_ask_for_nothing_are_no_parameters() -> None:
    neutral = {"n": 1, "logprobs": False, "top_logprobs": 0, "presence_penalty": 0, "tools": [], "user": "", "stop": []}
    sent = prepared(ask(**neutral))
    assert json.loads(sent.body) == body(ask())
    assert sent.dropped == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 5}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "wav"}),
        ("moderation", {"model": "m"}),
        ("min_p", 0.1),
    ],
)
def test_what_changes_the_answer_and_cannot_be_had_is_refused(name: str, value: Any) -> None:
    assert refused(ask(**{name: value})) == name
    sent = prepared(ask(**{name: value}), unsupported="drop")
    assert sent.dropped == (name,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 1), ("frequency_penalty", 0.5), ("verbosity", "low"), ("prediction", {}), ("prompt_cache_key", "k")],
)
def test_hints_without_an_equal_are_left_out_and_named(name: str, value: Any) -> None:
    assert prepared(ask(**{name: value})).dropped == (name,)
    assert refused(ask(**{name: value}), unsupported="reject") == name


def test_extensions_are_sent_on() -> None:
    assert body(ask(top_k=5))["top_k"] == 5
    sent = prepared(ask(inference_geo="eu"), allow=frozenset({"inference_geo"}))
    assert json.loads(sent.body)["inference_geo"] == "eu"


# Messages


def test_E_015_leading_system_and_developer_messages_are_the_system_prompt_in_order() -> None:
    made = body(
        ask({"role": "system", "content": "A"}, {"role": "developer", "content": [{"type": "text", "text": "B"}]}, USER)
    )
    assert [b["text"] for b in made["system"]] == ["A", "B"]
    assert made["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


LATE = [USER, {"role": "assistant", "content": "Yes?"}, {"role": "system", "content": "Be brief."}]


@pytest.mark.parametrize(
    ("model", "messages", "system", "roles"),
    [
        ("claude-opus-4-5", [*LATE, USER], ["Be brief."], ["user", "assistant", "user"]),
        ("claude-opus-4-8", [*LATE, USER], [], ["user", "assistant", "user", "system"]),
        ("claude-opus-4-8", [*LATE, USER, {"role": "assistant", "content": "k"}, USER], [], ["user", "assistant", "user", "system", "assistant", "user"]),
        ("claude-opus-4-8", [*LATE, {"role": "assistant", "content": "k"}, USER], ["Be brief."], ["user", "assistant", "user"]),
        ("claude-opus-4-5", LATE, [], ["user", "assistant", "user"]),
        ("claude-opus-4-8", LATE, [], ["user", "assistant", "user"]),
    ],
)  # fmt: skip
def test_E_015_late_instructions_keep_their_place_where_the_model_allows_it(
    model: str, messages: list[Any], system: list[str], roles: list[str]
) -> None:
    made = body(ask(*messages), model)
    assert [b["text"] for b in made.get("system", [])] == system
    assert [t["role"] for t in made["messages"]] == roles
    assert json.dumps(made).count("Be brief.") == 1


def test_E_016_a_conversation_of_system_messages_alone_is_said_by_the_user() -> None:
    made = body(ask({"role": "system", "content": "Write a poem."}))
    assert made["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Write a poem."}]}]
    assert "system" not in made


@pytest.mark.parametrize("blank", ["", None, "  \n", [], [{"type": "text", "text": " "}]])
def test_E_001_a_blank_text_beside_tool_calls_is_left_out(blank: Any) -> None:
    made = body(ask(USER, called("a", content=blank), result("a"), tools=[WEATHER]))
    assert [b["type"] for b in made["messages"][1]["content"]] == ["tool_use"]


def test_E_002_an_empty_tool_result_has_no_content() -> None:
    made = body(ask(USER, called("a"), result("a", ""), tools=[WEATHER]))
    assert made["messages"][2]["content"] == [{"type": "tool_result", "tool_use_id": "a"}]


def test_E_003_parallel_results_are_one_user_turn() -> None:
    made = body(ask(USER, called("a", "b"), result("a"), result("b"), tools=[WEATHER]))
    assert [b["tool_use_id"] for b in made["messages"][2]["content"]] == ["a", "b"]


def test_E_004_user_text_follows_the_results_in_their_turn() -> None:
    made = body(ask(USER, called("a", "b"), result("b"), result("a"), USER, tools=[WEATHER]))
    assert [b["type"] for b in made["messages"][2]["content"]] == ["tool_result", "tool_result", "text"]


def test_E_005_calls_in_the_history_need_no_tools() -> None:
    assert "tools" not in body(ask(USER, called("a"), result("a")))


@pytest.mark.parametrize(
    "messages",
    [[USER, called("a", "b"), result("a")], [USER, called("a", "b"), result("a"), USER], [USER, called("a")]],
)
def test_E_006_a_missing_result_is_refused_naming_the_call(messages: list[Any]) -> None:
    with pytest.raises(UnsupportedParameter, match=r"\b(a|b)\b"):
        prepared(ask(*messages))


def test_E_007_an_orphan_result_is_refused() -> None:
    assert refused(ask(USER, result("a"))).startswith("messages[1]")


@pytest.mark.parametrize(("arguments", "expected"), [("", {}), ("null", {}), ("{}", {}), ("5", {"input": 5})])
def test_E_008_arguments_become_an_object(arguments: str, expected: Any) -> None:
    call = called("a")
    call["tool_calls"][0]["function"]["arguments"] = arguments
    made = body(ask(USER, call, result("a"), tools=[WEATHER]))
    assert made["messages"][1]["content"][0]["input"] == expected


def test_E_012_ids_with_other_characters_are_rewritten_alike() -> None:
    made = body(ask(USER, called("functions.weather:0"), result("functions.weather:0"), tools=[WEATHER]))
    assert made["messages"][1]["content"][0]["id"] == made["messages"][2]["content"][0]["tool_use_id"]


def test_E_013_an_id_used_twice_is_told_apart() -> None:
    made = body(ask(USER, called("a"), result("a", "1"), called("a"), result("a", "2"), tools=[WEATHER]))
    assert made["messages"][2]["content"][0]["tool_use_id"] != made["messages"][4]["content"][0]["tool_use_id"]


def test_E_017_the_end_with_the_assistants_words_is_continued_or_answered() -> None:
    said = {"role": "assistant", "content": "The answer is \n"}
    old = body(ask(USER, said), "claude-opus-4-5")
    assert old["messages"][-1]["content"] == [{"type": "text", "text": "The answer is"}]
    new = body(ask(USER, said), "claude-opus-4-6")
    assert [t["role"] for t in new["messages"]] == ["user", "assistant", "user"]


def test_E_018_consecutive_turns_of_one_role_are_one() -> None:
    made = body(ask(USER, USER, {"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}, USER))
    assert [len(t["content"]) for t in made["messages"]] == [2, 2, 1]


@pytest.mark.parametrize("content", ["", " ", [{"type": "text", "text": ""}]])
def test_E_019_a_turn_without_anything_gets_a_placeholder_only_alone(content: Any) -> None:
    empty = {"role": "user", "content": content}
    assert body(ask(empty))["messages"][0]["content"] == [{"type": "text", "text": "."}]
    assert body(ask(empty, USER))["messages"][0]["content"] == [{"type": "text", "text": "Hi"}]
    assert body(ask(USER, empty))["messages"][0]["content"] == [{"type": "text", "text": "Hi"}]


def test_E_020_images_in_tool_results_stay_there() -> None:
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    made = body(ask(USER, called("a"), result("a", [{"type": "text", "text": "see"}, image]), tools=[WEATHER]))
    inside = made["messages"][2]["content"][0]["content"]
    assert [b["type"] for b in inside] == ["text", "image"]


def test_a_failed_result_may_say_so() -> None:
    made = body(ask(USER, called("a"), result("a", "boom", is_error=True), tools=[WEATHER]))
    assert made["messages"][2]["content"][0]["is_error"] is True


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{PIXEL}",
        f"DATA:image/jpg;charset=x;base64,{PIXEL}",
        f"data:;base64,{PIXEL[:9]}\n {PIXEL[9:]}",
        f"data:image/gif;base64,{PIXEL.replace('+', '-').rstrip('=')}",
    ],
)
def test_E_022_data_urls_are_read_as_they_are_written(url: str) -> None:
    made = body(ask({"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}))
    source = made["messages"][0]["content"][0]["source"]
    assert source == {"type": "base64", "media_type": "image/png", "data": PIXEL}


def test_images_by_url_are_fetched_by_the_provider() -> None:
    part = {"type": "image_url", "image_url": {"url": "https://a.example/x.png", "detail": "high"}}
    made = body(ask({"role": "user", "content": [part]}))
    assert made["messages"][0]["content"][0]["source"] == {"type": "url", "url": "https://a.example/x.png"}


@pytest.mark.parametrize(
    ("media_type", "data", "expected"),
    [
        ("application/pdf", b"%PDF-1.7 x", {"type": "base64", "media_type": "application/pdf"}),
        ("text/markdown", "# é".encode(), {"type": "text", "media_type": "text/plain", "data": "# é"}),
        ("application/json", b"{}", {"type": "text", "media_type": "text/plain", "data": "{}"}),
    ],
)
def test_files_are_documents(media_type: str, data: bytes, expected: Any) -> None:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    part = {"type": "file", "file": {"filename": "f.x", "file_data": url}}
    (block,) = body(ask({"role": "user", "content": [part]}))["messages"][0]["content"]
    assert (block["type"], block["title"]) == ("document", "f.x")
    assert expected.items() <= block["source"].items()


def test_an_uploaded_file_needs_the_beta() -> None:
    sent = prepared(ask({"role": "user", "content": [{"type": "file", "file": {"file_id": "file_1"}}]}))
    assert sent.headers["anthropic-beta"] == "files-api-2025-04-14"
    assert not problems(json.loads(sent.body))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}},
        {"type": "hologram"},
        {"type": "image_url", "image_url": {"url": "data:image/bmp;base64,Qk0="}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,***"}},
        {"type": "file", "file": {"file_data": "data:application/zip;base64,UEs="}},
        {"type": "file", "file": {"file_data": "data:text/plain;base64,/w=="}},
    ],
)
def test_content_that_cannot_be_sent_is_refused_by_its_path(part: Any) -> None:
    assert refused(ask({"role": "user", "content": [{"type": "text", "text": "x"}, part]})).startswith(
        "messages[0].content[1]"
    )


def test_E_023_names_of_speakers_are_left_out_and_named() -> None:
    assert prepared(ask({**USER, "name": "ann"})).dropped == ("messages.name",)


def test_E_024_the_functions_api_becomes_tools() -> None:
    request = ask(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"role": "function", "name": "weather", "content": "sunny"},
        functions=[WEATHER["function"]],
        function_call={"name": "weather"},
    )
    made = body(request)
    assert made["messages"][1]["content"][0]["type"] == "tool_use"
    assert made["messages"][2]["content"][0]["type"] == "tool_result"
    assert made["tool_choice"] == {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}


def test_C_218_an_answer_may_come_back_as_it_went() -> None:
    back = {
        "role": "assistant", "content": "Hi!", "refusal": None, "annotations": [], "audio": None,
        "function_call": None, "tool_calls": None, "parsed": None, "reasoning_content": "hm",
    }  # fmt: skip
    assert body(ask(USER, back, USER))["messages"][1]["content"] == [{"type": "text", "text": "Hi!"}]
    refusal = {"role": "assistant", "content": None, "refusal": "No."}
    assert body(ask(USER, refusal, USER))["messages"][1]["content"] == [{"type": "text", "text": "No."}]


# Tools


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


# Response formats


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


def json_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "out", "schema": schema}}


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


# Sampling, limits and the rest


@pytest.mark.parametrize(
    ("asked", "model", "limit", "expected"),
    [
        ({}, "claude-opus-4-5", None, 64_000),
        ({}, "claude-opus-4-5", 5_000, 5_000),
        ({"max_tokens": 10}, "claude-opus-4-5", None, 10),
        ({"max_tokens": 10, "max_completion_tokens": 20}, "claude-opus-4-5", None, 20),
        ({"max_completion_tokens": 999_999}, "claude-opus-4-5", None, 64_000),
        ({"max_completion_tokens": 99_999}, "glm-5", None, 99_999),
    ],
)
def test_E_080_max_tokens_is_always_sent(asked: Any, model: str, limit: int | None, expected: int) -> None:
    assert body(ask(**asked), model, max_output=limit)["max_tokens"] == expected


@pytest.mark.parametrize(("temperature", "expected"), [(0, 0), (0.7, 0.7), (1.5, 1), (2, 1)])
def test_E_081_temperatures_are_clamped(temperature: float, expected: float) -> None:
    assert body(ask(temperature=temperature))["temperature"] == expected


def test_E_045_models_that_refuse_sampling_get_none() -> None:
    sent = prepared(ask(temperature=0.5, top_p=1, top_k=3), "claude-opus-4-7")
    assert not {"temperature", "top_p", "top_k"} & json.loads(sent.body).keys()
    assert sent.dropped == ("temperature", "top_k")
    newer = prepared(ask(temperature=1), options=Options(version="2026-10-21"))
    assert "temperature" not in json.loads(newer.body)
    pair = prepared(ask(temperature=0.5, top_p=0.5), "claude-sonnet-4-5")
    assert (json.loads(pair.body)["temperature"], pair.dropped) == (0.5, ("top_p",))
    assert "top_p" not in json.loads(pair.body)
    assert body(ask(temperature=0.5, top_p=0.5), "claude-sonnet-4-20250514")["top_p"] == 0.5


@pytest.mark.parametrize(
    ("stop", "expected", "dropped"),
    [
        ("END", ["END"], ()),
        ("", None, ()),
        ([], None, ()),
        (["a", " ", "\n"], ["a"], ("stop",)),
        (["\n\n"], None, ("stop",)),
        (["1", "2", "3", "4"], ["1", "2", "3", "4"], ()),
    ],
)
def test_E_084_stop_sequences_without_blank_ones(stop: Any, expected: Any, dropped: Any) -> None:
    sent = prepared(ask(stop=stop))
    assert json.loads(sent.body).get("stop_sequences") == expected
    assert sent.dropped == dropped


def test_the_user_stays_opaque_and_short() -> None:
    assert body(ask(user="u1"))["metadata"] == {"user_id": "u1"}
    assert body(ask(user="u1", safety_identifier="s"))["metadata"] == {"user_id": "s"}
    assert len(body(ask(user="x" * 1000))["metadata"]["user_id"]) <= 256


@pytest.mark.parametrize(
    ("tier", "expected"), [("default", "standard_only"), ("priority", "auto"), ("auto", None), ("flex", None)]
)
def test_C_478_service_tiers_in_the_providers_words(tier: str, expected: str | None) -> None:
    assert body(ask(service_tier=tier)).get("service_tier") == expected


# Caching


def test_cache_markers_of_both_dialects_stay_at_their_place() -> None:
    own = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    openais = {"type": "text", "text": "b", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "30m"}}
    made = body(
        ask(
            {"role": "system", "content": [own]},
            {"role": "user", "content": [openais]},
            {"role": "assistant", "content": "c", "cache_control": {"type": "ephemeral"}},
            USER,
            tools=[{**WEATHER, "cache_control": {"type": "ephemeral"}}],
        )
    )
    assert made["system"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert made["messages"][0]["content"][0]["cache_control"] == {"type": "ephemeral", "ttl": "1h"}
    assert made["messages"][1]["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert made["tools"][0]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"prompt_cache_retention": "24h"}, {"type": "ephemeral", "ttl": "1h"}),
        ({"prompt_cache_retention": "in_memory"}, {"type": "ephemeral"}),
        ({"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}, {"type": "ephemeral", "ttl": "1h"}),
        ({"prompt_cache_options": {"mode": "explicit"}}, None),
        ({"cache_control": {"type": "ephemeral"}}, {"type": "ephemeral"}),
        ({}, None),
    ],
)
def test_caching_at_large_marks_the_end(asked: Any, expected: Any) -> None:
    assert body(ask(**asked))["messages"][-1]["content"][-1].get("cache_control") == expected


def test_a_fifth_cache_marker_gives_way() -> None:
    parts = [{"type": "text", "text": str(n), "cache_control": {"type": "ephemeral"}} for n in range(6)]
    made = body(ask({"role": "user", "content": parts}))
    assert ["cache_control" in b for b in made["messages"][0]["content"]] == [False, False, True, True, True, True]


# Reasoning


@pytest.mark.parametrize(
    ("model", "effort", "config", "level"),
    [
        ("claude-3-5-haiku-latest", "none", None, None),
        ("claude-sonnet-4-5", "none", None, None),
        ("claude-sonnet-4-5", "minimal", {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-sonnet-4-5", "high", {"type": "enabled", "budget_tokens": 24576}, None),
        ("claude-opus-4-6", "none", None, None),
        ("claude-opus-4-6", "minimal", {"type": "adaptive", "display": "summarized"}, "low"),
        ("claude-opus-4-6", "xhigh", {"type": "adaptive", "display": "summarized"}, "max"),
        ("claude-opus-4-7", "xhigh", {"type": "adaptive", "display": "summarized"}, "xhigh"),
        ("claude-opus-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("claude-opus-5-5", "none", None, "low"),
        ("claude-opus-5-5", "max", {"type": "adaptive", "display": "summarized"}, "max"),
    ],
)
def test_reasoning_effort_in_the_models_own_terms(model: str, effort: str, config: Any, level: str | None) -> None:
    sent = prepared(ask(reasoning_effort=effort), model)
    made = json.loads(sent.body)
    assert not problems(made)
    assert made.get("thinking") == config
    assert made.get("output_config", {}).get("effort") == level
    assert sent.dropped == ()


def test_E_044_effort_that_a_model_lacks_or_has_no_room_for_is_named() -> None:
    assert prepared(ask(reasoning_effort="high"), "claude-3-5-haiku-latest").dropped == ("reasoning_effort",)
    made = body(ask(reasoning_effort="high", max_tokens=4000), "claude-sonnet-4-5")
    assert made["thinking"]["budget_tokens"] == 3000
    short = prepared(ask(reasoning_effort="high", max_tokens=1000), "claude-sonnet-4-5")
    assert "thinking" not in json.loads(short.body)
    assert short.dropped == ("reasoning_effort",)


def test_E_031_a_forced_tool_excludes_a_thinking_budget_but_not_adaptive_thinking() -> None:
    request = ask(tools=[TIME], tool_choice="required", reasoning_effort="high")
    sent = prepared(request, "claude-sonnet-4-5")
    assert "thinking" not in json.loads(sent.body)
    assert sent.dropped == ("reasoning_effort",)
    assert body(request, "claude-opus-4-6")["thinking"]["type"] == "adaptive"


@pytest.mark.parametrize(
    ("model", "own", "expected"),
    [
        ("claude-sonnet-4-5", {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-sonnet-4-5", {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 8192}),
        ("claude-opus-4-6", {"type": "enabled", "budget_tokens": 2000}, {"type": "enabled", "budget_tokens": 2000}),
        ("claude-opus-4-7", {"type": "enabled", "budget_tokens": 2000}, {"type": "adaptive"}),
        ("claude-opus-5", {"type": "adaptive", "display": "omitted"}, {"type": "adaptive", "display": "omitted"}),
        ("claude-opus-5", {"type": "disabled"}, {"type": "disabled"}),
        ("claude-opus-5-5", {"type": "disabled"}, None),
    ],
)
def test_the_clients_own_thinking_in_the_form_that_the_model_takes(model: str, own: Any, expected: Any) -> None:
    assert body(ask(thinking=own), model).get("thinking") == expected


def test_sampling_beside_thinking_is_left_out() -> None:
    sent = prepared(ask(reasoning_effort="low", temperature=0.3, top_p=0.97, top_k=4), "claude-sonnet-4-20250514")
    made = json.loads(sent.body)
    assert not problems(made)
    assert (made["top_p"], sent.dropped) == (0.97, ("temperature", "top_k"))


SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
HIDDEN = {"type": "redacted_thinking", "data": "blob"}


@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-4-6", "claude-opus-5-5"])
def test_E_038_signed_thinking_returns_first_and_unchanged(model: str) -> None:
    history = [USER, called("a", thinking_blocks=[SIGNED, HIDDEN]), result("a")]
    made = body(ask(*history, tools=[WEATHER], reasoning_effort="high"), model)
    assert made["messages"][1]["content"][:2] == [SIGNED, HIDDEN]
    assert made["thinking"]["type"] in ("enabled", "adaptive")


def test_E_038_lost_thinking_turns_a_budget_off_until_the_next_turn() -> None:
    history = [USER, called("a", reasoning_content="Hm."), result("a")]
    sent = prepared(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-sonnet-4-5")
    assert "thinking" not in json.loads(sent.body)
    assert sent.dropped == ("reasoning_effort",)
    later = [*history, {"role": "assistant", "content": "Sunny."}, USER]
    assert body(ask(*later, tools=[WEATHER], reasoning_effort="high"), "claude-sonnet-4-5")["thinking"]
    assert body(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")["thinking"]


def test_E_039_thinking_does_not_go_to_a_model_that_does_not_think_now() -> None:
    history = [USER, {"role": "assistant", "content": "Hi", "thinking_blocks": [SIGNED]}, USER]
    assert "Hm." not in json.dumps(body(ask(*history), "claude-sonnet-4-5"))
    assert "Hm." not in json.dumps(body(ask(*history, reasoning_effort="none"), "claude-opus-5"))
    assert "Hm." in json.dumps(body(ask(*history), "claude-opus-5"))


@pytest.mark.parametrize(
    "extras",
    [
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm."}]},
        {"reasoning_details": [{"type": "reasoning.text", "text": "Hm.", "signature": "s", "format": "google-gemini-v1"}]},
        {"thinking_blocks": ["Hm."], "reasoning_content": "Hm."},
    ],
)  # fmt: skip
def test_E_040_unsigned_and_foreign_thinking_is_left_out(extras: Any) -> None:
    history = [USER, {"role": "assistant", "content": "Hi", **extras}, USER]
    assert "Hm." not in json.dumps(body(ask(*history, reasoning_effort="high")))


def test_thinking_in_openrouters_words_is_understood() -> None:
    details = [
        {"type": "reasoning.text", "text": "Hm.", "signature": "sig", "format": "anthropic-claude-v1"},
        {"type": "reasoning.encrypted", "data": "blob", "format": "anthropic-claude-v1"},
    ]
    made = body(ask(USER, called("a", reasoning_details=details), result("a"), tools=[WEATHER], reasoning_effort="low"))
    assert made["messages"][1]["content"][:2] == [SIGNED, HIDDEN]


def test_models_that_bind_thinking_may_drop_it_instead_of_failing() -> None:
    history = [USER, {"role": "assistant", "content": "Hi", "thinking_blocks": [SIGNED]}, USER]
    sent = prepared(ask(*history), "claude-opus-5-5")
    made = json.loads(sent.body)
    assert made["thinking"]["block_binding"] == {"prefix_mismatch_behavior": "drop_block"}
    assert "thinking-binding-controls-2026-08-01" in sent.headers["anthropic-beta"]
    assert "thinking" not in json.loads(prepared(ask(USER), "claude-opus-5-5").body)


CONTENT = [
    {"type": "thinking", "thinking": "One.", "signature": "s1"},
    {"type": "text", "text": "Part one. "},
    {"type": "thinking", "thinking": "Two.", "signature": "s2"},
    {"type": "text", "text": "Part two."},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
    {"type": "redacted_thinking", "data": "d3"},
    {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Oslo"}},
]


def test_interleaved_thinking_returns_to_its_exact_place() -> None:
    sent = prepared(ask(tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")
    told = ADAPTER.parse(message(*CONTENT, stop="tool_use"), sent).completion["choices"][0]["message"]
    history = [USER, {"role": "assistant", **told}, result("toolu_1"), result("toolu_2")]
    made = body(ask(*history, tools=[WEATHER], reasoning_effort="high"), "claude-opus-4-6")
    assert made["messages"][1]["content"] == CONTENT


# Whole answers


def message(*content: dict[str, Any], stop: str = "end_turn", **fields: Any) -> bytes:
    return json.dumps(
        {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "content": content,
            "stop_reason": stop, "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 5}, **fields,
        }
    ).encode()  # fmt: skip


SENT = UpstreamRequest("", {}, b"", notes={"custom": frozenset(), "answer": None})


@pytest.mark.parametrize("recording", replay.recordings("anthropic", endpoint="messages", stream=False), ids=str)
def test_every_recorded_answer(recording: replay.Recording) -> None:
    """Text, calls, citations and counts are those of the recording."""
    answer = ADAPTER.parse(recording.body, SENT)
    whole = replay.replay_whole(recording, answer)
    recorded = json.loads(recording.body)
    blocks = recorded["content"]
    (choice,) = whole["choices"]
    assert (choice["message"]["content"] or "") == "".join(b["text"] for b in blocks if b["type"] == "text")
    calls = [(c["id"], json.loads(c["function"]["arguments"])) for c in choice["message"].get("tool_calls", [])]
    assert calls == [(b["id"], b["input"]) for b in blocks if b["type"] == "tool_use"]
    thoughts = [b for b in blocks if b["type"].endswith("thinking")]
    back = [
        {k: v for k, v in b.items() if k not in ("index", "at")} for b in choice["message"].get("thinking_blocks", [])
    ]
    assert back == thoughts
    cited = [c for b in blocks for c in b.get("citations") or [] if c["type"] == "web_search_result_location"]
    assert [a["url_citation"]["url"] for a in choice["message"]["annotations"]] == [c["url"] for c in cited]
    counts = recorded["usage"]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == counts["input_tokens"] + counts.get("cache_read_input_tokens", 0) + counts.get(
        "cache_creation_input_tokens", 0
    )
    assert answer.usage.completion_tokens == counts["output_tokens"]
    assert answer.served_tier == ("default" if counts.get("service_tier") else None)
    if recorded["stop_reason"] == "refusal":
        assert choice["finish_reason"] == "content_filter"


def test_every_recording_of_the_provider_is_played() -> None:
    """305 exchanges: answers, streams and failures of Messages, and 4 of other operations."""

    def count(**which: Any) -> int:
        return len(replay.recordings("anthropic", **which))

    replay.need(replay.recordings("anthropic", endpoint="messages", stream=True))
    played = sum(count(endpoint="messages", stream=s, status=status) for s in (False, True) for status in (200, None))
    assert played == 301
    assert (
        played + sum(count(endpoint=e, stream=False, status=s) for e in ("count_tokens", "models") for s in (200, None))
        == 305
    )


@pytest.mark.parametrize(
    "recording",
    [
        *replay.recordings("anthropic", endpoint="messages", stream=False, status=None),
        *replay.recordings("anthropic", endpoint="models", stream=False, status=None),
        *replay.recordings("anthropic", endpoint="count_tokens", stream=False, status=None),
    ],
    ids=str,
)
def test_every_recorded_failure(recording: replay.Recording) -> None:
    failure = ADAPTER.error(recording.status, recording.headers, recording.body)
    kinds = {400: ErrorKind.INVALID_REQUEST, 401: ErrorKind.AUTHENTICATION, 404: ErrorKind.NOT_FOUND}
    assert (failure.kind, failure.status) == (kinds[recording.status], recording.status)


def told(status: int, kind: str, text: str = "No.", **details: Any) -> bytes:
    return json.dumps(
        {"type": "error", "error": {"type": kind, "message": text, **details}, "request_id": "r"}
    ).encode()


@pytest.mark.parametrize(
    ("status", "kind", "text", "details", "expected"),
    [
        (400, "invalid_request_error", "prompt is too long: 3 tokens > 2 maximum", {}, ErrorKind.CONTEXT_LENGTH),
        (400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 1 + 2 > 3", {}, ErrorKind.CONTEXT_LENGTH),
        (400, "invalid_request_error", "Your credit balance is too low to access the API.", {}, ErrorKind.QUOTA),
        (400, "invalid_request_error", "messages: at least one message is required", {}, ErrorKind.INVALID_REQUEST),
        (401, "authentication_error", "invalid x-api-key", {}, ErrorKind.AUTHENTICATION),
        (402, "billing_error", "Pay.", {}, ErrorKind.QUOTA),
        (403, "permission_error", "No.", {}, ErrorKind.AUTHENTICATION),
        (404, "not_found_error", "model: claude-x", {}, ErrorKind.NOT_FOUND),
        (413, "request_too_large", "Request exceeds the maximum size", {}, ErrorKind.TOO_LARGE),
        (429, "rate_limit_error", "Slow down.", {}, ErrorKind.RATE_LIMITED),
        (429, "rate_limit_error", "No.", {"details": {"error_code": "enforced_spend_limit_reached"}}, ErrorKind.QUOTA),
        (500, "api_error", "Internal server error", {}, ErrorKind.SERVER),
        (504, "timeout_error", "Late.", {}, ErrorKind.TIMEOUT),
        (529, "overloaded_error", "Overloaded", {}, ErrorKind.OVERLOADED),
    ],
)  # fmt: skip
def test_E_074_E_075_failures_by_what_can_be_done_about_them(
    status: int, kind: str, text: str, details: Any, expected: ErrorKind
) -> None:
    failure = ADAPTER.error(status, {"retry-after": "7"}, told(status, kind, text, **details))
    assert (failure.kind, failure.status, failure.retry_after) == (expected, status, 7)
    if expected is ErrorKind.CONTEXT_LENGTH:
        assert failure.code == "context_length_exceeded"


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b"<html>", b'{"type":"message","content":"x"}'])
def test_what_is_no_message_fails(broken: bytes) -> None:
    with pytest.raises(replay.ProviderError) as caught:
        ADAPTER.parse(broken, SENT)
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_an_error_inside_a_200_fails() -> None:
    with pytest.raises(replay.ProviderError) as caught:
        ADAPTER.parse(told(200, "overloaded_error"), SENT)
    assert caught.value.kind is ErrorKind.OVERLOADED


def test_E_068_cached_tokens_are_told_once_in_buckets_of_their_own() -> None:
    counts = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 12304,
        "cache_read_input_tokens": 0,
        "output_tokens": 550,
    }
    usage = ADAPTER.parse(message({"type": "text", "text": "x"}, usage=counts), SENT).usage
    assert usage == Usage(input=3, cache_write=12304, output=550)
    assert usage.to_openai()["prompt_tokens"] == 12307
    assert usage.to_openai()["prompt_tokens_details"]["cache_write_tokens"] == 12304


def test_unknown_blocks_are_ignored() -> None:
    answer = ADAPTER.parse(message({"type": "hologram", "x": 1}, {"type": "text", "text": "a"}), SENT)
    assert answer.completion["choices"][0]["message"] == {"content": "a"}


# Models


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("claude-3-5-sonnet-20241022", "claude-3-5"),
        ("claude-opus-4-20250514", "claude-opus-4"),
        ("claude-opus-4-1@20250805", "claude-opus-4-1"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic/claude-haiku-4.5", "claude-haiku-4-5"),
        ("claude-opus-5", "claude-opus-5"),
        ("claude-opus-5-5@default", "claude-opus-5-5"),
    ],
)
def test_models_are_known_by_every_name(name: str, family: str) -> None:
    assert models.gates(name) is models.GATES[family]


def test_later_models_are_taken_for_the_newest_and_others_for_older_ones() -> None:
    assert models.gates("claude-opus-6") is models.NEWEST
    assert models.gates("claude-opus-5-7") is models.NEWEST
    assert models.gates("kimi-k3") is models.OTHER
    sent = prepared(ask(temperature=0.5), "mine", options=Options(same_as={"mine": "claude-opus-5"}))
    assert sent.dropped == ("temperature",)


# Properties


def lawful_messages() -> st.SearchStrategy[list[dict[str, Any]]]:
    """Any conversation that OpenAI accepts."""
    words = st.text(max_size=8)
    texts = st.builds(lambda text: {"type": "text", "text": text}, words)
    images = st.just({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}})
    thought = st.sampled_from([SIGNED, HIDDEN, {"type": "thinking", "thinking": "?"}, {**SIGNED, "at": [3, 1]}])
    instruct = st.builds(
        lambda role, c: [{"role": role, "content": c}], st.sampled_from(["system", "developer"]), words
    )
    user = st.builds(
        lambda c: [{"role": "user", "content": c}], words | st.lists(texts | images, min_size=1, max_size=3)
    )
    extras = st.fixed_dictionaries({}, optional={"thinking_blocks": st.lists(thought, max_size=3)})
    say = st.builds(
        lambda c, e: [{"role": "assistant", "content": c, **e}], words | st.lists(texts, min_size=1), extras
    )
    ids = st.lists(st.text("abc.:_-|é", min_size=1, max_size=6), min_size=1, max_size=3, unique=True)
    arguments = st.sampled_from(["", "{}", '{"a":1}', "null", "5"])

    def exchange(ids: list[str], args: str, content: Any, extras: Any, answers: list[Any], swap: bool) -> list[Any]:
        made = called(*ids, content=content, **extras)
        for call in made["tool_calls"]:
            call["function"]["arguments"] = args
        results = [result(i, a) for i, a in zip(ids, answers, strict=False)]
        return [made, *(reversed(results) if swap else results)]

    contents = st.lists(words | st.lists(texts | images, min_size=1, max_size=2), min_size=3, max_size=3)
    tool = st.builds(exchange, ids, arguments, words | st.none(), extras, contents, st.booleans())
    return st.lists(instruct | user | say | tool, min_size=1, max_size=8).map(
        lambda runs: [m for run in runs for m in run]
    )


@settings(max_examples=300, deadline=None)
@given(
    lawful_messages(),
    st.sampled_from(["claude-3-5-sonnet-latest", "claude-sonnet-4-5", "claude-opus-4-8", "claude-opus-5-5"]),
    st.sampled_from([None, "none", "high"]),
)
def test_any_lawful_conversation_makes_a_lawful_request(messages: list[Any], model: str, effort: str | None) -> None:
    request = ask(*messages, **({"reasoning_effort": effort} if effort else {}))
    made = body(request, model)
    if not models.gates(model).prefill:
        assert made["messages"][-1]["role"] != "assistant"
    if made.get("thinking", {}).get("type") == "enabled":
        last = next((t for t in reversed(made["messages"]) if t["role"] == "assistant"), None)
        if last and last["content"][-1]["type"] == "tool_use":
            assert any(b["type"].endswith("thinking") for b in last["content"])
    assert prepared(request, model).body == prepared(request, model).body


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_conversation_of_two_turns_with_parallel_calls_returns_as_it_went(data: st.DataObject) -> None:
    """What the model said, told to a client and sent back by it, is what the model said."""
    values = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5), st.lists, max_leaves=4
    )
    inputs = data.draw(st.lists(st.dictionaries(st.text(max_size=4), values, max_size=3), min_size=1, max_size=4))
    text = data.draw(st.text(max_size=10).filter(lambda t: not t or t.strip() != ""))
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    content += [
        {"type": "tool_use", "id": f"toolu_{n}", "name": "weather", "input": value} for n, value in enumerate(inputs)
    ]
    answer = ADAPTER.parse(message(*content, stop="tool_use"), SENT)
    whole = replay.completion(answer, id="c", created=1, model="m")
    reply = whole["choices"][0]["message"]
    made = body(ask(USER, reply, *(result(c["id"]) for c in reply["tool_calls"]), tools=[WEATHER]))
    assert made["messages"][1]["content"] == content


# The official SDK as the judge


def test_the_recorded_requests_pass_the_same_check_as_ours() -> None:
    """The validator itself is sane: what the provider accepted, it accepts (server tools aside)."""
    found = replay.need(replay.recordings("anthropic", endpoint="messages", stream=False))
    bodies = [r.request for r in found if r.request]
    shaped = [b for b in bodies if all(isinstance(m["content"], list) for m in b["messages"])]
    wrong = [b for b in shaped if problems(b)]
    assert len(shaped) > 100
    assert len(wrong) < len(shaped) * 0.1


def test_the_answers_that_we_simulate_are_messages_for_the_sdk() -> None:
    parsed = anthropic.types.Message.model_validate_json(message(*CONTENT, stop="tool_use"))
    assert [block.type for block in parsed.content] == [block["type"] for block in CONTENT]
