"""Cohere v2: every recording, requests against the SDK's own types, and the edge cases by number."""

import inspect
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.cohere import Cohere
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import EmbeddingAdapter, Target, UpstreamRequest
from adapters.params import PARAMS
from adapters.registry import load

from .replay import RECORDED, Outcome, Recording, need, recordings, replay_stream, replay_whole, translate, written
from .test_bedrock import called, conversations, function, result, schema, user

ADAPTER = Cohere()
MODEL = "command-a-03-2025"
THINKER = "command-a-reasoning-08-2025"
ANSWERS = recordings("cohere", endpoint="v2.chat", stream=False)
STREAMS = recordings("cohere", endpoint="v2.chat", stream=True)
FAILURES = [
    r for e in ("v2.chat", "v1.chat", "embed") for r in recordings("cohere", endpoint=e, stream=False, status=None)
]
EMBEDDINGS = recordings("cohere", endpoint="embed", stream=False)
TOLD = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}


def sent(**notes: Any) -> UpstreamRequest:
    return UpstreamRequest("", {}, b"", stream=True, notes=notes)


# Recordings


def check_usage(usage: Any, told: dict[str, Any]) -> None:
    assert usage is not None
    assert usage.prompt_tokens == told["tokens"]["input_tokens"]
    assert usage.completion_tokens == told["tokens"]["output_tokens"]
    assert usage.cache_read == told.get("cached_tokens", 0)
    assert usage.reasoning == told["tokens"].get("reasoning_tokens", 0)


@pytest.mark.parametrize("recording", ANSWERS, ids=str)
def test_recorded_answers_become_lawful_completions_as_the_sdk_reads_them(recording: Recording):
    from cohere import V2ChatResponse  # the SDK's reading is the measure

    answer = ADAPTER.parse(recording.body, sent())
    lawful = replay_whole(recording, answer)
    told = V2ChatResponse(**recording.exchange["response"]["body"])
    message = lawful["choices"][0]["message"]
    items = told.message.content or []
    assert (message["content"] or "") == "".join(i.text for i in items if i.type == "text")
    thoughts = "".join(i.thinking for i in items if i.type == "thinking")
    assert message.get("reasoning_content", "") == "\n".join(t for t in (thoughts, told.message.tool_plan) if t)
    calls = [(c.id, c.function.name, c.function.arguments) for c in told.message.tool_calls or ()]
    found = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]
    assert found == [(i, n, "{}" if a == "null" else a) for i, n, a in calls]
    assert lawful["choices"][0]["finish_reason"] == TOLD[told.finish_reason]
    check_usage(answer.usage, recording.exchange["response"]["body"]["usage"])


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_recorded_streams_translate_the_same_however_they_are_cut(recording: Recording):
    outcome, raw = replay_stream(recording, lambda: ADAPTER.stream(sent()))
    events = [json.loads(line[6:]) for line in recording.body.decode().split("\n") if line.startswith("data: {")]
    content = [e["delta"]["message"]["content"] for e in events if e["type"] in ("content-start", "content-delta")]
    plans = [e["delta"]["message"]["tool_plan"] for e in events if e["type"] == "tool-plan-delta"]
    found = choices(raw)
    assert joined(found) == "".join(c.get("text", "") for c in content)
    thoughts = "".join(c.get("thinking", "") for c in content) + "".join(plans)
    assert joined(found, "reasoning_content").replace("\n", "") == thoughts.replace("\n", "")
    arguments: dict[int, str] = {}
    for e in events:
        if e["type"] in ("tool-call-start", "tool-call-delta"):
            told = e["delta"]["message"]["tool_calls"]["function"]["arguments"]
            arguments[e["index"]] = arguments.get(e["index"], "") + told
    ours: dict[int, str] = {}
    for fragment in (t for c in found for t in c["delta"].get("tool_calls") or ()):
        ours[fragment["index"]] = ours.get(fragment["index"], "") + fragment["function"]["arguments"]
    assert list(ours.values()) == [a or "{}" for a in arguments.values()]
    end = next(e for e in events if e["type"] == "message-end")["delta"]
    assert found[-1]["finish_reason"] == TOLD[end["finish_reason"]]
    check_usage(outcome.usage, end["usage"])


def test_every_recording_is_played_or_named():
    need(ANSWERS)
    index = [row for row in json.loads((RECORDED / "INDEX.json").read_bytes()) if row["provider"] == "cohere"]
    played = {r.case for r in (*ANSWERS, *STREAMS, *FAILURES, *EMBEDDINGS)}
    left = [row["endpoint"] for row in index if row["case"] not in played]
    assert left == ["v1.chat", "v1.chat"]  # the older API, which we do not speak
    assert (len(index), len(ANSWERS), len(STREAMS), len(FAILURES), len(EMBEDDINGS)) == (50, 28, 16, 3, 1)


@pytest.mark.parametrize("recording", FAILURES, ids=str)
def test_recorded_failures_are_classified(recording: Recording):
    error = ADAPTER.error(recording.status, recording.headers, recording.body)
    assert error.kind is ErrorKind.NOT_FOUND
    assert error.message


def choices(raw: bytes) -> list[dict[str, Any]]:
    events = [json.loads(e[6:]) for e in raw.decode().split("\n\n") if e.startswith("data: {")]
    return [e["choices"][0] for e in events if e["choices"]]


def joined(found: list[dict[str, Any]], key: str = "content") -> str:
    return "".join(c["delta"].get(key) or "" for c in found)


# Streams


def event(kind: str, **body: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **body})}\n\n".encode()


def text(words: str, index: int = 0, **more: Any) -> bytes:
    return event("content-delta", index=index, delta={"message": {"content": {"text": words}}}, **more)


def call(index: int, name: str, *pieces: str) -> bytes:
    told = {"id": f"id{index}", "type": "function", "function": {"name": name, "arguments": ""}}
    out = event("tool-call-start", index=index, delta={"message": {"tool_calls": told}})
    for piece in pieces:
        more = {"function": {"arguments": piece}}
        out += event("tool-call-delta", index=index, delta={"message": {"tool_calls": more}})
    return out + event("tool-call-end", index=index)


def end(reason: str = "COMPLETE", **more: Any) -> bytes:
    told = {"tokens": {"input_tokens": 3.0, "output_tokens": 5.0}, "billed_units": {"input_tokens": 1}}
    return event("message-end", delta={"finish_reason": reason, "usage": told, **more}) + b"data: [DONE]\n\n"


def play(body: bytes, **notes: Any) -> Outcome:
    return translate(ADAPTER.stream(sent(**notes)), [body])


@pytest.mark.parametrize("pieces", [(), ("",), ("null",), ("nu", "ll"), (" null ",)])
def test_E_050_a_tool_without_arguments_gets_an_object(pieces: tuple[str, ...]):
    found = choices(written(play(call(0, "f", *pieces) + end("TOOL_CALL"))))
    assert "".join(t["function"]["arguments"] for c in found for t in c["delta"].get("tool_calls") or ()) == "{}"


def test_arguments_that_only_begin_like_null_are_kept():
    found = choices(written(play(call(0, "f", "nu") + end("TOOL_CALL"))))
    assert "".join(t["function"]["arguments"] for c in found for t in c["delta"].get("tool_calls") or ()) == "nu"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (text("half"), ErrorKind.INCOMPLETE),
        (b"", ErrorKind.INCOMPLETE),
        (text("x") + end("ERROR"), ErrorKind.SERVER),
        (text("x") + end("TIMEOUT"), ErrorKind.TIMEOUT),
        (text("x") + b'data: {"id":"1","message":"internal server error"}\n\n', ErrorKind.SERVER),
        (b"data: {nonsense\n\n", ErrorKind.PROTOCOL),
        (b"data: []\n\n", ErrorKind.PROTOCOL),
        (event("content-delta"), ErrorKind.PROTOCOL),
        (event("tool-call-delta", index=7, delta={"message": {"tool_calls": {}}}), ErrorKind.PROTOCOL),
    ],
)
def test_E_052_and_E_059_streams_that_fail(body: bytes, kind: ErrorKind):
    for pieces in ([body], [body[i : i + 1] for i in range(len(body))]):
        outcome = translate(ADAPTER.stream(sent()), pieces)
        assert outcome.error is not None
        assert outcome.error.kind is kind


def test_E_058_unknown_events_and_what_follows_the_end_are_skipped():
    body = event("debug", prompt="secret") + b": ping\n\n" + text("x") + end() + b"event: x\ndata: {broken\n\n"
    assert joined(choices(written(play(body)))) == "x"


def test_E_053_characters_cut_anywhere_are_whole():
    body = text("größe 😀") + end()
    whole = play(body)
    for at in range(len(body)):
        assert translate(ADAPTER.stream(sent()), [body[:at], body[at:]]).same(whole)


def test_E_082_the_json_tool_is_the_content():
    body = (
        text("Here:")
        + call(0, "f", '{"x":1}')
        + call(1, "json_response", '{"a"', ":1}")
        + call(2, "json_response", "{}")
    )
    found = choices(written(play(body + end("TOOL_CALL"), json_tool="json_response")))
    assert joined(found) == '{"a":1}'
    assert [t["function"]["name"] for c in found for t in c["delta"].get("tool_calls") or () if "id" in t] == ["f"]
    only = choices(written(play(call(0, "json_response") + end("TOOL_CALL"), json_tool="json_response")))
    assert (joined(only), only[-1]["finish_reason"]) == ("{}", "stop")
    prose = choices(written(play(text("I cannot.") + end(), json_tool="json_response")))
    assert joined(prose) == "I cannot."


def test_C_324_a_custom_tool_gets_its_free_text():
    found = choices(
        written(play(call(0, "shell", '{"inp', 'ut":"ls"}') + end("TOOL_CALL"), custom=frozenset({"shell"})))
    )
    told = [t for c in found for t in c["delta"].get("tool_calls") or ()]
    assert told[0]["custom"]["name"] == "shell"
    assert "".join(t["custom"]["input"] for t in told) == "ls"


def test_C_321_logprobs_of_a_stream():
    body = text("Hi", logprobs={"text": "Hi", "token_ids": [1, 2], "logprobs": [-0.5, -0.25]}) + end()
    told = [c["logprobs"] for c in choices(written(play(body))) if c["logprobs"] and c["logprobs"]["content"]]
    assert told == [
        {"content": [{"token": "Hi", "logprob": -0.75, "bytes": [72, 105], "top_logprobs": []}], "refusal": None}
    ]


def test_E_062_citations_of_documents_become_annotations_once():
    document = {"id": "d1", "title": "T", "url": "https://x.example", "text": "..."}
    told = {"start": 0, "end": 3, "text": "abc", "sources": [{"type": "document", "id": "d1", "document": document}]}
    tool = {"start": 0, "end": 1, "text": "a", "sources": [{"type": "tool", "id": "t:0", "tool_output": {}}]}
    body = text("abc") + b"".join(
        event("citation-start", index=i, delta={"message": {"citations": c}}) for i, c in enumerate((told, tool))
    )
    found = [c["delta"] for c in choices(written(play(body + end()))) if "annotations" in c["delta"]]
    place = {"start_index": 0, "end_index": 3, "title": "T", "url": "https://x.example"}
    assert [d["annotations"] for d in found] == [[{"type": "url_citation", "url_citation": place}]]
    assert found[0]["citations"] == [told, tool]


def test_E_071_usage_reads_tokens_and_falls_back_to_billed_units():
    usage = play(text("x") + end()).usage
    assert usage is not None
    assert (usage.input, usage.output) == (3, 5)
    cached = {"usage": {"tokens": {"input_tokens": 10, "output_tokens": 4, "reasoning_tokens": 3}, "cached_tokens": 99}}
    usage = ADAPTER.parse(json.dumps({"message": {"content": []}, **cached}).encode(), sent()).usage
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (0, 10, 1, 3)
    body = {
        "message": {"content": []},
        "usage": {"billed_units": {"input_tokens": 7.0, "output_tokens": 1.0, "search_units": 2}},
    }
    billed = ADAPTER.parse(json.dumps(body).encode(), sent()).usage
    assert billed is not None
    assert (billed.input, billed.output, billed.calls) == (7, 1, {"search": 2})


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"message":"oops","id":"1"}'])
def test_an_answer_that_is_none_is_a_protocol_error(body: bytes):
    with pytest.raises(ProviderError) as caught:
        ADAPTER.parse(body, sent())
    assert caught.value.kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"message": "too many tokens: size limit exceeded by 10 tokens"}, "context_length"),
        (400, {"message": "x", "error_type": "TOO_MANY_TOKENS"}, "context_length"),
        (400, {"message": "invalid request"}, "invalid_request"),
        (401, {"message": "invalid api token"}, "authentication"),
        (404, {"message": "model 'command-r' was removed on September 15, 2025."}, "not_found"),
        (422, {"message": "x"}, "invalid_request"),
        (429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, "quota"),
        (429, {"message": "You are past the per minute request limit, please wait"}, "rate_limited"),
        (498, {"message": "token"}, "authentication"),
        (500, {}, "server"),
        (503, {"message": "x"}, "overloaded"),
    ],
)
def test_E_076_failures(status: int, body: dict[str, Any], kind: str):
    assert ADAPTER.error(status, {}, json.dumps(body).encode()).kind == kind


# Requests


def problems(body: dict[str, Any]) -> list[str]:
    """What the SDK's signature and its types say; the types never raise, so the shapes are looked at one by one."""
    from cohere.v2.raw_client import RawV2Client

    known = set(inspect.signature(RawV2Client.chat_stream).parameters) - {"self", "request_options"} | {"stream"}
    found = [f"unknown {key}" for key in body if key not in known]
    roles = [m["role"] for m in body["messages"]]
    found += [f"role {r}" for r in roles if r not in ("system", "user", "assistant", "tool")]
    found += ["an instruction that is not the first message"] * ("system" in roles[1:])
    names = [tool["function"]["name"] for tool in body.get("tools", ())]
    names += [c["function"]["name"] for m in body["messages"] for c in m.get("tool_calls") or ()]
    found += [f"name {name}" for name in names if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name)]
    if not {"user", "tool"} & set(roles):
        found.append(f"nobody asks: {roles}")
    for i, message in enumerate(body["messages"]):
        allowed = {"role", "content", "tool_calls", "tool_plan", "tool_call_id", "citations"}
        found += [f"messages[{i}].{key}" for key in message if key not in allowed]
        content = message.get("content")
        if message["role"] != "assistant" and not content:
            found.append(f"messages[{i}]: empty")
        if message["role"] == "assistant" and not content and not message.get("tool_calls"):
            found.append(f"messages[{i}]: empty")
        if isinstance(content, list):
            found += [
                f"messages[{i}]: {p['type']}" for p in content if p["type"] not in ("text", "image_url", "thinking")
            ]
        for c in message.get("tool_calls") or ():
            if not isinstance(json.loads(c["function"]["arguments"]), dict):
                found.append(f"messages[{i}]: arguments")
    if body.get("tool_choice") not in (None, "REQUIRED", "NONE"):
        found.append("tool_choice")
    if "response_format" in body and "tools" in body:
        found.append("response_format with tools")
    if not 0.01 <= body.get("p", 0.5) <= 0.99:
        found.append("p")
    return found


def prepare(*messages: dict[str, Any], to: str = MODEL, **request: Any) -> UpstreamRequest:
    options = {k: request.pop(k) for k in ("unsupported", "headers") if k in request}
    target = Target(ADAPTER.base_url, to, api_key="key", options=ADAPTER.options(request.pop("raw", {})), **options)
    built = ADAPTER.prepare({"model": "x", "messages": list(messages) or [user("hi")], **request}, target)
    assert problems(json.loads(built.body)) == []
    return built


def build(*messages: dict[str, Any], **request: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(prepare(*messages, **request).body)
    return body


def test_where_and_how():
    built = prepare(headers={"x-client-name": "me"}, stream=True)
    assert built.url == "https://api.cohere.com/v2/chat"
    assert (built.headers["authorization"], built.headers["x-client-name"]) == ("Bearer key", "me")
    assert json.loads(built.body) == {
        "model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True,
    }  # fmt: skip
    assert type(load("cohere")) is Cohere
    assert isinstance(ADAPTER, EmbeddingAdapter)
    assert set(PARAMS) <= set(ADAPTER.params)
    assert ADAPTER.credential(ADAPTER.options({})) is None


@pytest.mark.parametrize("raw", [{"x": 1}, {"safety_mode": "LAX"}, {"input_type": "image"}])
def test_bad_options_are_named(raw: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(raw))):
        ADAPTER.options(raw)


def test_roles_and_content():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "original"}}
    body = build({"role": "developer", "content": "a"}, user([{"type": "text", "text": "b"}, image]),
                 {"role": "assistant", "content": [{"type": "text", "text": "c"}]}, user("d"))  # fmt: skip
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert body["messages"][1]["content"][1] == {"type": "image_url", "image_url": {"url": image["image_url"]["url"]}}
    assert build({"role": "system", "content": "go"})["messages"] == [{"role": "user", "content": "go"}]
    with pytest.raises(UnsupportedParameter):
        prepare(user([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]))


@pytest.mark.parametrize("content", ["", [{"type": "text", "text": " "}]])
def test_E_019_a_blank_turn_after_an_answer_stays_one(content: Any):
    answer = {"role": "assistant", "content": "a"}
    assert build(user("x"), answer, user(content))["messages"][2:] == [{"role": "user", "content": "."}]
    assert len(build(user("x"), user(content), answer, user("y"))["messages"]) == 3


def test_tool_turns_plans_and_thoughts():
    turn = called(("a", "f", ""), reasoning_content="I will look.")
    body = build(user("x"), turn, result("a", ""), tools=[function()])
    assert body["messages"][1]["tool_plan"] == "I will look."
    assert body["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert body["messages"][2] == {"role": "tool", "tool_call_id": "a", "content": "(empty)"}
    thinking = build(user("x"), turn | {"content": "Now."}, result("a"), to=THINKER, tools=[function()])["messages"][1]
    assert thinking["content"] == [{"type": "thinking", "thinking": "I will look."}]
    assert thinking["tool_plan"] == "Now."
    plain = {"role": "assistant", "content": "so", "reasoning_content": "hm"}
    assert build(user("x"), plain, user("y"))["messages"][1] == {"role": "assistant", "content": "so"}
    assert build(user("x"), plain, user("y"), to=THINKER)["messages"][1]["content"][0]["type"] == "thinking"


@pytest.mark.parametrize(
    ("choice", "told", "names"),
    [
        (None, None, ["f", "g"]),
        ("auto", None, ["f", "g"]),
        ("none", "NONE", ["f", "g"]),
        ("required", "REQUIRED", ["f", "g"]),
        ({"type": "function", "function": {"name": "g"}}, "REQUIRED", ["g"]),
    ],
)
def test_tool_choice(choice: Any, told: Any, names: list[str]):
    body = build(tools=[function("f"), function("g", description="d")], tool_choice=choice)
    assert body.get("tool_choice") == told
    assert [t["function"]["name"] for t in body["tools"]] == names
    assert all(t["function"]["parameters"] == {"type": "object", "properties": {}} for t in body["tools"])


def test_strict_tools():
    strict = function(strict=True, parameters={"type": "object", "properties": {"a": {}}, "required": ["a"]})
    assert build(tools=[strict])["strict_tools"] is True
    assert prepare(tools=[strict, function("g")]).dropped == ("tools[].function.strict",)


def test_response_format_alone_and_E_083_next_to_tools():
    inner = schema()["json_schema"]["schema"]
    assert build(response_format=schema())["response_format"] == {"type": "json_object", "json_schema": inner}
    assert build(response_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    both = prepare(response_format=schema(), tools=[function()])
    body = json.loads(both.body)
    assert [t["function"]["name"] for t in body["tools"]] == ["f", "json_response"]
    assert body["tool_choice"] == "REQUIRED"
    assert both.notes["json_tool"] == "json_response"
    alone = build(response_format=schema(), tools=[function()], tool_choice="none")
    assert "tools" not in alone
    assert "response_format" in alone


def test_E_015_instructions_are_one_message_and_the_first():
    late = {"role": "system", "content": "Be kind."}
    answer = {"role": "assistant", "content": "b"}
    first = {"role": "developer", "content": "Be brief."}
    told = build(first, late, user("a"), answer, late, user("c"))["messages"]
    assert told[0] == {"role": "system", "content": "Be brief.\n\nBe kind.\n\nBe kind."}
    assert [m["role"] for m in told] == ["system", "user", "assistant", "user"]
    assert build(user("a"), late)["messages"] == [{"role": "system", "content": "Be kind."}, user("a")]
    assert build(user("a"), answer, late)["messages"] == [
        user("a"),
        answer,
        user("Be kind."),
    ]  # else it answers nothing


def test_E_036_names_of_tools_that_cohere_refuses_are_rewritten_and_restored():
    asked = [function(name) for name in ("get-time", "get_time", "2nd", "json-response")]
    turn = called(("a", "get-time", "{}"), ("b", "old.tool", "{}"))
    built = prepare(user("x"), turn, result("a"), result("b"), tools=asked, response_format=schema())
    body = json.loads(built.body)
    names = [t["function"]["name"] for t in body["tools"]]
    assert names == ["get_time", "get_time_", "_2nd", "json_response", "json_response_"]
    assert [c["function"]["name"] for c in body["messages"][1]["tool_calls"]] == ["get_time", "old_tool"]
    calls = [
        {"id": str(at), "type": "function", "function": {"name": name, "arguments": "{}"}}
        for at, name in enumerate(names)
    ]
    whole = {"message": {"tool_calls": calls[:4]}, "finish_reason": "TOOL_CALL"}
    told = ADAPTER.parse(json.dumps(whole).encode(), built).completion["choices"][0]["message"]["tool_calls"]
    assert [c["function"]["name"] for c in told] == ["get-time", "get_time", "2nd", "json-response"]
    whole["message"]["tool_calls"] = calls[4:]
    assert ADAPTER.parse(json.dumps(whole).encode(), built).completion["choices"][0]["message"]["content"] == "{}"
    start = {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": calls[0]}}}
    (chunk, *_) = ADAPTER.stream(built).feed(b"data: " + json.dumps(start).encode() + b"\n\n")
    assert chunk["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "get-time"
    assert build(tools=asked[:1], tool_choice={"type": "function", "function": {"name": "get-time"}})["tools"]


def test_sampling():
    body = build(temperature=0.5, top_p=1, top_k=5, stop="x", max_tokens=7, seed=1, frequency_penalty=2, logprobs=True)
    told = {
        "temperature": 0.5, "p": 0.99, "k": 5, "stop_sequences": ["x"], "max_tokens": 7, "seed": 1,
        "frequency_penalty": 1, "logprobs": True,
    }  # fmt: skip
    assert {k: body[k] for k in told} == told
    assert build(temperature=1.7, presence_penalty=0.5)["presence_penalty"] == 0.5
    assert build(temperature=1.7)["temperature"] == 1
    both = prepare(frequency_penalty=0.2, presence_penalty=0.5)
    assert (json.loads(both.body)["frequency_penalty"], both.dropped) == (0.2, ("presence_penalty",))
    assert "presence_penalty" not in json.loads(both.body)
    assert build(max_tokens=7, max_completion_tokens=9)["max_tokens"] == 9
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(frequency_penalty=-1)
    assert caught.value.param == "frequency_penalty"
    assert prepare(frequency_penalty=-1, unsupported="drop").dropped == ("frequency_penalty",)


def test_E_085_values_that_ask_for_nothing_and_hints():
    body = build(
        n=1, frequency_penalty=0, logprobs=False, tools=[], stop=[], user="", logit_bias={}, parallel_tool_calls=True
    )
    assert set(body) == {"model", "messages", "stream"}
    assert set(prepare(user="u", parallel_tool_calls=False, verbosity="low").dropped) == {
        "user", "parallel_tool_calls", "verbosity",
    }  # fmt: skip
    for name, value in (("n", 2), ("top_logprobs", 3), ("logit_bias", {"1": 1}), ("web_search_options", {})):
        with pytest.raises(UnsupportedParameter):
            prepare(**{name: value})


def test_reasoning_effort():
    assert build(to=THINKER, reasoning_effort="none")["thinking"] == {"type": "disabled"}
    assert build(to=THINKER, reasoning_effort="low")["thinking"] == {"type": "enabled", "token_budget": 2048}
    assert build(to=THINKER, reasoning_effort="high")["thinking"] == {"type": "enabled"}
    assert prepare(reasoning_effort="high").dropped == ("reasoning_effort",)
    assert prepare(reasoning_effort="none").dropped == ()
    native = {"type": "enabled", "token_budget": 5}
    assert build(to=THINKER, thinking=native, reasoning_effort="none")["thinking"] == native


def test_extensions_and_the_safety_mode():
    documents = [{"id": "d", "data": {"text": "x"}}]
    body = build(
        documents=documents, citation_options={"mode": "FAST"}, safety_mode="OFF", raw={"safety_mode": "STRICT"}
    )
    assert (body["documents"], body["citation_options"], body["safety_mode"]) == (documents, {"mode": "FAST"}, "OFF")
    assert build(raw={"safety_mode": "STRICT"})["safety_mode"] == "STRICT"
    assert "safety_mode" not in build(raw={"safety_mode": "STRICT"}, tools=[function()])


def test_E_035_custom_tools():
    tool = {"type": "custom", "custom": {"name": "shell"}}
    used = {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [used]}
    built = prepare(user("x"), turn, result("a"), tools=[tool])
    body = json.loads(built.body)
    assert json.loads(body["messages"][1]["tool_calls"][0]["function"]["arguments"]) == {"input": "ls"}
    assert built.notes["custom"] == {"shell"}


@settings(max_examples=100, deadline=None)
@given(conversations(), st.sampled_from([MODEL, THINKER]), st.booleans())
def test_any_lawful_conversation_is_a_lawful_cohere_request(messages: Any, to: str, tools: bool):
    for message in messages:
        if isinstance(message.get("content"), list):  # files are refused by name, and images in results
            message["content"] = [p for p in message["content"] if p["type"] == "text"] or "x"
    prepare(*messages, to=to, **({"tools": [function()]} if tools else {}))


# Embeddings


def embed(body: dict[str, Any], raw: dict[str, Any] | None = None, **more: Any) -> UpstreamRequest:
    target = Target(ADAPTER.base_url, "embed-v4.0", api_key="key", options=ADAPTER.options(raw or {}), **more)
    return ADAPTER.prepare_embeddings({"model": "x", **body}, target)


def test_embeddings_there_and_back():
    built = embed({"input": "a", "dimensions": 256, "encoding_format": "base64", "user": "u"}, {"truncate": "END"})
    assert built.url == "https://api.cohere.com/v2/embed"
    assert json.loads(built.body) == {
        "model": "embed-v4.0", "texts": ["a"], "input_type": "search_document", "embedding_types": ["float"],
        "output_dimension": 256, "truncate": "END",
    }  # fmt: skip
    assert built.dropped == ("user",)
    assert json.loads(embed({"input": ["a", "b"], "input_type": "search_query"}).body)["input_type"] == "search_query"
    body = {"embeddings": {"float": [[0.5, 1.0]]}, "meta": {"billed_units": {"input_tokens": 2.0}}}
    answer = ADAPTER.parse_embeddings(json.dumps(body).encode(), built)
    assert answer.completion == {
        "object": "list", "model": "embed-v4.0", "usage": {"prompt_tokens": 2, "total_tokens": 2},
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 1.0]}],
    }  # fmt: skip
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2


@pytest.mark.parametrize("given_", [[1, 2], [[1], [2]]])
def test_tokens_for_embeddings_are_refused(given_: Any):
    with pytest.raises(UnsupportedParameter) as caught:
        embed({"input": given_})
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"embeddings":{}}', b'{"embeddings":{"float":[]}}', b'{"embeddings":[[1]]}']
)
def test_embeddings_that_are_none_are_a_protocol_error(body: bytes):
    with pytest.raises(ProviderError) as caught:
        ADAPTER.parse_embeddings(body, embed({"input": "a"}))
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_the_recorded_embedding_is_read():
    for recording in need(EMBEDDINGS):
        answer = ADAPTER.parse_embeddings(recording.body, UpstreamRequest("", {}, b"", notes={"count": 1}))
        assert answer.completion["data"][0]["embedding"][0] == pytest.approx(-0.0121536255)
