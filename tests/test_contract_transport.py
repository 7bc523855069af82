"""Paths, headers and rate limits as a client sees them: checklist C-001 to C-029, C-420 to C-439, C-500 to C-530."""

import base64
import io
import json
import logging
import re
import struct
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from .contract import DIALECTS, USER, Contract, contract
from .running import KEY, deployment

pytestmark = pytest.mark.asyncio(loop_scope="module")
MEASURED = "sk-sl-measured-0123456789abcdef"
SPARE = "sk-sl-spare-0123456789abcdef"
DAILY = "sk-sl-daily-0123456789abcdef"
DURATION = re.compile(r"(\d+h)?(\d+m(?!s))?(\d+(\.\d+)?(ms|s))?")
KEYS = [
    {"name": "test", "key": KEY},
    {"name": "measured", "key": MEASURED, "team": "blue", "limits": {"rpm": 600, "tpm": 100_000, "itpm": 50_000}},
    {"name": "spare", "key": SPARE, "limits": {"rpm": 1}},
    {"name": "daily", "key": DAILY, "limits": {"rpd": 1}},
]
MODELS: dict[str, Any] = {
    "meta/llama-3": [deployment("demo-ok")],
    "hidden": {"deployments": [deployment("demo-ok")], "hidden": True},
    "embedding": [deployment("demo")],
}
TEAMS = {"blue": {"organization": "acme"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice() -> AsyncIterator[Contract]:
    async with contract(MODELS, keys=KEYS, teams=TEAMS, organizations={"acme": {}}) as found:
        yield found


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def sdk(sluice: Contract, key: str = KEY, retries: int = 0) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{sluice.gateway.url}/v1", api_key=key, max_retries=retries)


async def test_C_001_530_everything_else_is_404_without_a_redirect(sluice: Contract) -> None:
    for path in (
        "/chat/completions", "/v1/chat/completions/", "//v1/chat/completions", "/v1", "/v1/", "/", "/V1/chat/completions",
        "/v1/audio/speech", "/v1/audio/transcriptions", "/v1/images/generations", "/v1/files", "/v1/batches", "/v1/rerank",
    ):  # fmt: skip
        reply = await sluice.send("POST", path, json={})
        assert reply.status == 404, path
        assert reply.error["message"].startswith("Invalid URL (POST /"), path


async def test_C_510_515_520_525_other_apis_answer_404(sluice: Contract) -> None:
    for path in (
        "/v1/completions", "/v1/responses", "/v1/responses/resp_1", "/v1/moderations", "/v1/messages",
        "/v1/messages/count_tokens",
    ):  # fmt: skip
        reply = await sluice.send("POST", path, json={"model": "openai-ok"})
        assert (reply.status, reply.error["type"], reply.error["code"]) == (404, "invalid_request_error", None)


async def test_C_002_six_operations_on_chat_completions(sluice: Contract) -> None:
    made = await sluice.ask("openai-ok", store=True, metadata={"a": "b"})
    path = f"/v1/chat/completions/{made.body['id']}"
    told = [
        made,
        await sluice.send("GET", "/v1/chat/completions"),
        await sluice.send("GET", path),
        await sluice.send("POST", path, json={"metadata": {"a": "c"}}),
        await sluice.send("GET", f"{path}/messages"),
        await sluice.send("DELETE", path),
    ]
    assert [r.status for r in told] == [200] * 6
    assert (await sluice.send("GET", path)).status == 404


async def test_C_003_004_wrong_methods_name_the_right_ones(sluice: Contract) -> None:
    for method, path, allowed in (
        ("PUT", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET"), ("GET", "/v1/embeddings", "POST"),
    ):  # fmt: skip
        reply = await sluice.send(method, path)
        assert reply.status == 405
        assert allowed in reply.headers["allow"].split(", ")
        assert reply.error["type"] == "invalid_request_error"


async def test_C_018_019_headers_of_the_sdks_are_accepted(sluice: Contract) -> None:
    headers = {
        "idempotency-key": "stainless-python-retry-1",
        "x-stainless-retry-count": "2",
        "x-stainless-whatever": "é",
    }
    assert (await sluice.ask("openai-ok", headers=headers)).status == 200


async def test_C_019_028_the_clients_own_marks_are_logged(sluice: Contract, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="sluice.access"):
        headers = {"x-client-request-id": "case-42", "x-stainless-retry-count": "1"}
        reply = await sluice.ask("openai-ok", headers=headers)
    line = json.loads(caplog.records[-1].getMessage())
    assert (line["client_request_id"], line["client_retries"]) == ("case-42", "1")
    assert line["request_id"] == reply.headers["x-request-id"] != "case-42"


@pytest.mark.parametrize("name", ["x" * 513, "é"])
async def test_C_028_the_clients_request_id_is_bounded(sluice: Contract, name: str) -> None:
    reply = await sluice.ask("openai-ok", headers={"x-client-request-id": name})
    assert reply.status == 400
    assert (await sluice.ask("openai-ok", headers={"x-client-request-id": "x" * 512})).status == 200


async def test_C_023_organization_and_project_headers_are_accepted(sluice: Contract) -> None:
    headers = {"openai-organization": "org-of-openai", "openai-project": "proj_x"}
    reply = await sluice.ask("openai-ok", headers=headers)
    assert reply.status == 200
    assert reply.headers["openai-organization"] == "default"


async def test_C_423_answers_name_their_organization_and_project(sluice: Contract) -> None:
    for reply in (
        await sluice.ask("openai-ok", headers=bearing(MEASURED)),
        await sluice.ask("openai-ok", headers=bearing(MEASURED), stream=True),
        await sluice.ask("no-such", headers=bearing(MEASURED)),
    ):
        assert (reply.headers["openai-organization"], reply.headers["openai-project"]) == ("acme", "blue")
    assert "openai-project" not in (await sluice.ask("openai-ok")).headers


async def test_C_022_the_scheme_is_read_in_any_case(sluice: Contract) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        assert (await sluice.ask("openai-ok", headers={"authorization": f"{scheme} {KEY}"})).status == 200
    for header in ("Basic abc", "Bearer", f"Token {KEY}", KEY):
        assert (await sluice.ask("openai-ok", headers={"authorization": header})).status == 401


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_C_420_421_422_437_438_headers_of_every_answer(sluice: Contract, dialect: str) -> None:
    replies = [
        await sluice.ask(f"{dialect}-ok"),
        await sluice.ask(f"{dialect}-ok", stream=True),
        await sluice.ask(f"{dialect}-500"),
        await sluice.ask(f"{dialect}-ok", temperature=7),
        await sluice.ask("no-such"),
        await sluice.send("GET", "/v1/nowhere"),
    ]
    assert len({r.headers["x-request-id"] for r in replies}) == len(replies)
    for reply in replies:
        assert re.fullmatch(r"req_[0-9a-f]{32}", reply.headers["x-request-id"])
        assert reply.headers["openai-version"] == "2020-10-01"
        assert reply.headers["openai-processing-ms"].isdigit()
        assert reply.headers.get("openai-organization") != "demo-organization"  # the provider's
        assert "request-id" not in reply.headers
        assert "anthropic-organization-id" not in reply.headers
        assert reply.headers.get("x-ratelimit-limit-requests") != "10000"  # the provider's
        assert ("content-length" in reply.headers) != ("transfer-encoding" in reply.headers)
        assert reply.headers["server"] == "sluice"


async def test_C_425_426_427_429_rate_limit_headers(sluice: Contract) -> None:
    key = bearing(MEASURED)
    for reply in (
        await sluice.ask("openai-ok", headers=key, max_completion_tokens=5_000),
        await sluice.ask("openai-ok", headers=key, max_completion_tokens=5_000, stream=True),
    ):
        head = reply.headers
        assert (head["x-ratelimit-limit-requests"], head["x-ratelimit-limit-tokens"]) == ("600", "100000")
        assert 590 <= int(head["x-ratelimit-remaining-requests"]) < 600
        assert 80_000 < int(head["x-ratelimit-remaining-tokens"]) <= 95_000  # what may come is taken on admission
        for family in ("requests", "tokens"):
            assert head[f"x-ratelimit-reset-{family}"]
            assert DURATION.fullmatch(head[f"x-ratelimit-reset-{family}"])
    # 5,000 of 100,000 per minute are back after 3 seconds: a reset is when the limit is full again
    reset = head["x-ratelimit-reset-tokens"]
    assert reset.endswith("s")
    assert 3.0 <= float(reset.removesuffix("s")) < 4.0
    later = await sluice.ask("openai-ok", headers=key, max_completion_tokens=1)
    assert int(later.headers["x-ratelimit-remaining-tokens"]) > 99_000  # corrected by what was really used


async def test_C_428_further_rate_limit_headers(sluice: Contract) -> None:
    head = (await sluice.ask("openai-ok", headers=bearing(MEASURED))).headers
    assert head["x-ratelimit-limit-input-tokens"] == "50000"


async def test_C_086_no_rate_limit_headers_where_nothing_is_created(sluice: Contract) -> None:
    for path in ("/v1/models", "/v1/chat/completions"):
        reply = await sluice.send("GET", path, headers=bearing(MEASURED))
        assert reply.status == 200
        assert not [name for name in reply.headers if name.startswith("x-ratelimit")]


async def test_C_434_435_436_the_sdk_waits_or_gives_up_as_told(sluice: Contract) -> None:
    body = [{"role": "user", "content": "hi"}]
    async with sdk(sluice, DAILY, retries=2) as client:
        await client.chat.completions.create(model="openai-ok", messages=body)  # type: ignore[arg-type]
        with pytest.raises(openai.RateLimitError) as caught:
            await client.chat.completions.create(model="openai-ok", messages=body)  # type: ignore[arg-type]
    assert caught.value.response.headers["x-should-retry"] == "false"  # until midnight is too long
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_C_434_a_long_wait_that_a_provider_asks_for_is_not_left_to_the_sdk() -> None:
    models = {name: [deployment(f"demo-{name}+retry_after=90")] for name in ("429", "503")}
    async with contract(models, retries={"attempts": 1}) as own, sdk(own, retries=2) as client:
        for name in models:
            for _ in range(2):  # the provider's own word, then that of the cool-down which it began
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.chat.completions.create(model=name, messages=[USER])  # type: ignore[list-item]
                assert int(caught.value.response.headers["retry-after"]) > 60
                assert caught.value.response.headers["x-should-retry"] == "false"
                assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


async def test_C_436_our_attempts_are_not_multiplied_by_the_sdk(sluice: Contract) -> None:
    tried = {"m": [deployment("demo-500"), deployment("demo-529", "anthropic")]}
    async with contract(tried, retries={"attempts": 3}) as own:
        async with sdk(own, retries=2) as client:
            with pytest.raises(openai.InternalServerError) as caught:
                await client.chat.completions.create(model="m", messages=[USER])  # type: ignore[list-item]
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert len(own.upstream.journal) == 3


async def test_C_500_models_are_listed_without_any_quota(sluice: Contract) -> None:
    spent = bearing(SPARE)
    await sluice.ask("openai-ok", headers=spent)
    assert (await sluice.ask("openai-ok", headers=spent)).status == 429
    for _ in range(3):
        reply = await sluice.send("GET", "/v1/models", headers=spent)
        assert reply.status == 200
    assert reply.body["object"] == "list"
    names = [m["id"] for m in reply.body["data"]]
    assert "meta/llama-3" in names
    assert "hidden" not in names
    for model in reply.body["data"]:
        assert set(model) == {"id", "object", "created", "owned_by"}
        assert model["object"] == "model"
        assert type(model["created"]) is int


async def test_C_501_a_model_by_its_name(sluice: Contract) -> None:
    for path in ("meta/llama-3", "meta%2Fllama-3"):
        assert (await sluice.send("GET", f"/v1/models/{path}")).body["id"] == "meta/llama-3"
    async with sdk(sluice) as client:
        assert (await client.models.retrieve("meta/llama-3")).id == "meta/llama-3"
    reply = await sluice.send("GET", "/v1/models/x")
    assert reply.status == 404
    assert reply.error == {
        "message": "The model 'x' does not exist", "type": "invalid_request_error", "param": "model",
        "code": "model_not_found",
    }  # fmt: skip


async def test_C_505_embeddings_in_both_encodings(sluice: Contract) -> None:
    ask: dict[str, Any] = {"model": "embedding", "input": ["one", "two words"], "dimensions": 4}
    plain = (await sluice.send("POST", "/v1/embeddings", json=ask)).body
    packed = (await sluice.send("POST", "/v1/embeddings", json={**ask, "encoding_format": "base64"})).body
    assert [d["index"] for d in plain["data"]] == [0, 1]
    assert (plain["object"], plain["usage"]) == ("list", {"prompt_tokens": 3, "total_tokens": 3})
    for a, b in zip(plain["data"], packed["data"], strict=True):
        assert list(struct.unpack("<4f", base64.b64decode(b["embedding"]))) == pytest.approx(a["embedding"])
    async with sdk(sluice) as client:
        tokens = await client.embeddings.create(model="embedding", input=[[1, 2], [3]])
        assert len(tokens.data) == 2
        assert isinstance(tokens.data[0].embedding[0], float)
    reply = await sluice.send("POST", "/v1/embeddings", json={**ask, "model": "anthropic-ok"})
    assert reply.status == 400
    assert reply.error["message"] == "This model has no embeddings."


async def test_C_055_large_images_are_left_out_of_stored_copies(sluice: Contract) -> None:
    large = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * (12 * 1024 * 1024)}}
    small = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    question = {"role": "user", "content": [{"type": "text", "text": "Look"}, large, small]}
    body = json.dumps({"model": "openai-ok", "messages": [question], "store": True}).encode()
    kind = {"content-type": "application/json"}
    made = await sluice.send("POST", "/v1/chat/completions", data=io.BytesIO(body), headers=kind)
    assert made.status == 200
    listed = await sluice.send("GET", f"/v1/chat/completions/{made.body['id']}/messages")
    (message,) = listed.body["data"]
    assert [part["type"] for part in message["content_parts"]] == ["text", "image_url"]
    assert message["content_parts"][1]["image_url"] == small["image_url"]
