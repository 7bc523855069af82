"""Keys of AWS and the signatures made with them (SigV4, by botocore, without its network).

The keys come from what the settings name (``access_key_id``, ``web_identity_token_file``, ``container_credentials_uri``),
else, in this order, from the environment (``AWS_ACCESS_KEY_ID``); a web identity (``AWS_WEB_IDENTITY_TOKEN_FILE``, as
on EKS); a container's endpoint (ECS, EKS Pod Identity); the instance's metadata service (version 2). A ``role_arn`` in
the settings is assumed with them, a web identity's with its token.
Profiles of ``~/.aws`` and single sign-on are not read: a gateway is no developer's machine.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from adapters.errors import ErrorKind, ProviderError
from adapters.interface import UpstreamRequest

from .issue import Issuer, read_file, read_json
from .refresh import Issued

CONTAINER = "http://169.254.170.2"
INSTANCE = "http://169.254.169.254"
ROLES = "/latest/meta-data/iam/security-credentials/"
LIFETIME = 3600
"""Seconds for which a role is assumed: every role allows an hour."""


@dataclass(frozen=True, slots=True)
class Keys:
    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class AWS:
    """Issues keys for one provider's settings. Raises ValueError when botocore is missing."""

    def __init__(self, settings: Mapping[str, Any], issuer: Issuer) -> None:
        try:
            import botocore.auth  # noqa: F401
        except ImportError:
            raise ValueError("signing for AWS needs botocore: pip install 'sluice-gateway[bedrock]'") from None
        self._settings, self._issuer = settings, issuer
        self._base = self._chain()

    async def __call__(self) -> Issued[Keys]:
        issued = await self._base()
        wanted = self._settings.get("role_arn")
        if not wanted or (self._base == self._web_identity and wanted == self._identity()):
            return issued
        return await self._assume(str(wanted), issued.value)

    def _chain(self) -> Callable[[], Awaitable[Issued[Keys]]]:
        given, environ = self._settings, self._issuer.environ
        sources = (
            (given.get("access_key_id"), self._static),
            (given.get("web_identity_token_file"), self._web_identity),
            (given.get("container_credentials_uri"), self._container),
            (environ.get("AWS_ACCESS_KEY_ID"), self._static),
            (environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"), self._web_identity),
            (environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"), self._container),
            (environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), self._container),
        )
        found = next((source for named, source in sources if named), self._instance)
        if found == self._web_identity and not self._identity():
            raise ValueError("a web identity needs 'role_arn'")
        return found

    def _token_file(self) -> str | None:
        return self._settings.get("web_identity_token_file") or self._issuer.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE")

    def _identity(self) -> str:
        """The role of the web identity. That of the environment has its own, which the settings' may then be assumed with."""
        roles = [self._settings.get("role_arn"), self._issuer.environ.get("AWS_ROLE_ARN")]
        if not self._settings.get("web_identity_token_file"):
            roles.reverse()
        return str(roles[0] or roles[1] or "")

    async def _static(self) -> Issued[Keys]:
        given, environ = self._settings, self._issuer.environ
        if access := given.get("access_key_id"):
            return Issued(Keys(access, given["secret_access_key"], given.get("session_token")))
        secret = environ.get("AWS_SECRET_ACCESS_KEY", "")
        return Issued(Keys(environ["AWS_ACCESS_KEY_ID"], secret, environ.get("AWS_SESSION_TOKEN")))

    async def _container(self) -> Issued[Keys]:
        environ = self._issuer.environ
        url = self._settings.get("container_credentials_uri") or environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI")
        url = url or CONTAINER + environ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"]
        headers = {"accept": "application/json"}
        if file := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
            headers["authorization"] = read_file(file)
        elif token := environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN"):
            headers["authorization"] = token
        return _keys(read_json(await self._issuer.ask("GET", url, None, headers)))

    async def _instance(self) -> Issued[Keys]:
        host = self._issuer.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", INSTANCE).rstrip("/")
        life = {"x-aws-ec2-metadata-token-ttl-seconds": "60"}
        token = (await self._issuer.ask("PUT", f"{host}/latest/api/token", None, life)).decode()
        headers = {"x-aws-ec2-metadata-token": token}
        role = (await self._issuer.ask("GET", host + ROLES, None, headers)).decode().strip().partition("\n")[0]
        return _keys(read_json(await self._issuer.ask("GET", host + ROLES + role, None, headers)))

    async def _web_identity(self) -> Issued[Keys]:
        form = {"WebIdentityToken": read_file(self._token_file() or "")}
        return await self._sts("AssumeRoleWithWebIdentity", self._identity(), form, None)

    async def _assume(self, role: str, keys: Keys) -> Issued[Keys]:
        external = self._settings.get("external_id")
        return await self._sts("AssumeRole", role, {"ExternalId": external} if external else {}, keys)

    async def _sts(self, action: str, role: str, more: Mapping[str, str], keys: Keys | None) -> Issued[Keys]:
        region = self._settings["region"]
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        url = self._settings.get("sts_endpoint") or f"https://sts.{region}.{domain}"
        form = {
            "Action": action,
            "Version": "2011-06-15",
            "RoleArn": role,
            "RoleSessionName": str(self._settings.get("session_name") or "sluice"),
            "DurationSeconds": str(LIFETIME),
            **more,
        }
        body = urlencode(form).encode()
        headers = {"content-type": "application/x-www-form-urlencoded", "accept": "text/xml"}
        sent = UpstreamRequest(url.rstrip("/") + "/", headers, body)
        if keys is not None:
            headers = signed(sent, keys, {"service": "sts", "region": region}, self._issuer.clock())
        return _keys(_sts_answer(action, await self._issuer.ask("POST", sent.url, body, headers)))


def _sts_answer(action: str, body: bytes) -> dict[str, Any]:
    import botocore.parsers
    import botocore.session

    shape = botocore.session.get_session().get_service_model("sts").operation_model(action).output_shape
    try:
        told = botocore.parsers.create_parser("query").parse({"body": body, "headers": {}, "status_code": 200}, shape)
    except (botocore.parsers.ResponseParserError, LookupError, AttributeError, TypeError, ValueError):
        told = {}
    return dict(told.get("Credentials") or {})


def _keys(told: Mapping[str, Any]) -> Issued[Keys]:
    """Of an answer by STS, a container or an instance: the words differ little."""
    access, secret = told.get("AccessKeyId"), told.get("SecretAccessKey")
    token, expires = told.get("SessionToken") or told.get("Token"), told.get("Expiration")
    if not (isinstance(access, str) and isinstance(secret, str) and access and secret):
        raise ProviderError(ErrorKind.AUTHENTICATION, "the issuer answered without keys")
    if isinstance(expires, str):
        expires = datetime.fromisoformat(expires)
    ends = expires.timestamp() if isinstance(expires, datetime) else float("inf")
    return Issued(Keys(access, secret, token if isinstance(token, str) else None), ends)


def signed(sent: UpstreamRequest, keys: Keys, settings: Mapping[str, Any], now: float) -> dict[str, str]:
    """The headers of a request with its signature (AWS Signature Version 4) at the time ``now``."""
    from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    signer = SigV4Auth(Credentials(keys.access, keys.secret, keys.token), settings["service"], settings["region"])
    headers = {name.lower(): value for name, value in sent.headers.items()}
    request = AWSRequest("POST", sent.url, headers={"content-type": headers["content-type"]}, data=sent.body)
    stamp = datetime.fromtimestamp(now, UTC).strftime(SIGV4_TIMESTAMP)
    request.context["timestamp"] = stamp
    request.headers["X-Amz-Date"] = stamp
    if keys.token:
        request.headers["X-Amz-Security-Token"] = keys.token
        headers["x-amz-security-token"] = keys.token
    # the steps of SigV4Auth.add_auth, which reads the clock itself
    plan = signer.string_to_sign(request, signer.canonical_request(request))
    names = signer.signed_headers(signer.headers_to_sign(request))
    proof = f"SignedHeaders={names}, Signature={signer.signature(plan, request)}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, {proof}"
    headers["x-amz-date"] = stamp
    return headers
