"""Converse requests against botocore's service model, recorded answers and failures, and the edge cases by number."""

import base64
import functools
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.bedrock import Bedrock
from adapters.bedrock.models import family
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import Target, UpstreamRequest
from adapters.params import PARAMS
from adapters.registry import load

from .replay import Recording, need, recordings, replay_whole

ADAPTER = Bedrock()
CLAUDE = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
NEWEST = "us.anthropic.claude-opus-4-7"
FABLE = "us.anthropic.claude-fable-5-1"
NOVA = "us.amazon.nova-pro-v1:0"
LLAMA = "us.meta.llama4-maverick-17b-instruct-v1:0"
STRING = {"type": "string"}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ANSWERS = recordings("bedrock", endpoint="converse", stream=False)
FAILURES = [
    r
    for endpoint in ("converse", "converse-stream", "count-tokens")
    for r in recordings("bedrock", endpoint=endpoint, stream=False, status=None)
]
SKIPPED = {
    "invoke": "InvokeModel: each vendor's own body, not Converse",
    "invoke-with-response-stream": "InvokeModel, streamed",
    "count-tokens": "CountTokens has no counterpart among our endpoints; its failure is replayed",
}


@functools.cache
def model() -> Any:
    return botocore.session.get_session().get_service_model("bedrock-runtime")


def problems(body: dict[str, Any], operation: str = "Converse") -> list[str]:
    """What the service model says against a body, its limits and patterns included, which botocore leaves out."""
    found: list[str] = []

    def walk(value: Any, shape: Any, path: str) -> Any:
        kind = shape.type_name
        if kind == "structure" and not getattr(shape, "is_document_type", False) and isinstance(value, dict):
            found.extend(f"{path}.{k}: unknown" for k in value if k not in shape.members)
            if getattr(shape, "is_tagged_union", False) and len(value) != 1:
                found.append(f"{path}: a union of {sorted(value)}")
            return {k: walk(v, shape.members[k], f"{path}.{k}") for k, v in value.items() if k in shape.members}
        if kind == "list" and isinstance(value, list):
            limits(value, shape, path)
            return [walk(v, shape.member, f"{path}[{i}]") for i, v in enumerate(value)]
        if kind == "map" and isinstance(value, dict):
            limits(value, shape, path)
            for key in value:
                walk(key, shape.key, f"{path} key")
            return {k: walk(v, shape.value, f"{path}.{k}") for k, v in value.items()}
        if kind == "blob" and isinstance(value, str):
            return base64.b64decode(value, validate=True)
        if kind == "string" and isinstance(value, str):
            if shape.enum and value not in shape.enum:
                found.append(f"{path}: {value!r} is none of {shape.enum}")
            pattern = shape.metadata.get("pattern")
            if pattern and not re.fullmatch(pattern, value):
                found.append(f"{path}: {value!r} does not match {pattern}")
            limits(value, shape, path)
        if kind in ("float", "integer") and isinstance(value, int | float):
            low, high = shape.metadata.get("min"), shape.metadata.get("max")
            if (low is not None and value < low) or (high is not None and value > high):
                found.append(f"{path}: {value} is out of range")
        return value

    def limits(value: Any, shape: Any, path: str) -> None:
        low, high = shape.metadata.get("min", 0), shape.metadata.get("max", 10**9)
        if not low <= len(value) <= high:
            found.append(f"{path}: length {len(value)}")

    shape = model().operation_model(operation).input_shape
    report = ParamValidator().validate(walk({**body, "modelId": "m"}, shape, ""), shape)
    return found + ([report.generate_report()] if report.has_errors() else []) + grammar(body)


def grammar(body: dict[str, Any]) -> list[str]:
    """What Converse demands beyond its model: recorded and reported refusals."""
    found = []
    turns = body["messages"]
    roles = [t["role"] for t in turns]
    if roles[0] != "user" or any(a == b for a, b in itertools.pairwise(roles)):
        found.append(f"roles {roles}")
    waiting: list[str] = []
    names: list[str] = []
    for i, turn in enumerate(turns):
        blocks = turn["content"]
        if not blocks:
            found.append(f"messages[{i}]: empty")
        found += [f"messages[{i}]: blank text" for b in blocks if "text" in b and not b["text"].strip()]
        results = [b["toolResult"] for b in blocks if "toolResult" in b]
        if [r["toolUseId"] for r in results] != waiting and sorted(r["toolUseId"] for r in results) != sorted(waiting):
            found.append(f"messages[{i}]: results {results} for {waiting}")
        kinds = ["toolResult" in b for b in blocks if "cachePoint" not in b]
        if kinds != sorted(kinds, reverse=True):
            found.append(f"messages[{i}]: results after other blocks")
        found += [f"messages[{i}]: an empty result" for r in results if not r["content"]]
        found += [
            f"messages[{i}]: a blank result"
            for r in results
            for b in r["content"]
            if "text" in b and not b["text"].strip()
        ]
        waiting = [b["toolUse"]["toolUseId"] for b in blocks if "toolUse" in b]
        if len(set(waiting)) != len(waiting):
            found.append(f"messages[{i}]: an id twice")
        names += [b["document"]["name"] for b in blocks if "document" in b]
        if any("document" in b for b in blocks) and not any("text" in b for b in blocks):
            found.append(f"messages[{i}]: a document without text")
    if waiting:
        found.append("a call without its result")
    if len(set(names)) != len(names):
        found.append(f"document names {names}")
    found += [
        f"document name {n!r}" for n in names if not re.fullmatch(r"[A-Za-z0-9()\[\]-]+( [A-Za-z0-9()\[\]-]+)*", n)
    ]
    if any("toolUse" in b for t in turns for b in t["content"]) and "toolConfig" not in body:
        found.append("tool blocks without toolConfig")
    return found


def target(name: str = CLAUDE, **more: Any) -> Target:
    return Target(ADAPTER.base_url, name, **{"options": ADAPTER.options(more.pop("raw", {})), **more})


def prepare(*messages: dict[str, Any], to: str = CLAUDE, **request: Any) -> UpstreamRequest:
    """Build, and hold what was built against the service model."""
    options = {k: request.pop(k) for k in ("unsupported", "raw", "api_key", "max_output", "headers") if k in request}
    body = {"model": "x", "messages": list(messages) or [user("hi")], **request}
    built = ADAPTER.prepare(body, target(to, **options))
    assert problems(json.loads(built.body), "ConverseStream" if built.stream else "Converse") == []
    return built


def build(*messages: dict[str, Any], **request: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(prepare(*messages, **request).body)
    return body


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(*calls: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    told = [{"id": i, "type": "function", "function": {"name": n, "arguments": a}} for i, n, a in calls]
    return {"role": "assistant", "content": None, "tool_calls": told, **more}


def result(call_id: str, content: Any = "ok") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def function(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def schema(**more: Any) -> dict[str, Any]:
    inner = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": inner, **more}}


# Answers


@pytest.mark.parametrize("recording", ANSWERS, ids=str)
def test_recorded_answers_become_lawful_completions(recording: Recording):
    answer = ADAPTER.parse(recording.body, UpstreamRequest("", {}, b""))
    lawful = replay_whole(recording, answer)
    told = recording.exchange["response"]["body"]
    blocks = told["output"]["message"]["content"]
    message = lawful["choices"][0]["message"]
    assert (message["content"] or "") == "".join(b.get("text", "") for b in blocks)
    uses = [b["toolUse"] for b in blocks if "toolUse" in b and b["toolUse"].get("type") != "server_tool_use"]
    calls = message.get("tool_calls", [])
    assert [(c["id"], c["function"]["name"]) for c in calls] == [(u["toolUseId"], u["name"]) for u in uses]
    assert [json.loads(c["function"]["arguments"]) for c in calls] == [u["input"] for u in uses]
    assert answer.usage is not None
    usage = told["usage"]
    assert answer.usage.total_tokens == usage["totalTokens"]
    assert answer.usage.completion_tokens == usage["outputTokens"]
    assert answer.usage.cache_read == usage.get("cacheReadInputTokens", 0)


def test_every_recording_is_played_or_named():
    from .replay import RECORDED

    need(ANSWERS)
    index = [row for row in json.loads((RECORDED / "INDEX.json").read_bytes()) if row["provider"] == "bedrock"]
    streams = recordings("bedrock", endpoint="converse-stream", stream=True)
    played = {r.case for r in (*ANSWERS, *FAILURES, *streams)}
    left = [row for row in index if row["case"] not in played]
    assert {row["endpoint"] for row in left} <= set(SKIPPED)
    assert (len(index), len(ANSWERS), len(streams), len(FAILURES), len(left)) == (101, 56, 26, 10, 9)


@pytest.mark.parametrize("recording", FAILURES, ids=str)
def test_recorded_failures_are_classified_without_our_account(recording: Recording):
    error = ADAPTER.error(recording.status, recording.headers, recording.body)
    message = recording.exchange["response"]["body"]["message"]
    gone = ("model identifier", "end of its life", "on-demand throughput")
    expected = ErrorKind.NOT_FOUND if any(words in message for words in gone) else ErrorKind.INVALID_REQUEST
    assert error.kind is expected
    assert error.status == recording.status
    assert "arn:aws" not in error.message


@pytest.mark.parametrize(
    ("status", "name", "message", "kind"),
    [
        (
            400,
            "ValidationException:http://internal.amazon.com/",
            "Input is too long for requested model.",
            "context_length",
        ),
        (400, "ValidationException", "prompt is too long: 250000 tokens > 200000 maximum", "context_length"),
        (400, "ValidationException", "Input Tokens Exceeded: Number of input tokens exceeds maximum", "context_length"),
        (400, "ServiceQuotaExceededException", "x", "quota"),
        (403, "AccessDeniedException", "User: arn:aws:iam::123456789012:user/me is not authorized", "authentication"),
        (403, "ExpiredTokenException", "The security token included in the request is expired", "authentication"),
        (400, "UnrecognizedClientException", "The security token is invalid", "authentication"),
        (404, "ResourceNotFoundException", "Could not resolve the foundation model", "not_found"),
        (408, "ModelTimeoutException", "x", "timeout"),
        (424, "ModelErrorException", "x", "server"),
        (429, "ThrottlingException", "Too many requests, please wait before trying again.", "rate_limited"),
        (429, "ThrottlingException", "Too many tokens per day, please wait before trying again.", "quota"),
        (429, "ModelNotReadyException", "x", "overloaded"),
        (500, "InternalServerException", "x", "server"),
        (503, "ServiceUnavailableException", "x", "overloaded"),
        (529, "", "", "overloaded"),
        (418, "", "", "invalid_request"),
    ],
)
def test_E_076_failures_by_exception_status_and_words(status: int, name: str, message: str, kind: str):
    body = json.dumps({"message": message}).encode()
    error = ADAPTER.error(status, {"x-amzn-errortype": name}, body)
    assert error.kind == kind
    assert error.message
    assert "123456789012" not in error.message
    assert (error.code == "context_length_exceeded") == (kind == "context_length")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"x"', b'{"message":5}', b'{"Message":"x"}', b"\xff"])
def test_E_076_error_bodies_of_any_shape(body: bytes):
    assert ADAPTER.error(500, {}, body).kind is ErrorKind.SERVER


def test_E_074_words_in_a_message_with_a_capital_are_read():
    body = b'{"Message": "Input is too long for requested model."}'
    error = ADAPTER.error(400, {"x-amzn-errortype": "ValidationException"}, body)
    assert (error.kind, error.code) == (ErrorKind.CONTEXT_LENGTH, "context_length_exceeded")
    assert error.message == "Input is too long for requested model."


@pytest.mark.parametrize(
    "body",
    [b"", b"x", b"[]", b"{}", b'{"output":{}}', b'{"output":{"message":{"content":["x"]}}}', b'{"message":"denied"}'],
)
def test_an_answer_that_is_none_is_a_protocol_error(body: bytes):
    with pytest.raises(ProviderError) as caught:
        ADAPTER.parse(body, UpstreamRequest("", {}, b""))
    assert caught.value.kind is ErrorKind.PROTOCOL


def answer(*blocks: dict[str, Any], stop: str = "end_turn", usage: Any = None, **notes: Any) -> Any:
    body = {"output": {"message": {"role": "assistant", "content": list(blocks)}}, "stopReason": stop, "usage": usage}
    return ADAPTER.parse(json.dumps(body).encode(), UpstreamRequest("", {}, b"", notes=notes))


def test_E_068_cached_tokens_are_counted_once():
    told = {"inputTokens": 3, "cacheReadInputTokens": 0, "cacheWriteInputTokens": 12304, "outputTokens": 550}
    usage = answer({"text": "x"}, usage={**told, "totalTokens": 12857}).usage
    assert usage.to_openai()["prompt_tokens"] == 12307
    inclusive = answer({"text": "x"}, usage={**told, "inputTokens": 12307, "totalTokens": 12857}).usage
    assert inclusive.to_openai()["prompt_tokens"] == 12307


def test_E_082_the_json_tool_is_the_content():
    blocks = ({"text": "Here:"}, {"toolUse": {"toolUseId": "1", "name": "json_response", "input": {"a": 1}}})
    message = answer(*blocks, stop="tool_use", json_tool="json_response").completion["choices"][0]["message"]
    assert (message["content"], "tool_calls" in message) == ('{"a":1}', False)


def test_C_284_a_custom_tool_gets_its_free_text():
    use = {"toolUse": {"toolUseId": "1", "name": "shell", "input": {"input": "ls"}}}
    call = answer(use, custom=frozenset({"shell"})).completion["choices"][0]["message"]["tool_calls"][0]
    assert call == {"id": "1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}


LONG = (
    '{"wei":115792089237316195423570985008687907853269984665640564039457584007913129639935,"n":-18446744073709551616}'
)


def test_C_281_a_long_number_in_arguments_is_kept_to_the_digit_there_and_back():
    turns = prepare(user("x"), called(("a", "f", LONG)), result("a"), tools=[function()])
    assert LONG.encode() in turns.body
    body = (
        b'{"output":{"message":{"role":"assistant","content":[{"toolUse":{"toolUseId":"a","name":"f","input":%b}}]}},'
        b'"stopReason":"tool_use"}' % LONG.encode()
    )
    message = ADAPTER.parse(body, UpstreamRequest("", {}, b"")).completion["choices"][0]["message"]
    assert message["tool_calls"][0]["function"]["arguments"] == LONG


def test_citations_become_annotations():
    web = {"title": "T", "location": {"web": {"url": "https://x.example"}}}
    cited = {"citationsContent": {"content": [{"text": "so"}], "citations": [web, {"location": {"documentChar": {}}}]}}
    message = answer({"text": "It is "}, cited).completion["choices"][0]["message"]
    assert message["content"] == "It is so"
    place = {"start_index": 6, "end_index": 8, "title": "T", "url": "https://x.example"}
    assert message["annotations"] == [{"type": "url_citation", "url_citation": place}]


# Requests: where and how


def test_the_model_is_escaped_in_the_path_and_the_region_names_the_host():
    arn = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/abc123"
    built = prepare(to=arn, raw={"region": "eu-west-1"}, api_key="key", headers={"x-extra": "1"})
    quoted = "arn%3Aaws%3Abedrock%3Aeu-west-1%3A123456789012%3Aapplication-inference-profile%2Fabc123"
    assert built.url == f"https://bedrock-runtime.eu-west-1.amazonaws.com/model/{quoted}/converse"
    assert (built.headers["authorization"], built.headers["x-extra"]) == ("Bearer key", "1")
    streamed = prepare(stream=True)
    assert streamed.url.endswith("v1%3A0/converse-stream")
    assert streamed.headers["accept"] == "application/vnd.amazon.eventstream"
    assert "authorization" not in streamed.headers
    own = ADAPTER.prepare({"messages": [user("x")]}, Target("http://127.0.0.1:1", NOVA, options=ADAPTER.options({})))
    assert own.url == "http://127.0.0.1:1/model/us.amazon.nova-pro-v1%3A0/converse"
    assert "amazonaws.com.cn/" in prepare(raw={"region": "cn-north-1"}).url


@pytest.mark.parametrize("to", [CLAUDE, "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.x.y-v1:0"])
@pytest.mark.parametrize("stream", [False, True])
def test_botocores_own_client_would_send_the_same(to: str, stream: bool):
    """Our body read as parameters and serialised by botocore gives our path and our body again."""
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0xLjQ="}}
    turn = called(("a", "f", '{"x":[1,null,"é"]}'))
    built = prepare(
        {"role": "system", "content": "s"}, user([image, pdf, {"type": "text", "text": "?"}]), turn, result("a", [image]),
        to=to, stream=stream, tools=[function()], tool_choice="required", max_tokens=5, temperature=0.5, top_k=3,
        response_format=schema(), metadata={"a": "b"}, service_tier="flex", user="u",
        raw={"guardrail": {"identifier": "abc"}, "latency": "optimized"},
    )  # fmt: skip
    body = json.loads(built.body)
    operation = model().operation_model("ConverseStream" if stream else "Converse")
    told = create_serializer("rest-json").serialize_to_request({**blobs(body), "modelId": to}, operation)
    assert built.url == "https://bedrock-runtime.us-east-1.amazonaws.com" + told["url_path"]
    assert body == json.loads(told["body"])


def blobs(value: Any) -> Any:
    """A body as parameters: bytes instead of base64."""
    if isinstance(value, dict):
        return {k: base64.b64decode(v) if k == "bytes" else blobs(v) for k, v in value.items()}
    return [blobs(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ({"regoin": "x"}, "regoin"),
        ({"region": 5}, "region"),
        ({"region": "evil.example/"}, "region"),
        ({"latency": "fast"}, "latency"),
        ({"auth": "magic"}, "auth"),
        ({"access_key_id": "x"}, "secret_access_key"),
        ({"guardrail": {"identifier": "x", "versoin": "1"}}, "versoin"),
        ({"guardrail": {"version": "1"}}, "identifier"),
    ],
)
def test_bad_options_are_named(raw: dict[str, Any], word: str):
    with pytest.raises(ValueError, match=word):
        ADAPTER.options(raw)


def test_requests_are_signed_where_no_key_is_given():
    assert ADAPTER.credential(ADAPTER.options({"region": "us-west-2"})) is not None
    assert ADAPTER.credential(ADAPTER.options({"auth": "api_key"})) is None
    spec = ADAPTER.credential(ADAPTER.options({"access_key_id": "AK", "secret_access_key": "top-secret"}))
    assert spec is not None
    assert (spec.kind, spec.settings["service"], spec.settings["region"]) == ("aws", "bedrock", "us-east-1")
    assert "top-secret" not in repr(ADAPTER.options({"access_key_id": "AK", "secret_access_key": "top-secret"}))
    assert ADAPTER.credential(ADAPTER.options({"auth": "aws"})) is not None


def test_without_botocore_the_config_says_what_is_missing():
    code = (
        "import sys; sys.modules['botocore'] = None\n"
        "from adapters.registry import load\n"
        "try: load('bedrock').options({})\n"
        "except ValueError as exc: print(exc)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert "pip install 'sluice-gateway[bedrock]'" in found.stdout, found.stderr


def test_every_parameter_has_a_fate():
    assert set(PARAMS) <= set(ADAPTER.params)
    assert type(load("bedrock")) is Bedrock


# Requests: messages


def test_system_messages_and_roles():
    body = build({"role": "developer", "content": "a"}, user("b"), user([{"type": "text", "text": "c"}]),
                 {"role": "system", "content": "d"}, {"role": "assistant", "content": "e"}, user("f"))  # fmt: skip
    assert body["system"] == [{"text": "a"}, {"text": "d"}]
    assert [t["role"] for t in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"] == [{"text": "b"}, {"text": "c"}]


@pytest.mark.parametrize("content", ["", None, "  \n", [], [{"type": "text", "text": " "}]])
def test_E_001_an_assistant_turn_with_calls_has_no_blank_text(content: Any):
    body = build(user("x"), called(("a", "f", "{}")) | {"content": content}, result("a"), tools=[function()])
    assert [list(b) for b in body["messages"][1]["content"]] == [["toolUse"]]


@pytest.mark.parametrize("content", ["", " ", []])
def test_E_002_an_empty_result_has_words(content: Any):
    body = build(user("x"), called(("a", "f", "{}")), result("a", content), tools=[function()])
    assert body["messages"][2]["content"][0]["toolResult"]["content"] == [{"text": "(empty)"}]


def test_E_003_parallel_results_are_one_turn_and_E_004_results_come_before_text():
    body = build(
        user("x"),
        called(("a", "f", "{}"), ("b", "f", "{}")),
        result("b"),
        result("a"),
        user("and?"),
        tools=[function()],
    )
    assert [next(iter(b)) for b in body["messages"][2]["content"]] == ["toolResult", "toolResult", "text"]


def test_E_005_tools_are_made_for_a_history_that_has_calls():
    body = build(user("x"), called(("a", "gone", "")), result("a"))
    assert body["toolConfig"]["tools"][0]["toolSpec"]["name"] == "gone"
    more = build(user("x"), called(("a", "gone", "")), result("a"), tools=[function("f")])
    assert [t["toolSpec"]["name"] for t in more["toolConfig"]["tools"]] == ["f", "gone"]


def test_E_012_ids_that_converse_refuses_are_rewritten():
    body = build(user("x"), called(("call|1", "f", "{}")), result("call|1"), tools=[function()])
    use = body["messages"][1]["content"][0]["toolUse"]["toolUseId"]
    assert re.fullmatch(r"[a-zA-Z0-9_.:-]{1,64}", use)


def test_E_016_only_a_system_message_and_E_017_prefill_and_E_018_assistant_first():
    assert build({"role": "system", "content": "go"})["messages"] == [{"role": "user", "content": [{"text": "go"}]}]
    body = build({"role": "assistant", "content": "Once "})
    assert [t["role"] for t in body["messages"]] == ["user", "assistant"]
    assert body["messages"][1]["content"] == [{"text": "Once"}]
    assert build(user(""))["messages"][0]["content"] == [{"text": "."}]


def test_E_015_instructions_after_the_last_answer_are_what_is_asked():
    late = {"role": "system", "content": "Sum it up."}
    body = build(user("x"), {"role": "assistant", "content": "a"}, late)
    assert body["messages"][2:] == [{"role": "user", "content": [{"text": "Sum it up."}]}]
    assert "system" not in body
    assert build(user("x"), late)["system"] == [{"text": "Sum it up."}]


def test_E_017_the_end_with_the_assistants_words_is_continued_or_answered():
    said = {"role": "assistant", "content": "The answer is \n"}
    assert build(user("x"), said)["messages"][-1]["content"] == [{"text": "The answer is"}]
    assert build(user("x"), said, to=NEWEST)["messages"][-1] == {"role": "user", "content": [{"text": "Continue."}]}
    assert family("us.anthropic.claude-opus-4-5-20251101-v1:0").prefill
    assert not family("us.anthropic.claude-opus-4-6-v1").prefill


@pytest.mark.parametrize("content", ["", " \n", [], [{"type": "text", "text": ""}]])
@pytest.mark.parametrize("to", [CLAUDE, NEWEST, NOVA])
def test_E_019_a_blank_user_turn_stays_one_and_adds_nothing_to_another(content: Any, to: str):
    said = {"role": "assistant", "content": "a"}
    turns = build(user("x"), said, user(content), to=to)["messages"]
    assert turns[2:] == [{"role": "user", "content": [{"text": "."}]}]
    assert build(user("x"), user(content), to=to)["messages"][0]["content"] == [{"text": "x"}]
    assert build(user(content), user("x"), to=to)["messages"][0]["content"] == [{"text": "x"}]


def test_E_019_a_document_has_a_text_and_a_lawful_unique_name():
    def pdf(name: str) -> dict[str, Any]:
        return {"type": "file", "file": {"filename": name, "file_data": "data:application/pdf;base64,JVBERi0xLjQ="}}

    blocks = build(user([pdf("a_b  c.pdf"), pdf("a.b.c.pdf"), pdf("報告.pdf"), pdf("x" * 300)]))["messages"][0][
        "content"
    ]
    names = [b["document"]["name"] for b in blocks if "document" in b]
    assert names[:3] == ["a b c pdf", "a b c pdf (2)", "pdf"]
    assert blocks[-1] == {"text": "."}
    words = {"type": "file", "file": {"filename": "t.md", "file_data": "data:text/plain;base64,QUJD"}}
    assert (
        build(user([words, {"type": "text", "text": "?"}]))["messages"][0]["content"][0]["document"]["format"] == "md"
    )


def test_E_020_an_image_in_a_result_stays_there():
    image = {"type": "image_url", "image_url": {"url": f"data:image/jpg;base64,{PNG}"}}
    body = build(user("x"), called(("a", "f", "{}")), result("a", [image]), tools=[function()])
    assert body["messages"][2]["content"][0]["toolResult"]["content"] == [
        {"image": {"format": "png", "source": {"bytes": PNG}}}
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png"}},
        {"type": "image_url", "image_url": {"url": "data:image/tiff;base64,AAAA"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "file", "file": {"filename": "a.zip", "file_data": "data:application/zip;base64,AAAA"}},
        {"type": "video_url", "video_url": {"url": "x"}},
    ],
)
def test_E_021_what_converse_cannot_take_is_refused_by_name(part: dict[str, Any]):
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(user("x"), user([part]))
    assert caught.value.param == "messages[1].content"


def test_images_and_sound():
    s3 = {"type": "image_url", "image_url": {"url": "s3://bucket/a.jpg"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    blocks = build(user([s3, sound]), to=NOVA)["messages"][0]["content"]
    assert blocks[0]["image"] == {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/a.jpg"}}}
    assert blocks[1]["audio"] == {"format": "wav", "source": {"bytes": "AAAA"}}


def test_cache_breakpoints_become_cache_points_where_the_model_has_them():
    part = {"type": "text", "text": "long", "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}
    tool = {**function(), "cache_control": {"type": "ephemeral"}}
    body = build({"role": "system", "content": [part]}, user("x"), tools=[tool])
    assert body["system"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert body["toolConfig"]["tools"][1] == {"cachePoint": {"type": "default", "ttl": "1h"}}  # as what follows
    assert "cachePoint" not in json.dumps(
        build({"role": "system", "content": [part]}, user("x"), to=LLAMA, tools=[tool])
    )


# Requests: tools


def test_E_026_a_tool_needs_no_description_and_no_parameters():
    spec = build(user("x"), tools=[function(description="")])["toolConfig"]["tools"][0]["toolSpec"]
    assert spec == {"name": "f", "inputSchema": {"json": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (None, None),
        ("auto", None),
        ("required", {"any": {}}),
        ({"type": "function", "function": {"name": "f"}}, {"tool": {"name": "f"}}),
    ],
)
def test_tool_choice(choice: Any, told: Any):
    assert build(user("x"), tools=[function()], tool_choice=choice)["toolConfig"].get("toolChoice") == told


def test_E_030_tool_choice_none_tells_the_history_as_text():
    body = build(user("x"), called(("a", "f", '{"x":1}')), result("a", "42"), tools=[function()], tool_choice="none")
    assert "toolConfig" not in body
    assert body["messages"][1]["content"] == [{"text": '[Called the tool f with {"x":1}]'}]
    assert body["messages"][2]["content"] == [{"text": "[Result of the tool f]"}, {"text": "42"}]


def test_a_family_without_forced_choice_refuses_it():
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(to=LLAMA, tools=[function()], tool_choice="required")
    assert caught.value.param == "tool_choice"
    built = prepare(to=LLAMA, tools=[function()], tool_choice="required", unsupported="drop")
    assert built.dropped == ("tool_choice",)


def test_E_034_parallel_tool_calls_false():
    body = build(user("x"), tools=[function()], parallel_tool_calls=False)
    assert body["additionalModelRequestFields"]["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    named = build(
        tools=[function()], parallel_tool_calls=False, tool_choice={"type": "function", "function": {"name": "f"}}
    )
    assert named["additionalModelRequestFields"]["tool_choice"]["name"] == "f"
    assert "toolChoice" not in named["toolConfig"]
    assert "parallel_tool_calls" in prepare(to=NOVA, tools=[function()], parallel_tool_calls=False).dropped
    with pytest.raises(UnsupportedParameter):
        prepare(to=NOVA, tools=[function()], parallel_tool_calls=False, unsupported="reject")


def test_E_035_a_custom_tool_is_a_function_with_one_string():
    tool = {"type": "custom", "custom": {"name": "shell", "description": "runs"}}
    call = {"id": "a", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    turn = {"role": "assistant", "content": None, "tool_calls": [call]}
    built = prepare(user("x"), turn, result("a"), tools=[tool])
    body = json.loads(built.body)
    assert body["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]["required"] == ["input"]
    assert body["messages"][1]["content"][0]["toolUse"]["input"] == {"input": "ls"}
    assert built.notes["custom"] == {"shell"}


def test_strict_tools_where_the_model_has_them():
    tool = function(strict=True, parameters={"type": "object", "properties": {}, "additionalProperties": False})
    assert build(tools=[tool])["toolConfig"]["tools"][0]["toolSpec"]["strict"] is True
    assert prepare(to=NOVA, tools=[tool]).dropped == ("tools[].function.strict",)


def test_E_029_a_strict_tool_of_claude_is_within_what_it_compiles_or_is_none():
    def tool(**inner: Any) -> dict[str, Any]:
        return function(strict=True, parameters={"type": "object", "properties": {"a": inner}})

    bounded = build(tools=[tool(type="integer", minimum=1)])["toolConfig"]["tools"][0]["toolSpec"]
    a = {"type": "integer", "description": "(minimum: 1)"}
    closed = {"type": "object", "properties": {"a": a}, "additionalProperties": False}
    assert (bounded["strict"], bounded["inputSchema"]["json"]) == (True, closed)
    dictionary = tool(type="object", additionalProperties=STRING)
    built = prepare(tools=[dictionary])
    assert json.loads(built.body)["toolConfig"]["tools"] == [
        {"toolSpec": {"name": "f", "inputSchema": {"json": dictionary["function"]["parameters"]}}}
    ]
    assert built.dropped == ("tools[].function.strict",)
    with pytest.raises(UnsupportedParameter):
        prepare(tools=[dictionary], unsupported="reject")
    other = build(to="openai.gpt-oss-120b-1:0", tools=[dictionary])["toolConfig"]["tools"][0]["toolSpec"]
    assert (other["strict"], other["inputSchema"]["json"]) == (True, dictionary["function"]["parameters"])


def test_E_029_claude_has_twenty_strict_tools_at_most():
    given = [function(f"f{i}", strict=True) for i in range(21)]
    built = prepare(tools=given)
    specs = [tool["toolSpec"] for tool in json.loads(built.body)["toolConfig"]["tools"]]
    assert (len(specs), sum("strict" in spec for spec in specs)) == (21, 20)
    assert built.dropped == ("tools[].function.strict",)


# Requests: output format


def test_a_schema_is_sent_natively_where_the_model_has_that():
    body = build(response_format=schema(description="d"))
    told = body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]
    assert (told["name"], told["description"]) == ("s", "d")
    inner = json.loads(told["schema"])
    assert inner["additionalProperties"] is False
    assert inner["properties"]["a"] == {"type": "integer", "description": "(minimum: 1)"}
    assert "toolConfig" not in body


@pytest.mark.parametrize("to", ["openai.gpt-oss-120b-1:0", "qwen.qwen3-32b-v1:0", "deepseek.v3-v1:0"])
def test_E_029_bounds_that_bedrock_refuses_are_told_in_words_to_every_model(to: str):
    """An object that is open is sent as it is: closing it would leave it empty."""
    bound = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1}}, "required": ["a"]}
    told = {
        **bound,
        "properties": {"a": {"type": "integer", "description": "(minimum: 1)"}},
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": bound}}
    body = build(to=to, tools=[schema_function("f", bound)], response_format=form)
    assert json.loads(body["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]) == told
    spec = body["toolConfig"]["tools"][0]["toolSpec"]
    assert (spec["inputSchema"]["json"], spec["strict"]) == (told, True)
    many = {f"f{at}": {"type": ["string", "null"]} for at in range(40)}
    closed = {"type": "object", "properties": many, "required": list(many), "additionalProperties": False}
    form["json_schema"]["schema"] = closed
    assert "outputConfig" in build(to=to, response_format=form)  # what Claude compiles is no bound here
    form["json_schema"]["schema"] = {"type": "object", "additionalProperties": STRING}
    sent = build(to=to, response_format=form)["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"]
    assert json.loads(sent) == form["json_schema"]["schema"]


def test_E_028_a_property_may_be_called_like_a_keyword():
    inner = {
        "type": "object",
        "properties": {"minimum": {"type": "string"}, "items": {"type": "array", "items": STRING}},
    }
    told = build(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": inner}})
    sent = json.loads(told["outputConfig"]["textFormat"]["structure"]["jsonSchema"]["schema"])
    assert set(sent["properties"]) == {"minimum", "items"}


@pytest.mark.parametrize("to", [NOVA, "anthropic.claude-3-5-sonnet-20241022-v2:0"])
def test_E_083_tool_choice_none_leaves_the_tool_of_a_json_answer_alone(to: str):
    talk = (user("x"), called(("a", "f", "{}")), result("a"))
    more = {"tools": [function()], "tool_choice": "none", "parallel_tool_calls": False}
    built = prepare(*talk, to=to, response_format=schema(), **more)
    config = json.loads(built.body)["toolConfig"]
    assert [tool["toolSpec"]["name"] for tool in config["tools"]] == ["json_response"]
    assert config["toolChoice"] == {"tool": {"name": "json_response"}}
    assert (built.notes["json_tool"], built.dropped) == ("json_response", ())


@pytest.mark.parametrize(
    "inner",
    [
        {"type": "object", "properties": {"m": {"type": "object", "additionalProperties": STRING}}},
        {"type": "object", "properties": {"o": {"type": "object"}}},
        {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "$defs": {"N": NODE}},
    ],
    ids=["dictionary", "open object", "recursion"],
)
def test_E_029_a_schema_that_closing_would_empty_is_a_tool_that_must_be_called(inner: dict[str, Any]):
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": inner}}
    built = prepare(response_format=form)
    config = json.loads(built.body)["toolConfig"]
    assert config["tools"][0]["toolSpec"]["inputSchema"]["json"] == inner
    assert config["toolChoice"] == {"tool": {"name": built.notes["json_tool"]}}
    assert "outputConfig" not in json.loads(built.body)
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(to=FABLE, response_format=form)
    assert caught.value.param == "response_format"


def test_E_029_what_claude_does_not_compile_is_a_tool_that_must_be_called_or_not_strict():
    fields = {f"f{at}": {"type": ["string", "null"]} for at in range(9)}
    closed = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": closed}}
    strict = [schema_function(name, closed) for name in "fg"]
    specs = [tool["toolSpec"] for tool in build(tools=strict)["toolConfig"]["tools"]]
    assert [spec.get("strict") for spec in specs] == [True, None]
    both = prepare(tools=strict[:1], response_format=form)
    assert "outputConfig" in json.loads(both.body)
    assert both.dropped == ("tools[].function.strict",)
    fields |= {f"g{at}": {"type": ["string", "null"]} for at in range(9)}
    assert build(response_format=form)["toolConfig"]["toolChoice"] == {"tool": {"name": "json_response"}}


def test_a_tool_of_claude_has_an_object_without_a_union_for_its_root():
    a, b = ({"type": "object", "properties": {name: STRING}, "required": [name]} for name in "ab")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"anyOf": [a, b]}}}
    root = build(tools=[tool])["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert root == {"type": "object", "properties": {"a": STRING, "b": STRING}, "required": []}


def test_a_tool_of_nova_has_its_references_inlined_and_three_words_at_the_root():
    place = {"type": "object", "properties": {"town": STRING}, "title": "Place"}
    inner = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Trip",
        "description": "d",
        "type": "object",
        "properties": {
            "to": {"$ref": "#/$defs/Place", "description": "where"},
            "via": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Place"}},
            "next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]},
            "$ref": {"enum": ["$ref", {"$ref": "x"}]},
        },
        "required": ["to"],
        "additionalProperties": False,
        "$defs": {"Place": place, "N": NODE},
    }
    told = {
        "type": "object",
        "properties": {
            "to": {**place, "description": "where"},
            "via": {"type": "object", "additionalProperties": place},
            "next": {"anyOf": [{**NODE, "properties": {"next": {"type": "object"}}}, {"type": "null"}]},
            "$ref": {"enum": ["$ref", {"$ref": "x"}]},
        },
        "required": ["to"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": inner}}
    body = build(to=NOVA, tools=[function(parameters=inner)], response_format=form)
    assert [tool["toolSpec"]["inputSchema"]["json"] for tool in body["toolConfig"]["tools"]] == [told, told]
    plain = build(to=NOVA, tools=[function()])["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert plain == {"type": "object", "properties": {}}


def test_a_tool_of_nova_that_explodes_when_inlined_is_refused():
    definitions = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 3} for n in range(30)}
    grown = {"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}, "$defs": definitions}
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(to=NOVA, tools=[function(parameters=grown)])
    assert caught.value.param == "tools"


def test_four_cache_points_stay_and_none_for_an_hour_follows_a_shorter_one():
    def marked(text: str, **ttl: str) -> dict[str, Any]:
        return {"type": "text", "text": text, "cache_control": {"type": "ephemeral", **ttl}}

    body = build({"role": "system", "content": [marked("s")]}, user([marked(str(n)) for n in range(5)]))
    assert body["system"] == [{"text": "s"}]
    point = {"cachePoint": {"type": "default"}}
    assert body["messages"][0]["content"][:4] == [{"text": "0"}, {"text": "1"}, point, {"text": "2"}]
    tool = {**function(), "cache_control": {"type": "ephemeral"}}
    body = build({"role": "system", "content": [marked("s", ttl="1h")]}, user([marked("u")]), tools=[tool])
    told = [body["toolConfig"]["tools"][-1], body["system"][-1], body["messages"][0]["content"][-1]]
    hour = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert told == [hour, hour, point]


def schema_function(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters, "strict": True}}


def test_E_017_a_compiled_answer_continues_nothing():
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "properties": {}}}}
    turns = build(user("x"), {"role": "assistant", "content": "So"}, response_format=form)["messages"]
    assert turns[-1] == {"role": "user", "content": [{"text": "Continue."}]}


def test_a_root_that_refers_to_an_object_is_resolved_for_the_tool():
    form = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"$ref": "#/$defs/N", "$defs": {"N": NODE}}}}
    told = build(response_format=form)["toolConfig"]["tools"][0]["toolSpec"]["inputSchema"]["json"]
    assert told == {**NODE, "$defs": {"N": NODE}}


@pytest.mark.parametrize("form", [schema(), {"type": "json_object"}])
def test_E_082_elsewhere_a_tool_that_must_be_called_stands_for_it(form: dict[str, Any]):
    built = prepare(to=NOVA, response_format=form)
    body = json.loads(built.body)
    assert body["toolConfig"]["toolChoice"] == {"tool": {"name": "json_response"}}
    assert built.notes["json_tool"] == "json_response"
    both = prepare(to=NOVA, response_format=form, tools=[function("json_response")])
    assert json.loads(both.body)["toolConfig"]["toolChoice"] == {"any": {}}
    assert both.notes["json_tool"] == "json_response_2"
    with pytest.raises(UnsupportedParameter) as caught:
        prepare(to=LLAMA, response_format=form)
    assert caught.value.param == "response_format"


# Requests: reasoning and sampling


def fields(*messages: Any, **request: Any) -> dict[str, Any]:
    return dict(build(*messages, **request).get("additionalModelRequestFields", {}))


def test_effort_in_each_familys_words():
    assert fields(reasoning_effort="low")["thinking"] == {"type": "enabled", "budget_tokens": 2048}
    adaptive = fields(to=NEWEST, reasoning_effort="xhigh")
    assert adaptive == {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}
    assert fields(to="anthropic.claude-opus-4-6-v1", reasoning_effort="xhigh")["output_config"] == {"effort": "max"}
    assert fields(to=NEWEST, reasoning_effort="none") == {"thinking": {"type": "disabled"}}
    assert fields(to="us.anthropic.claude-opus-5-5", reasoning_effort="none")["output_config"] == {"effort": "low"}
    nova = {"type": "enabled", "maxReasoningEffort": "medium"}
    assert fields(to="us.amazon.nova-2-lite-v1:0", reasoning_effort="medium")["reasoningConfig"] == nova
    assert fields(to="openai.gpt-oss-120b-1:0", reasoning_effort="max") == {"reasoning_effort": "high"}
    assert fields(to="qwen.qwen3-32b-v1:0", reasoning_effort="high") == {"reasoning_config": "high"}
    assert prepare(to=LLAMA, reasoning_effort="high").dropped == ("reasoning_effort",)
    assert prepare(to=LLAMA, reasoning_effort="none").dropped == ()


def test_E_031_a_forced_tool_wins_over_thinking():
    built = prepare(reasoning_effort="high", tools=[function()], tool_choice="required")
    assert "thinking" not in built.body.decode()
    assert built.dropped == ("reasoning_effort",)
    assert "thinking" in fields(to=NEWEST, reasoning_effort="high", tools=[function()], tool_choice="required")


def test_E_017_an_answer_that_was_begun_wins_over_a_budget_of_thinking():
    begun = (user("x"), {"role": "assistant", "content": "The"})
    for asked in ({"reasoning_effort": "low"}, {"thinking": {"type": "enabled", "budget_tokens": 2048}}):
        built = prepare(*begun, **asked)
        assert "thinking" not in built.body.decode()
        assert built.dropped == tuple(asked)
        assert json.loads(built.body)["messages"][-1] == {"role": "assistant", "content": [{"text": "The"}]}
    assert fields(*begun, to=NEWEST, reasoning_effort="low")["thinking"] == {"type": "adaptive"}


def test_a_budget_of_ones_own_is_none_for_models_that_think_as_they_need():
    own = {"type": "enabled", "budget_tokens": 2048}
    assert fields(to=NEWEST, thinking=own) == {"thinking": {"type": "adaptive"}}
    assert fields(to="anthropic.claude-opus-4-6-v1", thinking=own) == {"thinking": own}


@pytest.mark.parametrize(
    ("name", "forced", "off"),
    [
        ("us.anthropic.claude-fable-5", True, "low"),
        ("us.anthropic.claude-mythos-5-1", False, "low"),
        ("us.anthropic.claude-mythos-preview", True, "low"),
        ("us.anthropic.claude-opus-5-5", False, "low"),
        ("us.anthropic.claude-haiku-5-5", True, "disabled"),
        ("us.anthropic.claude-newer-7-preview", False, "low"),
        ("us.anthropic.claude-sonnet-5", True, "disabled"),
    ],
)
def test_claude_is_on_bedrock_what_it_is_at_anthropic(name: str, forced: bool, off: str):
    assert family(name).forced_choice is forced
    sent = fields(to=name, reasoning_effort="none")
    assert sent.get("output_config", sent["thinking"]).get("effort", sent["thinking"]["type"]) == off
    assert prepare(to=name, temperature=0.5).dropped == ("temperature",)
    said = {"role": "assistant", "content": "a"}
    assert build(user("x"), said, to=name)["messages"][-1]["content"] == [{"text": "Continue."}]


def test_E_038_signed_thoughts_come_first_and_unsigned_loops_do_not_think():
    block = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    hidden = {"type": "redacted_thinking", "data": "Eu8E"}
    turn = called(("a", "f", "{}"), thinking_blocks=[block, hidden])
    body = build(user("x"), turn, result("a"), tools=[function()], reasoning_effort="low")
    blocks = body["messages"][1]["content"]
    assert blocks[0] == {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}}
    assert blocks[1] == {"reasoningContent": {"redactedContent": base64.b64encode(b"Eu8E").decode()}}
    unsigned = prepare(user("x"), called(("a", "f", "{}")), result("a"), tools=[function()], reasoning_effort="low")
    assert unsigned.dropped == ("reasoning_effort",)


def test_E_039_thoughts_are_left_out_when_nothing_thinks_and_E_040_when_unsigned():
    block = {"type": "thinking", "thinking": "hm", "signature": "sig"}
    turn = {"role": "assistant", "content": "so", "thinking_blocks": [block]}
    assert "reasoningContent" not in json.dumps(build(user("x"), turn, user("y")))
    for signature in ({}, {"signature": ""}, {"signature": None}):
        foreign = turn | {"thinking_blocks": [{"type": "thinking", "thinking": "hm", **signature}]}
        assert "reasoningContent" not in json.dumps(build(user("x"), foreign, user("y"), reasoning_effort="low"))
    assert "reasoningContent" not in json.dumps(build(user("x"), turn, user("y"), to=NOVA))


@pytest.mark.parametrize("name", ["redacted__0", "redacted__1", "adaptive-effort__0", "from-other-model__1"])
def test_E_040_recorded_thoughts_go_back_as_they_came(name: str):
    recording = next(r for r in need(ANSWERS) if r.case.endswith(name))
    message = replay_whole(recording, ADAPTER.parse(recording.body, UpstreamRequest("", {}, b"")))["choices"][0][
        "message"
    ]
    again = build(user("x"), message, user("y"), to=NEWEST)["messages"][1]["content"]
    told = recording.exchange["response"]["body"]["output"]["message"]["content"]
    assert [b for b in again if "reasoningContent" in b] == [b for b in told if "reasoningContent" in b]


def test_E_044_the_budget_fits_under_max_tokens():
    body = build(reasoning_effort="high", max_completion_tokens=4000)
    assert body["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 3000
    assert body["inferenceConfig"]["maxTokens"] == 4000
    assert prepare(reasoning_effort="high", max_tokens=1000).dropped == ("reasoning_effort",)
    assert prepare(reasoning_effort="high", max_tokens=1024).dropped == ("reasoning_effort",)
    assert fields(reasoning_effort="high", max_tokens=1025)["thinking"]["budget_tokens"] == 1024
    small = build(reasoning_effort="high", max_output=8192)
    assert small["additionalModelRequestFields"]["thinking"]["budget_tokens"] == 6144
    assert small["inferenceConfig"]["maxTokens"] == 8192
    assert build(reasoning_effort="low")["inferenceConfig"]["maxTokens"] == 2048 + 8192
    assert build(reasoning_effort="low", max_output=64_000)["inferenceConfig"]["maxTokens"] == 64_000


def test_E_045_sampling_that_a_model_refuses_is_left_out_and_named():
    assert prepare(to=NEWEST, temperature=0.5, top_p=0.9).dropped == ("temperature", "top_p")
    assert prepare(to=NEWEST, temperature=1).dropped == ()
    assert prepare(temperature=0.5, top_p=0.9).dropped == ("top_p",)
    assert prepare(temperature=0.5, reasoning_effort="low").dropped == ("temperature",)
    high = prepare(to="us.amazon.nova-2-lite-v1:0", reasoning_effort="high", max_tokens=9, temperature=0.1)
    assert set(high.dropped) == {"max_completion_tokens", "temperature"}


def test_E_080_max_tokens_and_E_081_temperature_and_E_084_stop():
    body = build(max_tokens=5, max_completion_tokens=7, temperature=1.5, stop=["a", " ", ""])
    assert body["inferenceConfig"] == {"maxTokens": 7, "temperature": 1, "stopSequences": ["a"]}
    assert "inferenceConfig" not in build(stop="")
    assert build(stop="x")["inferenceConfig"] == {"stopSequences": ["x"]}


def test_E_085_values_that_ask_for_nothing():
    body = build(n=1, frequency_penalty=0, logprobs=False, tools=[], stop=None, user="", metadata=None, logit_bias={})
    assert set(body) == {"messages"}


def test_parameters_that_change_the_answer_are_refused_and_hints_are_named():
    for name, value in (("logit_bias", {"1": 1}), ("logprobs", True), ("web_search_options", {})):
        with pytest.raises(UnsupportedParameter) as caught:
            prepare(**{name: value})
        assert caught.value.param == name
        assert prepare(**{name: value}, unsupported="drop").dropped == (name,)
    assert set(prepare(seed=1, prompt_cache_key="k", verbosity="low", frequency_penalty=0.5).dropped) == {
        "frequency_penalty",
        "seed",
        "prompt_cache_key",
        "verbosity",
    }


def test_top_k_and_further_fields():
    assert fields(top_k=5) == {"top_k": 5}
    assert fields(to=NOVA, top_k=5) == {"inferenceConfig": {"topK": 5}}
    assert fields(additionalModelRequestFields={"a": 1}, raw={"additional_fields": {"b": 2}}) == {"a": 1, "b": 2}
    assert fields(thinking={"type": "enabled", "budget_tokens": 1024})["thinking"]["budget_tokens"] == 1024
    assert prepare(to=NOVA, thinking={"type": "enabled"}).dropped == ("thinking",)


# Requests: what is Converse's own


def test_tiers_guardrails_latency_and_metadata():
    guardrail = {"identifier": "abc", "version": "1", "trace": "enabled", "stream_processing": "async"}
    raw = {"guardrail": guardrail, "latency": "optimized"}
    body = build(service_tier="scale", user="u1", safety_identifier="s1", metadata={"team": "a"}, raw=raw)
    assert body["serviceTier"] == {"type": "reserved"}
    assert body["guardrailConfig"] == {"guardrailIdentifier": "abc", "guardrailVersion": "1", "trace": "enabled"}
    assert build(stream=True, raw=raw)["guardrailConfig"]["streamProcessingMode"] == "async"
    assert body["performanceConfig"] == {"latency": "optimized"}
    assert body["requestMetadata"] == {"user": "u1", "safety_identifier": "s1", "team": "a"}
    assert "serviceTier" not in build(service_tier="default")
    assert build(service_tier="flex")["serviceTier"] == {"type": "flex"}
    assert prepare(user="ü", metadata={"ok": "x", "né": "y"}).dropped == ("user", "metadata")
    many = prepare(user="u", metadata={f"k{i}": "v" for i in range(16)})
    assert len(json.loads(many.body)["requestMetadata"]) == 16
    assert many.dropped == ("metadata",)


@pytest.mark.parametrize(
    ("name", "reasoning", "schema_", "sampling"),
    [
        ("anthropic.claude-v2:1", "none", False, "both"),
        ("anthropic.claude-3-haiku-20240307-v1:0", "none", False, "both"),
        ("us.anthropic.claude-3-7-sonnet-20250219-v1:0", "budget", False, "both"),
        ("us.anthropic.claude-sonnet-4-20250514-v1:0", "budget", False, "both"),
        ("us.anthropic.claude-opus-4-1-20250805-v1:0", "budget", False, "one"),
        ("global.anthropic.claude-haiku-4-5-20251001-v1:0", "budget", True, "one"),
        ("us.anthropic.claude-sonnet-4-6", "adaptive", True, "one"),
        ("us.anthropic.claude-opus-4-8", "adaptive", True, "none"),
        ("us.anthropic.claude-sonnet-5", "adaptive", True, "none"),
        ("amazon.nova-lite-v1:0", "none", False, "both"),
        ("us.amazon.nova-2-lite-v1:0", "nova", False, "both"),
        ("us.deepseek.r1-v1:0", "none", False, "both"),
        ("brand.new-model", "none", False, "both"),
    ],
)
def test_families(name: str, reasoning: str, schema_: bool, sampling: str):
    found = family(name)
    assert (found.reasoning, found.schema, found.sampling) == (reasoning, schema_, sampling)


def test_an_opaque_profile_has_the_family_that_the_options_name():
    arn = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc"
    assert fields(to=arn, reasoning_effort="low", raw={"profiles": {arn: CLAUDE}})["thinking"]["type"] == "enabled"
    assert prepare(to=arn, reasoning_effort="low").dropped == ("reasoning_effort",)


# Any lawful conversation

texts = st.text(max_size=12) | st.sampled_from(["", " ", "\n", "hi", "\ud83d", "é"])
parts = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts}),
    st.just({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}),
    st.builds(
        lambda name: {"type": "file", "file": {"filename": name, "file_data": "data:application/pdf;base64,JVBERi0x"}},
        texts,
    ),
)
contents = texts | st.lists(parts, min_size=1, max_size=3)


@st.composite
def conversations(draw: Any) -> list[dict[str, Any]]:
    """Lists that OpenAI takes: any order of roles, every call answered at once, ids used again and again."""
    messages: list[dict[str, Any]] = []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["system", "developer", "user", "assistant", "calls", "legacy"]))
        if kind in ("system", "developer", "assistant"):
            messages.append({"role": kind, "content": draw(texts)})
        elif kind == "user":
            messages.append({"role": "user", "content": draw(contents)})
        elif kind == "legacy":
            messages.append({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": ""}})
            messages.append({"role": "function", "name": "f", "content": draw(texts)})
        else:
            ids = draw(
                st.lists(st.sampled_from(["a", "call|b", "é", "x" * 70, "d:0"]), min_size=1, max_size=3, unique=True)
            )
            arguments = draw(st.sampled_from(["", "{}", "null", "[1]", '{"x":{"y":1}}', "5"]))
            messages.append(called(*((i, "f", arguments) for i in ids)) | {"content": draw(texts)})
            messages += [result(i, draw(contents)) for i in draw(st.permutations(ids))]
    return messages


@settings(max_examples=200, deadline=None)
@given(
    conversations(), st.sampled_from([CLAUDE, NEWEST, NOVA, LLAMA]), st.booleans(), st.sampled_from(["auto", "none"])
)
def test_any_lawful_conversation_is_a_lawful_converse_request(messages: Any, to: str, tools: bool, choice: str):
    more = {"tools": [function()], "tool_choice": choice} if tools else {}
    prepare(*messages, to=to, **more)
