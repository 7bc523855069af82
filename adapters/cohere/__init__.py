"""Cohere: v2 chat and v2 embeddings. https://docs.cohere.com/v2/reference/chat"""

from collections.abc import Mapping
from typing import Any

from ..errors import ProviderError
from ..interface import Answer, ChatRequest, CredentialSpec, StreamTranslator, Target, UpstreamRequest
from ..options import decode
from . import embeddings, request, response
from .stream import ChatStream


class Cohere:
    params = request.PARAMS
    base_url = "https://api.cohere.com"
    tiers: Mapping[str, str] = {}
    reports_tier = True
    flex_refusals: frozenset[int] = frozenset()

    def options(self, raw: Mapping[str, Any]) -> request.CohereOptions:
        """Decode; raises ValueError naming the bad key."""
        return decode(request.CohereOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:
        del options  # a static key
        return None

    def prepare(self, request_: ChatRequest, target: Target) -> UpstreamRequest:
        return request.build(request_, target)

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return response.parse(body, sent.notes)

    def stream(self, sent: UpstreamRequest) -> StreamTranslator:
        return ChatStream(sent.notes)

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return response.error(status, headers, body)

    def prepare_embeddings(self, request_: Mapping[str, Any], target: Target) -> UpstreamRequest:
        return embeddings.build(request_, target)

    def parse_embeddings(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return embeddings.parse(body, sent.notes)
