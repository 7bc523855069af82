"""Gemini's answers as loose chunks, and a whole answer put together from them."""

import hashlib
from collections.abc import Mapping
from typing import Any

from ..emit import Accumulator
from ..errors import ErrorKind, ProviderError
from ..interface import JSON, Answer, Chunk
from ..jsonio import dumps, loads
from ..shapes import documented
from ..usage import Usage
from . import citations, functions, usage
from .arguments import StreamedArguments
from .errors import of_answer
from .models import gates
from .signatures import Memory, extra

_LENGTH, _FILTER, _FAILURE = "length", "content_filter", "malformed_function_call"
FINISH_REASONS: Mapping[str, str] = {
    "MAX_TOKENS": _LENGTH,
    "CONTINUATION": _LENGTH,
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "IMAGE_RECITATION",
         "IMAGE_PROHIBITED_CONTENT", "MODEL_ARMOR", "ESCALATION", "PUP_LIMITED_DISABLED", "LANGUAGE"), _FILTER
    ),
    **dict.fromkeys(
        ("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE",
         "MALFORMED_RESPONSE"), _FAILURE
    ),
}  # fmt: skip
"""finishReason -> OpenAI's word, or one that ``adapters.emit`` knows as a failure; all others are a natural end."""
_NOT_ENDED = ("", "FINISH_REASON_UNSPECIFIED")
_WITHHELD = "The answer was withheld by the provider's safety filters."
_REFUSED = "The request was refused by the provider's safety filters."


class _Candidate:
    __slots__ = ("calls", "cited", "finish", "ids", "index", "said", "streamed", "texts", "told")

    def __init__(self, index: int) -> None:
        self.index = index
        self.calls = 0
        self.ids: set[str] = set()
        self.streamed: StreamedArguments | None = None
        self.texts: list[str] = []
        self.said = False
        """Whether there was any answer: a refusal is told where there was none."""
        self.cited: list[Mapping[str, Any]] = []
        self.finish: str | None = None
        """Held until the end: older models put STOP on every chunk."""
        self.told = ""
        """The provider's words about the end."""


class Reader:
    """Reads the ``GenerateContentResponse`` objects of one answer: one when whole, many when streamed."""

    def __init__(self, notes: Mapping[str, Any], memory: Memory) -> None:
        self._notes, self._memory = notes, memory
        self._candidates: dict[int, _Candidate] = {}
        self._counted: dict[str, Any] = {}
        self._searches = 0
        self._blocked: str | None = None
        self._model = ""

    @property
    def usage(self) -> Usage | None:
        # Gemini 3 charges each search, the models before it each prompt that was searched for
        each = gates(self._model).generation_3
        return usage.usage(self._counted, self._searches if each else min(self._searches, 1))

    @property
    def served_tier(self) -> str | None:
        return usage.served_tier(self._counted)

    def read(self, response: Any) -> list[Chunk]:
        """Translate one object; raises ProviderError for an error, or what is no such object."""
        with documented():
            return self._read(response)

    def _read(self, response: Any) -> list[Chunk]:
        if (failure := of_answer(response)) is not None:
            raise failure
        if not isinstance(response, Mapping):
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent something that is not an answer.")
        if isinstance(counted := response.get("usageMetadata"), Mapping):
            self._counted.update(counted)  # the counts are cumulative
        feedback = response.get("promptFeedback")
        if isinstance(feedback, Mapping) and feedback.get("blockReason"):
            self._blocked = _REFUSED
        chunks: list[Chunk] = []
        candidates = response.get("candidates")
        for candidate in candidates if isinstance(candidates, list) else ():
            if isinstance(candidate, Mapping):
                chunks.extend(self._candidate(candidate))
        if chunks and not self._model and isinstance(model := response.get("modelVersion"), str):
            self._model = model
            chunks[0]["model"] = model
        return chunks

    def end(self) -> list[Chunk]:
        """The ends of all choices; raises ProviderError(INCOMPLETE) for one that never ended."""
        with documented():
            return self._end()

    def _end(self) -> list[Chunk]:
        if not self._candidates and self._blocked is not None:
            return [
                _chunk(index, delta, finish)
                for index in range(self._notes.get("n", 1))
                for delta, finish in (({"refusal": self._blocked}, None), ({}, _FILTER))
            ]
        if not self._candidates or any(c.finish is None for c in self._candidates.values()):
            raise ProviderError(ErrorKind.INCOMPLETE, "The upstream's answer ended before it was complete.")
        return [chunk for candidate in self._candidates.values() for chunk in self._ended(candidate)]

    def _candidate(self, candidate: Mapping[str, Any]) -> list[Chunk]:
        index = candidate.get("index")
        index = index if isinstance(index, int) else 0
        state = self._candidates.get(index) or self._candidates.setdefault(index, _Candidate(index))
        content = candidate.get("content")
        parts = content.get("parts") if isinstance(content, Mapping) else None
        chunks = [
            _chunk(index, delta)
            for part in (parts if isinstance(parts, list) else ())
            if isinstance(part, Mapping) and (delta := self._part(state, part))
        ]
        if (found := _logprobs(candidate.get("logprobsResult"))) is not None:
            if not chunks:
                chunks.append(_chunk(index, {}))
            chunks[0]["choices"][0]["logprobs"] = {"content": found, "refusal": None}
        if "groundingMetadata" in candidate or "citationMetadata" in candidate:
            self._cite(state, candidate)
        reason = candidate.get("finishReason")
        if isinstance(reason, str) and reason not in _NOT_ENDED:
            state.finish = FINISH_REASONS.get(reason, "stop")
            state.told = str(candidate.get("finishMessage") or "")
        return chunks

    def _part(self, state: _Candidate, part: Mapping[str, Any]) -> JSON:
        """The delta of one part; empty for one that is nothing to the client (server-side tools, say)."""
        signature = part.get("thoughtSignature")
        signed = extra(signature) if isinstance(signature, str) and signature else {}
        if isinstance(call := part.get("functionCall"), Mapping):
            return self._call(state, call, signature if signed else None)
        if isinstance(text := part.get("text"), str):
            if part.get("thought"):
                return {"reasoning_content": text, **signed} if text else signed
            if not text:
                return signed  # an empty text that only carries a signature
            state.texts.append(text)
            state.said = True
            return {"content": text, **signed}
        image = part.get("inlineData")
        if isinstance(image, Mapping) and str(image.get("mimeType")).startswith("image/") and not part.get("thought"):
            state.said = True
            url = f"data:{image['mimeType']};base64,{image.get('data', '')}"
            return {"images": [{"type": "image_url", "image_url": {"url": url}}], **signed}
        return {}

    def _call(self, state: _Candidate, call: Mapping[str, Any], signature: str | None) -> JSON:
        if StreamedArguments.is_piece(call) or state.streamed is not None:
            streamed = state.streamed or StreamedArguments(signature)
            state.streamed = streamed if streamed.add(call) else None
            if state.streamed is not None:
                return {}
            call, signature = streamed.call, streamed.signature
        return self._called(state, call, signature)

    def _called(self, state: _Candidate, call: Mapping[str, Any], signature: str | None) -> JSON:
        name = call.get("name")
        if not isinstance(name, str) or not name:
            raise ProviderError(ErrorKind.PROTOCOL, "The upstream sent a tool call without a name.")
        if state.calls and self._notes.get("single"):
            return {}  # the client takes one call at a time: the model makes the others again
        state.said = True
        call_id = self._id(state, call.get("id"))
        made = functions.call(call_id, name, dumps(call.get("args") or {}).decode(), self._notes)
        made["index"] = state.calls
        state.calls += 1
        if signature:
            made.update(extra(signature))
            self._memory.remember(call_id, made[made["type"]]["name"], signature)
        return {"tool_calls": [made]}

    def _id(self, state: _Candidate, given: Any) -> str:
        """Gemini's own id, or one made of the request's nonce: unique, and the same however the bytes are cut."""
        call_id = given if isinstance(given, str) else ""
        if not 0 < len(call_id) <= 40 or call_id in state.ids:
            seed = f"{self._notes.get('nonce', '')}/{state.index}/{state.calls}"
            call_id = "call_" + hashlib.sha256(seed.encode()).hexdigest()[:24]
        state.ids.add(call_id)
        return call_id

    def _cite(self, state: _Candidate, candidate: Mapping[str, Any]) -> None:
        state.cited.append(candidate)
        grounding = candidate.get("groundingMetadata")
        queries = grounding.get("webSearchQueries") if isinstance(grounding, Mapping) else None
        if isinstance(queries, list):
            self._searches = max(self._searches, len(queries))

    def _ended(self, state: _Candidate) -> list[Chunk]:
        deltas: list[JSON] = []
        if state.streamed is not None:
            deltas.append(self._called(state, state.streamed.call, state.streamed.signature))
        if state.cited and (found := citations.annotations("".join(state.texts), state.cited)):
            deltas.append({"annotations": found})
        if state.finish == _FILTER and not state.said:
            deltas.append({"refusal": state.told or _WITHHELD})
        return [*(_chunk(state.index, delta) for delta in deltas), _chunk(state.index, {}, state.finish)]


def _chunk(index: int, delta: JSON, finish: str | None = None) -> Chunk:
    choice: JSON = {"index": index, "delta": delta}
    if finish is not None:
        choice["finish_reason"] = finish
    return {"choices": [choice]}


def _logprobs(result: Any) -> list[JSON] | None:
    if not isinstance(result, Mapping) or not isinstance(chosen := result.get("chosenCandidates"), list):
        return None
    tops = result.get("topCandidates")
    tops = tops if isinstance(tops, list) else []
    out = []
    for position, token in enumerate(chosen):
        others = (
            tops[position].get("candidates") if position < len(tops) and isinstance(tops[position], Mapping) else ()
        )
        out.append({**_token(token), "top_logprobs": [_token(other) for other in others or ()]})
    return out


def _token(token: Any) -> JSON:
    token = token if isinstance(token, Mapping) else {}
    text = str(token.get("token") or "")
    return {"token": text, "logprob": token.get("logProbability", 0.0), "bytes": list(text.encode(errors="replace"))}


def parse(body: bytes, notes: Mapping[str, Any], memory: Memory) -> Answer:
    """A whole answer; raises ProviderError for a body that is none, an error in a 200 included."""
    reader = Reader(notes, memory)
    whole = Accumulator()
    response = loads(body)
    whole.add(reader.read(response))
    whole.add(reader.end())
    return Answer(whole.completion(), reader.usage, reader.served_tier)
