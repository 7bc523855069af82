"""OpenAI's dialect: what is sent, what is read back, and streams that are not quite OpenAI's."""

import base64
import json
import struct
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from adapters import registry
from adapters.errors import ErrorKind, ProviderError, UnsupportedParameter
from adapters.interface import EmbeddingAdapter, RelayAdapter, Target, UpstreamRequest
from adapters.openai import OpenAI
from adapters.openai.dialect import read_usage
from adapters.params import PARAMS
from adapters.usage import Usage

from .replay import need, recordings, replay_stream, replay_whole, written
from .test_emit import end

ADAPTER = OpenAI()
TARGET = Target("https://api.openai.com/v1", "gpt-5", api_key="k")
MESSAGES = [{"role": "user", "content": "hi"}]


def sent(target: Target = TARGET, **request: Any) -> tuple[UpstreamRequest, dict[str, Any]]:
    up = ADAPTER.prepare({"model": "public", "messages": MESSAGES} | request, target)
    return up, json.loads(up.body)


def chunk(delta: dict[str, Any] | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta if delta is not None else {}, "finish_reason": None}
    choice |= {k: more.pop(k) for k in ("index", "finish_reason", "logprobs") if k in more}
    return b"data: " + json.dumps({"id": "c", "model": "m", "choices": [choice]} | more).encode() + b"\n\n"


def read(*pieces: bytes, adapter: OpenAI = ADAPTER) -> list[dict[str, Any]]:
    """The chunks of a stream that ends well."""
    translator = adapter.stream(UpstreamRequest("", {}, b""))
    chunks = [c for piece in pieces for c in translator.feed(piece)]
    return chunks + translator.close()


def test_every_parameter_has_a_fate() -> None:
    assert set(PARAMS) <= ADAPTER.params.keys()
    assert isinstance(ADAPTER, RelayAdapter)
    assert isinstance(ADAPTER, EmbeddingAdapter)


def test_request_is_renamed_and_usage_is_always_asked_for() -> None:
    up, body = sent(stream=True, temperature=None, top_p=0.5)
    assert body == {
        "model": "gpt-5",
        "messages": MESSAGES,
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_p": 0.5,
    }
    assert (up.url, up.stream) == ("https://api.openai.com/v1/chat/completions", True)
    assert up.headers == {"content-type": "application/json", "authorization": "Bearer k"}
    assert "stream_options" not in sent()[1]


def test_C_334_obfuscation_is_asked_off_when_the_client_asked_so() -> None:
    body = sent(stream=True, stream_options={"include_usage": False, "include_obfuscation": False})[1]
    assert body["stream_options"] == {"include_usage": True, "include_obfuscation": False}


def test_C_166_a_token_limit_keeps_its_older_name_beside_a_prediction() -> None:
    body = sent(max_tokens=5, prediction={"type": "content", "content": "x"})[1]
    assert (body["max_tokens"], "max_completion_tokens" in body) == (5, False)


def test_E_080_max_tokens_becomes_max_completion_tokens() -> None:
    assert sent(max_tokens=5)[1]["max_completion_tokens"] == 5
    assert sent(max_tokens=5, max_completion_tokens=6)[1]["max_completion_tokens"] == 6
    assert "max_tokens" not in sent(max_tokens=5)[1]


def test_stored_completions_stay_with_the_gateway() -> None:
    up, body = sent(store=True, metadata={"a": "b"})
    assert "store" not in body
    assert "metadata" not in body
    assert up.dropped == ()


def test_service_tiers() -> None:
    assert sent(service_tier="flex")[1]["service_tier"] == "flex"
    assert "service_tier" not in sent(service_tier="auto")[1]
    assert sent(service_tier="made-up")[0].dropped == ("service_tier",)


def test_E_085_empties_are_not_sent() -> None:
    body = sent(tools=[], tool_choice="auto", parallel_tool_calls=True, stop=[], user="", metadata=None)[1]
    assert body.keys() == {"model", "messages"}


def test_C_218_a_message_echoed_back_is_cleaned() -> None:
    echoed = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "function_call": None,
        "parsed": {"x": 1},
        "reasoning_content": "hm",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    messages = [*MESSAGES, echoed, {"role": "tool", "tool_call_id": "a", "content": "1"}]
    told = sent(messages=messages)[1]["messages"][1]
    assert told == {"role": "assistant", "content": None, "tool_calls": echoed["tool_calls"]}


def test_E_012_long_ids_of_other_providers_are_shortened_on_both_sides() -> None:
    long = "toolu_" + "x" * 50
    call = {"id": long, "type": "function", "function": {"name": "f", "arguments": "{}"}}
    history = [
        *MESSAGES,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": long, "content": "1"},
    ]
    told = sent(messages=history)[1]["messages"]
    assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"]
    assert len(told[2]["tool_call_id"]) <= 40


def test_E_045_samplers_of_reasoning_models_go_where_the_policy_is_to_drop() -> None:
    up, body = sent(Target("", "gpt-5-mini", unsupported="drop"), temperature=0.2, top_p=0.5)
    assert up.dropped == ("temperature", "top_p")
    assert body.keys() == {"model", "messages"}
    assert sent(Target("", "gpt-5-mini"), temperature=0.2)[1]["temperature"] == 0.2
    for model in ("gpt-4.1", "gpt-5-chat-latest", "gpt-5.1"):
        assert sent(Target("", model, unsupported="drop"), temperature=0.2)[0].dropped == ()


@pytest.mark.parametrize(
    ("model", "effort", "refuses"),
    [
        ("gpt-6-sol", None, True),
        ("gpt-6.1-terra", "high", True),
        ("gpt-5.6", None, True),
        ("gpt-5.6", "none", False),
        ("gpt-5.1", "low", True),
        ("gpt-5.1", "none", False),
        ("gpt-5.1-codex", None, True),
        ("gpt-5.2-pro", None, True),
        ("gpt-4.1", "low", False),
    ],
)
def test_E_045_samplers_go_where_the_model_reasons_and_stay_where_it_does_not(
    model: str, effort: str | None, refuses: bool
) -> None:
    up, body = sent(Target("", model, unsupported="drop"), temperature=0.2, reasoning_effort=effort)
    assert up.dropped == (("temperature",) if refuses else ())
    assert ("temperature" in body) is not refuses


def test_unknown_extensions_are_refused_unless_the_model_allows_them() -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        sent(top_k=1)
    assert caught.value.param == "top_k"
    assert sent(Target("", "m", allow=frozenset({"top_k"})), top_k=1)[1]["top_k"] == 1


def test_options_are_checked_by_name() -> None:
    options = ADAPTER.options({"organization": "org-1", "project": "p", "extra": {"top_p": 0.1}})
    up, body = sent(Target("https://h/v1", "m", "k", options, headers={"x-a": "b"}))
    assert up.headers["openai-organization"] == "org-1"
    assert (up.headers["openai-project"], up.headers["x-a"], body["top_p"]) == ("p", "b", 0.1)
    with pytest.raises(ValueError, match="organisation"):
        ADAPTER.options({"organisation": "x"})


def test_a_lawful_answer_is_passed_on_byte_for_byte() -> None:
    message = {"role": "assistant", "content": "a", "refusal": None, "annotations": []}
    whole = {
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
        "service_tier": "flex",
        "system_fingerprint": None,
    }
    body = json.dumps(whole).encode()
    answer = ADAPTER.parse(body, sent()[0])
    assert (answer.body, answer.served_tier, answer.usage) == (body, "flex", Usage(input=1, output=2))
    del message["annotations"]
    assert ADAPTER.parse(json.dumps(whole).encode(), sent()[0]).body is None


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"choices":[]}', b'{"choices":null}', b'{"error":{"message":"x"}}']
)
def test_C_401_a_200_that_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(ProviderError):
        ADAPTER.parse(body, sent()[0])


@pytest.mark.parametrize(
    "body", [b'{"choices":[1]}', b'{"choices":[{}]}', b'{"choices":[{"message":3,"index":"a"}],"usage":[]}']
)
def test_a_deformed_answer_never_breaks_the_reader(body: bytes) -> None:
    ADAPTER.parse(body, sent()[0])


@pytest.mark.parametrize("total", [14, 14.0, 15, 3, None, True])
@pytest.mark.parametrize("prompt", [10, 10.0, -10, True, None, "10"])
@pytest.mark.parametrize("inside", [{"cached_tokens": 4, "audio_tokens": 0}, {"cached_tokens": 0}, {}, None, []])
def test_usage_in_openais_own_shape_is_read_like_any_other(prompt: Any, total: Any, inside: Any) -> None:
    own = {
        "prompt_tokens": prompt,
        "completion_tokens": 4,
        "total_tokens": total,
        "prompt_tokens_details": inside,
        "completion_tokens_details": {"reasoning_tokens": 1},
    }
    assert read_usage(own) == read_usage({**own, "of_no_meaning": 0})


def test_usage_in_all_the_names_of_the_family() -> None:
    plain = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    assert read_usage(plain | {"prompt_cache_hit_tokens": 6}) == Usage(input=4, cache_read=6, output=4)
    assert read_usage(plain | {"cached_tokens": 6}) == Usage(input=4, cache_read=6, output=4)
    assert read_usage({}) is None
    assert read_usage(None) is None


def test_E_070_reasoning_told_only_in_the_total() -> None:
    usage = read_usage({"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 354})
    assert usage == Usage(input=12, output=2, reasoning=340)
    assert usage is not None
    assert usage.to_openai()["total_tokens"] == 354


def test_E_047_reasoning_has_one_name_and_is_never_doubled() -> None:
    assert read(chunk({"reasoning": "a", "reasoning_content": "a"}), chunk(finish_reason="stop"), b"data: [DONE]\n\n")[
        0
    ]["choices"][0]["delta"] == {"reasoning_content": "a"}


def test_E_048_content_as_a_list_of_parts() -> None:
    found = read(chunk({"content": [{"type": "text", "text": "a"}]}), chunk(finish_reason="stop"), b"data: [DONE]\n\n")
    assert found[0]["choices"][0]["delta"] == {"content": "a"}


def test_E_055_a_chunk_without_choices() -> None:
    for odd in (b'{"choices":[]}', b'{"choices":null}', b"{}", b'{"choices":[{"delta":null,"index":null}]}'):
        found = read(
            b"data: " + odd + b"\n\n", chunk({"content": "a"}), chunk(finish_reason="stop"), b"data: [DONE]\n\n"
        )
        assert found[-2]["choices"][0]["delta"] == {"content": "a"}


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "pieces",
    [
        (chunk(finish_reason="stop"), b'data: {"choices":[],"usage":%s}\n\n' % json.dumps(USAGE).encode()),
        (chunk(finish_reason="stop", usage=USAGE),),
        (
            chunk({"content": "a"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
            chunk(finish_reason="stop", usage=USAGE),
        ),
        (chunk(finish_reason="stop", x_groq={"id": "r", "usage": USAGE}),),
        (
            b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","usage":%s}]}\n\n'
            % json.dumps(USAGE).encode(),
        ),
    ],
)
def test_E_056_usage_wherever_it_rides(pieces: tuple[bytes, ...]) -> None:
    translator = ADAPTER.stream(sent()[0])
    for piece in (chunk({"content": "a"}), *pieces, b"data: [DONE]\n\n"):
        translator.feed(piece)
    translator.close()
    assert translator.usage == Usage(input=1, output=2)


def test_E_052_an_error_inside_the_stream_follows_what_came_before_it() -> None:
    translator = ADAPTER.stream(sent()[0])
    error = (
        b'data: {"error":{"code":502,"message":"gone"},"choices":[{"index":0,"delta":{},"finish_reason":"error"}]}\n\n'
    )
    assert len(translator.feed(chunk({"content": "a"}) + error)) == 1
    for call in (lambda: translator.feed(b""), translator.close):
        with pytest.raises(ProviderError) as caught:
            call()
        assert (caught.value.kind, caught.value.message) == (ErrorKind.SERVER, "gone")
    with pytest.raises(ProviderError):
        ADAPTER.stream(sent()[0]).feed(b'event: error\ndata: {"message":"gone"}\n\n')


@pytest.mark.parametrize(
    "said",
    [
        {"object": "error", "message": "gone", "type": "x", "param": None, "code": 503},
        {"message": "gone", "type": "too_many_requests_error", "code": "queue_exceeded"},
        {"detail": "gone"},
    ],
)
def test_E_052_an_error_without_a_name_for_it_is_one(said: dict[str, Any]) -> None:
    """It must never end as an answer that is complete, not even where the server says ``[DONE]`` after it."""
    event = b"data: " + json.dumps(said).encode() + b"\n\ndata: [DONE]\n\n"
    for name in ("vllm", "openai"):
        adapter = registry.load(name)
        translator = adapter.stream(UpstreamRequest("", {}, b""))
        assert len(translator.feed(chunk({"content": "a"}) + event)) == 1
        with pytest.raises(ProviderError, match="gone"):
            translator.close()
        with pytest.raises(ProviderError, match="gone"):
            adapter.parse(json.dumps(said).encode(), UpstreamRequest("", {}, b""))


def test_E_054_framing_of_any_kind() -> None:
    plain = [chunk({"content": "héllo 😀"}), chunk(finish_reason="stop"), b"data: [DONE]\n\n"]
    expected = read(*plain)
    body = b"".join(plain)
    spaced = b"\xef\xbb\xbf: hello\n\n" + body.replace(b"data: ", b"id: 3\nretry: 1\ndata:")
    for other in (body.replace(b"\n", b"\r\n"), body.replace(b"\n", b"\r"), spaced, body.rstrip()):
        assert read(other) == expected
        assert read(*[other[i : i + 1] for i in range(len(other))]) == expected


@pytest.mark.parametrize(
    "cut", [chunk({"content": "a"}), chunk({"content": "a"}) + chunk(finish_reason="stop")[:20], b"", b": ping\n\n"]
)
def test_E_059_a_stream_cut_short_is_incomplete(cut: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        read(cut)
    assert caught.value.kind is ErrorKind.INCOMPLETE


def test_a_stream_that_is_no_stream() -> None:
    whole = {"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": "stop"}], "usage": USAGE}
    translator = ADAPTER.stream(sent()[0])
    for byte in b"\n" + json.dumps(whole).encode():
        assert translator.feed(bytes([byte])) == []
    chunks = translator.close()
    assert [c["choices"][0]["delta"] for c in chunks] == [{"content": "a"}, {}]
    assert translator.usage == Usage(input=1, output=2)
    with pytest.raises(ProviderError) as caught:
        read(b'{"error":{"message":"slow down","code":429}}')
    assert caught.value.kind is ErrorKind.RATE_LIMITED


@pytest.mark.parametrize("bad", [b"data: {broken\n\n", b"data: 3\n\n"])
def test_a_malformed_event_is_a_protocol_error(bad: bytes) -> None:
    with pytest.raises(ProviderError) as caught:
        read(bad)
    assert caught.value.kind is ErrorKind.PROTOCOL


def test_C_337_lone_surrogates_of_an_upstream_are_joined() -> None:
    raw = b'data: {"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}\n\ndata: {"choices":[{"index":0,"delta":{"content":"\\ude00"}}]}\n\n'
    translator = ADAPTER.stream(sent()[0])
    chunks = translator.feed(raw)
    from .replay import Outcome, texts

    assert texts(written(Outcome([*chunks, end()], None, None, None))) == {0: "😀"}


def test_embeddings() -> None:
    up = ADAPTER.prepare_embeddings({"model": "x", "input": ["a"], "encoding_format": "base64", "user": None}, TARGET)
    assert json.loads(up.body) == {"model": "gpt-5", "input": ["a"], "encoding_format": "base64"}
    assert json.loads(ADAPTER.prepare_embeddings({"input": "a"}, TARGET).body)["encoding_format"] == "float"
    assert up.url.endswith("/v1/embeddings")
    packed = base64.b64encode(struct.pack("<2f", 0.5, -1)).decode()
    data = [{"index": 1, "embedding": packed}, {"index": 0, "embedding": [1.0, 2.0]}]
    answer = ADAPTER.parse_embeddings(json.dumps({"data": data, "usage": {"prompt_tokens": 3}}).encode(), up)
    assert [row["embedding"] for row in answer.completion["data"]] == [[1.0, 2.0], packed]
    assert answer.usage == Usage(input=3)
    for bad in (b"{}", b'{"data":[{"embedding":5}]}', b'{"error":"x"}', b"[]"):
        with pytest.raises(ProviderError):
            ADAPTER.parse_embeddings(bad, up)


def test_every_recorded_stream_is_read_and_written_lawfully() -> None:
    played = need(recordings("openai", endpoint="chat.completions", stream=True))
    for recording in played:
        request = recording.request or {}
        outcome, raw = replay_stream(
            recording,
            lambda: ADAPTER.stream(sent()[0]),
            n=request.get("n") or 1,
            forced_tool=forced(request),
        )
        assert outcome.usage == own_usage(recording.body), str(recording)
        for event in raw.decode().split("\n\n")[:-2]:
            ChatCompletionChunk.model_validate_json(event[6:], strict=True)
    assert len(played) >= 73


def test_every_recorded_answer_is_read_and_written_lawfully() -> None:
    played = need(recordings("openai", endpoint="chat.completions", stream=False))
    for recording in played:
        request = recording.request or {}
        answer = ADAPTER.parse(recording.body, sent()[0])
        lawful = replay_whole(recording, answer, n=request.get("n") or 1, forced_tool=forced(request))
        ChatCompletion.model_validate_json(json.dumps(lawful), strict=True)
        theirs, ours = recording.exchange["response"]["body"], lawful
        assert forced(request) or [c["finish_reason"] for c in ours["choices"]] == [
            c["finish_reason"] for c in theirs["choices"]
        ]
        assert ours["usage"]["total_tokens"] == theirs["usage"]["total_tokens"]
    assert len(played) >= 122


def test_every_recorded_request_is_sent_as_it_was() -> None:
    played = need(
        [r for s in (True, False) for r in recordings("openai", endpoint="chat.completions", stream=s) if r.request]
    )
    for recording in played:
        request = recording.request
        if "max_tokens" in request or request.get("store"):
            continue
        target = Target("https://api.openai.com/v1", request["model"], allow=frozenset(request))
        body = json.loads(ADAPTER.prepare(request, target).body)
        plain = {
            k: v
            for k, v in request.items()
            if v not in (None, []) and k not in ("stream", "stream_options", "messages")
        }
        assert {k: body.get(k) for k in plain if k != "service_tier"} == {
            k: v for k, v in plain.items() if k != "service_tier"
        }
        assert len(body["messages"]) == len(request["messages"])


def forced(request: dict[str, Any]) -> bool:
    choice = request.get("tool_choice")
    return isinstance(choice, dict) and choice.get("type") == "function"


def own_usage(body: bytes) -> Usage | None:
    """The usage a recording tells itself, read independently."""
    found = None
    for line in body.split(b"\n"):
        if line.startswith(b"data: {") and (usage := json.loads(line[6:]).get("usage")):
            found = usage
    return None if found is None else Usage.from_openai(found)


def test_the_official_sdk_has_no_parameter_without_a_fate() -> None:
    from typing import get_type_hints

    from openai.types.chat.completion_create_params import CompletionCreateParamsBase

    assert get_type_hints(CompletionCreateParamsBase).keys() <= ADAPTER.params.keys(), openai.__version__


def test_registry_knows_it() -> None:
    assert isinstance(registry.load("openai"), OpenAI)
    with pytest.raises(LookupError, match="did you mean 'openai'"):
        registry.load("opanai")
