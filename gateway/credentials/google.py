"""Access tokens of Google Cloud: service accounts, users (gcloud), and the metadata server.

Settings: ``credentials_file`` or ``credentials_json``; without them Application Default Credentials, in Google's
order. ``token_endpoint`` replaces the file's own. Workload identity federation and impersonation are not there.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .issue import Issuer, read_file
from .refresh import Issued

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
METADATA = "/computeMetadata/v1/instance/service-accounts/default/token"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
LIFETIME = 3600
"""Seconds of an assertion: the most that Google takes."""


def google(settings: Mapping[str, Any], issuer: Issuer) -> Callable[[], Awaitable[Issued[str]]]:
    """Raises ValueError for a credential that is broken or of a kind that is not supported."""
    _question(settings, issuer)

    async def issue() -> Issued[str]:
        asked = _question(settings, issuer)  # anew each time: files of secrets are rotated
        if asked is None:
            return await _of_metadata(issuer)
        endpoint, form = asked
        return Issued(*issuer.token(await issuer.post_form(endpoint, form())))

    return issue


def _question(settings: Mapping[str, Any], issuer: Issuer) -> tuple[str, Callable[[], dict[str, str]]] | None:
    """Where to ask for a token and with what; None: the metadata server."""
    info = _info(settings, issuer.environ)
    if info is None:
        return None
    endpoint = str(settings.get("token_endpoint") or info.get("token_uri") or "https://oauth2.googleapis.com/token")
    makers = {"service_account": _assertion, "authorized_user": _refresh}
    maker = makers.get(str(info.get("type")))
    if maker is None:
        raise ValueError(f"google credentials of type '{str(info.get('type'))[:40]}' are not supported")
    try:
        return endpoint, maker(info, endpoint, issuer)
    except (KeyError, ValueError, TypeError):
        raise ValueError("the google credentials are incomplete or their key is broken") from None


def _info(settings: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any] | None:
    """The credential's own JSON; None: the metadata server is asked."""
    given = settings.get("credentials_json")
    if given is None:
        name = settings.get("credentials_file") or environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if not name:
            folder = environ.get("CLOUDSDK_CONFIG") or str(Path(environ.get("HOME", "/nonexistent")) / ".config/gcloud")
            name = str(Path(folder) / "application_default_credentials.json")
            if not Path(name).exists():
                return None
        try:
            given = read_file(str(name))
        except (OSError, UnicodeDecodeError) as exc:
            raise ValueError(f"the google credentials file cannot be read: {type(exc).__name__}") from None
    try:
        return dict(json.loads(given) if isinstance(given, str) else given)
    except (ValueError, TypeError):
        raise ValueError("the google credentials are not a JSON object") from None


def _assertion(info: Mapping[str, Any], endpoint: str, issuer: Issuer) -> Callable[[], dict[str, str]]:
    """RFC 7523: a JWT that the service account signs is exchanged for a token."""
    from google.auth import crypt, jwt

    signer = crypt.RSASigner.from_service_account_info(info)  # type: ignore[no-untyped-call]  # google-auth has no types
    email = info["client_email"]

    def form() -> dict[str, str]:
        now = int(issuer.clock())
        claims = {"iss": email, "scope": SCOPE, "aud": endpoint, "iat": now, "exp": now + LIFETIME}
        proof: bytes = jwt.encode(signer, claims)  # type: ignore[no-untyped-call]  # as above
        return {"grant_type": GRANT, "assertion": proof.decode()}

    return form


def _refresh(info: Mapping[str, Any], _: str, __: Issuer) -> Callable[[], dict[str, str]]:
    form = {name: info[name] for name in ("client_id", "client_secret", "refresh_token")}
    return lambda: {"grant_type": "refresh_token", **form}


async def _of_metadata(issuer: Issuer) -> Issued[str]:
    host = issuer.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    return Issued(
        *issuer.token(await issuer.ask("GET", f"http://{host}{METADATA}", None, {"metadata-flavor": "Google"}))
    )
