"""Chat messages -> turns."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.anthropic import models
from adapters.errors import UnsupportedParameter

from . import replay
from .anthropic_requests import (
    ADAPTER,
    HIDDEN,
    LATE,
    PIXEL,
    SENT,
    SIGNED,
    USER,
    WEATHER,
    ask,
    body,
    called,
    message,
    prepared,
    refused,
    result,
)
from .anthropic_types import problems


def test_E_015_leading_system_and_developer_messages_are_the_system_prompt_in_order() -> None:
    made = body(
        ask({"role": "system", "content": "A"}, {"role": "developer", "content": [{"type": "text", "text": "B"}]}, USER)
    )
    assert [b["text"] for b in made["system"]] == ["A", "B"]
    assert made["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


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
