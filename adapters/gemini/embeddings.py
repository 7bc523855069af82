"""Embeddings of AI Studio and Vertex AI."""

from collections.abc import Mapping
from typing import Any

from ..errors import ErrorKind, ProviderError, UnsupportedParameter
from ..interface import JSON, Answer
from ..jsonio import loads
from ..usage import Usage, count
from .errors import of_answer


def texts(request: Mapping[str, Any]) -> list[str]:
    """The inputs; raises UnsupportedParameter for token arrays, which mean something to OpenAI's tokenizers only."""
    given = request["input"]
    inputs = [given] if isinstance(given, str) else given
    if not all(isinstance(text, str) for text in inputs):
        raise UnsupportedParameter("input", "Invalid type for 'input': this model takes texts only, not tokens.")
    return list(inputs)


def content(text: str) -> JSON:
    return {"parts": [{"text": text}]}


def parse(body: bytes, model: str) -> Answer:
    """Any of the three shapes: ``embedding``, ``embeddings`` or Vertex AI's ``predictions``."""
    answer = loads(body)
    if (failure := of_answer(answer)) is not None:
        raise failure
    try:
        vectors, tokens = _vectors(answer)
        data = [
            {"object": "embedding", "index": index, "embedding": vector["values"]}
            for index, vector in enumerate(vectors)
        ]
    except (AttributeError, KeyError, TypeError):
        raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent something that is no embedding.") from None
    told = {"prompt_tokens": tokens, "total_tokens": tokens}
    usage = Usage(input=tokens) if tokens else None  # AI Studio tells none of some models: nothing is free for that
    return Answer({"object": "list", "data": data, "model": model, "usage": told}, usage)


def _vectors(answer: Mapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """The embeddings in order, and the tokens they took."""
    if "predictions" in answer:
        vectors = [prediction["embeddings"] for prediction in answer["predictions"]]
        return vectors, sum(count(vector.get("statistics") or {}, "token_count") for vector in vectors)
    given = answer["embeddings"] if "embeddings" in answer else [answer["embedding"]]
    vectors = [vector.get("embedding", vector) for vector in given]
    return vectors, count(answer.get("usageMetadata") or {}, "promptTokenCount")
