"""Every dialect behind one gateway, each with the credential that its provider takes; issuers are on loopback."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway import demo
from gateway.app import Gateway
from gateway.demo import DemoUpstream

from .running import deployment, running

DIALECTS = (
    "openai", "azure", "azure-classic", "mistral", "compatible", "anthropic", "gemini", "vertex", "vertex-claude",
    "bedrock", "bedrock-key", "cohere",
)  # fmt: skip
"""Providers by the name of their configuration; ``bedrock`` signs with an assumed role, ``bedrock-key`` has an API key."""
EMBEDDERS = ("openai", "azure", "mistral", "compatible", "gemini", "vertex", "cohere")
STS = (
    '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>'
    "<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s/k</SecretAccessKey><SessionToken>session</SessionToken>"
    "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
)
_KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
_PEM = _KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()


class Issuers:
    """Google, Microsoft Entra ID and AWS STS by path; counts what each was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.dead = False
        self.failing = 0
        """How many more times it is not well."""
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path)
        self.failing -= 1
        if self.dead or self.failing >= 0:
            return web.Response(status=503)
        if request.path == "/sts/":
            return web.Response(text=STS, content_type="text/xml")
        token = {"/google": "google-token"}.get(request.path, "entra-token")
        return web.json_response({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})


def providers(upstream: str, issuers: str) -> dict[str, Any]:
    """The configuration of the providers that ``running`` has not."""
    account = json.dumps({"type": "service_account", "client_email": "me@x.example", "private_key": _PEM})
    google = {"project": "demo", "credentials_json": account, "token_endpoint": f"{issuers}/google"}
    entra = {"tenant_id": "tenant", "client_id": "c", "client_secret": "s", "authority": issuers}
    role = {"role_arn": "arn:aws:iam::1:role/r", "sts_endpoint": f"{issuers}/sts", "region": "eu-west-1"}
    keys = {"access_key_id": "AKDEMO", "secret_access_key": "sk"}
    bedrock = {"adapter": "bedrock", "base_url": f"{upstream}/bedrock"}
    return {
        "azure": {"adapter": "azure", "base_url": f"{upstream}/azure", "options": entra},
        "azure-classic": {
            "adapter": "azure",
            "base_url": f"{upstream}/azure",
            "api_key": "up",
            "options": {"api_version": "2024-10-21"},
        },
        "mistral": {"adapter": "mistral", "base_url": f"{upstream}/mistral/v1", "api_key": "up"},
        "gemini": {"adapter": "gemini", "base_url": f"{upstream}/gemini/v1beta", "api_key": "up"},
        "vertex": {"adapter": "vertex", "base_url": f"{upstream}/vertex/v1beta1", "options": google},
        "vertex-claude": {"adapter": "vertex-anthropic", "base_url": f"{upstream}/vertex/v1", "options": google},
        "bedrock": {**bedrock, "options": {**role, **keys}},
        "bedrock-key": {**bedrock, "api_key": "up"},
        "cohere": {"adapter": "cohere", "base_url": f"{upstream}/cohere", "api_key": "up"},
    }


def each(script: str) -> dict[str, Any]:
    """A model of the dialect's name for every dialect."""
    return {dialect: [deployment(script, dialect)] for dialect in DIALECTS}


@asynccontextmanager
async def every_dialect(
    models: dict[str, Any], **sections: Any
) -> AsyncIterator[tuple[Gateway, DemoUpstream, Issuers]]:
    """A gateway with all of them."""
    issuers = Issuers()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", issuers.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuers.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    upstream = await demo.start()
    try:
        known = providers(upstream.url, issuers.url)
        async with running(models, upstream=upstream, providers=known, **sections) as (gateway, _):
            yield gateway, upstream, issuers
    finally:
        await runner.cleanup()
