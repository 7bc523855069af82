"""Messages, tools and media in one shape for the stricter providers."""

import pytest

from adapters import history, media, tools
from adapters.errors import UnsupportedParameter

RULE = history.IdRule(r"[a-zA-Z0-9_.:-]+")


def call(call_id, name="f", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def read(*messages):
    return list(history.read(list(messages), RULE))


def test_E_006_a_call_without_its_result_is_named():
    with pytest.raises(UnsupportedParameter, match="call_b"):
        read({"role": "assistant", "tool_calls": [call("call_a"), call("call_b")]}, tool("call_a"))


def tool(call_id, content="ok"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_E_007_a_result_without_its_call_is_named():
    with pytest.raises(UnsupportedParameter) as caught:
        read({"role": "user", "content": "hi"}, tool("call_a"))
    assert caught.value.param == "messages[1].role"


@pytest.mark.parametrize("arguments", ["", "  ", None, "null"])
def test_E_008_empty_arguments_are_an_empty_object(arguments):
    assert read({"role": "assistant", "tool_calls": [call("a", "f", arguments)]}, tool("a"))[0].calls[0].arguments == {}


def test_E_009_truncated_arguments_are_the_clients_error():
    with pytest.raises(UnsupportedParameter) as caught:
        read({"role": "assistant", "tool_calls": [call("a", "f", '{"x": ')]}, tool("a"))
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("arguments", "value"), [('{"x":"\\ud83d"}', {"x": "\ud83d"}), ('{"x":Infinity}', {"x": float("inf")})]
)
def test_E_009_arguments_that_models_and_clients_really_write_are_taken(arguments, value):
    assert (
        read({"role": "assistant", "tool_calls": [call("a", "f", arguments)]}, tool("a"))[0].calls[0].arguments == value
    )


@pytest.mark.parametrize(("arguments", "value"), [("[]", []), ("5", 5)])
def test_E_010_arguments_that_are_no_object_are_wrapped(arguments, value):
    first = read({"role": "assistant", "tool_calls": [call("a", "f", arguments)]}, tool("a"))[0]
    assert first.calls[0].arguments == {"input": value}


@pytest.mark.parametrize("given", ["call|1", "x" * 65, "\ud83d", "a b"])
def test_E_012_foreign_ids_are_rewritten_the_same_way_on_both_sides(given):
    first, second = read({"role": "assistant", "tool_calls": [call(given)]}, tool(given))
    assert first.calls[0].id == second.call_id
    assert len(second.call_id) <= 64
    assert read({"role": "assistant", "tool_calls": [call("functions.x:0")]}, tool("functions.x:0"))[1].call_id == (
        "functions.x:0"
    )


def test_E_013_an_id_used_twice_is_two_ids():
    turn = [{"role": "assistant", "tool_calls": [call("a")]}, tool("a")]
    ids = [m.call_id for m in read(*turn, *turn) if m.role == "tool"]
    assert len(set(ids)) == 2


def test_E_013_one_id_for_several_calls_is_answered_in_their_order():
    calls = {"role": "assistant", "tool_calls": [call("a", "f"), call("b", "g"), call("a", "h")]}
    made, *results = read(calls, tool("a", "1"), tool("a", "2"), tool("b", "3"))
    assert [c.name for c in made.calls] == ["f", "g", "h"]
    assert len({c.id for c in made.calls}) == 3
    assert [(r.name, r.parts[0]["text"]) for r in results] == [("f", "1"), ("h", "2"), ("g", "3")]
    assert {r.call_id for r in results} == {c.id for c in made.calls}
    with pytest.raises(UnsupportedParameter, match="did not have response messages: a"):
        read(calls, tool("a"), tool("b"))
    with pytest.raises(UnsupportedParameter, match="must be a response"):
        read(calls, tool("b"), tool("b"))


def test_E_024_deprecated_functions_become_tools():
    first, second = read(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x":1}'}},
        {"role": "function", "name": "f", "content": "ok"},
    )
    assert (first.calls[0].name, first.calls[0].arguments, second.name) == ("f", {"x": 1}, "f")
    assert first.calls[0].id == second.call_id
    wanted = tools.read({"functions": [{"name": "f"}], "function_call": {"name": "f"}})
    assert (wanted.choice, wanted.named, wanted.legacy) == ("named", "f", True)


def test_E_019_blank_texts_are_left_out():
    message = {"role": "user", "content": [{"type": "text", "text": " "}, {"type": "text", "text": "x"}]}
    assert read(message)[0].parts == ({"type": "text", "text": "x"},)
    assert read({"role": "assistant", "content": "", "refusal": "no"})[0].parts == ({"type": "text", "text": "no"},)


def test_E_026_a_tool_without_parameters_has_an_object_schema():
    wanted = tools.read({"tools": [{"type": "function", "function": {"name": "f"}}]})
    assert wanted.tools[0].parameters == {"type": "object", "properties": {}}


def test_E_032_allowed_tools_filter():
    both = [{"type": "function", "function": {"name": n}} for n in "ab"]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}]}
    wanted = tools.read({"tools": both, "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed}})
    assert ([t.name for t in wanted.tools], wanted.choice) == (["b"], "required")


def test_E_033_a_choice_that_does_not_exist_is_refused():
    with pytest.raises(UnsupportedParameter) as caught:
        tools.read(
            {
                "tools": [{"type": "function", "function": {"name": "a"}}],
                "tool_choice": {"type": "function", "function": {"name": "b"}},
            }
        )
    assert caught.value.param == "tool_choice"


def test_E_035_custom_tools_are_one_string_there_and_back():
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: WORD"}}
    wanted = tools.read({"tools": [{"type": "custom", "custom": {"name": "c", "format": grammar}}]})
    assert "start: WORD" in wanted.tools[0].parameters["properties"]["input"]["description"]
    told = tools.back("1", "c", '{"input":"free \\"text"}', wanted.notes())
    assert told == {"id": "1", "type": "custom", "custom": {"name": "c", "input": 'free "text'}}
    assert tools.back("1", "c", "not json", wanted.notes())["custom"]["input"] == "not json"
    assert tools.back("1", "c", "{}", wanted.notes())["custom"]["input"] == ""  # as it is streamed
    assert tools.back("1", "f", "{}", wanted.notes())["function"] == {"name": "f", "arguments": "{}"}


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.mark.parametrize(
    ("url", "media_type"),
    [
        ("data:image/jpg;base64,AAAA", "image/jpeg"),
        ("DATA:Image/PNG;Charset=x;BASE64," + PNG, "image/png"),
        ("data:image/jpeg;base64," + PNG, "image/png"),
        ("data:;base64,QUJD", "text/plain"),
        ("data:image/png;base64," + PNG[:40] + "\n " + PNG[40:].rstrip("="), "image/png"),
        ("data:application/octet-stream;base64,-_-_", "application/octet-stream"),
        ("data:text/plain,a%20b", "text/plain"),
    ],
)
def test_E_022_data_urls_as_clients_write_them(url, media_type):
    assert media.read(url, "p").type == media_type


@pytest.mark.parametrize("url", ["data:image/png;base64,%%%", "data:image/png;base64,", "data:nothing", "http://x"])
def test_E_022_broken_data_urls_are_the_clients_error(url):
    with pytest.raises(UnsupportedParameter):
        media.read(url, "messages[0].content[0]")
