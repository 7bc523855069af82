"""OpenAI, and through a ``Dialect`` every provider that speaks its language."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..classify import provider_error
from ..continuation import begun
from ..errors import ProviderError
from ..interface import (
    Answer,
    ChatRequest,
    CredentialSpec,
    ServedTier,
    StreamRelay,
    StreamTranslator,
    Target,
    UpstreamRequest,
    told_or_default,
)
from ..options import decode
from .dialect import OPENAI, Dialect
from .embeddings import parse_embeddings, prepare_embeddings
from .options import FamilyOptions
from .relay import Relay
from .request import prepare
from .response import parse
from .stream import Translator

__all__ = ["OPENAI", "Dialect", "FamilyOptions", "OpenAI"]


class OpenAI:
    """Chat Completions and embeddings in OpenAI's dialect or one near it."""

    def __init__(self, dialect: Dialect = OPENAI) -> None:
        self.dialect = dialect
        self.params = dialect.params
        self.base_url = dialect.base_url
        self.tiers = dialect.tiers
        self.tiers_declared = dialect.tiers_declared
        self.reports_tier = dialect.reports_tier
        self.flex_refusals: frozenset[int] = frozenset()

    def options(self, raw: Mapping[str, Any]) -> FamilyOptions:
        return decode(FamilyOptions, raw)

    def credential(self, options: Any) -> CredentialSpec | None:  # noqa: ARG002 - the interface's
        return None

    def prepare(self, request: ChatRequest, target: Target) -> UpstreamRequest:
        return prepare(request, target, self.dialect)

    def parse(self, body: bytes, sent: UpstreamRequest) -> Answer:
        return parse(body, self._dialect(sent))

    def stream(self, sent: UpstreamRequest) -> StreamTranslator:
        return Translator(self._dialect(sent))

    def relay(
        self, sent: UpstreamRequest, *, include_usage: bool, served: ServedTier = told_or_default
    ) -> StreamRelay | None:
        """The byte path for clean upstreams; not for audio, whose streams have no end of their own (C-352)."""
        dialect = self._dialect(sent)
        if not dialect.relay or sent.notes.get("audio"):
            return None
        return Relay(dialect, include_usage=include_usage, n=sent.notes.get("n", 1), served=served)

    def continuing(self, request: ChatRequest, said: str, target: Target) -> tuple[ChatRequest, Target] | None:
        """Servers that render the last message without its end, as vLLM and SGLang do when told to."""
        dialect = target.options.applied(self.dialect) if target.options is not None else self.dialect
        if not dialect.continue_final_message:
            return None
        how = {"continue_final_message": True, "add_generation_prompt": False}
        return {**begun(request, said), **how}, replace(target, allow=target.allow | frozenset(how))

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        return provider_error(status, headers, body)

    def prepare_embeddings(self, request: Mapping[str, Any], target: Target) -> UpstreamRequest:
        return prepare_embeddings(request, target, packs=self.dialect.packs_embeddings)

    def parse_embeddings(self, body: bytes, sent: UpstreamRequest) -> Answer:  # noqa: ARG002 - the interface's
        return parse_embeddings(body)

    def _dialect(self, sent: UpstreamRequest) -> Dialect:
        dialect: Dialect = sent.notes.get("dialect", self.dialect)
        return dialect
