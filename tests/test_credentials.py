"""Credentials that expire, against real issuers on loopback and a clock that the test turns."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC
from typing import Any
from urllib.parse import parse_qs

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import CredentialSpec, UpstreamRequest
from gateway.credentials import Credentials, HTTPFetch, NoCredential
from gateway.credentials.aws import Keys

from .replay import SHARED

NOW = 1_767_323_045.0  # 2026-01-02T03:04:05Z


REFUSED = ProviderError(ErrorKind.AUTHENTICATION, "no")


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


class IssuerServer:
    """An issuer that counts: Google, Entra, STS, containers and instances by path."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, Any], dict[str, str]]] = []
        self.status = 200
        self.lifetime = 3600.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.clock = Clock()
        self.url = ""
        self.raw: bytes | None = None

    async def handle(self, request: web.Request) -> web.Response:
        form = {k: v[0] for k, v in parse_qs(await request.text()).items()}
        self.asked.append((request.method, request.path, form, {k.lower(): v for k, v in request.headers.items()}))
        number = len(self.asked)
        await self.gate.wait()
        if self.raw is not None:
            return web.Response(body=self.raw)
        if self.status != 200:
            told = {"error": "invalid_grant", "error_description": "secret-words"}
            return web.json_response(told, status=self.status, headers={"location": self.url + "/elsewhere"})
        if request.path == "/sts/":
            return web.Response(text=self.sts(form["Action"], number), content_type="text/xml")
        if request.path == "/latest/api/token":
            return web.Response(text="imds-token")
        if request.path.endswith("/security-credentials/"):
            return web.Response(text="my-role\n")
        if "security-credentials" in request.path or request.path == "/container":
            keys = {"AccessKeyId": f"AK{number}", "SecretAccessKey": "sk", "Token": "st", "Expiration": self.ends("Z")}
            return web.json_response(keys)
        return web.json_response(
            {"access_token": f"token-{number}", "expires_in": self.lifetime, "token_type": "Bearer"}
        )

    def ends(self, zone: str) -> str:
        from datetime import datetime

        return datetime.fromtimestamp(self.clock.now + self.lifetime, UTC).strftime("%Y-%m-%dT%H:%M:%S") + zone

    def sts(self, action: str, number: int) -> str:
        return (
            f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result><Credentials>'
            f"<AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>s/k+=</SecretAccessKey>"
            f"<SessionToken>st/+=</SessionToken><Expiration>{self.ends('Z')}</Expiration>"
            f"</Credentials></{action}Result></{action}Response>"
        )


@pytest.fixture
async def issuer() -> AsyncIterator[IssuerServer]:
    server = IssuerServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    server.gate.set()
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def made(
    issuer: IssuerServer, session: aiohttp.ClientSession, environ: dict[str, str] | None = None, **more: Any
) -> Any:
    return Credentials(HTTPFetch(session), clock=issuer.clock, environ=environ or {}, **more)


@pytest.fixture(scope="module")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def account(private_key: rsa.RSAPrivateKey, **more: str) -> dict[str, str]:
    pem = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account", "client_email": "me@x.example", "private_key": pem.decode(), "private_key_id": "k1",
        "token_uri": "http://127.0.0.1:9/wrong", **more,
    }  # fmt: skip


def entra_spec(issuer: IssuerServer) -> CredentialSpec:
    return CredentialSpec(
        "entra", {"tenant_id": "t/1", "client_id": "c", "client_secret": "top-secret", "authority": issuer.url}
    )


def sent(url: str = "https://bedrock-runtime.us-east-1.amazonaws.com/model/a%3A0/converse") -> UpstreamRequest:
    return UpstreamRequest(url, {"content-type": "application/json", "accept": "x"}, b'{"messages":[]}')


async def test_a_token_is_renewed_ahead_of_time_and_the_old_one_serves_meanwhile(issuer, session):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    assert await credentials.token(spec) == "token-1"
    issuer.clock.now += 3600 - 301
    assert await credentials.token(spec) == "token-1"
    assert len(issuer.asked) == 1
    issuer.clock.now += 2  # less than 5 minutes to go
    issuer.gate.clear()
    assert await asyncio.wait_for(credentials.token(spec), 1) == "token-1"
    issuer.gate.set()
    await until(lambda: len(issuer.asked) == 2)
    for _ in range(200):
        if await credentials.token(spec) == "token-2":
            break
        await asyncio.sleep(0.01)
    assert await credentials.token(spec) == "token-2"
    issuer.clock.now += 10_000  # long after the end: a new one, waited for
    assert await credentials.token(spec) == "token-3"


@pytest.mark.parametrize("lifetime", [3, 8, 20, 30, 60])
async def test_a_short_life_never_leaves_a_gap(issuer, session, lifetime):
    issuer.lifetime = lifetime
    credentials, spec = made(issuer, session), entra_spec(issuer)
    for _ in range(40):
        assert (await credentials.token(spec)).startswith("token-")
        issuer.clock.now += 0.75
        await asyncio.sleep(0)


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.005)


async def test_many_requests_cause_one_refresh(issuer, session):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    assert set(await asyncio.gather(*(credentials.token(spec) for _ in range(50)))) == {"token-1"}
    assert len(issuer.asked) == 1


async def test_a_reload_goes_on_with_the_token_and_asks_for_another(issuer, session):
    credentials = made(issuer, session)
    assert await credentials.token(entra_spec(issuer)) == "token-1"
    issuer.status = 400
    again, other = entra_spec(issuer), CredentialSpec("entra", {**entra_spec(issuer).settings, "client_id": "d"})
    credentials.check(again)
    credentials.check(other)
    assert await credentials.token(again) == "token-1"
    await until(lambda: len(issuer.asked) == 2)
    with pytest.raises(NoCredential):
        await credentials.token(other)
    issuer.status = 200
    issuer.clock.now += 11
    while await credentials.token(again) == "token-1":
        await asyncio.sleep(0.005)
    await credentials.close()


async def test_a_cancelled_request_does_not_cancel_the_refresh_of_the_others(issuer, session):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    issuer.gate.clear()
    first, second = (asyncio.create_task(credentials.token(spec)) for _ in range(2))
    await until(lambda: issuer.asked)
    first.cancel()
    issuer.gate.set()
    assert await second == "token-1"
    assert len(issuer.asked) == 1


async def test_a_failed_refresh_leaves_the_old_token_until_it_ends(issuer, session, caplog):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    await credentials.token(spec)
    issuer.status = 400
    issuer.clock.now += 3400
    assert await credentials.token(spec) == "token-1"
    await until(lambda: "a credential of entra failed: the issuer answered 400 (invalid_grant)" in caplog.text)
    assert await credentials.token(spec) == "token-1"
    assert len(issuer.asked) == 2  # not asked again at once
    issuer.clock.now += 300
    with pytest.raises(ProviderError) as caught:
        await credentials.token(spec)
    assert caught.value.kind is ErrorKind.AUTHENTICATION
    with pytest.raises(ProviderError):
        await credentials.token(spec)
    assert len(issuer.asked) == 3
    issuer.status = 200
    issuer.clock.now += 2
    assert await credentials.token(spec) == "token-4"


async def test_an_issuer_that_is_not_well_is_asked_again_at_once(issuer, session):
    issuer.status = 503
    with pytest.raises(NoCredential):
        await made(issuer, session).token(entra_spec(issuer))
    assert len(issuer.asked) == 3
    waiting = asyncio.create_task(made(issuer, session).token(entra_spec(issuer)))
    await until(lambda: len(issuer.asked) == 5)
    issuer.status = 200
    assert await waiting == "token-6"


async def test_an_issuer_that_refuses_is_asked_ever_more_seldom(issuer, session):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    issuer.status = 400
    for asked, pause in enumerate((1, 2, 4, 8, 16, 30, 30), 1):
        for wait in (0, pause - 0.5):
            issuer.clock.now += wait
            with pytest.raises(NoCredential):
                await credentials.token(spec)
            assert len(issuer.asked) == asked
        issuer.clock.now += 1
    issuer.status = 200
    assert await credentials.token(spec) == "token-8"


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{}", b'{"access_token":5}', b'{"access_token":"a\\nb"}', b'{"access_token":"x","expires_in":"y"}'],
)
async def test_an_answer_that_is_no_token_is_an_authentication_failure(issuer, session, raw):
    issuer.raw = raw
    with pytest.raises(ProviderError) as caught:
        await made(issuer, session).token(entra_spec(issuer))
    assert caught.value.kind is ErrorKind.AUTHENTICATION


async def test_a_silent_issuer_and_a_closed_port_are_authentication_failures_within_the_time_out(issuer, session):
    issuer.gate.clear()
    dead = CredentialSpec("entra", {**entra_spec(issuer).settings, "authority": "http://127.0.0.1:1"})
    for spec in (entra_spec(issuer), dead):
        with pytest.raises(ProviderError) as caught:
            async with asyncio.timeout(3):
                await made(issuer, session, timeout=0.2).token(spec)
        assert caught.value.kind is ErrorKind.AUTHENTICATION


async def test_a_running_refresh_ends_with_close(issuer, session):
    credentials = made(issuer, session)
    issuer.gate.clear()
    waiting = asyncio.create_task(credentials.token(entra_spec(issuer)))
    await until(lambda: issuer.asked)
    await credentials.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_S_no_secret_is_in_an_error_a_log_or_a_repr(issuer, session, caplog):
    caplog.set_level("DEBUG")
    issuer.status = 401
    credentials, spec = made(issuer, session), entra_spec(issuer)
    with pytest.raises(ProviderError) as caught:
        await credentials.token(spec)
    keys = Keys("AK", "top-secret", "top-secret")
    for text in (caught.value.message, caplog.text, repr(spec), repr(credentials), repr(keys)):
        assert "top-secret" not in text
        assert "secret-words" not in text


async def test_a_value_that_is_refused_is_renewed_once_in_a_minute_and_serves_meanwhile(issuer, session):
    credentials, spec = made(issuer, session), entra_spec(issuer)
    assert not credentials.at_fault(spec, REFUSED, 1)
    assert await credentials.token(spec) == "token-1"
    assert not credentials.at_fault(spec, REFUSED, 1)  # a fresh one that is refused is not ended, but not allowed
    issuer.clock.now += 61
    issuer.gate.clear()
    assert credentials.at_fault(spec, REFUSED, 1)
    assert credentials.at_fault(spec, REFUSED, 1)
    assert await credentials.token(spec) == "token-1"
    issuer.gate.set()
    await until(lambda: len(issuer.asked) == 2)
    while await credentials.token(spec) == "token-1":
        await asyncio.sleep(0.005)
    issuer.clock.now += 2
    assert credentials.at_fault(spec, REFUSED, 3)  # it was sent before there was another
    assert not credentials.at_fault(spec, REFUSED, 1)
    assert len(issuer.asked) == 2
    fixed = CredentialSpec("entra", {"token": "fixed"})
    await credentials.token(fixed)
    issuer.clock.now += 61
    assert not credentials.at_fault(fixed, REFUSED, 1)
    assert not credentials.at_fault(None, REFUSED, 1)
    assert not credentials.at_fault(spec, ProviderError(ErrorKind.SERVER, "away"), 1)


# Entra


async def test_entra_client_credentials(issuer, session):
    await made(issuer, session).token(entra_spec(issuer))
    method, path, form, _ = issuer.asked[0]
    assert (method, path) == ("POST", "/t/1/oauth2/v2.0/token")
    assert form == {
        "grant_type": "client_credentials", "client_id": "c", "client_secret": "top-secret",
        "scope": "https://cognitiveservices.azure.com/.default",
    }  # fmt: skip


async def test_entra_static_federated_and_managed(issuer, session, tmp_path):
    assert await made(issuer, session).token(CredentialSpec("entra", {"token": "fixed"})) == "fixed"
    assert issuer.asked == []
    file = tmp_path / "token"
    file.write_text("projected\n")
    environ = {
        "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": str(file),
        "AZURE_AUTHORITY_HOST": issuer.url + "/",
    }  # fmt: skip
    assert await made(issuer, session, environ).token(CredentialSpec("entra")) == "token-1"
    assert issuer.asked[0][2]["client_assertion"] == "projected"
    managed = CredentialSpec("entra", {"managed_identity": True, "metadata_endpoint": issuer.url + "/msi"})
    assert await made(issuer, session).token(managed) == "token-2"
    assert issuer.asked[1][:2] == ("GET", "/msi")
    assert issuer.asked[1][3]["metadata"] == "true"


async def test_the_managed_identity_of_app_service_and_container_apps():
    asked: list[Any] = []

    async def fetch(method: str, url: str, *, headers: Any, **_: Any) -> tuple[int, bytes]:
        asked.append((method, url, headers))
        return 200, b'{"access_token": "t", "expires_on": "%d", "resource": "r"}' % (NOW + 400)

    clock = Clock()
    environ = {"IDENTITY_ENDPOINT": "http://localhost:42356/msi/token", "IDENTITY_HEADER": "proof"}
    credentials = Credentials(fetch, clock=clock, environ=environ)
    spec = CredentialSpec("entra", {"managed_identity": True, "client_id": "c"})
    assert await credentials.token(spec) == "t"
    query = "api-version=2019-08-01&resource=https%3A%2F%2Fcognitiveservices.azure.com&client_id=c"
    assert asked == [("GET", f"http://localhost:42356/msi/token?{query}", {"x-identity-header": "proof"})]
    clock.now += 396
    await credentials.token(spec)
    assert len(asked) == 2


@pytest.mark.parametrize("settings", [{}, {"tenant_id": "t"}, {"tenant_id": "t", "client_id": "c"}])
def test_entra_settings_that_lack_something_are_refused_at_load(settings):
    with pytest.raises(ValueError, match="entra credentials need"):
        Credentials(None, environ={}).check(CredentialSpec("entra", settings))  # type: ignore[arg-type]


# Google


async def test_google_service_account_signs_an_assertion(issuer, session, private_key, tmp_path):
    from google.auth import jwt

    file = tmp_path / "key.json"
    file.write_text(json.dumps(account(private_key)))
    endpoint = issuer.url + "/token"
    for settings, environ in (
        ({"credentials_json": account(private_key)}, {}),
        ({"credentials_json": json.dumps(account(private_key))}, {}),
        ({"credentials_file": str(file)}, {}),
        ({}, {"GOOGLE_APPLICATION_CREDENTIALS": str(file)}),
    ):
        spec = CredentialSpec("google", {**settings, "token_endpoint": endpoint})
        assert (await made(issuer, session, environ).token(spec)).startswith("token-")
        form = issuer.asked[-1][2]
        public = private_key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        claims = jwt.decode(form["assertion"], certs=public, verify=False)
        assert (claims["iss"], claims["aud"], claims["exp"] - claims["iat"]) == ("me@x.example", endpoint, 3600)
        assert claims["iat"] == int(NOW)
        head, _, signature = form["assertion"].rpartition(".")
        verified(private_key, head.encode(), signature)
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"


def verified(private_key: rsa.RSAPrivateKey, signed: bytes, signature: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    raw = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    private_key.public_key().verify(raw, signed, padding.PKCS1v15(), hashes.SHA256())


async def test_a_rotated_google_file_is_read_when_the_next_token_is_asked_for(issuer, session, private_key, tmp_path):
    file = tmp_path / "key.json"
    file.write_text(json.dumps(account(private_key)))
    spec = CredentialSpec("google", {"credentials_file": str(file), "token_endpoint": issuer.url + "/token"})
    credentials = made(issuer, session)
    assert await credentials.token(spec) == "token-1"
    fresh = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    file.write_text(json.dumps(account(fresh)))
    issuer.clock.now += 4000
    assert await credentials.token(spec) == "token-2"
    head, _, signature = issuer.asked[1][2]["assertion"].rpartition(".")
    verified(fresh, head.encode(), signature)
    file.write_text("{")
    issuer.clock.now += 4000
    with pytest.raises(NoCredential):
        await credentials.token(spec)


async def test_google_user_and_metadata_server(issuer, session, tmp_path):
    user = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
    (tmp_path / "application_default_credentials.json").write_text(json.dumps({**user, "token_uri": issuer.url + "/t"}))
    assert await made(issuer, session, {"CLOUDSDK_CONFIG": str(tmp_path)}).token(CredentialSpec("google")) == "token-1"
    assert issuer.asked[0][2] == {
        "grant_type": "refresh_token",
        "client_id": "c",
        "client_secret": "s",
        "refresh_token": "r",
    }
    environ = {"GCE_METADATA_HOST": issuer.url.removeprefix("http://")}
    assert await made(issuer, session, environ).token(CredentialSpec("google")) == "token-2"
    assert issuer.asked[1][1] == "/computeMetadata/v1/instance/service-accounts/default/token"
    assert issuer.asked[1][3]["metadata-flavor"] == "Google"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"credentials_file": "/nonexistent/x.json"}, "cannot be read"),
        ({"credentials_json": "{"}, "not a JSON object"),
        ({"credentials_json": "[1]"}, "not a JSON object"),
        ({"credentials_json": {"type": "external_account"}}, "'external_account' are not supported"),
        ({"credentials_json": {"type": "service_account", "private_key": "top-secret"}}, "incomplete"),
        ({"credentials_json": {"type": "authorized_user", "client_id": "c"}}, "incomplete"),
    ],
)
def test_google_credentials_that_cannot_work_are_refused_at_load(settings, words):
    with pytest.raises(ValueError, match=words) as caught:
        Credentials(None, environ={}).check(CredentialSpec("google", settings))  # type: ignore[arg-type]
    assert "top-secret" not in str(caught.value)


# AWS


def aws(**settings: str) -> CredentialSpec:
    return CredentialSpec("aws", {"service": "bedrock", "region": "us-east-1", **settings})


async def test_sigv4_vectors(issuer, session):
    file = SHARED / "reference" / "providers" / "oracles" / "sigv4_vectors.json"
    if not file.exists():
        pytest.skip("no vectors beside the checkout")
    told = json.loads(file.read_text())
    for vector in told["vectors"]:
        token = {"session_token": vector["session_token"]} if vector["session_token"] else {}
        spec = aws(access_key_id=told["access_key"], secret_access_key=told["secret_key"], **token)
        request = UpstreamRequest(vector["url"], {"Content-Type": "application/json"}, vector["body"].encode())
        headers = (await made(issuer, session).sign(request, spec)).headers
        assert headers["authorization"] == vector["authorization"]
        assert headers["x-amz-date"] == vector["x-amz-date"]
        assert headers.get("x-amz-security-token") == vector["session_token"]
    assert len(told["vectors"]) == 12


async def test_a_signature_replaces_a_bearer_key_and_keeps_other_headers(issuer, session):
    spec = aws(access_key_id="AK", secret_access_key="sk")
    request = UpstreamRequest(sent().url, {**sent().headers, "Authorization": "Bearer x"}, sent().body, stream=True)
    credentials = made(issuer, session)
    signed = await credentials.sign(request, spec)
    assert signed.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AK/20260102/us-east-1/bedrock/")
    assert (signed.headers["accept"], signed.stream, signed.body) == ("x", True, sent().body)
    assert sum(name.lower() == "authorization" for name in signed.headers) == 1
    assert await credentials.token(spec) == ""
    other = CredentialSpec("entra", {"token": "t"})
    assert await credentials.sign(request, other) is request


async def test_keys_of_the_environment(issuer, session):
    environ = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "sk", "AWS_SESSION_TOKEN": "st"}
    headers = (await made(issuer, session, environ).sign(sent(), aws())).headers
    assert "Credential=AKENV/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "st"
    assert issuer.asked == []


async def test_an_assumed_role_is_renewed_across_its_end(issuer, session):
    spec = aws(
        access_key_id="AK", secret_access_key="sk", role_arn="arn:aws:iam::1:role/r", external_id="x",
        sts_endpoint=issuer.url + "/sts",
    )  # fmt: skip
    credentials = made(issuer, session)
    assert "Credential=ASIA1/" in (await credentials.sign(sent(), spec)).headers["authorization"]
    _, _, form, headers = issuer.asked[0]
    assert (form["Action"], form["RoleArn"], form["ExternalId"]) == ("AssumeRole", "arn:aws:iam::1:role/r", "x")
    assert "/us-east-1/sts/aws4_request" in headers["authorization"]
    issuer.clock.now += 3601
    assert "Credential=ASIA2/" in (await credentials.sign(sent(), spec)).headers["authorization"]
    assert (await credentials.sign(sent(), spec)).headers["x-amz-security-token"] == "st/+="


async def test_a_web_identity_needs_no_signature(issuer, session, tmp_path):
    file = tmp_path / "token"
    file.write_text("jwt-1")
    environ = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_ARN": "arn:aws:iam::1:role/r"}
    spec = aws(sts_endpoint=issuer.url + "/sts")
    assert "Credential=ASIA1/" in (await made(issuer, session, environ).sign(sent(), spec)).headers["authorization"]
    _, _, form, headers = issuer.asked[0]
    assert (form["Action"], form["WebIdentityToken"]) == ("AssumeRoleWithWebIdentity", "jwt-1")
    assert "authorization" not in headers
    with pytest.raises(ValueError, match="role_arn"):
        made(issuer, session, {"AWS_WEB_IDENTITY_TOKEN_FILE": str(file)}).check(spec)


async def test_what_the_settings_name_comes_before_the_environment(issuer, session, tmp_path):
    file = tmp_path / "token"
    file.write_text("jwt")
    environ = {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "sk", "AZURE_CLIENT_SECRET": "of-another"}
    credentials = made(issuer, session, environ)
    container = aws(container_credentials_uri=issuer.url + "/container")
    assert "Credential=AK1/" in (await credentials.sign(sent(), container)).headers["authorization"]
    identity = aws(web_identity_token_file=str(file), role_arn="arn:r", sts_endpoint=issuer.url + "/sts")
    assert "Credential=ASIA2/" in (await credentials.sign(sent(), identity)).headers["authorization"]
    form = issuer.asked[1][2]
    assert (form["Action"], form["RoleArn"]) == ("AssumeRoleWithWebIdentity", "arn:r")
    assert len(issuer.asked) == 2
    entra = {**entra_spec(issuer).settings, "federated_token_file": str(file)}
    del entra["client_secret"]
    await credentials.token(CredentialSpec("entra", entra))
    assert issuer.asked[2][2]["client_assertion"] == "jwt"


@pytest.mark.parametrize("pod", ["arn:pod", "arn:other"])
async def test_a_role_of_another_account_is_assumed_with_the_pods_own(issuer, session, tmp_path, pod):
    file = tmp_path / "token"
    file.write_text("jwt")
    environ = {"AWS_WEB_IDENTITY_TOKEN_FILE": str(file), "AWS_ROLE_ARN": pod}
    spec = aws(role_arn="arn:other", sts_endpoint=issuer.url + "/sts")
    number = 2 if pod == "arn:pod" else 1
    signed = await made(issuer, session, environ).sign(sent(), spec)
    assert f"Credential=ASIA{number}/" in signed.headers["authorization"]
    assert [(form["Action"], form["RoleArn"]) for _, _, form, _ in issuer.asked] == [
        ("AssumeRoleWithWebIdentity", pod),
        ("AssumeRole", "arn:other"),
    ][:number]


async def test_keys_of_a_container_and_of_an_instance(issuer, session):
    environ = {
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": issuer.url + "/container",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a",
    }
    assert "Credential=AK1/" in (await made(issuer, session, environ).sign(sent(), aws())).headers["authorization"]
    assert issuer.asked[0][3]["authorization"] == "a"
    environ = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": issuer.url}
    credentials = made(issuer, session, environ)
    assert "Credential=AK4/" in (await credentials.sign(sent(), aws())).headers["authorization"]
    assert [(a[0], a[1]) for a in issuer.asked[1:]] == [
        ("PUT", "/latest/api/token"),
        ("GET", "/latest/meta-data/iam/security-credentials/"),
        ("GET", "/latest/meta-data/iam/security-credentials/my-role"),
    ]
    issuer.clock.now += 3600
    assert "Credential=AK7/" in (await credentials.sign(sent(), aws())).headers["authorization"]


@pytest.mark.parametrize("raw", [b"", b"<x/>", b"<AssumeRoleResponse/>", b"{}", b"\xff"])
async def test_an_answer_without_keys_is_an_authentication_failure(issuer, session, raw):
    issuer.raw = raw
    role = aws(access_key_id="AK", secret_access_key="sk", role_arn="r", sts_endpoint=issuer.url + "/sts")
    for spec, environ in ((role, {}), (aws(), {"AWS_CONTAINER_CREDENTIALS_FULL_URI": issuer.url + "/c"})):
        with pytest.raises(ProviderError) as caught:
            await made(issuer, session, environ).sign(sent(), spec)
        assert caught.value.kind is ErrorKind.AUTHENTICATION


async def test_an_issuers_redirect_is_not_followed_and_a_huge_answer_not_kept(issuer, session):
    fetch = HTTPFetch(session)
    issuer.status = 307
    status, _ = await fetch("POST", issuer.url + "/here", data=b"", headers={}, timeout=5)
    assert (status, len(issuer.asked)) == (307, 1)
    issuer.raw = b"x" * (2 * 1024 * 1024)
    with pytest.raises(ProviderError, match="too large"):
        await fetch("GET", issuer.url, data=None, headers={}, timeout=5)


async def test_a_fetch_that_never_ends_is_ended():
    async def never(*_: Any, **__: Any) -> tuple[int, bytes]:
        await asyncio.Event().wait()
        raise AssertionError

    credentials = Credentials(never, environ={}, timeout=0.05)
    with pytest.raises(ProviderError) as caught:
        async with asyncio.timeout(3):
            await credentials.token(CredentialSpec("google", {"credentials_json": USER}))
    assert caught.value.kind is ErrorKind.AUTHENTICATION


USER = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}
