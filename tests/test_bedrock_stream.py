"""ConverseStream: every recorded stream in all splits, and the frames that recordings lack."""

import json
import struct
import zlib
from typing import Any

import pytest
from botocore.eventstream import EventStreamBuffer

from adapters.bedrock import Bedrock
from adapters.errors import ErrorKind, ProviderError
from adapters.interface import UpstreamRequest

from .replay import Recording, counts, need, recordings, replay_stream, splits, translate, written

ADAPTER = Bedrock()
STREAMS = recordings("bedrock", endpoint="converse-stream", stream=True)


def sent(**notes: Any) -> UpstreamRequest:
    return UpstreamRequest("", {}, b"", stream=True, notes=notes)


def frame(headers: dict[str, str], payload: bytes) -> bytes:
    """One frame, encoded by ourselves: names and values as strings (type 7), both checksums."""
    told = b"".join(
        bytes([len(k)]) + k.encode() + b"\x07" + struct.pack(">H", len(v)) + v.encode() for k, v in headers.items()
    )
    start = struct.pack(">II", 16 + len(told) + len(payload), len(told))
    message = start + struct.pack(">I", zlib.crc32(start)) + told + payload
    return message + struct.pack(">I", zlib.crc32(message))


def event(kind: str, body: Any) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(body).encode())


def exception(kind: str, body: Any) -> bytes:
    return frame({":exception-type": kind, ":message-type": "exception"}, json.dumps(body).encode())


START = event("messageStart", {"role": "assistant", "p": "abc"})
END = event("messageStop", {"stopReason": "end_turn"})
USAGE = event("metadata", {"usage": {"inputTokens": 3, "outputTokens": 5, "totalTokens": 8}})


def text(words: str, index: int = 0) -> bytes:
    return event("contentBlockDelta", {"contentBlockIndex": index, "delta": {"text": words}})


def tool(index: int, name: str, *pieces: str, **more: str) -> bytes:
    use = {"toolUseId": f"id{index}", "name": name, **more}
    out = event("contentBlockStart", {"contentBlockIndex": index, "start": {"toolUse": use}})
    for piece in pieces:
        delta = {"toolUse": {"input": piece}}
        out += event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
    return out + event("contentBlockStop", {"contentBlockIndex": index})


def deltas(body: bytes, **notes: Any) -> list[dict[str, Any]]:
    """The deltas that a client gets, after the writer has made them lawful."""
    outcome = translate(ADAPTER.stream(sent(**notes)), [body])
    assert outcome.error is None, outcome.error
    events = [json.loads(e[6:]) for e in written(outcome).decode().split("\n\n") if e.startswith("data: {")]
    return [e["choices"][0]["delta"] | {"end": e["choices"][0]["finish_reason"]} for e in events if e["choices"]]


def joined(found: list[dict[str, Any]], key: str = "content") -> str:
    return "".join(d.get(key) or "" for d in found)


@pytest.mark.parametrize("recording", STREAMS, ids=str)
def test_recorded_streams_translate_the_same_however_they_are_cut(recording: Recording):
    outcome, raw = replay_stream(recording, lambda: ADAPTER.stream(sent()))
    expected = {"text": "", "reasoning": "", "calls": [], "stop": None, "usage": None}
    buffer = EventStreamBuffer()
    buffer.add_data(recording.body)
    for message in buffer:
        read_event(expected, message.headers[":event-type"], json.loads(message.payload))
    events = [json.loads(e[6:]) for e in raw.decode().split("\n\n") if e.startswith("data: {")]
    found = [e["choices"][0] for e in events if e["choices"]]
    assert joined([c["delta"] for c in found]) == expected["text"]
    assert joined([c["delta"] for c in found], "reasoning_content") == expected["reasoning"]
    calls = [t for c in found for t in c["delta"].get("tool_calls") or ()]
    arguments: dict[int, str] = {}
    for call in calls:
        arguments[call["index"]] = arguments.get(call["index"], "") + call["function"]["arguments"]
    assert [(c["id"], c["function"]["name"], arguments[c["index"]]) for c in calls if "id" in c] == [
        (c["id"], c["name"], c["input"] or "{}") for c in expected["calls"]
    ]
    told = {"end_turn": "stop", "tool_use": "tool_calls", "guardrail_intervened": "content_filter"}
    assert found[-1]["finish_reason"] == told[expected["stop"]]
    if expected["usage"] is None:
        assert outcome.usage is None
    else:
        assert outcome.usage is not None
        assert outcome.usage.total_tokens == expected["usage"]["totalTokens"]
        assert outcome.usage.completion_tokens == expected["usage"]["outputTokens"]


def read_event(expected: dict[str, Any], kind: str, body: Any) -> None:
    """What the frames say, read the plain way."""
    if kind == "contentBlockStart" and (use := body["start"].get("toolUse")):
        expected["calls"].append({"id": use["toolUseId"], "name": use["name"], "input": ""})
    if kind == "contentBlockDelta":
        delta = body["delta"]
        expected["text"] += delta.get("text", "")
        expected["reasoning"] += delta.get("reasoningContent", {}).get("text", "")
        if "toolUse" in delta:
            expected["calls"][-1]["input"] += delta["toolUse"]["input"]
    expected["stop"] = body.get("stopReason", expected["stop"])
    expected["usage"] = body.get("usage", expected["usage"])


def test_every_recorded_stream_was_played():
    assert len(need(STREAMS)) == 26
    if counts["bedrock", "stream"]:
        assert counts["bedrock", "stream"] <= 26


def test_E_049_a_tool_after_text_has_index_0_and_E_050_no_arguments_are_an_object():
    found = deltas(START + text("hm") + tool(1, "f", "") + tool(2, "g", '{"x"', ":1}") + END)
    calls = [t for d in found for t in d.get("tool_calls") or ()]
    assert [(c["index"], c.get("id")) for c in calls if "id" in c] == [(0, "id1"), (1, "id2")]
    assert joined([c["function"] for c in calls if c["index"] == 0], "arguments") == "{}"
    assert found[-1]["end"] == "tool_calls"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("throttlingException", ErrorKind.RATE_LIMITED),
        ("modelStreamErrorException", ErrorKind.SERVER),
        ("internalServerException", ErrorKind.SERVER),
        ("serviceUnavailableException", ErrorKind.OVERLOADED),
        ("validationException", ErrorKind.INVALID_REQUEST),
    ],
)
@pytest.mark.parametrize("before", [b"", START, START + text("half an answer")], ids=["first", "start", "after text"])
def test_E_052_an_exception_frame_is_a_failure_wherever_it_stands(name: str, kind: ErrorKind, before: bytes):
    body = before + exception(name, {"message": "no arn:aws:iam::123456789012:user/x"})
    outcomes = [translate(ADAPTER.stream(sent()), pieces) for pieces in ([body], *splits(body))]
    for outcome in outcomes:
        assert outcome.error is not None
        assert outcome.error.kind is kind
        assert "123456789012" not in outcome.error.message
    words = joined([c["choices"][0]["delta"] for c in outcomes[1].chunks])
    assert words == ("half an answer" if before.endswith(text("half an answer")) and before else "")


def test_E_052_an_error_frame_is_a_failure_too():
    body = frame({":message-type": "error", ":error-code": "InternalServerError", ":error-message": "oops"}, b"")
    with pytest.raises(ProviderError) as caught:
        ADAPTER.stream(sent()).feed(body)
    assert caught.value.kind is ErrorKind.SERVER


def test_E_052_chunks_before_the_error_in_the_same_bytes_are_not_lost():
    translator = ADAPTER.stream(sent())
    found = translator.feed(text("kept") + exception("throttlingException", {"message": "later"}))
    assert joined([c["choices"][0]["delta"] for c in found]) == "kept"
    with pytest.raises(ProviderError):
        translator.close()
    with pytest.raises(ProviderError):
        translator.feed(b"")


def test_E_053_characters_cut_anywhere_are_whole():
    body = START + text("größe 😀 日本語") + END + USAGE
    whole = translate(ADAPTER.stream(sent()), [body])
    for at in range(len(body)):
        assert translate(ADAPTER.stream(sent()), [body[:at], body[at:]]).same(whole)


@pytest.mark.parametrize("at", [2, 9, 20, -30, -1], ids=["length", "prelude crc", "headers", "payload", "crc"])
def test_E_060_a_damaged_frame_is_a_protocol_error(at: int):
    body = bytearray(text("hello"))
    body[at] ^= 0x41
    outcome = translate(ADAPTER.stream(sent()), [bytes(body)])
    assert outcome.error is not None
    # a length that grew may as well be a frame whose end is missing
    assert outcome.error.kind in ((ErrorKind.PROTOCOL, ErrorKind.INCOMPLETE) if at == 2 else (ErrorKind.PROTOCOL,))
    assert outcome.chunks == []


def test_E_060_headers_of_an_unknown_type_and_payloads_of_an_unknown_shape_are_protocol_errors():
    bodies = [
        event("contentBlockDelta", {"delta": {"text": "no index"}}),
        event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": 5}}),
        event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"toolUse": "x"}}),
        event("contentBlockStart", []),
        frame({":event-type": "messageStop", ":message-type": "event"}, b"no json"),
        frame({":event-type": "messageStop", ":message-type": "event"}, b"\xff"),
        b"<html>this is no event stream at all, but a page of some proxy</html>",
    ]
    for body in bodies:
        with pytest.raises(ProviderError) as caught:
            ADAPTER.stream(sent()).feed(body)
        assert caught.value.kind is ErrorKind.PROTOCOL


@pytest.mark.parametrize("body", [b"", START, START + text("half"), START + text("half") + END[:-3]])
def test_E_059_a_stream_without_its_stop_is_incomplete(body: bytes):
    outcome = translate(ADAPTER.stream(sent()), [body])
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.INCOMPLETE


def test_E_060_usage_after_the_stop_and_tier_are_read():
    usage = {
        "inputTokens": 10, "outputTokens": 5, "totalTokens": 47, "cacheReadInputTokens": 20,
        "cacheWriteInputTokens": 12, "cacheDetails": [{"ttl": "1h", "inputTokens": 7}, {"ttl": "5m", "inputTokens": 5}],
    }  # fmt: skip
    body = START + text("x") + END + event("metadata", {"usage": usage, "serviceTier": {"type": "reserved"}})
    outcome = translate(ADAPTER.stream(sent()), [body])
    assert outcome.usage is not None
    assert (outcome.usage.input, outcome.usage.cache_read) == (10, 20)
    assert (outcome.usage.cache_write, outcome.usage.cache_write_1h) == (5, 7)
    assert outcome.usage.total_tokens == 47
    assert outcome.served_tier == "scale"


def test_E_061_server_side_tools_are_no_calls_of_the_client():
    result = {"toolResult": {"toolUseId": "id0", "type": "nova_grounding_result", "status": "success"}}
    body = (
        START
        + tool(0, "nova_grounding", '{"query":"x"}', type="server_tool_use")
        + event("contentBlockStart", {"contentBlockIndex": 1, "start": result})
        + event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolResult": [{"text": "found"}]}})
        + event("contentBlockStop", {"contentBlockIndex": 1})
        + text("It is so.", 2)
        + END
    )
    found = deltas(body)
    assert not any("tool_calls" in d for d in found)
    assert joined(found) == "It is so."


def test_E_062_web_citations_come_in_one_delta_with_their_places():
    web = {"title": "T", "location": {"web": {"url": "https://x.example", "domain": "x.example"}}}
    page = {"title": "D", "location": {"documentPage": {"documentIndex": 0, "start": 1, "end": 2}}}
    body = START + text("First. ") + event("contentBlockStop", {"contentBlockIndex": 0}) + text("Second.", 1)
    for citation in (web, page):
        body += event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"citation": citation}})
    body += event("contentBlockStop", {"contentBlockIndex": 1}) + END
    told = [d["annotations"] for d in deltas(body) if "annotations" in d]
    assert told == [
        [
            {
                "type": "url_citation",
                "url_citation": {"start_index": 7, "end_index": 14, "title": "T", "url": "https://x.example"},
            }
        ]
    ]


def test_E_038_signed_thoughts_are_told_for_the_next_turn():
    body = START
    for delta in ({"text": "I "}, {"text": "think"}, {"signature": "si"}, {"signature": "gn"}):
        body += event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"reasoningContent": delta}})
    body += event("contentBlockStop", {"contentBlockIndex": 0}) + text("so", 1) + END
    found = deltas(body)
    assert joined(found, "reasoning_content") == "I think"
    told = [b for d in found for b in d.get("thinking_blocks") or ()]
    assert told == [{"type": "thinking", "thinking": "I think", "signature": "sign"}]


def test_E_082_the_json_tool_is_the_content_and_its_preface_is_left_out():
    body = START + text("Here you are:") + tool(1, "json_response", '{"a"', ":1}")
    found = deltas(body + event("messageStop", {"stopReason": "tool_use"}), json_tool="json_response")
    assert joined(found) == '{"a":1}'
    assert not any("tool_calls" in d for d in found)
    assert found[-1]["end"] == "stop"
    refused = deltas(START + text("I cannot.") + END, json_tool="json_response")
    assert joined(refused) == "I cannot."


def test_E_083_real_calls_and_the_json_tool_are_told_apart():
    body = START + tool(0, "weather", '{"x":1}') + tool(1, "json_response", '{"a":1}') + tool(2, "json_response", "{}")
    found = deltas(body + event("messageStop", {"stopReason": "tool_use"}), json_tool="json_response")
    assert joined(found) == '{"a":1}'
    assert [t["function"]["name"] for d in found for t in d.get("tool_calls") or () if "id" in t] == ["weather"]
    assert found[-1]["end"] == "tool_calls"


def test_C_324_a_custom_tool_gets_its_free_text():
    body = START + tool(0, "shell", '{"inp', 'ut":"ls -l"}') + tool(1, "f", "{}")
    found = deltas(body + event("messageStop", {"stopReason": "tool_use"}), custom=frozenset({"shell"}))
    calls = [t for d in found for t in d.get("tool_calls") or ()]
    assert next(c for c in calls if "id" in c) == {
        "index": 0, "id": "id0", "type": "custom", "custom": {"name": "shell", "input": ""},
    }  # fmt: skip
    assert "".join(c["custom"]["input"] for c in calls if "custom" in c) == "ls -l"


def test_blocks_that_never_stop_end_with_the_message():
    use = {"toolUse": {"toolUseId": "id1", "name": "shell"}}
    thought = {"reasoningContent": {"text": "hm", "signature": "sig"}}
    body = event("contentBlockDelta", {"contentBlockIndex": 0, "delta": thought})
    body += event("contentBlockStart", {"contentBlockIndex": 1, "start": use})
    body += event("contentBlockDelta", {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"input":"ls"}'}}})
    found = deltas(body + event("messageStop", {"stopReason": "tool_use"}), custom=frozenset({"shell"}))
    assert [b["signature"] for d in found for b in d.get("thinking_blocks") or ()] == ["sig"]
    assert "".join(t["custom"]["input"] for d in found for t in d.get("tool_calls") or ()) == "ls"


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
@pytest.mark.parametrize("said", [b"", text("a")])
def test_malformed_output_has_its_usage_however_the_stream_is_cut(reason: str, said: bytes):
    body = START + said + event("messageStop", {"stopReason": reason}) + USAGE
    whole = translate(ADAPTER.stream(sent()), [body])
    assert whole.error is not None
    assert whole.error.kind is ErrorKind.SERVER
    assert whole.usage is not None
    assert whole.usage.total_tokens == 8
    for pieces in splits(body):
        assert translate(ADAPTER.stream(sent()), pieces).same(whole)


@pytest.mark.parametrize("reason", ["malformed_model_output", "malformed_tool_use"])
def test_E_072_malformed_output_is_a_failure(reason: str):
    outcome = translate(ADAPTER.stream(sent()), [START + text("x") + event("messageStop", {"stopReason": reason})])
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.SERVER


def test_E_072_a_new_stop_reason_ends_the_answer():
    assert deltas(START + text("x") + event("messageStop", {"stopReason": "brand_new"}))[-1]["end"] == "stop"
