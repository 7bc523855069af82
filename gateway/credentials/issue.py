"""How issuers are asked: one HTTP function, answers in JSON, reasons without secrets."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import orjson

from adapters.errors import ErrorKind, ProviderError


class Fetch(Protocol):
    """One HTTP request, the answer whole. ``timeout`` is in seconds.

    Raises ProviderError, OSError or TimeoutError when there is no answer. It must not follow redirects, and must
    let through the addresses of metadata services, which only operators can name here.
    """

    async def __call__(
        self, method: str, url: str, *, data: bytes | None, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes]: ...


@dataclass(frozen=True, slots=True)
class Issuer:
    """What every kind of credential needs to be issued."""

    fetch: Fetch
    clock: Callable[[], float]
    environ: Mapping[str, str]
    timeout: float

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str] | None = None) -> bytes:
        """The body of a 200; raises ProviderError(AUTHENTICATION) for any other status."""
        told = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json", **(headers or {})}
        return await self.ask("POST", url, urlencode(form).encode(), told)

    async def ask(self, method: str, url: str, data: bytes | None, headers: Mapping[str, str]) -> bytes:
        status, body = await self.fetch(method, url, data=data, headers=headers, timeout=self.timeout)
        if status != 200:
            raise refused(status, body)
        return body

    def token(self, body: bytes) -> tuple[str, float]:
        """An OAuth 2 answer: the token and when it ends."""
        answer = read_json(body)
        token, seconds = answer.get("access_token"), answer.get("expires_in")
        if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
            raise ProviderError(ErrorKind.AUTHENTICATION, "the issuer answered without a token")
        try:
            if seconds is None and "expires_on" in answer:  # a moment: managed identities of App Service
                return token, float(answer["expires_on"])
            return token, self.clock() + float(3600 if seconds is None else seconds)
        except (TypeError, ValueError):
            raise ProviderError(ErrorKind.AUTHENTICATION, "the issuer answered without a lifetime") from None


def read_json(body: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise ProviderError(ErrorKind.AUTHENTICATION, "the issuer's answer is no JSON object")
    return answer


_CODE = re.compile(rb'"error"\s*:\s*"([a-z_]{1,40})"|<Code>([A-Za-z]{1,60})</Code>')


def refused(status: int, body: bytes) -> ProviderError:
    """For the operator's log: the status and the issuer's code word; its sentences may carry what is secret."""
    found = _CODE.search(body)
    word = (found[1] or found[2]).decode() if found else "no reason given"
    return ProviderError(ErrorKind.AUTHENTICATION, f"the issuer answered {status} ({word})", status=status)


def read_file(name: str) -> str:
    """A small local file, read anew each time: platforms rotate projected tokens. Raises OSError."""
    return Path(name).read_text().strip()
