"""What lines of the log hide, and what they must not."""

import asyncio
import gc
import json
import logging
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from config import ConfigError
from gateway import demo, worker
from gateway.call import CallRecord
from gateway.logs import JSONFormatter, TextFormatter, redact
from gateway.observers.access_log import AccessLog

from .running import configuration, running

ADMIN = "admin-0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcDEF0123456789abcDEF",
        "sk-ant-api03-a_b-0123456789abcdef",
        "sk-sl-0123456789abcdef0123456789abcdef0123456789abcdefg",
        "pk-lf-01234567-89ab-cdef-0123-456789abcdef",
        "gsk_0123456789abcdef0123456789abcdef",
        "xai-0123456789abcdefghijklmnopqrstuvwxyz",
        "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
        "r8_0123456789abcdefghijklmnopqrstuvwxyz1",
        "pplx-0123456789abcdef0123456789abcdef0123456789abcdef",
        "nvapi-0123456789abc_def-0123456789abcdef",
        "key-0123456789abcdef0123456789abcdef",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "ya29.a0AfH6SMBabcdef",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl",
    ],
)
def test_S_18_what_looks_like_a_credential_is_blotted_out(secret: str) -> None:
    line = json.dumps({"event": f"the provider said {secret}", "ok": 1})
    assert json.loads(redact(line)) == {"event": "the provider said [redacted]", "ok": 1}


@pytest.mark.parametrize("text", ["Authorization: Bearer abc", "redis://user:pass@host/0"])
def test_S_18_so_is_what_stands_where_credentials_do(text: str) -> None:
    assert "abc" not in redact(text)
    assert "pass" not in redact(text)


@pytest.mark.parametrize("given", ["bearer x", 'Bearer a"b', "x://a:b", 'x://a:b"c@d', "sk-0123456789abcdef\\"])
def test_S_20_no_client_makes_its_line_of_the_access_log_unreadable(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sluice.access")
    record = CallRecord("req_1", "claude@20250514", status=200, client_request_id=given)
    AccessLog().call_finished(record)
    told = json.loads(JSONFormatter().format(caplog.records[-1]))
    assert (told["event"], told["request_id"], told["model"]) == ("call", "req_1", "claude@20250514")
    assert told["ms"] >= 0


@pytest.mark.parametrize(
    "name",
    [
        "key_0199a1b2c3d4e5f60718293a",
        "key:key_0199a1b2c3d4e5f60718293a",
        "xai/grok-4-fast-non-reasoning:ok",
        "xai-grok-4-fast-non-reasoning",
        "asia-southeast1-vertex/gemini-3-flash:ok",
        "hf-inference/meta-llama/Llama-3.3-70B-Instruct",
        "pplx-embed-context-v1-4b",
        "keyword-extraction-production",
        "key-accounts-of-the-north",
    ],
)
def test_names_are_no_credentials(name: str) -> None:
    assert redact(name) == name


async def test_the_access_log_names_the_virtual_key_and_the_deployment(caplog: pytest.LogCaptureFixture) -> None:
    upstream = await demo.start()
    provider = {"adapter": "openai", "base_url": f"{upstream.url}/openai/v1", "api_key": "up"}
    models = {"m": [{"provider": "asia-southeast1-vertex", "model": "demo-ok", "name": "xai/grok-4-fast-reasoning"}]}
    sections = {"auth": {"pepper": "p" * 32}, "admin": {"keys": {"ops": ADMIN}}}
    async with (
        running(models, upstream=upstream, providers={"asia-southeast1-vertex": provider}, **sections) as (gateway, _),
        aiohttp.ClientSession() as http,
    ):
        headers = {"authorization": f"Bearer {ADMIN}"}
        made = await http.post(f"{gateway.admin_url}/admin/v1/keys", json={"name": "k"}, headers=headers)
        key = await made.json()
        caplog.set_level(logging.INFO, "sluice.access")
        body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        headers = {"authorization": f"Bearer {key['key']}"}
        answer = await http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers)
        assert answer.status == 200
    (line,) = [r for r in caplog.records if r.name == "sluice.access"]
    told = json.loads(JSONFormatter().format(line))
    assert (told["key"], told["attempts"]) == (key["id"], ["xai/grok-4-fast-reasoning:ok"])


@pytest.mark.parametrize("formatter", [JSONFormatter(), TextFormatter()])
def test_an_exception_is_told_by_its_kind_alone(formatter: logging.Formatter, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise LookupError("a prompt")
    except LookupError:
        logging.getLogger("sluice.test").exception("looking up failed")
    line = formatter.format(caplog.records[-1])
    assert "looking up failed" in line
    assert "LookupError" in line
    assert "a prompt" not in line


async def test_what_fails_where_nobody_waits_is_told_by_its_kind_and_place(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Whatever becomes of the start of a worker, its event loop tells from then on."""

    async def forgotten(error: Exception) -> None:
        raise error

    config = configuration(
        "http://127.0.0.1:1", str(tmp_path), {"m": "demo-ok"}, database={"url": "sqlite:////dev/null/x"}
    )
    with pytest.raises(ConfigError):
        await worker.serve(config, lambda: config, tmp_path, None)
    for error in (LookupError("a prompt"), ConnectionResetError("a client")):
        asyncio.get_running_loop().create_task(forgotten(error))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    gc.collect()
    crashes = [json.loads(r.getMessage()) for r in caplog.records if '"crash"' in r.getMessage()]
    assert [crash["kind"] for crash in crashes] == ["LookupError"]
    assert ":forgotten" in crashes[0]["where"]
    assert "a prompt" not in caplog.text


ISSUED = b"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAca7a51e5</AccessKeyId><SecretAccessKey>ca7a51e5+secret/access</SecretAccessKey>
<SessionToken>ca7a51e5//token</SessionToken><Expiration>2030-01-01T00:00:00Z</Expiration>
</Credentials></AssumeRoleResult></AssumeRoleResponse>"""
TALKATIVE = f"""
import asyncio, logging
import aiosqlite
from config.schema import Logging
from gateway import logs
from gateway.credentials.aws import _sts_answer

async def write():
    async with aiosqlite.connect(":memory:") as database:
        await database.execute("CREATE TABLE t (a)")
        await database.execute("INSERT INTO t VALUES (?)", ("ca7a51e5 in a row",))

logs.configure(Logging(level="debug"))
assert _sts_answer("AssumeRole", {ISSUED!r})["SessionToken"]
asyncio.run(write())
logging.getLogger("sluice.server").debug("ours")
logging.getLogger("gateway.records.cache").debug("ours too")
"""


def test_S_18_at_debug_no_library_tells_what_it_sends_and_gets() -> None:
    ran = subprocess.run([sys.executable, "-c", TALKATIVE], capture_output=True, text=True, check=True, timeout=60)
    assert [json.loads(line)["event"] for line in ran.stderr.splitlines()] == ["ours", "ours too"]
