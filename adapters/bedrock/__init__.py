"""AWS Bedrock: Converse and ConverseStream, for every model family behind them.

Needs the extra ``bedrock`` (botocore decodes the event stream and signs). The credential is a Bedrock API key
(``api_key``) or SigV4: see ``options.py``.
"""

from collections.abc import Mapping
from typing import Any

from ..errors import ProviderError
from ..interface import Answer, ChatRequest, CredentialSpec, StreamTranslator, Target, UpstreamRequest
from ..options import decode
from . import errors, request, response
from .options import TEMPLATE, BedrockOptions


class Bedrock:
    params = request.PARAMS
    base_url = TEMPLATE
    tiers = request.TIERS
    reports_tier = True
    flex_refusals: frozenset[int] = frozenset({429, 503})

    def options(self, raw: Mapping[str, Any]) -> BedrockOptions:
        """Decode; raises ValueError naming the bad key, or that botocore is missing."""
        try:
            import botocore.eventstream  # noqa: F401
        except ImportError:
            raise ValueError("the bedrock adapter needs botocore: pip install 'sluice-gateway[bedrock]'") from None
        return decode(BedrockOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:
        given: BedrockOptions = options or BedrockOptions()
        return given.credential()

    def prepare(self, request_: ChatRequest, target: Target) -> UpstreamRequest:
        return request.build(request_, target)

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return response.parse(body, sent.notes)

    def stream(self, sent: UpstreamRequest) -> StreamTranslator:
        from .stream import ConverseStream

        return ConverseStream(sent.notes)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return errors.http_error(status, headers, body)
