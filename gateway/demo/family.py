"""Providers whose words are OpenAI's with habits of their own: Mistral and Azure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from .answer import Answer, Frame, Prompt
from .openai import OpenAIDialect, event
from .refusals import Refusal

_ID = re.compile(r"[A-Za-z0-9]{9}")
_FILTERED = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}


class MistralDialect(OpenAIDialect):
    """Tool ids of nine letters and digits, no stream options, the usage on the chunk that finishes."""

    name = "mistral"

    def read(self, body: Mapping[str, Any]) -> Prompt:
        if not {"stream_options", "max_completion_tokens", "service_tier"}.isdisjoint(body):
            raise ValueError("extra inputs are not permitted")
        calls = [call for message in body["messages"] for call in message.get("tool_calls") or ()]
        ids = [call["id"] for call in calls]
        ids += [message["tool_call_id"] for message in body["messages"] if message["role"] == "tool"]
        if not all(_ID.fullmatch(given) for given in ids):
            raise ValueError("a tool call id is nine letters and digits")
        prompt = super().read(body)
        must_call = prompt.must_call or body.get("tool_choice") == "any"
        return replace(prompt, must_call=must_call, forced=False, include_usage=True, obfuscation=False)

    def whole(self, answer: Answer) -> dict[str, Any]:
        return super().whole(_short(answer))

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """OpenAI's, but for the usage: it comes with the finish."""
        held: list[Frame] = []
        for frame in super().frames(replace(_short(answer), stream_usage=False)):
            held.append(frame)
            if len(held) > 2:
                yield held.pop(0)
        finish = orjson.loads(held[0].data.removeprefix(b"data: "))
        if answer.tell_usage:
            finish["usage"] = answer.usage.to_openai()
        yield Frame(event(finish), usage=answer.tell_usage)
        yield held[1]

    def refusal(self, refusal: Refusal) -> dict[str, Any]:
        return {"object": "error", "message": refusal.message, "type": refusal.type, "param": None, "code": "1500"}


class AzureDialect(OpenAIDialect):
    """Content filter results: before the first chunk without a choice, and with every choice."""

    name = "azure"

    def whole(self, answer: Answer) -> dict[str, Any]:
        body = super().whole(answer)
        for choice in body["choices"]:
            choice["content_filter_results"] = _FILTERED
        return {**body, "prompt_filter_results": _prompt_results()}

    def frames(self, answer: Answer) -> Iterator[Frame]:
        told = {"id": "", "object": "", "created": 0, "model": "", "choices": []}
        yield Frame(event({**told, "prompt_filter_results": _prompt_results()}))
        yield from super().frames(replace(answer, obfuscation=False))

    def headers(self, number: int) -> dict[str, str]:
        told = {"apim-request-id": f"{number:032x}", "x-ms-region": "Demo", "x-ms-deployment-name": "demo"}
        return {**super().headers(number), **told}


def _short(answer: Answer) -> Answer:
    """With ids of Mistral's kind."""
    calls = tuple(call._replace(id=f"{answer.id[-7:]}{at:02d}") for at, call in enumerate(answer.calls))
    return replace(answer, calls=calls)


def _prompt_results() -> list[dict[str, Any]]:
    return [{"prompt_index": 0, "content_filter_results": _FILTERED}]
