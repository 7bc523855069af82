"""Mistral: near OpenAI's dialect, with words, ids and parts of its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..continuation import begun
from ..interface import ChatRequest, Target, UpstreamRequest
from ..jsonio import dumps, loads
from ..openai import OpenAI
from .request import MISTRAL, prepare


class Mistral(OpenAI):
    """Chat Completions and embeddings of Mistral. Its answers are read by the family's mender."""

    def __init__(self) -> None:
        super().__init__(MISTRAL)

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        return prepare(request, target)

    def continuing(self, request: ChatRequest, said: str, target: Target) -> tuple[ChatRequest, Target] | None:
        return begun(request, said), target  # a last turn of the assistant is sent as a prefix

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        sent = super().prepare_embeddings(request, target)
        body = loads(sent.body)
        body.pop("user", None)
        if (size := body.pop("dimensions", None)) is not None:
            body["output_dimension"] = size
        return replace(sent, body=dumps(body))
