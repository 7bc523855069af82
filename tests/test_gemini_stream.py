"""Gemini's streams: every recording in every split, and what goes wrong on the way."""

import json

import pytest

from adapters.emit import Accumulator, completion
from adapters.errors import ErrorKind, ProviderError
from adapters.gemini import Gemini
from adapters.interface import Answer, Target, UpstreamRequest

from .replay import need, recordings, replay_stream, translate

SENT = UpstreamRequest("", {}, b"", stream=True, notes={"nonce": "n"})


def event(*parts, end="\r\n\r\n", **candidate):
    content = {"role": "model", "parts": list(parts)}
    return sse({"candidates": [{"content": content, **candidate}]}, end)


def sse(value, end="\r\n\r\n"):
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + end.encode()


def stream(*pieces, sent=SENT, adapter=None):
    return translate((adapter or Gemini()).stream(sent), list(pieces))


def told(outcome, **options):
    accumulated = Accumulator()
    accumulated.add(outcome.chunks)
    answer = Answer(accumulated.completion(), outcome.usage)
    return completion(answer, id="chatcmpl-1", created=1, model="m", **options)["choices"][0]


# -- recordings


def responses(body):
    """The objects of a recorded stream, read another way than the adapter does."""
    events = body.decode().replace("\r\n", "\n").split("\n\n")
    return [json.loads(e.removeprefix("data:")) for e in events if e.startswith("data:")]


def expected_usage(found):
    counted = {}
    for response in found:
        counted.update(response.get("usageMetadata") or {})
    prompt = counted.get("promptTokenCount", 0) + counted.get("toolUsePromptTokenCount", 0)
    return prompt, counted.get("candidatesTokenCount", 0) + counted.get("thoughtsTokenCount", 0)


def test_C_314_C_329_every_recorded_stream_whole_bytewise_and_cut_anywhere():
    adapter = Gemini()
    found = need(recordings("gemini", endpoint="streamGenerateContent", stream=True))
    for recording in found:
        outcome, _ = replay_stream(recording, lambda: adapter.stream(SENT))
        objects = responses(recording.body)
        parts = [p for o in objects for c in o.get("candidates", ()) for p in (c.get("content") or {}).get("parts", ())]
        message = told(outcome)["message"]
        assert (message["content"] or "") == "".join(p["text"] for p in parts if "text" in p and not p.get("thought"))
        starts = [p["functionCall"]["name"] for p in parts if p.get("functionCall", {}).get("name")]
        assert [c["function"]["name"] for c in message.get("tool_calls", ())] == starts
        signatures = [p["thoughtSignature"] for p in parts if "thoughtSignature" in p and "text" in p]
        assert (message.get("extra_content") is not None) == bool(signatures)
        if outcome.usage is not None:
            assert (outcome.usage.prompt_tokens, outcome.usage.completion_tokens) == expected_usage(objects)
    assert len(found) > 70


def test_recorded_arguments_in_pieces_are_put_together():
    found = {r.case: r for r in need(recordings("gemini", endpoint="streamGenerateContent", stream=True))}
    calls = {}
    for case, recording in found.items():
        if "partialArgs" in recording.body.decode():
            outcome = translate(Gemini().stream(SENT), [recording.body])
            calls[case] = [json.loads(c["function"]["arguments"]) for c in told(outcome)["message"]["tool_calls"]]
    assert calls
    nested = calls["vercel-google-google-stream-tool-call-array-arguments-missing-terminal-function-call.chunks.txt"]
    assert nested[0]["operations"][0]["action"] == "add"


# -- pieces


def test_parts_in_order_each_as_its_own_delta():
    outcome = stream(
        event({"text": "hm", "thought": True}),
        event({"text": "Hé"}),
        event({"functionCall": {"name": "f", "args": {"a": 1}}}),
        event({"functionCall": {"name": "g", "args": {}}}, finishReason="STOP"),
    )
    deltas = [c["choices"][0]["delta"] for c in outcome.chunks]
    assert deltas[0] == {"reasoning_content": "hm"}
    assert deltas[1] == {"content": "Hé"}
    assert [d["tool_calls"][0]["index"] for d in deltas[2:4]] == [0, 1]
    assert outcome.chunks[-1]["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop"}
    assert told(outcome)["finish_reason"] == "tool_calls"


def test_C_324_a_custom_tool_in_a_stream():
    adapter = Gemini()
    custom = {"type": "custom", "custom": {"name": "sql"}}
    request = {"model": "x", "messages": [{"role": "user", "content": "hi"}], "tools": [custom], "stream": True}
    sent = adapter.prepare(request, Target("u", "gemini-3-flash"))
    body = event({"functionCall": {"name": "sql", "args": {"input": "SELECT 1"}}}, finishReason="STOP")
    made = told(stream(body, sent=sent, adapter=adapter))["message"]["tool_calls"][0]
    assert (made["type"], made["custom"]) == ("custom", {"name": "sql", "input": "SELECT 1"})


def test_E_041_a_signature_in_a_stream_is_sent_and_remembered():
    adapter = Gemini()
    part = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}
    made = told(stream(event(part, finishReason="STOP"), adapter=adapter))["message"]["tool_calls"][0]
    assert made["extra_content"] == {"google": {"thought_signature": "c2ln"}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "tool_calls": [{k: made[k] for k in ("id", "type", "function")}]},
        {"role": "tool", "tool_call_id": made["id"], "content": "x"},
    ]
    sent = adapter.prepare({"model": "x", "messages": messages}, Target("u", "gemini-3-flash"))
    assert json.loads(sent.body)["contents"][1]["parts"][0]["thoughtSignature"] == "c2ln"


def test_E_042_a_signature_on_an_empty_last_text():
    outcome = stream(event({"text": "hi"}), event({"text": "", "thoughtSignature": "c2ln"}, finishReason="STOP"))
    assert told(outcome)["message"]["extra_content"] == {"google": {"thought_signature": "c2ln"}}


def test_E_051_a_finish_on_every_chunk_is_told_once_and_the_last_one_wins():
    outcome = stream(event({"text": "a"}, finishReason="STOP"), event({"text": "b"}, finishReason="MAX_TOKENS"))
    finishes = [c["choices"][0].get("finish_reason") for c in outcome.chunks]
    assert finishes == [None, None, "length"]


@pytest.mark.parametrize("content", [None, {}, {"role": "model"}, {"parts": []}, {"parts": None}, {"parts": [{}]}])
def test_chunks_with_nothing_in_them(content):
    last = sse({"candidates": [{"content": content, "finishReason": "STOP"}]})
    outcome = stream(event({"text": "a"}), sse({"candidates": [{"content": content}]}), sse({}), last)
    assert told(outcome)["message"]["content"] == "a"


def test_E_056_the_last_usage_counts_and_may_come_late():
    outcome = stream(
        sse(
            {
                "candidates": [{"content": {"parts": [{"text": "a"}]}}],
                "usageMetadata": {"trafficType": "ON_DEMAND_FLEX"},
            }
        ),
        sse(
            {
                "candidates": [{"finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1},
            }
        ),
        sse({"usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 2, "thoughtsTokenCount": 4}}),
    )
    assert (outcome.usage.input, outcome.usage.output, outcome.usage.reasoning) == (3, 2, 4)
    assert outcome.served_tier == "flex"


def test_a_stream_without_counts_has_no_usage():
    assert stream(event({"text": "a"}, finishReason="STOP")).usage is None


def test_E_064_choices_of_several_candidates():
    pieces = [
        sse({"candidates": [{"index": i, "content": {"parts": [{"text": t}]}, "finishReason": "STOP"}]})
        for i, t in ((0, "a"), (1, "b"), (0, "c"))
    ]
    accumulated = Accumulator()
    accumulated.add(stream(*pieces).chunks)
    assert [c["message"]["content"] for c in accumulated.completion()["choices"]] == ["ac", "b"]


def test_E_062_citations_come_once_at_the_end():
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a", "title": "A"}}],
        "groundingSupports": [
            {"segment": {"startIndex": 0, "endIndex": 2, "text": "ab"}, "groundingChunkIndices": [0]}
        ],
    }
    outcome = stream(
        event({"text": "a"}), event({"text": "b"}, groundingMetadata=grounding),
        event({"text": "c"}, groundingMetadata=grounding, finishReason="STOP"),
    )  # fmt: skip
    assert [len(c["choices"][0]["delta"].get("annotations", ())) for c in outcome.chunks] == [0, 0, 0, 1, 0]


def test_E_073_a_blocked_prompt_in_a_stream():
    outcome = stream(sse({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}))
    choice = told(outcome)
    assert choice["finish_reason"] == "content_filter"
    assert choice["message"]["refusal"]


def test_a_block_reason_beside_an_answer_takes_nothing_from_it():
    blocked = sse({"promptFeedback": {"blockReason": "OTHER"}})
    choice = told(stream(event({"text": "a"}), blocked, event(finishReason="STOP")))
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "a")


def test_C_282_ids_are_unique_and_the_same_for_the_same_bytes():
    body = event(*({"functionCall": {"name": "f", "id": i}} for i in ("g", "g", "", "x" * 41)), finishReason="STOP")
    ids = [c["choices"][0]["delta"]["tool_calls"][0]["id"] for c in stream(body).chunks[:-1]]
    assert len(set(ids)) == 4
    assert max(map(len, ids)) <= 40
    assert stream(body).same(stream(body))


def test_a_safety_stop_in_the_middle_keeps_the_text():
    choice = told(stream(event({"text": "Once"}), sse({"candidates": [{"finishReason": "SAFETY"}]})))
    assert (choice["finish_reason"], choice["message"]["content"], choice["message"]["refusal"]) == (
        "content_filter",
        "Once",
        None,
    )


# -- arguments in pieces


def pieces(*partial, name=None, more=True):
    call = {"partialArgs": list(partial)} if partial else {}
    call |= {"name": name} if name else {}
    return event({"functionCall": {**call, **({"willContinue": True} if more else {})}})


def test_arguments_by_path():
    outcome = stream(
        pieces(name="f"),
        pieces({"jsonPath": "$.a", "stringValue": "x", "willContinue": True}),
        pieces({"jsonPath": "$.a", "stringValue": "y", "willContinue": True}, {"jsonPath": "$.a", "stringValue": ""}),
        pieces({"jsonPath": "$.b[1].c", "numberValue": 2}, {"jsonPath": "$['d e']", "boolValue": True}),
        pieces({"jsonPath": "$.n", "nullValue": "NULL_VALUE"}),
        pieces(more=False),
        event({"functionCall": {"name": "g", "args": {}}}, finishReason="STOP"),
    )
    calls = told(outcome)["message"]["tool_calls"]
    assert [c["function"]["name"] for c in calls] == ["f", "g"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"a": "xy", "b": [None, {"c": 2}], "d e": True, "n": None}


@pytest.mark.parametrize("path", ["$", "", "$.a[99999]"])
def test_arguments_with_a_wrong_path_are_a_failure(path):
    first = pieces({"jsonPath": "$.a[0]", "stringValue": "x"}, name="f")
    outcome = stream(first, pieces({"jsonPath": path, "stringValue": "x"}, more=False), event(finishReason="STOP"))
    assert outcome.error.kind is ErrorKind.PROTOCOL


def test_arguments_without_their_last_piece_are_told_at_the_end():
    outcome = stream(pieces({"jsonPath": "$.a", "stringValue": "x"}, name="f"), event(finishReason="STOP"))
    assert told(outcome)["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":"x"}'


# -- what goes wrong


def test_E_059_a_stream_that_ends_without_a_finish_is_cut_short():
    for body in (event({"text": "a"}), b"", b": ping\n\n", event({"text": "a"}) + b'data: {"candi'):
        assert stream(body).error.kind is ErrorKind.INCOMPLETE


def test_one_of_two_candidates_without_an_end_is_cut_short():
    both = [{"index": 0, "finishReason": "STOP"}, {"index": 1, "content": {"parts": [{"text": "b"}]}}]
    assert stream(sse({"candidates": both})).error.kind is ErrorKind.INCOMPLETE


def test_E_054_line_ends_comments_and_a_missing_last_blank_line():
    texts = []
    for end in ("\n\n", "\r\n\r\n", "\r\r"):
        body = b": hi" + end.encode() + event({"text": "a\u2028"}, end=end) + event(finishReason="STOP", end="\n")
        texts.append(told(stream(body))["message"]["content"])
        assert translate(Gemini().stream(SENT), [bytes([b]) for b in body]).same(stream(body))
    assert texts == ["a\u2028"] * 3


ERROR = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize(
    "tail",
    [
        sse(ERROR),
        json.dumps(ERROR, indent=2).encode(),
        json.dumps([ERROR]).encode(),
        b"\r\n" + json.dumps(ERROR, indent=2).encode(),
    ],
)
def test_E_052_an_error_in_the_middle_is_raised_after_what_preceded_it(tail):
    body = event({"text": "a"}) + tail
    translator = Gemini().stream(SENT)
    assert translator.feed(body)[0]["choices"][0]["delta"] == {"content": "a"}
    with pytest.raises(ProviderError) as caught:
        translator.close()
    assert caught.value.kind is ErrorKind.OVERLOADED
    whole = stream(body)
    for cut in range(1, len(body)):
        assert stream(body[:cut], body[cut:]).same(whole)


def test_E_052_the_recorded_error_in_the_middle():
    [recording] = [
        r for r in need(recordings("vertex", endpoint="streamGenerateContent", stream=True)) if "error-mid" in r.case
    ]
    outcome = stream(recording.body)
    assert outcome.chunks
    assert outcome.error.status == 499


def test_a_json_list_is_a_stream_too():
    objects = [
        {"candidates": [{"content": {"parts": [{"text": t}]}, "finishReason": "STOP"}]} for t in ("é}", "[b", "c")
    ]
    body = json.dumps(objects, indent=2, ensure_ascii=False).encode()
    whole = stream(body)
    assert told(whole)["message"]["content"] == "é}[bc"
    for cut in range(1, len(body)):
        assert stream(body[:cut], body[cut:]).same(whole)
    assert stream(body[:-30]).error.kind is ErrorKind.INCOMPLETE
    one = stream(json.dumps(objects[0]).encode())
    assert told(one)["message"]["content"] == "é}"


@pytest.mark.parametrize("body", [b"data: {\n\n", b"data: 5\n\n", b"data: []\n\n", b'data: "x"\n\n', b"[1,{}]", b"{}}"])
def test_what_is_no_answer_is_a_failure(body):
    assert stream(body).error is not None


def test_a_call_without_a_name_is_a_failure():
    assert stream(event({"functionCall": {"args": {}}}, finishReason="STOP")).error.kind is ErrorKind.PROTOCOL
