"""How much a request may use: bounds that hold, figures that learn, and what is sent upstream to make them real."""

import base64
import json
import re
import wave
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.interface import Target
from adapters.registry import load
from adapters.usage import Usage
from config import schema
from gateway.call import Call, Deployment
from gateway.limits.estimate import ANY_IMAGE_TOKENS, PLAIN, UNBOUNDED, Estimator
from gateway.price_book import PriceBook
from gateway.pricing import worst_case

from .beside import SHARED


def deployment(model: str = "gpt-4.1", **options: Any) -> Deployment:
    config = schema.Deployment.model_validate({"provider": "p", "model": model, **options})
    return Deployment(f"p/{model}", "p", load("anthropic"), Target("", model), config)


GPT, UNHEARD, SHORT = deployment(), deployment("unheard of"), deployment("unheard of", max_output=9)


def estimator(*deployments: Deployment, **more: Any) -> tuple[Estimator, PriceBook]:
    """Of a configuration with these deployments and the three above."""
    configured = tuple(d.config for d in (GPT, UNHEARD, SHORT, *deployments))
    config = schema.Config.model_validate(
        {
            "providers": {"p": {"adapter": "openai"}},
            "models": {"fast": schema.PublicModel(deployments=configured)},
            **more,
        }
    )
    book = PriceBook(config)
    return Estimator(config, book), book


def call(**request: Any) -> Call:
    body = {"model": "fast", "messages": [{"role": "user", "content": "hi"}], **request}
    values = {"id": "req_1", "request": body, "size": len(orjson.dumps(body)), "created": 0}
    return Call(**{k: v for k, v in values.items() if k in Call.__dataclass_fields__})


def user(*parts: Any) -> list[Any]:
    return [{"role": "user", "content": list(parts)}]


def test_the_clients_own_bound_stands() -> None:
    e, _ = estimator()
    bound = e.bound(call(max_completion_tokens=100, n=3), [GPT])
    assert (bound.output_tokens, bound.most.output_tokens, bound.max_output) == (300, 300, None)
    assert e.bound(call(max_tokens=7), [GPT]).output_tokens == 7


def test_a_bound_nobody_asked_for_is_sent_upstream_only_under_a_budget() -> None:
    e, _ = estimator(pricing={"default_max_output": 500})
    assert e.bound(call(), [GPT]).max_output == 500
    assert e.bound(call(), [GPT], hard=False).max_output is None
    assert e.bound(call(), [GPT], {"max_completion_tokens": 50}).output_tokens == 50


def test_no_answer_is_longer_than_the_model_can_give() -> None:
    e, _ = estimator()
    assert e.bound(call(max_tokens=10**6), [GPT]).output_tokens == 32_768
    assert e.bound(call(max_tokens=10**6), [GPT, UNHEARD]).output_tokens == 10**6
    assert e.bound(call(max_tokens=10**6), [SHORT]).output_tokens == 9


def test_the_money_of_a_prompt_stops_at_the_context_window() -> None:
    e, book = estimator()
    file = {"type": "file", "file": {"file_id": "file-1"}}
    bound = e.bound(call(messages=user(file), max_tokens=1), [GPT])
    assert bound.most.input_tokens > UNBOUNDED
    assert book.worst_case(GPT, bound.most) == 1_047_576 * 2000 + 8000
    assert bound.input_tokens < 2000  # but rates reserve what is likely


texts = st.text(max_size=300)


@given(st.lists(texts, min_size=1, max_size=5), st.lists(texts, max_size=3))
def test_the_bound_of_a_prompt_is_not_below_its_bytes(messages: list[str], tools: list[str]) -> None:
    e, _ = ESTIMATOR
    functions = [{"type": "function", "function": {"name": "f", "description": d}} for d in tools]
    asked = call(messages=[{"role": "user", "content": m} for m in messages], **({"tools": functions} if tools else {}))
    bound = e.bound(asked, [GPT])
    assert bound.most.input_tokens >= sum(len(t.encode()) for t in [*messages, *tools])
    assert bound.input_tokens <= bound.most.input_tokens


ESTIMATOR = estimator()


RECORDED = SHARED / "recorded"


def recorded() -> Iterator[tuple[str, dict[str, Any], int]]:
    """Real Chat Completions requests, and the prompt tokens that the provider reported."""
    for file in RECORDED.glob("*/*.json"):
        case = json.loads(file.read_bytes())
        body, response = case["request"].get("body"), case["response"]
        reported = re.findall(r'"prompt_tokens": ?(\d+)', response.get("body_text") or json.dumps(response.get("body")))
        if isinstance(body, dict) and "messages" in body and case["endpoint"] == "chat.completions" and reported:
            yield f"{file.parent.name}/{file.stem}", body, max(map(int, reported))


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded traffic is not here")
def test_no_recorded_prompt_passed_its_bound() -> None:
    found = [*recorded()]
    used = {model: deployment(model) for model in {str(body.get("model")) for _, body, _ in found}}
    e, _ = estimator(*used.values())
    over, seen, likely, real = [], 0, 0, 0
    for name, body, tokens in found:
        asked = call(**body)
        bound = e.bound(asked, [used[str(body.get("model"))]])
        seen, likely, real = seen + 1, likely + bound.input_tokens, real + tokens
        if tokens > bound.most.input_tokens:
            over.append((name, tokens, bound.most.input_tokens))
    assert over == []
    assert seen > 300
    print(f"{seen} recorded prompts: {real} tokens, likely {likely}")


@pytest.mark.parametrize(("model", "most"), [("gpt-4o-mini", 48_200), ("anthropic.claude-opus-5", 4_900), ("x", 0)])
def test_an_image_costs_what_its_model_makes_of_it_whatever_its_bytes(model: str, most: int) -> None:
    used = deployment(model)
    e, _ = estimator(used)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    bound = e.bound(call(messages=user(image)), [used])
    assert (most or ANY_IMAGE_TOKENS) <= bound.most.input_tokens < (most or ANY_IMAGE_TOKENS) + 1500
    assert bound.most.audio_input is False


def test_audio_is_bounded_by_its_length() -> None:
    sound = BytesIO()
    with wave.open(sound, "wb") as w:
        w.setnchannels(1), w.setsampwidth(2), w.setframerate(8000), w.writeframes(bytes(2 * 8000 * 60))
    data = base64.b64encode(sound.getvalue()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    e, _ = estimator()
    bound = e.bound(call(messages=user(part), modalities=["text", "audio"], audio={"voice": "x"}), [GPT])
    assert bound.most.input_tokens > 60 * 32  # a minute at the densest tokenizer known
    assert bound.most.audio_input
    assert bound.most.audio_output


@pytest.mark.parametrize("content", [None, "Once upon a time", [{"type": "text", "text": "Once upon a time"}]])
def test_a_spoken_answer_that_is_referred_to_may_fill_the_context(content: Any) -> None:
    """Its id says nothing of its length: OpenAI reads eight such answers of two minutes as 9,600 tokens of audio."""
    heard = deployment("demo", priced_as="openai/gpt-audio")
    e, book = estimator(heard)
    messages = [
        {"role": "user", "content": "Go on"},
        {"role": "assistant", "content": content, "audio": {"id": "audio_1"}},
    ]
    bound = e.bound(call(messages=messages, max_completion_tokens=50), [heard])
    assert bound.most.input_tokens >= UNBOUNDED
    assert bound.most.audio_input
    assert bound.media, "no ratio is learned from it"
    price = book.price(heard)
    assert price is not None
    assert price.max_input is not None
    assert book.worst_case(heard, bound.most) == price.max_input * 32_000 + 50 * 10_000
    silent = e.bound(call(messages=[{**m, "audio": None} for m in messages], max_completion_tokens=50), [heard])
    assert silent.most.input_tokens < 2_000
    assert not silent.most.audio_input


def test_searches_and_predictions_are_paid_for() -> None:
    e, book = estimator()
    bound = e.bound(call(web_search_options={}, prediction={"type": "content", "content": "x" * 99}), [GPT])
    assert bound.most.calls == {"web_search": 10}
    assert bound.most.output_tokens >= bound.output_tokens + 99
    price = book.price(GPT)
    assert price is not None
    assert worst_case(bound.most, price) > 10 * price.per_call["web_search"] // 1000


def test_embeddings_have_no_completion() -> None:
    e, _ = estimator()
    body = {"model": "vectors", "input": "x" * 400}
    values = {"id": "r", "request": body, "size": 420, "created": 0}
    bound = e.bound(Call(**{k: v for k, v in values.items() if k in Call.__dataclass_fields__}), [GPT])
    assert (bound.output_tokens, bound.max_output) == (0, None)


def test_the_ratio_of_tokens_to_bytes_is_learned_per_model() -> None:
    e, _ = estimator()
    asked = call(messages=[{"role": "user", "content": "word " * 1000}])
    first = e.bound(asked, [GPT])
    for _ in range(200):
        e.learn(first, Usage(input=600, output=100), text_bytes=1000)
    later = e.bound(asked, [GPT])
    assert abs(later.input_tokens - 600) < 60
    assert e.settle_without_usage(later, 5000).output == 500  # nothing on top of what was learned
    assert e.bound(call(model="other", messages=asked.request["messages"]), [GPT]).input_tokens > 1200


@pytest.mark.parametrize(
    ("usage", "text_bytes"),
    [
        (Usage(input=10, output=120), 40_000),  # not all of that was text
        (Usage(input=10, output=100), 8_000),  # blanks, 80 to a token
        (Usage(input=10, output=5_000), 1_000),  # reasoning that was not told apart
        (Usage(input=10, output=9), 3),  # hardly any text
        (Usage(input=10, output=300), 0),  # tool calls
        (Usage(input=10, output=100, reasoning=100), 1_000),
        (Usage(input=10, output=100, audio_output=100), 1_000),
        (Usage(input=10, output=900, rejected_prediction=650), 1_000),
    ],
)
def test_nothing_is_learned_of_an_answer_whose_text_is_not_what_was_counted(usage: Usage, text_bytes: int) -> None:
    e, _ = estimator()
    bound = e.bound(call(), [GPT])
    before = e.settle_without_usage(bound, 1000).output
    for _ in range(100):
        e.learn(bound, usage, text_bytes)
    assert e.settle_without_usage(bound, 1000).output == before


def test_a_prompt_that_is_hardly_text_lowers_no_estimate() -> None:
    e, _ = estimator()
    bound = e.bound(call(metadata={str(at): "x" * 500 for at in range(16)}), [GPT])
    for _ in range(100):
        e.learn(bound, Usage(input=8))
    assert e.bound(call(), [GPT]).input_tokens == estimator()[0].bound(call(), [GPT]).input_tokens


def test_one_answer_moves_what_was_learned_by_a_little() -> None:
    e, _ = estimator()
    bound = e.bound(call(), [GPT])
    for _ in range(2):
        e.learn(bound, Usage(output=250), text_bytes=1000)
    e.learn(bound, Usage(output=1000), text_bytes=1000)
    assert e.settle_without_usage(bound, 1000).output <= 250 + 0.05 * 750 + 1


def test_an_answer_without_usage_is_never_settled_above_its_reservation() -> None:
    e, _ = estimator()
    bound = e.bound(call(max_tokens=10), [GPT])
    usage = e.settle_without_usage(bound, 10**6)
    assert usage.output == 10
    assert usage.prompt_tokens <= bound.most.input_tokens
    assert e.settle_without_usage(bound, 0).output == 0


def test_what_the_remaining_money_buys() -> None:
    e, book = estimator(counters={"budget_mode": "clamp", "clamp_min_tokens": 64})
    bound = e.bound(call(max_tokens=4000, n=2), [GPT])
    full = book.worst_case(GPT, bound.most)
    assert full is not None
    half = e.clamp(bound, full // 2, [GPT])
    assert half is not None
    assert half.max_output is not None
    cost = book.worst_case(GPT, half.most)
    assert cost is not None
    assert cost <= full // 2 < cost + 2 * 8000  # one token more for each choice is too dear
    assert e.clamp(bound, 100_000, [GPT]) is None
    strict, _ = estimator()
    assert strict.clamp(bound, full // 2, [GPT]) is None


said = st.fixed_dictionaries(
    {"messages": st.sampled_from([[], [{"role": "user", "content": "x" * 300}], user({"type": "text", "text": "hi"})])},
    optional={
        "max_tokens": st.one_of(st.none(), st.integers(0, 10**5)),
        "max_completion_tokens": st.one_of(st.none(), st.integers(1, 10**5)),
        "temperature": st.just(1),
        "stream": st.booleans(),
        "model": st.sampled_from(["fast", "other"]),
        "n": st.integers(1, 3),
        "tools": st.just([{"type": "function"}]),
        "modalities": st.just(["text", "audio"]),
        "prediction": st.just({"type": "content", "content": "x"}),
        "response_format": st.just({"type": "json_object"}),
    },
)


@given(said, st.booleans(), st.sampled_from([GPT, UNHEARD]))
def test_the_short_way_to_a_bound_is_as_the_long_one(request: dict[str, Any], hard: bool, used: Deployment) -> None:
    e, _ = ESTIMATOR
    e._prompt_ratios["fast"] = 0.9
    asked, facts = call(**request), e.facts([used])
    assert e.bound_by(facts, asked, None, hard) == e._bound(facts, asked, None, hard=hard)


@pytest.mark.parametrize("name", sorted(PLAIN - {"model", "messages", "max_tokens", "max_completion_tokens"}))
def test_parameters_that_are_plain_change_no_bound(name: str) -> None:
    e, _ = estimator()
    facts, without = e.facts([GPT]), call()
    asked = replace(without, request={**without.request, name: 1})
    assert e._bound(facts, asked, None, hard=True) == e._bound(facts, without, None, hard=True)
