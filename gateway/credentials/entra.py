"""Access tokens of Microsoft Entra ID, for Azure.

Settings: ``token`` (static), or ``tenant_id``, ``client_id`` and one of ``client_secret`` and
``federated_token_file``, or ``managed_identity``: that of the virtual machine, or of App Service and Container Apps
(``IDENTITY_ENDPOINT``). ``scope`` and ``authority`` have the public cloud's defaults. The environment has its say where
the settings name no proof.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

from .issue import Issuer, read_file
from .refresh import Issued

SCOPE = "https://cognitiveservices.azure.com/.default"
AUTHORITY = "https://login.microsoftonline.com"
METADATA = "http://169.254.169.254/metadata/identity/oauth2/token"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def entra(settings: Mapping[str, Any], issuer: Issuer) -> Callable[[], Awaitable[Issued[str]]]:
    """Raises ValueError naming the setting that is missing."""
    if token := settings.get("token"):
        return lambda: _static(str(token))
    if settings.get("managed_identity"):
        return lambda: _of_metadata(settings, issuer)
    environ = issuer.environ
    found = {
        "tenant_id": settings.get("tenant_id") or environ.get("AZURE_TENANT_ID"),
        "client_id": settings.get("client_id") or environ.get("AZURE_CLIENT_ID"),
    }
    for name, value in found.items():
        if not value:
            raise ValueError(f"entra credentials need '{name}'")
    secret, file = settings.get("client_secret"), settings.get("federated_token_file")
    if not secret and not file:
        secret, file = environ.get("AZURE_CLIENT_SECRET"), environ.get("AZURE_FEDERATED_TOKEN_FILE")
    if not secret and not file:
        raise ValueError("entra credentials need 'client_secret' or 'federated_token_file'")
    authority = str(settings.get("authority") or environ.get("AZURE_AUTHORITY_HOST") or AUTHORITY).rstrip("/")
    url = f"{authority}/{quote(str(found['tenant_id']), safe='')}/oauth2/v2.0/token"
    form = {
        "grant_type": "client_credentials",
        "client_id": str(found["client_id"]),
        "scope": str(settings.get("scope") or SCOPE),
    }

    async def issue() -> Issued[str]:
        proof = (
            {"client_secret": str(secret)}
            if secret
            else {"client_assertion_type": ASSERTION, "client_assertion": read_file(str(file))}
        )
        return Issued(*issuer.token(await issuer.post_form(url, form | proof)))

    return issue


async def _static(token: str) -> Issued[str]:
    return Issued(token)


async def _of_metadata(settings: Mapping[str, Any], issuer: Issuer) -> Issued[str]:
    resource = str(settings.get("scope") or SCOPE).removesuffix("/.default")
    place, environ = settings.get("metadata_endpoint"), issuer.environ
    query, headers = {"api-version": "2018-02-01", "resource": resource}, {"metadata": "true"}
    if not place and environ.get("IDENTITY_ENDPOINT") and environ.get("IDENTITY_HEADER"):
        place, headers = environ["IDENTITY_ENDPOINT"], {"x-identity-header": environ["IDENTITY_HEADER"]}
        query["api-version"] = "2019-08-01"
    if settings.get("client_id"):
        query["client_id"] = str(settings["client_id"])
    return Issued(*issuer.token(await issuer.ask("GET", f"{place or METADATA}?{urlencode(query)}", None, headers)))
