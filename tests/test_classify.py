"""What upstream failures are taken for, and what of them a client may read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.classify import MAX_MESSAGE, duration, embedded_error, provider_error, retry_after, sanitise
from adapters.errors import ErrorKind as K
from adapters.ratelimits import NAMES, RateLimits, read

from .replay import need, recordings


def body(message: str = "no", **more: object) -> dict[str, object]:
    return {"error": {"message": message, "type": None, "param": None, "code": None} | more}


ALONE = "Limit 6000, Requested 6294, please reduce your message size and try again."
CASES = [
    (400, body(), K.INVALID_REQUEST, None),
    (400, body(code="context_length_exceeded"), K.CONTEXT_LENGTH, "context_length_exceeded"),
    (400, body("The response was filtered ...", code="content_filter", param="prompt"), K.CONTENT_POLICY, "content_filter"),
    (400, body("x", innererror={"code": "ResponsibleAIPolicyViolation"}), K.CONTENT_POLICY, "content_filter"),
    (401, body("Incorrect API key provided: sk-abcd1234efgh"), K.AUTHENTICATION, None),
    (402, {"error": {"message": "Insufficient Balance"}}, K.QUOTA, None),
    (403, {"error": {"code": 403, "message": "x requires moderation", "metadata": {}}}, K.CONTENT_POLICY, "content_filter"),
    (404, {"error": "model 'x' not found"}, K.NOT_FOUND, None),
    (408, {}, K.TIMEOUT, None),
    (413, body("Request too large"), K.TOO_LARGE, None),
    (413, body(f"Request too large for model `x` in organization `org_1` on tokens per minute (TPM): {ALONE}", code="rate_limit_exceeded"), K.TOO_LARGE_FOR_RATE, "rate_limit_exceeded"),
    (429, body(f"Request too large for x in organization org-1 on tokens per min (TPM): {ALONE}", code="rate_limit_exceeded"), K.TOO_LARGE_FOR_RATE, "rate_limit_exceeded"),
    (429, body("Rate limit reached for x on tokens per min (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 4.77s."), K.RATE_LIMITED, None),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body"], "msg": "Extra inputs are not permitted"}]}, K.INVALID_REQUEST, "extra_forbidden"),
    (429, body("Rate limit reached", code="rate_limit_exceeded"), K.RATE_LIMITED, "rate_limit_exceeded"),
    (429, body("Slow down", type="rate_limit_error", code="slow_down"), K.RATE_LIMITED, "slow_down"),
    (429, body("You exceeded your current quota, please check your plan"), K.QUOTA, None),
    (429, body("x", type="insufficient_quota", code="organization_spend_limit_exceeded"), K.QUOTA, None),
    (429, body("Resource Unavailable"), K.CAPACITY, None),
    (498, body(code="capacity_exceeded"), K.CAPACITY, "capacity_exceeded"),
    (500, body(), K.SERVER, None),
    (500, body("tools param requires --jinja flag", code=500), K.INVALID_REQUEST, None),
    (502, b"", K.SERVER, None),
    (503, body(code="server_is_overloaded"), K.OVERLOADED, "server_is_overloaded"),
    (504, b"<html>gateway timeout</html>", K.TIMEOUT, None),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, K.OVERLOADED, None),
    (400, {"code": "invalid-argument", "error": "Incorrect API key provided: xa***xx."}, K.AUTHENTICATION, None),
    (400, [{"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}], K.AUTHENTICATION, None),
    (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"}}, K.QUOTA, None),
    (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x", "details": {"error_code": "enforced_spend_limit_reached"}}}, K.QUOTA, None),
    (400, {"error": {"message": 'x {"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 9 tokens > 8 maximum"}}'}}, K.CONTEXT_LENGTH, "context_length_exceeded"),
    (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"}, K.NOT_FOUND, "invalid_model"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "said", "kind", "code"), CASES)
def test_E_075_E_076_E_077_status_first_then_codes_then_texts(
    status: int, said: object, kind: K, code: str | None
) -> None:
    error = provider_error(status, {}, said if isinstance(said, bytes) else json.dumps(said).encode())
    assert (error.kind, error.code, error.status) == (kind, code, status)
    assert error.message


OVERFLOWS = [
    "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "prompt is too long: 3333404 tokens > 200000 maximum",
    "input length and `max_tokens` exceed context limit: 1 + 2 > 3",
    "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576).",
    "Unable to submit request because the input token count is 1251952 but model only supports up to 1048576. Reduce it.",
    "Unable to submit request because the input token count is 25000 but the model supports up to 20000.",
    "Input Tokens Exceeded: Number of input tokens exceeds maximum length.",
    "Input is too long for requested model.",
    "This endpoint's maximum context length is 10 tokens. However, you requested about 11 tokens",
    "prompt too long; exceeded max context length by 5 tokens",
    "request (2009 tokens) exceeds the available context size (512 tokens), try increasing it",
    "Prompt contains 9 tokens ... too large for model with 8 maximum context length",
    "This model's maximum prompt length is 5 but the request contains 6 tokens.",
    "Invalid request: Your request exceeded model token limit: 262144 (requested: 291351)",
    "Range of input length should be [1, 129024]",
    "Prompt exceeds max length",
    "prompt token count of 5000 exceeds the limit of 4096",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 5",
    "Input validation error: `inputs` must have less than 4095 tokens. Given: 9000",
]


@pytest.mark.parametrize("text", OVERFLOWS)
def test_E_074_context_overflow_texts(text: str) -> None:
    error = provider_error(400, {}, json.dumps(body(text)).encode())
    assert (error.kind, error.code) == (K.CONTEXT_LENGTH, "context_length_exceeded")


def test_googles_quota_of_a_minute_is_a_rate_wherever_it_comes_through() -> None:
    """Its compatible endpoint and routers pass on what it says; the money of an account does not come back in seconds."""
    spent = "You exceeded your current quota, please check your plan and billing details."
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}
    told = {"error": {"code": 429, "message": spent, "status": "RESOURCE_EXHAUSTED", "details": [info]}}
    wrapped = body("Provider returned error", code=429, metadata={"raw": json.dumps(told)})
    for said in (told, [told], wrapped, body(f"{spent} Please retry in 34.4s.")):
        error = provider_error(429, {}, json.dumps(said).encode())
        assert (error.kind, error.retry_after) == (K.RATE_LIMITED, 34.4)
    assert provider_error(429, {"retry-after": "2"}, json.dumps(told).encode()).retry_after == 2
    assert provider_error(429, {"retry-after": "2"}, json.dumps(body(spent)).encode()).kind == K.QUOTA
    no_money = body(f"{spent} Please retry in 1s.", code="insufficient_quota")
    assert provider_error(429, {}, json.dumps(no_money).encode()).kind == K.QUOTA


RAW = [
    (
        400,
        '{"type":"error","error":{"message":"prompt is too long: 9 tokens > 8 maximum"}}',
        K.CONTEXT_LENGTH,
        "prompt is",
    ),
    (400, {"error": {"message": "tools.0.name: no", "code": "bad_tool"}}, K.INVALID_REQUEST, "tools.0.name: no"),
    (400, '{"code":20015,"message":"Input should be \'function\'"}', K.INVALID_REQUEST, "Input should be"),
    (429, "m:free is temporarily rate-limited upstream.", K.RATE_LIMITED, "m:free is temporarily"),
    (400, '{"error":{"code":500}}', K.INVALID_REQUEST, "Provider returned error"),
    (400, '{"error":{"mess', K.INVALID_REQUEST, "Provider returned error"),
    (502, None, K.SERVER, "Provider returned error"),
]


@pytest.mark.parametrize(("status", "raw", "kind", "message"), RAW)
def test_the_words_of_a_provider_behind_openrouter_are_the_ones_that_count(
    status: int, raw: object, kind: K, message: str
) -> None:
    said = body("Provider returned error", code=status, metadata={"raw": raw, "provider_name": "p"})
    for error in (provider_error(status, {}, json.dumps(said).encode()), embedded_error(said["error"])):
        assert error.kind == kind
        assert error.message.startswith(message)


def test_E_079_a_numeric_code_is_no_code() -> None:
    for code in (429, "429", 1.5, True, ["x"]):
        assert provider_error(429, {}, json.dumps(body(code=code)).encode()).code is None


@pytest.mark.parametrize(
    ("headers", "message", "seconds"),
    [
        ({"retry-after": "2"}, "", 2.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, "", 1.5),
        ({"retry-after-ms": "0", "retry-after": "1"}, "", 1.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, "", 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, "", None),
        ({"retry-after": "soon"}, "Please try again in 18.642s. Thanks", 18.642),
        ({}, "Please retry after 38 seconds.", 38.0),
        ({}, "Please try again in 6m0s.", 360.0),
        ({}, "Please try again.", None),
        ({"retry-after": "-1"}, "", None),
        ({"retry-after": "nan"}, "", None),
    ],
)
def test_E_078_retry_after(headers: dict[str, str], message: str, seconds: float | None) -> None:
    assert retry_after(headers, message) == seconds


@given(st.text(max_size=60))
def test_S_50_any_duration_is_a_number_or_nothing(text: str) -> None:
    assert duration(text) is None or duration(text) >= 0  # type: ignore[operator]
    assert retry_after({"retry-after": text, "retry-after-ms": text}, text) is None or True


@given(st.binary(max_size=300) | st.recursive(st.none() | st.text(max_size=20) | st.integers(), lambda c: st.lists(c, max_size=3) | st.dictionaries(st.sampled_from(["error", "message", "code", "type", "detail", "details"]), c, max_size=4)).map(lambda v: json.dumps(v).encode()), st.integers(400, 599))  # fmt: skip
def test_any_body_is_classified(said: bytes, status: int) -> None:
    error = provider_error(status, {}, said)
    assert error.message
    assert error.code is None or isinstance(error.code, str)


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdEFGH12345678",
        "sk-ant-api03-xxxxyyyyzzzz1",
        "xa***xx",
        "****-key",
        "org-AbCdEf123456",
        "proj_AbCdEf123456",
        "https://platform.openai.com/account/billing",
        "someone@example.com",
        "arn:aws:iam::123456789012:role/x",
        "10.1.2.3:8000",
        "internal-llm.corp.internal",
        "Bearer abc.def.ghi",
        "2f1c9a50-0000-4000-8000-123456789abc",
        "my-resource.openai.azure.com",
        "AKIAABCDEFGHIJKLMNOP1",
    ],
)
def test_S_24_no_credential_account_or_address_reaches_a_client(secret: str) -> None:
    told = provider_error(400, {}, json.dumps(body(f"Something with '{secret}' is wrong.")).encode()).message
    assert secret not in told
    assert told.startswith("Something with ")
    assert told.endswith(" is wrong.")


def test_C_364_messages_are_bounded_and_on_one_line() -> None:
    assert len(sanitise("x" * 10_000)) == MAX_MESSAGE
    assert sanitise("a\r\nb\x1b[0m\u2028c") == "a b [0m c"
    plain = "Unsupported value: 'messages[0].role' does not support 'developer' with this model."
    assert sanitise(plain) == plain


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 502, "message": "Provider disconnected"}, K.SERVER),
        ({"code": 429, "message": "slow"}, K.RATE_LIMITED),
        ({"type": "overloaded_error", "message": "x"}, K.OVERLOADED),
        ({"type": "server_error", "code": "rate_limit_exceeded", "message": "x"}, K.RATE_LIMITED),
        ({"code": 429, "message": f"Request too large for x on tokens per min (TPM): {ALONE}"}, K.TOO_LARGE_FOR_RATE),
        ({"type": "invalid_request_error", "message": "maximum context length"}, K.CONTEXT_LENGTH),
        ("it broke", K.SERVER),
        (None, K.SERVER),
    ],
)
def test_E_052_errors_inside_a_200(error: object, kind: K) -> None:
    assert embedded_error(error).kind is kind


def test_every_recorded_failure_has_its_kind() -> None:
    kinds = {400: {K.INVALID_REQUEST, K.CONTEXT_LENGTH, K.NOT_FOUND}, 401: {K.AUTHENTICATION}, 403: {K.AUTHENTICATION},
             404: {K.NOT_FOUND}, 429: {K.RATE_LIMITED}, 500: {K.INVALID_REQUEST}}  # fmt: skip
    names = ("azure", "deepseek", "doubleword", "groq", "llamacpp", "mistral", "openai", "openrouter", "venice")
    found = need(recordings(*names, endpoint="chat.completions", stream=False, status=None))
    for recording in found:
        error = provider_error(recording.status, recording.headers, recording.body)
        assert error.kind in kinds[recording.status], str(recording)
        assert error.message != "The upstream provider failed without saying why."
    assert len(found) >= 53


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        (
            {
                "x-ratelimit-remaining-requests": "9",
                "x-ratelimit-remaining-tokens": "150",
                "x-ratelimit-reset-tokens": "6m0s",
            },
            RateLimits(9, 150, 360.0),
        ),
        ({"x-ratelimit-remaining-req-minute": "3", "x-ratelimit-remaining-tokens-minute": "7"}, RateLimits(3, 7)),
        (
            {
                "anthropic-ratelimit-requests-remaining": "4",
                "anthropic-ratelimit-tokens-remaining": "900",
                "anthropic-ratelimit-input-tokens-remaining": "80",
                "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:00Z",
            },
            RateLimits(4, 80),
        ),
        ({"x-ratelimit-remaining": "5", "x-ratelimit-reset": "1741305600000"}, RateLimits(5, None)),
        ({"x-ratelimit-remaining-requests": "many"}, None),
        ({}, None),
    ],
)
def test_rate_limit_headers(headers: dict[str, str], limits: RateLimits | None) -> None:
    assert read(headers) == limits
    assert read({name: value for name, value in headers.items() if name.encode() in NAMES}) == limits
