"""Roles, contents and the pairing of tool calls and answers."""

from typing import Any

import pytest

from gateway.validation import validate_chat

from .chat_requests import ANSWERED, ASKED, CALL, IMAGE, USER, Refusal, chat, refusal

TEXT = {"type": "text", "text": "a"}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}
FILE = {"type": "file", "file": {"file_id": "file-1"}}
REFUSED = {"type": "refusal", "refusal": "No."}
PARTS = (TEXT, IMAGE, AUDIO, FILE, REFUSED)


def said(role: str, content: Any, **fields: Any) -> dict[str, Any]:
    """A message of ``role`` alone in a request, with a call before it if it is an answer."""
    message = {"role": role, "content": content, **fields}
    return chat(ASKED, {"tool_call_id": "call_1", **message}) if role == "tool" else chat(message)


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant", "tool", "function"])
def test_C_200_roles(role: str) -> None:
    validate_chat(said(role, "", **({"name": "f"} if role == "function" else {})))


def test_C_200_368_unknown_roles() -> None:
    assert refusal(chat({"role": "bot", "content": ""})) == Refusal(
        "invalid_value", "messages[0].role",
        "Invalid value: 'bot'. Supported values are: 'system', 'assistant', 'user', 'function', 'tool', and 'developer'.",
    )  # fmt: skip
    assert refusal(chat({"content": ""}))[:2] == ("missing_required_parameter", "messages[0].role")
    assert refusal(chat({"role": ["user"], "content": ""}))[:2] == ("invalid_type", "messages[0].role")
    assert refusal(chat("hi"))[:2] == ("invalid_type", "messages[0]")


ALLOWED = {
    "developer": (TEXT,), "system": (TEXT,), "user": (TEXT, IMAGE, AUDIO, FILE), "assistant": (TEXT, REFUSED),
    "tool": (TEXT, IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("role", ALLOWED)
def test_C_202_parts_by_role(role: str) -> None:
    for part in PARTS:
        request = said(role, [part])
        if part in ALLOWED[role]:
            validate_chat(request)
        else:
            code, param, _ = refusal(request)
            assert (code, str(param).partition(".")[2]) == ("invalid_value", "content[0].type")


@pytest.mark.parametrize("role", ["developer", "system"])
def test_C_201_instructions_are_text_only(role: str) -> None:
    assert refusal(said(role, [TEXT, IMAGE])).message == "Invalid value: 'image_url'. Supported values are: 'text'."


def test_C_202_contents_are_not_empty_arrays() -> None:
    for role in ALLOWED:
        assert refusal(said(role, [])).code == "empty_array"


def test_C_202_an_assistant_refuses_in_one_part() -> None:
    validate_chat(said("assistant", [TEXT, TEXT]))
    for content in ([REFUSED, REFUSED], [TEXT, REFUSED]):
        assert refusal(said("assistant", content)).param == "messages[0].content"


@pytest.mark.parametrize("role", ["developer", "system", "user", "tool"])
def test_C_203_content_is_required(role: str) -> None:
    assert refusal(said(role, None)).code == "invalid_type"
    assert "expected one of a string or array of objects, but got null" in refusal(said(role, None)).message
    assert "but got an object" in refusal(said(role, {})).message
    missing = said(role, "")
    del missing["messages"][-1]["content"]
    found = refusal(missing)
    assert found.code == "missing_required_parameter"
    assert str(found.param).endswith(".content")


@pytest.mark.parametrize("instead", [
    {"refusal": "No."}, {"audio": {"id": "audio_1"}}, {"function_call": {"name": "f", "arguments": ""}},
])  # fmt: skip
def test_C_204_what_stands_for_content(instead: dict[str, Any]) -> None:
    validate_chat(chat({"role": "assistant", **instead}, USER))
    validate_chat(chat({"role": "assistant", "content": None, **instead}, USER))
    validate_chat(chat(ASKED, ANSWERED))


def test_C_204_an_assistant_says_something() -> None:
    assert refusal(chat({"role": "assistant"}))[:2] == ("missing_required_parameter", "messages[0].content")
    assert refusal(said("assistant", None, refusal=None))[:2] == ("invalid_type", "messages[0].content")


@pytest.mark.parametrize("messages", [
    (USER, ANSWERED), (ANSWERED,), (USER, {"role": "assistant", "content": "x"}, ANSWERED),
    (USER, ASKED, {**ANSWERED, "tool_call_id": "call_2"}), (ASKED, ANSWERED, USER, ANSWERED),
])  # fmt: skip
def test_C_205_an_answer_needs_its_call(messages: tuple[dict[str, Any], ...]) -> None:
    index = max(i for i, message in enumerate(messages) if message["role"] == "tool")
    assert refusal(chat(*messages)) == Refusal(
        None, f"messages.[{index}].role",
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
    )  # fmt: skip


def test_C_205_an_answer_names_its_call() -> None:
    for answer in ({"role": "tool", "content": "x"}, {"role": "tool", "content": "x", "tool_call_id": None}):
        assert refusal(chat(ASKED, answer)).param == "messages[1].tool_call_id"


TWO = {**ASKED, "tool_calls": [CALL, {**CALL, "id": "call_2"}]}


@pytest.mark.parametrize(("messages", "param"), [
    ((USER, ASKED), "messages"), ((ASKED, USER), "messages.[1].role"), ((ASKED, ASKED), "messages.[1].role"),
    ((TWO, ANSWERED), "messages"), ((TWO, ANSWERED, USER), "messages.[2].role"),
])  # fmt: skip
def test_C_206_every_call_is_answered(messages: tuple[dict[str, Any], ...], param: str) -> None:
    found = refusal(chat(*messages))
    assert (found.code, found.param) == (None, param)
    assert found.message.startswith(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'."
    )
    assert found.message.endswith("call_2" if TWO in messages else "call_1")


def test_C_206_answers_in_any_order() -> None:
    validate_chat(chat(TWO, {**ANSWERED, "tool_call_id": "call_2"}, ANSWERED, USER, ASKED, ANSWERED))


@pytest.mark.parametrize("role", ["developer", "system", "user", "assistant", "function"])
def test_C_207_names(role: str) -> None:
    for name in ("ann", "a.b-c_d", "Ünal"):
        validate_chat(said(role, "x", name=name))
    for name in ("a b", "a<b", "a|b", "a\\b", "a/b", "a>b", "", "a\n", "a\u2028b"):
        found = refusal(said(role, "x", name=name))
        assert found[:2] == ("invalid_value", "messages[0].name")
        assert r"^[^\s<|\\/>]+$" in found.message
    assert refusal(said(role, "x", name=1)).code == "invalid_type"


def test_C_208_functions_have_a_name() -> None:
    validate_chat(said("function", None, name="f"))
    assert refusal(said("function", "x"))[:2] == ("missing_required_parameter", "messages[0].name")
    assert refusal(said("function", "x", name=None))[:2] == ("invalid_type", "messages[0].name")
    assert refusal(said("function", [TEXT], name="f"))[:2] == ("invalid_type", "messages[0].content")


@pytest.mark.parametrize(("call", "param"), [
    ({}, "type"), ({"type": "function"}, "id"), ({**CALL, "type": "x"}, "type"), ({**CALL, "id": None}, "id"),
    ({**CALL, "function": {"name": "f"}}, "function.arguments"),
    ({**CALL, "function": {"name": "f", "arguments": {}}}, "function.arguments"),
    ({**CALL, "function": {"arguments": ""}}, "function.name"), ({**CALL, "function": "f"}, "function"),
    ({"id": "c", "type": "custom", "custom": {"name": "f"}}, "custom.input"), ({"id": "c", "type": "custom"}, "custom"),
])  # fmt: skip
def test_C_210_tool_calls(call: dict[str, Any], param: str) -> None:
    assert refusal(chat({**ASKED, "tool_calls": [call]})).param == f"messages[0].tool_calls[0].{param}"
    for wrong in ("call_1", None, [call]):
        assert refusal(chat({**ASKED, "tool_calls": [wrong]}))[:2] == ("invalid_type", "messages[0].tool_calls[0]")
    custom = {"id": "call_1", "type": "custom", "custom": {"name": "f", "input": ""}}
    validate_chat(chat({**ASKED, "tool_calls": [custom]}, ANSWERED))


def test_C_210_ids_of_tool_calls_are_bounded() -> None:
    def asking(length: int) -> dict[str, Any]:
        name = "c" * length
        return chat({**ASKED, "tool_calls": [{**CALL, "id": name}]}, {**ANSWERED, "tool_call_id": name})

    validate_chat(asking(40))
    assert refusal(asking(41)) == Refusal(
        "string_above_max_length", "messages[0].tool_calls[0].id",
        "Invalid 'messages[0].tool_calls[0].id': string too long. Expected a string with maximum length 40, but got a string with length 41 instead.",
    )  # fmt: skip


def test_C_211_audio_of_an_earlier_answer() -> None:
    assert refusal(chat({"role": "assistant", "audio": {}})).param == "messages[0].audio.id"
    validate_chat(
        chat(
            {"role": "assistant", "content": None, "audio": {"id": "a", "data": "", "expires_at": 1, "transcript": ""}}
        )
    )


def test_C_212_a_function_call_of_old() -> None:
    assert refusal(said("assistant", None, function_call={"name": "f"})).param == "messages[0].function_call.arguments"


@pytest.mark.parametrize("url", ["https://a.ch/x.png", "HTTP://A.CH", "data:image/png;base64,AAAA"])
def test_C_214_image_urls(url: str) -> None:
    for detail in ("auto", "low", "high", "original", None):
        validate_chat(said("user", [{"type": "image_url", "image_url": {"url": url, "detail": detail}}]))


@pytest.mark.parametrize(("image", "code", "param"), [
    ({"url": "file:///etc/passwd"}, "invalid_value", ".url"), ({"url": "cat.png"}, "invalid_value", ".url"),
    ({"url": ""}, "invalid_value", ".url"), ({"url": None}, "invalid_type", ".url"), ({}, "missing_required_parameter", ".url"),
    ({"url": "https://a.ch", "detail": "max"}, "invalid_value", ".detail"), ("https://a.ch", "invalid_type", ""),
])  # fmt: skip
def test_C_214_bad_images(image: object, code: str, param: str) -> None:
    found = refusal(said("user", [TEXT, {"type": "image_url", "image_url": image}]))
    assert found[:2] == (code, f"messages[0].content[1].image_url{param}")


@pytest.mark.parametrize(("audio", "param"), [
    ({}, "data"), ({"data": ""}, "format"), ({"data": "", "format": "ogg"}, "format"), ({"data": 1, "format": "wav"}, "data"),
])  # fmt: skip
def test_C_215_input_audio(audio: dict[str, Any], param: str) -> None:
    found = refusal(said("user", [{"type": "input_audio", "input_audio": audio}]))
    assert found.param == f"messages[0].content[0].input_audio.{param}"


@pytest.mark.parametrize("file", [{}, {"filename": "a"}, {"file_id": 1}, {"file_id": None}])
def test_C_216_files(file: dict[str, Any]) -> None:
    assert refusal(said("user", [{"type": "file", "file": file}])).param == "messages[0].content[0].file.file_id"
    validate_chat(said("user", [{"type": "file", "file": {"filename": "a.pdf", "file_data": "AA=="}}]))


def test_C_217_unknown_parts() -> None:
    assert refusal(said("user", [TEXT, {"type": "video", "video": {}}]))[:2] == (
        "invalid_value", "messages[0].content[1].type",
    )  # fmt: skip
    assert refusal(said("user", [{"text": "a"}])).param == "messages[0].content[0].type"
    assert refusal(said("user", ["a"])).param == "messages[0].content[0]"


@pytest.mark.parametrize(
    ("breakpoint_", "param"), [({}, "mode"), ({"mode": "x"}, "mode"), ({"mode": "explicit", "ttl": "1h"}, "ttl")]
)
def test_C_130_prompt_cache_breakpoints(breakpoint_: dict[str, Any], param: str) -> None:
    for part in (TEXT, IMAGE, AUDIO, FILE):
        found = refusal(said("user", [{**part, "prompt_cache_breakpoint": breakpoint_}]))
        assert found.param == f"messages[0].content[0].prompt_cache_breakpoint.{param}"
        validate_chat(said("user", [{**part, "prompt_cache_breakpoint": {"mode": "explicit"}}]))


def test_C_218_an_answer_may_be_sent_back_as_it_came() -> None:
    returned = {
        "role": "assistant", "content": "Hi", "refusal": None, "annotations": [], "audio": None, "function_call": None,
        "tool_calls": None, "parsed": {"a": 1}, "reasoning_content": "Thinking",
    }  # fmt: skip
    validate_chat(chat(USER, returned, USER))
    validate_chat(chat(USER, {**returned, "content": None, "tool_calls": [{**CALL, "index": 0}]}, ANSWERED))


@pytest.mark.parametrize("messages", [
    (USER, USER), (USER, {"role": "system", "content": "late"}), ({"role": "user", "content": ""},),
    ({"role": "assistant", "content": ""}, {"role": "assistant", "content": "a"}), ({"role": "system", "content": "alone"},),
])  # fmt: skip
def test_C_219_odd_but_lawful_conversations(messages: tuple[dict[str, Any], ...]) -> None:
    validate_chat(chat(*messages))
