"""Gemini on AI Studio: requests judged by Google's own types, whole answers by the recordings."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.emit import completion
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.gemini import Gemini
from adapters.gemini.models import gates
from adapters.gemini.signatures import SKIP, Memory
from adapters.gemini.vertex import VertexGemini
from adapters.interface import Target, UpstreamRequest
from adapters.params import PARAMS
from adapters.registry import load

from .gemini_types import problems
from .replay import need, recordings, replay_whole

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
OLD, BUDGET, NEW = "gemini-2.0-flash", "gemini-2.5-flash", "gemini-3-flash-preview"


def target(model=NEW, **more):
    adapter = Gemini()
    return Target(adapter.base_url, model, "key", adapter.options({}), **more)


def user(content):
    return {"role": "user", "content": content}


def called(*calls, **more):
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **more}


def call(call_id, name="get_weather", arguments='{"city":"Bern"}', **more):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def result(call_id, content="sunny"):
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def build(*messages, model=NEW, adapter=None, options=None, policy="translate", **params):
    """The body we would send, which Google's types have accepted."""
    sent = (adapter or Gemini()).prepare(
        {"model": "x", "messages": list(messages) or [user("hi")], **params}, target(model, unsupported=policy)
    )
    body = json.loads(sent.body)
    assert problems(body) == []
    return body


def answer(*parts, finish="STOP", **more):
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": finish, "index": 0}
    return {"candidates": [candidate], "modelVersion": "gemini-3-flash", **more}


def read(response, *, adapter=None, n=1, forced_tool=False, functions=False, **params):
    """The completion a client would get for a response to a request with ``params``."""
    adapter = adapter or Gemini()
    sent = adapter.prepare({"model": "x", "messages": [user("hi")], "n": n, **params}, target())
    parsed = adapter.parse(json.dumps(response).encode(), sent)
    options = {"forced_tool": forced_tool, "functions": functions, "n": n}
    return completion(parsed, id="chatcmpl-1", created=1, model="x", **options)


def said(response, **more):
    return read(response, **more)["choices"][0]


# -- recordings


def test_every_recorded_answer_becomes_a_lawful_completion_with_its_usage():
    adapter, sent = Gemini(), UpstreamRequest("", {}, b"")
    found = need(recordings("gemini", endpoint="generateContent", stream=False))
    for recording in found:
        parsed = adapter.parse(recording.body, sent)
        lawful = replay_whole(recording, parsed)
        assert_usage(parsed, json.loads(recording.body).get("usageMetadata"))
        assert_content(lawful, json.loads(recording.body))
    assert len(found) > 100


def assert_usage(parsed, counted):
    counted = counted or {}
    if parsed.usage is None:
        assert not any(key.endswith("TokenCount") for key in counted)
        return
    usage, number = parsed.usage, lambda key: counted.get(key, 0)
    assert usage.prompt_tokens == number("promptTokenCount") + number("toolUsePromptTokenCount")
    assert usage.completion_tokens == number("candidatesTokenCount") + number("thoughtsTokenCount")
    assert usage.cache_read == number("cachedContentTokenCount")
    assert usage.reasoning == number("thoughtsTokenCount")
    audio = sum(d.get("tokenCount", 0) for d in counted.get("promptTokensDetails", ()) if d["modality"] == "AUDIO")
    assert usage.audio_input <= audio
    assert min(usage.input, usage.output, usage.audio_input, usage.audio_output) >= 0


def assert_content(lawful, response):
    parts = [p for c in response.get("candidates", ()) for p in c.get("content", {}).get("parts", ())]
    message = lawful["choices"][0]["message"]
    assert (message["content"] or "") == "".join(p["text"] for p in parts if "text" in p and not p.get("thought"))
    calls = [p["functionCall"] for p in parts if "functionCall" in p]
    assert [(c["name"], c.get("args", {})) for c in calls] == [
        (c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())
    ]
    thoughts = "".join(p["text"] for p in parts if p.get("thought") and "text" in p)
    assert message.get("reasoning_content", "") == thoughts


def test_every_recorded_failure_has_a_kind():
    found = need(
        [r for s in (True, False) for e in ENDPOINTS for r in recordings("gemini", endpoint=e, stream=s, status=None)]
    )
    kinds = {r.case: Gemini().error(r.status, r.headers, r.body) for r in found}
    assert {e.status: e.kind for e in kinds.values()} == {
        400: ErrorKind.AUTHENTICATION,
        403: ErrorKind.AUTHENTICATION,
        404: ErrorKind.NOT_FOUND,
        429: ErrorKind.RATE_LIMITED,
    }


ENDPOINTS = ("generateContent", "streamGenerateContent", "batchEmbedContents", "countTokens", "models")


# -- messages


def test_system_messages_become_one_instruction_in_order():
    body = build(
        {"role": "system", "content": "a"},
        user("hi"),
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
    )
    assert body["systemInstruction"] == {"parts": [{"text": "a"}, {"text": "b"}]}
    assert body["contents"] == [{"role": "user", "parts": [{"text": "hi"}]}]


def test_a_model_without_instructions_is_told_as_a_user():
    body = build({"role": "system", "content": "a"}, user("hi"), model="gemma-3-27b-it")
    assert "systemInstruction" not in body
    assert body["contents"][0]["parts"] == [{"text": "a"}]


def test_E_003_parallel_results_are_one_turn_in_call_order_with_names():
    body = build(
        user("hi"), called(call("a"), call("b", "clock", "{}")), result("b", "noon"), result("a", '{"sky":"blue"}'),
        tools=[WEATHER, CLOCK],
    )  # fmt: skip
    assert body["contents"][2] == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "get_weather", "response": {"sky": "blue"}, "id": "a"}},
            {"functionResponse": {"name": "clock", "response": {"output": "noon"}, "id": "b"}},
        ],
    }


def test_E_004_a_text_after_results_is_a_turn_of_its_own():
    body = build(user("hi"), called(call("a")), result("a"), user("and now?"))
    assert [c["role"] for c in body["contents"]] == ["user", "model", "user", "user"]


def test_E_005_history_with_calls_needs_no_tools():
    assert "tools" not in build(user("hi"), called(call("a")), result("a"))


def test_E_007_a_result_without_its_call_is_refused_by_name():
    with pytest.raises(UnsupportedParameter, match="tool"):
        build(user("hi"), result("a"))


@pytest.mark.parametrize("arguments", ["", "null", "{}"])
def test_E_008_empty_arguments_are_an_empty_object(arguments):
    body = build(user("hi"), called(call("a", arguments=arguments)), result("a"))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {}


def test_E_009_truncated_arguments_are_refused_by_name():
    with pytest.raises(UnsupportedParameter) as caught:
        build(user("hi"), called(call("a", arguments='{"city": "Be')), result("a"))
    assert caught.value.param.startswith("messages[1].tool_calls[0]")


def test_E_010_arguments_that_are_no_object_are_wrapped():
    body = build(user("hi"), called(call("a", arguments="[1]")), result("a"))
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"input": [1]}


def test_E_013_the_same_id_twice_in_a_conversation_stays_apart():
    body = build(user("hi"), called(call("a")), result("a", "1"), called(call("a", "clock", "{}")), result("a", "2"))
    ids = [c["parts"][0]["functionCall"]["id"] for c in body["contents"] if "functionCall" in c["parts"][0]]
    assert len(set(ids)) == 2


def test_E_013_one_id_for_two_calls_keeps_the_signature_of_each():
    def signed(name, signature):
        return call("a", name, extra_content={"google": {"thought_signature": signature}})

    body = build(user("hi"), called(signed("f", "c2ln"), signed("g", "c2lo")), result("a", "1"), result("a", "2"))
    made = body["contents"][1]["parts"]
    assert [(p["functionCall"]["name"], p["thoughtSignature"]) for p in made] == [("f", "c2ln"), ("g", "c2lo")]
    told = [p["functionResponse"] for p in body["contents"][2]["parts"]]
    assert [(r["name"], r["response"]["output"]) for r in told] == [("f", "1"), ("g", "2")]


def test_E_016_instructions_alone_become_the_question():
    body = build({"role": "system", "content": "Say hi."})
    assert body["contents"] == [{"role": "user", "parts": [{"text": "Say hi."}]}]
    assert "systemInstruction" not in body


def test_E_015_instructions_after_the_last_answer_are_what_is_asked():
    late, answer = {"role": "developer", "content": "Sum it up."}, {"role": "assistant", "content": "a"}
    body = build({"role": "system", "content": "s"}, user("x"), answer, late)
    assert body["systemInstruction"] == {"parts": [{"text": "s"}]}
    assert body["contents"][2:] == [{"role": "user", "parts": [{"text": "Sum it up."}]}]
    blank = build(user("x"), answer, {"role": "system", "content": ""})
    assert [c["role"] for c in blank["contents"]] == ["user", "model"]
    answered = build(user("x"), called(call("a")), result("a"), late)
    assert answered["systemInstruction"] == {"parts": [{"text": "Sum it up."}]}


@pytest.mark.parametrize(
    ("model", "goes_on"),
    [
        ("gemini-2.5-flash", True),
        ("gemini-3-pro-preview", True),
        ("gemini-3.1-pro-preview", True),
        ("gemini-3.5-flash", True),
        ("gemini-3.5-flash-lite", False),
        ("models/gemini-3.6-flash", False),
        ("gemini-3.7-flash", False),
        ("gemini-4-pro", False),
    ],
)
def test_E_017_the_end_with_the_models_own_words_is_continued_or_answered(model, goes_on):
    contents = build(user("x"), {"role": "assistant", "content": "So"}, model=model)["contents"]
    assert contents[1] == {"role": "model", "parts": [{"text": "So"}]}
    assert contents[2:] == ([] if goes_on else [{"role": "user", "parts": [{"text": "Continue."}]}])


def test_E_018_consecutive_turns_of_one_role_are_merged():
    body = build(user("a"), user("b"), {"role": "assistant", "content": "c"}, {"role": "assistant", "content": "d"})
    assert [[p["text"] for p in c["parts"]] for c in body["contents"]] == [["a", "b"], ["c", "d"]]


def test_E_019_blank_texts_and_empty_turns_are_left_out():
    body = build(user([{"type": "text", "text": ""}, image(f"data:image/png;base64,{PNG}")]), user(""))
    assert body["contents"] == [{"role": "user", "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}]
    assert build(user(""))["contents"][0]["parts"]


@pytest.mark.parametrize("content", ["", [{"type": "text", "text": " "}]])
def test_E_019_a_blank_turn_after_an_answer_stays_one(content):
    body = build(user("x"), {"role": "assistant", "content": "a"}, user(content))
    assert body["contents"][2:] == [{"role": "user", "parts": [{"text": "."}]}]
    answered = build(user("x"), called(call("a")), result("a"), user(content))["contents"]
    assert [list(p) for c in answered[2:] for p in c["parts"]] == [["functionResponse"]]


def test_a_call_at_the_very_begin_follows_a_user():
    assert build(called(call("a")), result("a"))["contents"][0]["role"] == "user"


def image(url, **more):
    return {"type": "image_url", "image_url": {"url": url, **more}}


@pytest.mark.parametrize(("model", "inside"), [(NEW, True), (BUDGET, False)])
def test_E_020_an_image_in_a_result_stays_with_it_where_it_can(model, inside):
    parts = [{"type": "text", "text": "see"}, image(f"data:image/png;base64,{PNG}")]
    body = build(user("hi"), called(call("a")), result("a", parts), model=model)
    picture = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    response = body["contents"][2]["parts"][0]["functionResponse"]
    assert response["response"] == {"output": "see"}
    assert response.get("parts") == ([picture] if inside else None)
    assert (body["contents"][-1] == {"role": "user", "parts": [picture]}) is not inside


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("https://example.org/a.png", "image/png"),
        ("https://example.org/a", "image/jpeg"),
        ("https://youtu.be/lCdaVNyHtjU", "video/mp4"),
        ("gs://bucket/a.webp", "image/webp"),
    ],
)
def test_an_address_is_googles_to_fetch(url, kind):
    part = build(user([image(url)]))["contents"][0]["parts"][0]
    assert part == {"fileData": {"fileUri": url, "mimeType": kind}}


@pytest.mark.parametrize("url", ["https://example.org/a.png", "http://[", "ftp://x/y", "C:\\a.png", ""])
def test_E_021_an_address_that_nobody_fetches_is_refused_by_name(url):
    with pytest.raises(UnsupportedParameter) as caught:
        build(user([{"type": "text", "text": "see"}, image(url)]), model=OLD)
    assert caught.value.param == "messages[0].content[1].image_url.url"


@pytest.mark.parametrize("url", [f"data:image/jpg;base64,{PNG}", f"DATA:;base64,{PNG[:40]}\n{PNG[40:]}"])
def test_E_022_data_urls_as_clients_write_them(url):
    assert build(user([image(url)]))["contents"][0]["parts"][0]["inlineData"] == {"mimeType": "image/png", "data": PNG}


def test_sound_and_files_by_value():
    parts = build(
        user([
            {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}},
            {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}},
            {"type": "file", "file": {"filename": "notes.txt", "file_data": "aGk="}},
            {"type": "file", "file": {"file_id": "files/abc"}},
        ])
    )["contents"][0]["parts"]  # fmt: skip
    assert [p["inlineData"]["mimeType"] for p in parts[:4]] == [
        "audio/wav",
        "audio/mp3",
        "application/pdf",
        "text/plain",
    ]
    assert parts[4]["fileData"]["fileUri"] == f"{Gemini.base_url}/files/abc"


def test_a_file_of_openais_is_refused_by_name():
    with pytest.raises(UnsupportedParameter) as caught:
        build(user([{"type": "file", "file": {"file_id": "file-abc"}}]))
    assert caught.value.param == "messages[0].content[0].file.file_id"


def test_C_211_an_earlier_audio_answer_is_refused_by_name():
    with pytest.raises(UnsupportedParameter) as caught:
        build(user("hi"), {"role": "assistant", "audio": {"id": "audio_1"}})
    assert caught.value.param == "messages[1].audio"


def test_low_detail_of_every_image_is_a_low_resolution():
    url = f"data:image/png;base64,{PNG}"
    body = build(user([image(url, detail="low"), image(url, detail="low")]))
    assert body["generationConfig"] == {"mediaResolution": "MEDIA_RESOLUTION_LOW"}
    assert "generationConfig" not in build(user([image(url, detail="low"), image(url)]))


def test_C_218_our_own_answer_can_be_sent_back_as_it_is():
    message = said(answer({"text": "thinking", "thought": True}, {"text": "hi", "thoughtSignature": "c2ln"}))["message"]
    body = build(user("hi"), message, user("and?"))
    assert body["contents"][1] == {"role": "model", "parts": [{"text": "hi", "thoughtSignature": "c2ln"}]}


def test_a_result_with_a_long_number_is_sent_as_text():
    text = '{"id": 12345678901234567890}'
    body = build(user("hi"), called(call("a")), result("a", text))
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == {"output": text}


# -- thought signatures


def test_E_041_a_signature_makes_a_round_trip():
    adapter = Gemini()
    parts = [
        {"functionCall": {"name": "get_weather", "args": {"city": "Bern"}, "id": "c1"}, "thoughtSignature": "c2ln"}
    ]
    made = said(answer(*parts), adapter=adapter, tools=[WEATHER])["message"]
    assert made["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    body = build(user("hi"), made, result("c1"), adapter=Gemini(), tools=[WEATHER])
    assert body["contents"][1]["parts"] == parts


def test_E_041_a_signature_survives_a_client_that_drops_unknown_fields():
    adapter = Gemini()
    part = {"functionCall": {"name": "get_weather", "args": {"city": "Bern"}}, "thoughtSignature": "c2ln"}
    made = said(answer(part), adapter=adapter, tools=[WEATHER])["message"]["tool_calls"][0]
    assert len(made["id"]) <= 40
    plain = {key: made[key] for key in ("id", "type", "function")}
    body = build(user("hi"), called(plain), result(made["id"]), adapter=adapter)
    assert body["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_E_041_a_foreign_call_skips_the_validation_and_only_the_first_needs_to():
    parts = build(user("hi"), called(call("a"), call("b")), result("a"), result("b"))["contents"][1]["parts"]
    assert [part.get("thoughtSignature") for part in parts] == [SKIP, None]
    assert (
        "thoughtSignature"
        not in build(user("hi"), called(call("a")), result("a"), model=BUDGET)["contents"][1]["parts"][0]
    )


def test_E_042_a_signature_on_an_empty_text_is_kept():
    message = said(answer({"text": "hi"}, {"text": "", "thoughtSignature": "c2ln"}))["message"]
    assert message["content"] == "hi"
    assert message["extra_content"] == {"google": {"thought_signature": "c2ln"}}


def test_the_memory_of_signatures_is_bounded_and_asks_for_id_and_name():
    memory = Memory(limit=100)
    for number in range(10):
        memory.remember(f"call_{number}", "f", "s" * 30)
    assert [memory.recall(f"call_{n}", "f") is not None for n in (6, 7, 8, 9)] == [False, True, True, True]
    assert memory.recall("call_9", "g") is None
    memory.remember("call_9", "f", "new")
    assert memory.recall("call_9", "f") == "new"


# -- tools


def test_tools_are_declared_with_their_json_schema():
    body = build(tools=[WEATHER, CLOCK])
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "get_weather",
                    "description": "The weather of a city.",
                    "parametersJsonSchema": WEATHER["function"]["parameters"],
                },
                {"name": "clock"},
            ]
        }
    ]
    assert "toolConfig" not in body


def test_E_026_a_tool_without_parameters_has_none():
    for parameters in ({}, {"type": "object", "properties": {}}):
        tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
        assert build(tools=[tool])["tools"] == [{"functionDeclarations": [{"name": "f"}]}]


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", None),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"type": "function", "function": {"name": "clock"}}, {"mode": "ANY", "allowedFunctionNames": ["clock"]}),
    ],
)
def test_C_147_tool_choice(choice, config):
    body = build(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert body.get("toolConfig") == ({"functionCallingConfig": config} if config else None)


@pytest.mark.parametrize(("mode", "config"), [("auto", None), ("required", {"mode": "ANY"})])
def test_E_032_allowed_tools_are_the_only_ones_declared(mode, config):
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": "clock"}}]}
    body = build(tools=[WEATHER, CLOCK], tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert body["tools"] == [{"functionDeclarations": [{"name": "clock"}]}]
    assert body.get("toolConfig") == ({"functionCallingConfig": config} if config else None)


def test_E_033_a_choice_of_an_unknown_tool_is_refused():
    with pytest.raises(UnsupportedParameter):
        build(tools=[CLOCK], tool_choice={"type": "function", "function": {"name": "nope"}})


def test_C_284_a_custom_tool_is_a_function_with_one_text_and_comes_back_as_itself():
    custom = {
        "type": "custom",
        "custom": {
            "name": "sql",
            "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: /x/"}},
        },
    }
    declared = build(tools=[custom])["tools"][0]["functionDeclarations"][0]
    assert "start: /x/" in json.dumps(declared["parametersJsonSchema"]["properties"]["input"])
    back = said(answer({"functionCall": {"name": "sql", "args": {"input": "SELECT 1"}}}), tools=[custom])
    made = back["message"]["tool_calls"][0]
    assert (made["type"], made["custom"]) == ("custom", {"name": "sql", "input": "SELECT 1"})
    assert back["finish_reason"] == "tool_calls"
    body = build(user("hi"), called(made), result(made["id"]), tools=[custom])
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == {"input": "SELECT 1"}


def test_E_024_deprecated_functions_there_and_back():
    functions = [WEATHER["function"]]
    body = build(
        user("hi"), {"role": "assistant", "function_call": {"name": "get_weather", "arguments": "{}"}},
        {"role": "function", "name": "get_weather", "content": "sunny"},
        functions=functions, function_call={"name": "get_weather"},
    )  # fmt: skip
    assert body["toolConfig"]["functionCallingConfig"]["allowedFunctionNames"] == ["get_weather"]
    back = said(answer({"functionCall": {"name": "get_weather", "args": {}}}), functions=True)
    assert back["message"]["function_call"] == {"name": "get_weather", "arguments": "{}"}
    assert back["finish_reason"] == "function_call"


def test_E_036_a_name_google_refuses_is_rewritten_and_restored():
    tool = {"type": "function", "function": {"name": "9lives"}}
    assert build(tools=[tool])["tools"][0]["functionDeclarations"][0]["name"] == "_9lives"
    made = said(answer({"functionCall": {"name": "_9lives"}}), tools=[tool])["message"]["tool_calls"][0]
    assert made["function"]["name"] == "9lives"
    assert (
        build(user("hi"), called(made), result(made["id"]))["contents"][1]["parts"][0]["functionCall"]["name"]
        == "_9lives"
    )


def test_C_152_one_call_at_a_time_where_the_client_wants_that():
    parts = [{"functionCall": {"name": "clock"}}, {"functionCall": {"name": "clock"}}]
    assert len(said(answer(*parts), tools=[CLOCK])["message"]["tool_calls"]) == 2
    assert len(said(answer(*parts), tools=[CLOCK], parallel_tool_calls=False)["message"]["tool_calls"]) == 1


def test_C_143_strict_tools_are_validated_where_the_model_can():
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    assert build(tools=[strict])["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert "toolConfig" not in build(tools=[strict, WEATHER])
    assert "toolConfig" not in build(tools=[strict], model=OLD)


def test_a_tool_that_takes_any_arguments_says_so():
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "additionalProperties": True}},
    }
    declared = build(tools=[tool])["tools"][0]["functionDeclarations"][0]
    assert declared["parametersJsonSchema"] == {"type": "object", "additionalProperties": True}


def test_hints_of_a_search_are_dropped_and_named():
    request = {"model": "x", "messages": [user("hi")], "web_search_options": {"search_context_size": "low"}}
    assert Gemini().prepare(request, target()).dropped == ("web_search_options.search_context_size",)
    with pytest.raises(UnsupportedParameter) as caught:
        Gemini().prepare(request, target(unsupported="reject"))
    assert caught.value.param == "web_search_options.search_context_size"


def test_web_search_alone_and_together_with_functions():
    assert build(web_search_options={})["tools"] == [{"googleSearch": {}}]
    body = build(web_search_options={}, tools=[CLOCK])
    assert body["tools"] == [{"functionDeclarations": [{"name": "clock"}]}, {"googleSearch": {}}]
    assert body["toolConfig"] == {"includeServerSideToolInvocations": True}
    with pytest.raises(UnsupportedParameter, match="Web search"):
        build(web_search_options={}, tools=[CLOCK], model=BUDGET)
    dropped = build(web_search_options={}, tools=[CLOCK], model=BUDGET, policy="drop")
    assert dropped["tools"] == [{"functionDeclarations": [{"name": "clock"}]}]


# -- parameters


def test_every_parameter_has_a_fate():
    assert set(PARAMS) <= set(Gemini.params)


def test_generation_parameters():
    body = build(
        temperature=0.5, top_p=0.9, top_k=40, presence_penalty=0.1, frequency_penalty=0.2, n=2, seed=2**40 + 5,
        stop=["a", ""], max_tokens=5, max_completion_tokens=9, logprobs=True, top_logprobs=3, model=OLD,
    )  # fmt: skip
    assert body["generationConfig"] == {
        "temperature": 0.5, "topP": 0.9, "topK": 40, "presencePenalty": 0.1, "frequencyPenalty": 0.2,
        "candidateCount": 2, "seed": 5, "stopSequences": ["a"], "maxOutputTokens": 9, "responseLogprobs": True,
        "logprobs": 3,
    }  # fmt: skip


def test_E_084_E_085_empty_values_ask_for_nothing():
    body = build(stop="", tools=[], logprobs=False, top_logprobs=0, user="", logit_bias={}, n=1, modalities=["text"])
    assert set(body) == {"contents"}
    assert set(build(presence_penalty=0, frequency_penalty=0)) == {"contents"}


@pytest.mark.parametrize(
    ("model", "studio", "vertex"),
    [
        ("gemini-2.0-flash", True, True),
        ("gemini-2.5-pro", False, True),
        ("gemini-2.5-flash", False, True),
        ("gemini-3.1-pro-preview", False, False),
        ("gemini-flash-latest", False, False),
    ],
)
def test_penalties_that_a_model_refuses_are_left_out_and_named(model, studio, vertex):
    request = {"model": "x", "messages": [user("hi")], "presence_penalty": 0.5, "frequency_penalty": 0.1}
    options = VertexGemini().options({"project": "p"})
    for adapter, goes, taken in (
        (Gemini(), target(model), studio),
        (VertexGemini(), Target("", model, "key", options), vertex),
    ):
        sent = adapter.prepare(request, goes)
        assert json.loads(sent.body).get("generationConfig", {}).get("presencePenalty") == (0.5 if taken else None)
        assert sent.dropped == (() if taken else ("presence_penalty", "frequency_penalty"))
    if not studio:
        with pytest.raises(UnsupportedParameter, match="presence_penalty"):
            Gemini().prepare(request, target(model, unsupported="reject"))


def test_an_int64_seed_fits_into_32_bits_and_stays_itself_where_it_did():
    assert build(seed=-7)["generationConfig"]["seed"] == -7
    assert -(2**31) <= build(seed=2**63 - 1)["generationConfig"]["seed"] < 2**31


@pytest.mark.parametrize(
    ("model", "effort", "config"),
    [
        ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
        ("gemini-2.5-flash", "max", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128, "includeThoughts": True}),
        ("gemini-2.5-pro", "xhigh", {"thinkingBudget": 32768, "includeThoughts": True}),
        ("models/gemini-2.5-pro", "medium", {"thinkingBudget": 8192, "includeThoughts": True}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        ("gemini-3.1-pro-preview", "none", {"thinkingLevel": "LOW"}),
        ("gemini-3-flash-preview", "none", {"thinkingLevel": "MINIMAL"}),
        ("gemini-3.5-flash", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("gemini-3.8-flash", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-3.8-flash-lite", "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        ("gemini-flash-latest", "high", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-4-pro", "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-2.0-flash", "high", None),
        ("gemma-3-27b-it", "high", None),
        ("gemini-2.5-flash-image", "high", None),
    ],
)  # fmt: skip
def test_E_044_effort_by_the_table_of_models(model, effort, config):
    assert build(model=model, reasoning_effort=effort).get("generationConfig", {}).get("thinkingConfig") == config


def test_structured_output():
    schema = {"type": "object", "properties": {"a": {"const": "x"}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    new = build(response_format=form)["generationConfig"]
    assert new["responseMimeType"] == "application/json"
    assert new["responseJsonSchema"]["properties"] == {"a": {"enum": ["x"], "type": "string"}}
    old = build(response_format=form, model=OLD)["generationConfig"]
    assert old["responseSchema"] == {
        "type": "object", "properties": {"a": {"enum": ["x"], "type": "string"}}, "required": ["a"],
    }  # fmt: skip
    assert build(response_format={"type": "json_object"})["generationConfig"] == {
        "responseMimeType": "application/json"
    }
    assert "generationConfig" not in build(response_format={"type": "text"})


def test_E_083_json_together_with_tools_needs_generation_3():
    form = {"type": "json_object"}
    assert build(response_format=form, tools=[CLOCK])["generationConfig"]
    with pytest.raises(UnsupportedParameter) as caught:
        build(response_format=form, tools=[CLOCK], model=BUDGET)
    assert caught.value.param == "response_format"
    assert "generationConfig" not in build(response_format=form, tools=[CLOCK], model=BUDGET, policy="drop")
    final = build(
        user("x"), called(call("a")), result("a"), response_format=form, tools=[CLOCK], tool_choice="none", model=BUDGET
    )
    assert final["generationConfig"] == {"responseMimeType": "application/json"}
    assert not {"tools", "toolConfig"} & final.keys()


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("logit_bias", {"5": 1}),
        ("modalities", ["text", "audio"]),
        ("n", 9),
        ("moderation", {"model": "m"}),
        ("min_p", 1),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(param, value):
    with pytest.raises(UnsupportedParameter) as caught:
        build(**{param: value})
    assert caught.value.param == param


def test_hints_are_dropped_and_named_and_the_policy_may_refuse_them():
    request = {
        "model": "x",
        "messages": [user("hi")],
        "user": "u",
        "verbosity": "low",
        "store": True,
        "metadata": {"a": "b"},
    }
    assert set(Gemini().prepare(request, target()).dropped) == {"user", "verbosity"}
    with pytest.raises(UnsupportedParameter):
        Gemini().prepare(request, target(unsupported="reject"))


def test_an_allowed_extension_is_passed_on_unchanged():
    request = {"model": "x", "messages": [user("hi")], "cachedContent": "cachedContents/1"}
    sent = Gemini().prepare(request, target(allow=frozenset({"cachedContent"})))
    assert json.loads(sent.body)["cachedContent"] == "cachedContents/1"


@pytest.mark.parametrize(
    ("tier", "sent"), [("flex", "flex"), ("priority", "priority"), ("default", None), (None, None)]
)
def test_the_service_tier_goes_along(tier, sent):
    assert build(service_tier=tier).get("serviceTier") == sent


def test_the_address_and_the_key():
    adapter = load("gemini")
    request = {"model": "x", "messages": [user("hi")]}
    sent = adapter.prepare(request, target("gemini-3-flash", headers={"x-extra": "1"}))
    assert sent.url == "https://generativelanguage.googleapis.com/v1beta/models/gemini-3-flash:generateContent"
    assert sent.headers == {"content-type": "application/json", "x-goog-api-key": "key", "x-extra": "1"}
    own = replace(target("gemini-3-flash", headers={"authorization": "Bearer x"}), api_key="")
    assert adapter.prepare(request, own).headers == {"content-type": "application/json", "authorization": "Bearer x"}
    sent = adapter.prepare({**request, "stream": True}, target("tunedModels/mine"))
    assert sent.url.endswith("/v1beta/tunedModels/mine:streamGenerateContent?alt=sse")
    assert sent.stream
    assert adapter.credential(adapter.options({})) is None


@pytest.mark.parametrize("base", ["https://proxy.example", "https://proxy.example/v1beta"])
def test_an_address_without_a_version_gets_ours(base):
    sent = Gemini().prepare({"model": "x", "messages": [user("hi")]}, Target(base, NEW, "k", Gemini().options({})))
    assert sent.url == f"https://proxy.example/v1beta/models/{NEW}:generateContent"


def test_safety_settings_are_the_operators():
    adapter = Gemini()
    options = adapter.options(
        {"safety_settings": [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]}
    )
    sent = adapter.prepare({"model": "x", "messages": [user("hi")]}, Target("u", NEW, "k", options))
    body = json.loads(sent.body)
    assert problems(body) == []
    assert body["safetySettings"] == [{"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"}]


@pytest.mark.parametrize(
    "raw", [{"nope": 1}, {"safety_settings": "x"}, {"safety_settings": [{"category": "HARM_CATEGORY_X"}]}]
)
def test_a_bad_option_is_named(raw):
    with pytest.raises(ValueError, match=next(iter(raw))):
        Gemini().options(raw)


# -- answers


@pytest.mark.parametrize(
    ("finish", "reason"),
    [
        ("STOP", "stop"), ("MAX_TOKENS", "length"), ("CONTINUATION", "length"), ("SAFETY", "content_filter"),
        ("RECITATION", "content_filter"), ("PROHIBITED_CONTENT", "content_filter"), ("SPII", "content_filter"),
        ("OTHER", "stop"), ("FAKE_ENUM", "stop"),
    ],
)  # fmt: skip
def test_E_072_finish_reasons_are_openais(finish, reason):
    assert said(answer({"text": "x"}, finish=finish))["finish_reason"] == reason


def test_E_051_the_end_after_calls():
    part = {"functionCall": {"name": "clock", "args": {}}}
    assert said(answer(part))["finish_reason"] == "tool_calls"
    assert said(answer(part, finish="MAX_TOKENS"))["finish_reason"] == "length"
    assert said(answer(part, finish="SAFETY"))["finish_reason"] == "content_filter"


def test_C_266_a_forced_named_tool_ends_with_stop():
    assert said(answer({"functionCall": {"name": "clock"}}), forced_tool=True)["finish_reason"] == "stop"


@pytest.mark.parametrize("finish", ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "MISSING_THOUGHT_SIGNATURE"])
def test_a_call_that_the_model_spoiled_is_a_failure_not_an_empty_answer(finish):
    with pytest.raises(ProviderError) as caught:
        read(answer(finish=finish))
    assert caught.value.kind is ErrorKind.SERVER


def test_E_073_a_blocked_prompt_is_a_refusal():
    for n in (1, 2):
        got = read({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}, n=n)
        assert [c["finish_reason"] for c in got["choices"]] == ["content_filter"] * n
        assert all(c["message"]["refusal"] and c["message"]["content"] is None for c in got["choices"])
        assert got["usage"]["prompt_tokens"] == 5


def test_E_073_a_withheld_answer_is_a_refusal_and_a_begun_one_keeps_its_text():
    empty = said({"candidates": [{"finishReason": "SAFETY", "finishMessage": "No."}]})
    assert (empty["message"]["refusal"], empty["message"]["content"]) == ("No.", None)
    begun = said(answer({"text": "Once"}, finish="SAFETY"))
    assert (begun["message"]["refusal"], begun["message"]["content"]) == (None, "Once")


def test_C_282_call_ids_are_googles_where_they_can_and_unique():
    parts = [{"functionCall": {"name": "clock", "id": i}} for i in ("g1", "g1", "x" * 41, "")]
    ids = [c["id"] for c in said(answer(*parts))["message"]["tool_calls"]]
    assert ids[0] == "g1"
    assert len(set(ids)) == 4
    assert all(len(i) <= 40 for i in ids)


def test_C_281_missing_arguments_are_an_empty_object_and_null_values_stay():
    parts = [{"functionCall": {"name": "f"}}, {"functionCall": {"name": "f", "args": {"a": None, "b": "é"}}}]
    calls = said(answer(*parts))["message"]["tool_calls"]
    assert [c["function"]["arguments"] for c in calls] == ["{}", '{"a":null,"b":"é"}']


def test_thoughts_are_reasoning_content():
    message = said(answer({"text": "hm", "thought": True}, {"text": "hi"}))["message"]
    assert (message["reasoning_content"], message["content"]) == ("hm", "hi")


def test_parts_of_googles_own_tools_are_left_out_and_pictures_come_along():
    parts = [
        {"executableCode": {"code": "1"}},
        {"codeExecutionResult": {}},
        {"toolCall": {}},
        {"brandNew": 1},
        {"text": "x"},
    ]
    assert said(answer(*parts))["message"]["content"] == "x"
    message = said(answer({"inlineData": {"mimeType": "image/png", "data": PNG}}))["message"]
    assert message["images"] == [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}]


def test_C_285_fewer_choices_than_asked_for_are_no_answer():
    with pytest.raises(ProviderError):
        read(answer({"text": "x"}), n=2)
    both = answer({"text": "a"})
    both["candidates"].append({"content": {"parts": [{"text": "b"}]}, "finishReason": "STOP", "index": 1})
    assert [c["message"]["content"] for c in read(both, n=2)["choices"]] == ["a", "b"]


def test_C_273_logprobs():
    response = answer({"text": "é!"})
    response["candidates"][0]["logprobsResult"] = {
        "chosenCandidates": [
            {"token": "é", "logProbability": -0.5, "tokenId": 1},
            {"token": "!", "logProbability": -1},
        ],
        "topCandidates": [
            {"candidates": [{"token": "é", "logProbability": -0.5}, {"token": "e", "logProbability": -2}]}
        ],
    }
    content = said(response, logprobs=True)["logprobs"]["content"]
    assert [(t["token"], t["logprob"], t["bytes"]) for t in content] == [("é", -0.5, [195, 169]), ("!", -1, [33])]
    assert [[t["token"] for t in entry["top_logprobs"]] for entry in content] == [["é", "e"], []]


def test_C_270_grounding_becomes_citations_by_characters():
    response = answer({"text": "Zürich "}, {"text": "ist schön."})
    response["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a", "title": "A"}}, {"web": {"uri": "https://b"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 8, "endIndex": 19, "text": "ist schön."}, "groundingChunkIndices": [0, 7]}
        ],
        "webSearchQueries": ["a", "b"],
    }
    response["usageMetadata"] = {"promptTokenCount": 1, "candidatesTokenCount": 2}
    message = said(response)["message"]
    spans = [
        (a["url_citation"]["url"], a["url_citation"]["start_index"], a["url_citation"]["end_index"])
        for a in message["annotations"]
    ]
    assert spans == [("https://a", 7, 17), ("https://b", 17, 17)]
    assert message["content"][7:17] == "ist schön."
    sent = UpstreamRequest("", {}, b"")
    assert Gemini().parse(json.dumps(response).encode(), sent).usage.calls == {"web_search": 2}
    response["modelVersion"] = "gemini-2.5-flash"  # charged by the prompt
    assert Gemini().parse(json.dumps(response).encode(), sent).usage.calls == {"web_search": 1}


def test_a_citation_is_where_its_words_are():
    response = answer({"text": "One. Two."})
    segment = {"startIndex": 6, "endIndex": 10, "text": "Two."}  # off by one, as recorded
    response["candidates"][0]["groundingMetadata"] = {
        "groundingChunks": [{"web": {"uri": "https://a"}}],
        "groundingSupports": [{"segment": segment, "groundingChunkIndices": [0]}],
    }
    cited = said(response)["message"]["annotations"][0]["url_citation"]
    assert (cited["start_index"], cited["end_index"]) == (5, 9)


def test_recitations_become_citations():
    response = answer({"text": "To be"})
    response["candidates"][0]["citationMetadata"] = {
        "citationSources": [{"startIndex": 3, "endIndex": 5, "uri": "https://a"}, {"license": "x"}]
    }
    assert [a["url_citation"]["url"] for a in said(response)["message"]["annotations"]] == ["https://a"]


def test_E_069_usage_in_disjoint_buckets():
    counted = {
        "promptTokenCount": 100, "cachedContentTokenCount": 40, "candidatesTokenCount": 10, "thoughtsTokenCount": 7,
        "toolUsePromptTokenCount": 5, "totalTokenCount": 122,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 70}, {"modality": "AUDIO", "tokenCount": 30}],
        "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 10}],
        "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}],
    }  # fmt: skip
    usage = (
        Gemini()
        .parse(json.dumps(answer({"text": "x"}, usageMetadata=counted)).encode(), UpstreamRequest("", {}, b""))
        .usage
    )
    assert (usage.input, usage.cache_read, usage.audio_input) == (45, 40, 20)
    assert (usage.output, usage.audio_output, usage.reasoning) == (6, 4, 7)
    assert usage.total_tokens == 122


@pytest.mark.parametrize(
    ("counted", "tier"),
    [
        ({"serviceTier": "standard"}, "default"), ({"serviceTier": "PRIORITY"}, "priority"),
        ({"trafficType": "ON_DEMAND"}, "default"), ({"trafficType": "ON_DEMAND_FLEX"}, "flex"),
        ({"trafficType": "PROVISIONED_THROUGHPUT"}, "scale"), ({"trafficType": "NEW"}, None), ({}, None),
    ],
)  # fmt: skip
def test_the_tier_that_served(counted, tier):
    response = answer({"text": "x"}, usageMetadata={"promptTokenCount": 1, **counted})
    assert Gemini().parse(json.dumps(response).encode(), UpstreamRequest("", {}, b"")).served_tier == tier


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"5", b"null", b'"x"', b"{}", b'{"candidates":[]}', b'{"candidates":5}']
)
def test_what_is_no_answer_is_a_failure(body):
    with pytest.raises(ProviderError):
        Gemini().parse(body, UpstreamRequest("", {}, b""))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(
        ["candidates", "content", "parts", "text", "functionCall", "name", "args", "finishReason", "index", "usageMetadata",
         "promptTokenCount", "groundingMetadata", "groundingSupports", "segment", "startIndex", "citationMetadata", "citations",
         "groundingChunks", "web", "uri", "logprobsResult", "chosenCandidates", "topCandidates", "partialArgs", "jsonPath",
         "promptFeedback", "blockReason", "inlineData", "mimeType", "error", "details", "thought", "thoughtSignature"]), inner, max_size=4),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES)
def test_any_json_is_an_answer_or_a_provider_error(value):
    whole = {"candidates": [{"content": {"parts": [value]}, "finishReason": "STOP"}, value]}
    for body in (value, whole):
        with contextlib.suppress(ProviderError):
            Gemini().parse(json.dumps(body).encode(), UpstreamRequest("", {}, b""))
        assert isinstance(Gemini().error(400, {}, json.dumps({"error": value}).encode()), ProviderError)


# -- failures


def status(code, message, **more):
    return json.dumps({"error": {"code": code, "message": message, **more}}).encode()


def quota(*violations, delay=None):
    details = [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": list(violations)}]
    details += [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}] if delay else []
    return status(429, "You exceeded your current quota, please check your plan and billing details.", details=details)


@pytest.mark.parametrize(
    ("code", "body", "kind"),
    [
        (400, status(400, "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576)."), "context_length"),
        (400, status(400, "Unable to submit request because the input token count is 9 but model only supports up to 5."), "context_length"),
        (400, status(400, "API key not valid. Please pass a valid API key."), "authentication"),
        (400, status(400, "x", details=[{"reason": "API_KEY_INVALID"}]), "authentication"),
        (400, status(400, "API key expired. Please renew the API key."), "authentication"),
        (400, status(400, "User location is not supported for the API use.", status="FAILED_PRECONDITION"), "authentication"),
        (400, status(400, "Request payload size exceeds the limit: 20971520 bytes."), "too_large"),
        (400, status(400, "Unknown name \"x\"", status="INVALID_ARGUMENT"), "invalid_request"),
        (401, b"", "authentication"), (402, b"", "quota"), (403, status(403, "x"), "authentication"),
        (404, b"<html>", "not_found"), (413, b"", "too_large"), (429, status(429, "Resource exhausted"), "rate_limited"),
        (429, b"[%b]" % status(429, "You exceeded your current quota"), "rate_limited"),
        (429, quota({"quotaId": "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"}, delay="34.4s"), "rate_limited"),
        (429, quota({"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier"}, delay="34.4s"), "quota"),
        (429, quota({"quotaId": "GenerateRequestsPerMinutePerProjectPerModel", "quotaValue": "0"}), "quota"),
        (499, b"{}", "server"), (500, status(500, "Internal"), "server"), (503, status(503, "The model is overloaded."), "overloaded"),
        (504, status(504, "Deadline"), "timeout"),
    ],
)  # fmt: skip
def test_E_074_E_075_E_077_failures_by_kind(code, body, kind):
    failure = Gemini().error(code, {}, body)
    assert failure.kind == kind
    assert failure.status == code


def test_E_074_a_context_that_is_too_long_has_openais_code():
    failure = Gemini().error(
        400, {}, status(400, "The input token count (9) exceeds the maximum number of tokens allowed (5).")
    )
    assert (failure.code, failure.param) == ("context_length_exceeded", "messages")


def test_E_078_when_to_come_back():
    assert Gemini().error(429, {}, quota(delay="38.5s")).retry_after == 38.5
    assert Gemini().error(503, {"retry-after": "7"}, b"").retry_after == 7
    assert Gemini().error(429, {}, quota({"quotaId": "RequestsPerDay"}, delay="9s")).retry_after is None


def test_C_363_no_account_of_ours_reaches_the_client():
    texts = (
        "Publisher Model `projects/acme-prod/locations/us-central1/publishers/google/models/x` was not found",
        "key AIzaSyD-1234567890123456",
    )
    for text in texts:
        for code in (400, 404, 403, 429, 500):
            message = Gemini().error(code, {}, status(code, text)).message
            assert "acme" not in message
            assert "AIza" not in message


def test_C_401_an_error_in_a_200_is_an_error():
    for body in (status(503, "overloaded"), b"[%b]" % status(503, "overloaded")):
        with pytest.raises(ProviderError) as caught:
            Gemini().parse(body, UpstreamRequest("", {}, b""))
        assert caught.value.kind is ErrorKind.OVERLOADED


# -- embeddings


def test_embeddings_there_and_back():
    adapter = Gemini()
    sent = adapter.prepare_embeddings(
        {"model": "x", "input": ["a", "b"], "dimensions": 64}, target("gemini-embedding-001")
    )
    assert sent.url.endswith("/v1beta/models/gemini-embedding-001:batchEmbedContents")
    each = {"model": "models/gemini-embedding-001", "outputDimensionality": 64}
    assert json.loads(sent.body) == {"requests": [{**each, "content": {"parts": [{"text": t}]}} for t in "ab"]}
    body = {"embeddings": [{"values": [0.1]}, {"values": [0.2]}], "usageMetadata": {"promptTokenCount": 4}}
    got = adapter.parse_embeddings(json.dumps(body).encode(), sent)
    assert [(d["index"], d["embedding"]) for d in got.completion["data"]] == [(0, [0.1]), (1, [0.2])]
    assert got.completion["model"] == "gemini-embedding-001"
    assert got.completion["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert got.usage.input == 4


def test_one_text_is_one_embedding_and_tokens_are_refused_by_name():
    sent = Gemini().prepare_embeddings({"model": "x", "input": "a"}, target("gemini-embedding-001"))
    assert len(json.loads(sent.body)["requests"]) == 1
    for tokens in ([1, 2], [[1, 2]]):
        with pytest.raises(UnsupportedParameter) as caught:
            Gemini().prepare_embeddings({"model": "x", "input": tokens}, target("gemini-embedding-001"))
        assert caught.value.param == "input"


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b'{"embeddings":[5]}', b'{"embedding":{}}', b"x", b'{"error":{"code":500}}']
)
def test_what_is_no_embedding_is_a_failure(body):
    with pytest.raises(ProviderError):
        Gemini().parse_embeddings(body, UpstreamRequest("", {}, b""))


# -- any conversation

TEXT = st.text(max_size=6)
PART = st.one_of(
    st.builds(lambda t: {"type": "text", "text": t}, TEXT),
    st.just(image(f"data:image/png;base64,{PNG}")),
    st.just({"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}),
)
CONTENT = TEXT | st.lists(PART, min_size=1, max_size=3)
ARGUMENTS = st.sampled_from(["", "null", "{}", '{"a": [1, {"b": null}]}', "[1]", '"x"', "5"])
RESULT = (
    TEXT
    | st.sampled_from(['{"a": 1}', "[1]", "{", "null"])
    | st.lists(PART.filter(lambda p: p["type"] != "input_audio"), min_size=1, max_size=2)
)


@st.composite
def turns(draw):
    """Messages that OpenAI takes: every call is answered, in any order, before anything else."""
    messages = []
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["system", "developer", "user", "assistant", "calls"]))
        if kind == "calls":
            ids = draw(st.lists(st.sampled_from(["a", "b", "c d", "x" * 40]), min_size=1, max_size=3, unique=True))
            made = [call(i, draw(st.sampled_from(["f", "g-1", "9x"])), draw(ARGUMENTS)) for i in ids]
            messages.append(called(*made, content=draw(st.none() | TEXT)))
            messages.extend(result(i, draw(RESULT)) for i in draw(st.permutations(ids)))
        else:
            content = draw(CONTENT if kind == "user" else TEXT)
            messages.append({"role": kind, "content": content})
    return messages


@settings(max_examples=200, deadline=None)
@given(turns(), st.sampled_from([OLD, BUDGET, NEW, "gemma-3-27b-it"]))
def test_any_lawful_conversation_is_lawful_for_google(messages, model):
    before = json.dumps(messages)
    build(*messages, model=model)
    assert json.dumps(messages) == before


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_gates_of_any_name(name):
    thinking = gates(name).thinking("high")
    assert thinking is None or set(thinking) - {"includeThoughts"} in ({"thinkingLevel"}, {"thinkingBudget"})
