"""Azure OpenAI: OpenAI's dialect at an address, and with a credential, of Azure's kind."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

from pydantic import SecretStr

from .interface import ChatRequest, CredentialSpec, Target, UpstreamRequest
from .openai import OpenAI
from .openai.dialect import OPENAI
from .openai.options import FamilyOptions
from .options import decode

_TOKEN = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]*")

AZURE = replace(
    OPENAI,
    name="azure",
    base_url="",
    tiers={name: name for name in ("default", "flex", "priority")},
    relay=False,  # the first chunk of a stream often is no lawful one: content filter results and no id
)


class AzureOptions(FamilyOptions):
    """Where the resource's API is, and who asks. With the date of an ``api_version`` the classic deployment address is used."""

    api_version: str | None = None
    """Say ``2024-10-21``; absent, or one of the v1 API's own words (``preview``): the v1 API, which needs none."""
    deployment: str | None = None
    """The deployment; absent: the model's name."""
    auth: Literal["api_key", "entra"] | None = None
    """How the credential is sent; absent: as a bearer where the options name an identity or it looks like an access
    token, any other text as an API key."""
    tenant_id: str | None = None
    client_id: str | None = None
    client_secret: SecretStr | None = None
    federated_token_file: str | None = None
    """For workload identity instead of a secret."""
    managed_identity: bool | None = None
    """Of the virtual machine, App Service or Container App; ``client_id`` chooses among several."""
    authority: str | None = None
    scope: str = "https://cognitiveservices.azure.com/.default"

    @property
    def is_v1(self) -> bool:
        return (self.api_version or "v1") in _V1


_V1 = {"v1": "", "latest": "", "preview": "?api-version=preview"}
"""What stands for an ``api_version`` of the v1 API, and what it adds to the address."""
_ENTRA = {"tenant_id", "client_id", "federated_token_file", "managed_identity", "authority", "scope"}


class Azure(OpenAI):
    """Chat Completions and embeddings of an Azure OpenAI or Foundry resource (``base_url``)."""

    def __init__(self) -> None:
        super().__init__(AZURE)

    def options(self, raw: Mapping[str, Any]) -> AzureOptions:
        return decode(AzureOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:
        """A Microsoft Entra token, unless the options speak of API keys."""
        given: AzureOptions = options or AzureOptions()
        if given.auth == "api_key":
            return None
        settings = given.model_dump(include=_ENTRA, exclude_none=True)
        if given.client_secret is not None:
            settings["client_secret"] = given.client_secret.get_secret_value()
        return CredentialSpec("entra", settings)

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        return _addressed(super().prepare(request, _named(target)), target, "chat/completions")

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        return _addressed(super().prepare_embeddings(request, _named(target)), target, "embeddings")


def _named(target: Target) -> Target:
    """With the deployment as the model, where the address does not name it."""
    options: AzureOptions = target.options or AzureOptions()
    if options.deployment is None or not options.is_v1:
        return target
    named: Target = target.memo.get("named") or replace(target, model=options.deployment)
    target.memo["named"] = named
    return named


def _addressed(sent: UpstreamRequest, target: Target, operation: str) -> UpstreamRequest:
    options: AzureOptions = target.options or AzureOptions()
    base = target.base_url.removesuffix("/openai/v1").removesuffix("/openai")
    version = options.api_version or "v1"
    if options.is_v1:
        url = f"{base}/openai/v1/{operation}{_V1[version]}"
    else:
        deployment = quote(options.deployment or target.model, safe="")
        query = urlencode({"api-version": version})
        url = f"{base}/openai/deployments/{deployment}/{operation}?{query}"
    headers = dict(sent.headers)
    told = options.tenant_id or options.client_id or options.managed_identity
    bearer = options.auth == "entra" or (
        options.auth is None and (bool(told) or _TOKEN.fullmatch(target.api_key) is not None)
    )
    if target.api_key and not bearer and "authorization" not in target.headers:
        del headers["authorization"]
        headers.setdefault("api-key", target.api_key)
    return replace(sent, url=url, headers=headers)
