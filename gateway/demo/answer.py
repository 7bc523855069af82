"""What the demo model answers, before a dialect words it."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from adapters.usage import Usage

from .refusals import Refusal
from .scripts import Script


@dataclass(frozen=True, slots=True)
class Prompt:
    """What matters of a request, read by a dialect."""

    model: str
    words: int
    """Words of all messages."""
    last_user: str = ""
    tool_results: tuple[str, ...] = ()
    """Those that end the conversation."""
    tools: tuple[tuple[str, Mapping[str, Any]], ...] = ()
    """Name and schema of the tools offered; only the forced one when one is forced."""
    must_call: bool = False
    schema: Mapping[str, Any] | None = None
    """The schema of a structured output."""
    max_tokens: int | None = None
    n: int = 1
    tier: str = "default"
    stream: bool = False
    include_usage: bool = False
    forced: bool = False
    """One named tool must be called: OpenAI then finishes with ``stop`` (checklist C-266)."""
    begun: str = ""
    """The beginning of the answer, which the request gives and the model goes on with."""
    obfuscation: bool = False
    """Whether events are padded to one length modulo 16, as OpenAI does by default (checklist C-333)."""


class ToolCall(NamedTuple):
    id: str
    name: str
    arguments: tuple[str, ...]
    """Pieces of a JSON text."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer: each piece is one output token."""

    id: str
    model: str
    usage: Usage
    tier: str
    reasoning: tuple[str, ...] = ()
    pieces: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    refusal: bool = False
    """The pieces are a refusal."""
    finish: Literal["stop", "length", "tool_calls"] = "stop"
    n: int = 1
    tell_usage: bool = True
    """Whether the script reports it..."""
    stream_usage: bool = False
    """...and whether the client wants it in the stream."""
    forced: bool = False
    obfuscation: bool = False


class Frame(NamedTuple):
    """Bytes of a stream and the tokens they carry."""

    data: bytes
    output: int = 0
    reasoning: int = 0
    usage: bool = False
    """Whether it reports the usage."""
    last: bool = False


class Dialect(Protocol):
    """How a provider words requests and answers."""

    name: str
    stream_type: str
    """The content type of its streams."""

    def read(self, body: Mapping[str, Any]) -> Prompt: ...
    def whole(self, answer: Answer) -> dict[str, Any]: ...
    def frames(self, answer: Answer) -> Iterator[Frame]: ...
    def refusal(self, refusal: Refusal) -> dict[str, Any]: ...
    def error_event(self) -> bytes: ...
    def headers(self, number: int) -> dict[str, str]: ...


def answer(prompt: Prompt, script: Script, number: int) -> Answer:
    """Play a script."""
    calls = _calls(prompt, script, number)
    pieces = () if calls else _rest(_pieces(prompt, script), prompt.begun, script)
    room = None if prompt.max_tokens is None else max(0, prompt.max_tokens - script.reasoning)
    finish: Literal["stop", "length", "tool_calls"] = "tool_calls" if calls else "stop"
    if room is not None and len(pieces) > room:
        pieces, finish = pieces[:room], "length"
    generated = sum(len(call.arguments) for call in calls) + len(pieces)
    tokens = prompt.words if script.input is None else script.input
    cached = min(script.cached, tokens)
    written = min(script.written, tokens - cached)
    usage = Usage(
        input=tokens - cached - written,
        cache_read=cached,
        cache_write=written,
        output=generated * prompt.n,
        reasoning=script.reasoning * prompt.n,
    )
    thoughts = tuple(f"thought{i} " for i in range(script.reasoning))
    return Answer(
        id=f"{number:024x}",
        model=prompt.model,
        usage=usage,
        tier=script.tier or prompt.tier,
        reasoning=thoughts,
        pieces=pieces,
        calls=calls,
        refusal=script.refusal and not calls,
        finish=finish,
        n=prompt.n,
        tell_usage=script.usage,
        stream_usage=prompt.include_usage,
        forced=prompt.forced,
        obfuscation=prompt.obfuscation,
    )


def _pieces(prompt: Prompt, script: Script) -> tuple[str, ...]:
    if prompt.tool_results:
        return _words(" ".join(prompt.tool_results))
    if prompt.schema is not None:
        text = json.dumps(example(prompt.schema, prompt.schema), ensure_ascii=False)
        return tuple(text[i : i + 8] for i in range(0, len(text), 8))
    if script.refusal:
        return ("I'm ", "sorry, ", "I ", "can't ", "help ", "with ", "that.")
    if script.echo:
        return _words(prompt.last_user)
    return (script.text, *(f" word{i}" for i in range(1, script.chunks)))


def _rest(pieces: tuple[str, ...], begun: str, script: Script) -> tuple[str, ...]:
    """What comes after the beginning that was given, where the answer begins so."""
    text = "".join(pieces)
    if not begun or script.anew or not text.startswith(begun):
        return pieces
    rest = tuple(word for word in _words(text[len(begun) :]) if word)
    return (*_words(begun), *rest) if script.repeat else rest


def _words(text: str) -> tuple[str, ...]:
    """Pieces that join to the text."""
    words = text.split(" ")
    return (words[0], *(f" {word}" for word in words[1:]))


def _calls(prompt: Prompt, script: Script, number: int) -> tuple[ToolCall, ...]:
    if prompt.tool_results or not prompt.tools or not (script.tools or prompt.must_call):
        return ()
    calls = []
    for i in range(max(1, script.tools)):
        name, schema = prompt.tools[i % len(prompt.tools)]
        text = json.dumps(example(schema, schema), ensure_ascii=False)
        calls.append(ToolCall(f"call_{number}_{i}", name, tuple(text[j : j + 5] for j in range(0, len(text), 5))))
    return tuple(calls)


def vectors(inputs: Sequence[Any], size: int | None) -> tuple[list[list[float]], int]:
    """Deterministic embeddings of texts or token lists, 8 numbers long unless told (4,096 at most), and the tokens they took."""
    found = []
    for item in inputs:
        seed = hashlib.sha256(repr(item).encode()).digest()
        found.append([(seed[i % len(seed)] - 127.5) / 256 for i in range(min(size or 8, LONGEST))])
    return found, sum(max(1, len(item) if isinstance(item, list) else len(item.split())) for item in inputs)


LONGEST = 4096
"""Items of a made-up list or numbers of a made-up vector: what a caller asks for must not fill memory."""
_SAMPLES: Mapping[str, Any] = {"string": "demo", "integer": 1, "number": 1.5, "boolean": True, "null": None}


def example(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value that satisfies a JSON schema of the kind structured outputs use."""
    while inner := _inner(schema, root):
        schema = inner
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        properties: Mapping[str, Any] = schema.get("properties", {})
        names = schema.get("required", properties)
        return {name: example(properties.get(name, {"type": "string"}), root) for name in names}
    if kind == "array":
        return [example(schema.get("items", {"type": "string"}), root)] * min(int(schema.get("minItems", 0)), LONGEST)
    return _SAMPLES.get(str(kind))


def _inner(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema that this one stands for: by reference, or its last alternative (recursive schemas put the leaf last)."""
    if reference := schema.get("$ref"):
        target: Any = root
        for step in filter(None, str(reference).removeprefix("#").split("/")):
            target = target[step]
        found: Mapping[str, Any] = target
        return found
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            last: Mapping[str, Any] = schema[key][-1]
            return last
    return None
