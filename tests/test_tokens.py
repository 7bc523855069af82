"""Tokens of an identity provider, against a JWKS server on 127.0.0.1."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import openai
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from openai import AsyncOpenAI

from config import ConfigError
from config.schema import Config
from gateway.app import Gateway
from gateway.errors import Conflict
from gateway.management.operation import Asked
from gateway.management.owners import Owners
from gateway.records.admin import Admin
from gateway.records.database import Database
from gateway.records.digests import Peppers
from gateway.records.grants import Actor
from gateway.records.keys import KeyStore
from gateway.records.resources import KINDS, KindName

from .running import deployment, running

ISSUER, AUDIENCE = "https://id.example.com", "sluice"
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))
EC = ec.generate_private_key(ec.SECP256R1())


class Provider:
    """Serves public keys, counts who asks, fails when told."""

    def __init__(self) -> None:
        self.keys = [self.public("rsa", RSA), self.public("ec", EC)]
        self.asked = 0
        self.down = False
        self.url = ""

    @staticmethod
    def public(kid: str, key: Any) -> dict[str, Any]:
        kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}

    async def handle(self, _: web.BaseRequest) -> web.StreamResponse:
        self.asked += 1
        await asyncio.sleep(0.02)
        return web.Response(status=500) if self.down else web.json_response({"keys": self.keys})


def token(key: Any = RSA, kid: str | None = "rsa", algorithm: str = "RS256", **claims: Any) -> str:
    body = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 300, **claims}
    body = {k: v for k, v in body.items() if v is not None}
    return jwt.encode(body, key, algorithm, headers={"kid": kid} if kid else {})


@asynccontextmanager
async def federated(**sections: Any) -> AsyncIterator[tuple[Gateway, Provider]]:
    provider = Provider()
    runner = web.ServerRunner(web.Server(provider.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    provider.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks"
    options = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": provider.url, "team_claim": "team"}
    teams = {"red": {}, "poor": {"limits": {"rpm": 1}}, "narrow": {"models": ["other"]}}
    config = {"auth": {"jwt": options, "pepper": "p" * 32}, "teams": teams, "admin": {"keys": {"o": "o" * 32}}}
    try:
        async with running({"m": [deployment("demo-echo")]}, **{**config, **sections}) as (gateway, _):
            yield gateway, provider
    finally:
        await runner.cleanup()


async def status(gateway: Gateway, key: str) -> int:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=0) as sdk:
        try:
            await sdk.chat.completions.create(**ASK)
        except openai.APIStatusError as error:
            return error.status_code
    return 200


async def test_a_token_is_a_user_of_a_team_and_is_counted_so() -> None:
    async with federated() as (gateway, provider):
        assert await asyncio.gather(*(status(gateway, token(team="red")) for _ in range(8))) == [200] * 8
        assert provider.asked == 1  # once, however many wait
        assert await status(gateway, token(EC, "ec", "ES256", team="red", sub="bob")) == 200
        await gateway.records.ledger.flush()  # type: ignore[union-attr]
        rows = await gateway.records.usage.report(("user", "team", "key"))
        assert {(r["user"], r["team"], r["key"]): r["requests"] for r in rows} == {
            ("ann", "red", "jwt:ann"): 8,
            ("bob", "red", "jwt:bob"): 1,
        }
        assert await status(gateway, token(team="poor")) == 200
        assert await status(gateway, token(team="poor", sub="eve")) == 429  # the team's limit, whoever asks
        assert await status(gateway, token(team="narrow")) == 404
        assert await status(gateway, token()) == 200  # no team named, none known


BAD = {
    "expired": {"exp": time.time() - 3600},
    "no expiry": {"exp": None},
    "another issuer": {"iss": "https://evil.example.com"},
    "another audience": {"aud": "elsewhere"},
    "no audience": {"aud": None},
    "not yet valid": {"nbf": time.time() + 3600},
    "no user": {"sub": ""},
    "a long user": {"sub": "x" * 200},
    "an unknown team": {"team": "nobody"},
    "a team of another kind": {"team": ["red"]},
    "another's signature": {"key": OTHER_RSA},
    "an unknown key": {"key": OTHER_RSA, "kid": "new"},
    "no key named": {"kid": None},
    "an algorithm not allowed": {"algorithm": "RS512"},
    "a key of another kind": {"kid": "ec"},
}


async def test_S_14_every_bad_token_is_the_same_401() -> None:
    async with federated() as (gateway, provider):
        said = set()
        unsigned = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "exp": time.time() + 300}, "", "none")
        public = provider.keys[0]["n"]
        confused = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "ann"}, public, "HS256", headers={"kid": "rsa"})
        tokens = [token(**claims) for claims in BAD.values()]
        for bad in (*tokens, unsigned, confused, "eyJ.x.y", "eyJhbGciOiJSUzI1NiJ9.e30.", "eyJ" + "a" * 5000 + ".b.c"):
            async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=bad, max_retries=0) as sdk:
                with pytest.raises(openai.AuthenticationError) as caught:
                    await sdk.chat.completions.create(**ASK)
                said.add((caught.value.code, str(caught.value.message).split(":")[0].split("provided")[0]))
        assert len(said) == 1
        assert provider.asked <= 2  # unknown keys do not become requests to the provider


async def test_keys_are_rotated_and_outlive_a_provider_that_is_away() -> None:
    options = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "", "jwks_ttl": 0.05}
    async with federated() as (_, provider):
        options["jwks_url"] = provider.url
        sections = {"auth": {"jwt": options}}
        async with running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _):
            assert await status(gateway, token()) == 200
            provider.down = True
            await asyncio.sleep(0.1)
            assert await status(gateway, token(sub="bob")) == 200
        provider.down, provider.keys = False, [provider.public("new", OTHER_RSA)]
        async with running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _):
            assert await status(gateway, token(OTHER_RSA, "new")) == 200
            assert await status(gateway, token()) == 401
        provider.down = True
        async with running({"m": [deployment("demo-echo")]}, **sections) as (gateway, _):
            assert await status(gateway, token()) == 503


async def test_a_blocked_user_or_team_of_the_database_is_refused_at_once() -> None:
    async with federated() as (gateway, _):
        operator = gateway.records.admin
        actor = Actor("test")
        await operator.create(actor, "team", {"id": "dyn"})
        await operator.create(actor, "user", {"id": "zoe", "team": "dyn", "limits": {"rpm": 1}})
        assert await status(gateway, token(sub="zoe")) == 200
        assert await status(gateway, token(sub="zoe")) == 429
        await operator.block(actor, "team", "dyn")
        assert await status(gateway, token(sub="zoe")) == 401
        await operator.unblock(actor, "team", "dyn")
        assert await status(gateway, token(sub="zoe")) == 429
        await operator.block(actor, "user", "zoe")
        assert await status(gateway, token(sub="zoe", team="red")) == 401


OPERATOR = Actor("admin:root")


class Tenants:
    """Organizations ``acme`` and ``evil`` with two teams each, as operators and roles of keys change them."""

    def __init__(self, database: Database, **config: Any) -> None:
        self.configuration = Config.model_validate(config)
        self.admin = Admin(database, Peppers(["p" * 32]), self.configuration)
        self.store = KeyStore(database, self.configuration)

    async def fill(self) -> None:
        for name in ("acme", "evil"):
            await self.make(OPERATOR, "organization", id=name)
            for team in ("red", "blue"):
                await self.make(OPERATOR, "team", id=f"{name}-{team}", organization=name)

    async def make(self, actor: Actor, kind: KindName, **body: Any) -> None:
        await Owners(self.admin, KINDS[kind]).create(Asked(actor, body=body))

    async def place(self, user: str, team: str | None) -> tuple[str, str | None, bool] | None:
        """Organization and team of a token's calls, and whether they are refused."""
        record = await self.store.member(user, team)
        return record and (record.principal.organization, record.principal.team, record.blocked)


def role(organization: str, team: str | None = None) -> Actor:
    return Actor("key:key_1", organization, team, role="team_admin" if team else "admin")


@pytest.fixture
async def tenants(database: Database) -> Tenants:
    made = Tenants(database, teams={"fixed": {"organization": "acme"}}, users={"cfg": {"team": "fixed"}})
    await made.fill()
    return made


@pytest.mark.parametrize("taker", [role("evil", "evil-red"), role("evil"), role("acme", "acme-blue")])
async def test_S_07_a_tenants_role_gets_or_stops_nobody_elses_token_by_taking_its_users_name(
    tenants: Tenants, taker: Actor
) -> None:
    await tenants.make(taker, "user", id="ann", blocked=True, limits={"rpm": 1})
    assert await tenants.place("ann", None) == ("default", None, False)
    assert await tenants.place("ann", "acme-red") == ("acme", "acme-red", False)
    record = await tenants.store.member("ann", "acme-red")
    assert record is not None
    assert [owner.id for owner in record.principal.owners] == ["t:acme-red", "o:acme"]


async def test_where_a_token_names_no_team_a_user_is_where_an_operator_put_them(tenants: Tenants) -> None:
    await tenants.make(OPERATOR, "user", id="ann", team="acme-red")
    await tenants.make(OPERATOR, "user", id="bob", organization="acme")
    assert await tenants.place("ann", None) == ("acme", "acme-red", False)
    assert await tenants.place("bob", None) == ("acme", None, False)
    assert await tenants.place("cfg", None) == ("acme", "fixed", False)
    await tenants.admin.block(OPERATOR, "user", "ann")
    assert await tenants.place("ann", None) == ("acme", "acme-red", True)


async def test_S_07_a_name_that_an_operators_user_left_is_vouched_for_no_more(tenants: Tenants) -> None:
    await tenants.make(OPERATOR, "user", id="ann", team="acme-red")
    await tenants.admin.delete(OPERATOR, "user", "ann")
    with pytest.raises(Conflict):  # refused changes are in the audit log, and make nobody
        await tenants.make(OPERATOR, "user", id="cfg")
    await tenants.make(role("evil", "evil-red"), "user", id="ann")
    assert await tenants.place("ann", None) == ("default", None, False)


async def test_a_tenants_role_limits_and_blocks_users_of_its_own_by_their_tokens(tenants: Tenants) -> None:
    await tenants.make(role("acme", "acme-red"), "user", id="ann", blocked=True)
    await tenants.make(role("acme"), "user", id="bob", blocked=True)
    assert await tenants.place("ann", "acme-red") == ("acme", "acme-red", True)
    assert await tenants.place("bob", "acme-blue") == ("acme", "acme-blue", True)


async def test_the_team_that_a_token_names_decides_its_organization(tenants: Tenants) -> None:
    await tenants.make(OPERATOR, "user", id="ann", team="acme-red")
    assert await tenants.place("ann", "acme-blue") == ("acme", "acme-blue", False)
    assert await tenants.place("ann", "evil-red") == ("evil", "evil-red", False)
    assert await tenants.place("cfg", "evil-red") == ("evil", "evil-red", False)


async def test_virtual_keys_go_on_working_and_keys_are_not_fetched_in_the_clear() -> None:
    async with federated(keys=[{"name": "k", "key": "eyJ-looks-like.one.but-is-not"}]) as (gateway, provider):
        assert await status(gateway, "eyJ-looks-like.one.but-is-not") == 200
        assert provider.asked == 0
    options = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_url": "http://id.example.com/jwks"}
    with pytest.raises(ConfigError, match=r"auth\.jwt\.jwks_url"):
        async with running({"m": [deployment("demo-echo")]}, auth={"jwt": options}):
            pass
