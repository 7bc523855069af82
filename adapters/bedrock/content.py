"""Messages into Converse turns: roles alternate, blocks are never blank, results follow their calls."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .. import media
from ..errors import UnsupportedParameter
from ..history import Message
from ..interface import JSON
from ..jsonio import dumps
from .reasoning import blocks as reasoning_blocks

IMAGES: Mapping[str, str] = {
    "image/png": "png", "image/jpeg": "jpeg", "image/gif": "gif", "image/webp": "webp",
}  # fmt: skip
DOCUMENTS: Mapping[str, str] = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "text/html": "html",
    "text/plain": "txt",
    "text/markdown": "md",
}
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9()\[\]-]+")
PLACEHOLDER = "."
"""Where Converse demands a text and the client gave none."""
CONTINUE = "Continue."
"""The user turn after a final assistant turn, for models that refuse to continue one (edge case 17)."""
EMPTY_RESULT = "(empty)"


class Conversation:
    """Builds ``system`` and ``messages`` of one request."""

    def __init__(self, *, cache: bool, thinking: bool, tools: bool) -> None:
        """``cache``: keep cache breakpoints; ``thinking``: keep signed reasoning; ``tools``: keep tool blocks as
        such, else tell them as text (Converse has no ``none`` and refuses tool blocks without tools)."""
        self.system: list[JSON] = []
        self.turns: list[JSON] = []
        self._cache, self._thinking, self._tools = cache, thinking, tools
        self._names: set[str] = set()
        self._readers: Mapping[str, Callable[[Mapping[str, Any], str], JSON]] = {
            "text": lambda part, _: {"text": part["text"]},
            "image_url": self._image,
            "file": self._file,
            "input_audio": self._audio,
        }

    def add(self, messages: Iterable[Message]) -> None:
        adders = {"system": self._add_system, "assistant": self._add_assistant, "tool": self._add_result}
        for message in messages:
            adders.get(message.role, self._add_user)(message)

    def close(self, *, prefill: bool) -> None:
        """Make the whole lawful: it begins with a user turn, none is empty, a document never comes without a text,
        and the last turn is the assistant's only where ``prefill`` says that the model continues it."""
        if not self.turns and self.system:
            self.turns = [{"role": "user", "content": self.system}]  # edge case 16
            self.system = []
        if not self.turns or self.turns[0]["role"] != "user":
            self.turns.insert(0, {"role": "user", "content": []})
        if not prefill and self.turns[-1]["role"] == "assistant":
            self.turns.append({"role": "user", "content": [{"text": CONTINUE}]})
        for turn in self.turns:
            blocks = turn["content"]
            documents = any("document" in block for block in blocks)
            if not blocks or (documents and not any("text" in block for block in blocks)):
                blocks.append({"text": PLACEHOLDER})
        last = self.turns[-1]
        if last["role"] == "assistant" and "text" in last["content"][-1]:
            last["content"][-1]["text"] = last["content"][-1]["text"].rstrip()  # a prefill may not end in blanks

    def _push(self, role: str, blocks: list[JSON]) -> None:
        if self.turns and self.turns[-1]["role"] == role:
            self.turns[-1]["content"].extend(blocks)
        elif blocks or role == "user":  # a blank user turn is one: without it the last answer would go on
            self.turns.append({"role": role, "content": blocks})

    def _add_system(self, message: Message) -> None:
        self.system.extend(self._blocks(message))

    def _add_user(self, message: Message) -> None:
        self._push("user", self._blocks(message))

    def _add_assistant(self, message: Message) -> None:
        blocks = reasoning_blocks(message.source or {}) if self._thinking else []
        blocks += self._blocks(message)
        for call in message.calls:
            if self._tools:
                use = {"toolUseId": call.id, "name": call.name, "input": dict(call.arguments)}
                blocks.append({"toolUse": use})
            else:
                blocks.append({"text": f"[Called the tool {call.name} with {dumps(call.arguments).decode()}]"})
        self._push("assistant", blocks)

    def _add_result(self, message: Message) -> None:
        blocks = self._blocks(message) or [{"text": EMPTY_RESULT}]
        if self._tools:
            points = [block for block in blocks if "cachePoint" in block]
            content = [block for block in blocks if "cachePoint" not in block]
            self._push("user", [{"toolResult": {"toolUseId": message.call_id, "content": content}}, *points])
        else:
            self._push("user", [{"text": f"[Result of the tool {message.name}]"}, *blocks])

    def _blocks(self, message: Message) -> list[JSON]:
        blocks: list[JSON] = []
        for part in message.parts:
            at = f"messages[{message.index}].content"
            kind = part.get("type")
            reader = self._readers.get(kind if isinstance(kind, str) else "")
            if reader is None or (kind != "text" and message.role in ("system", "assistant")):
                raise UnsupportedParameter(at, f"Invalid '{at}': content of type '{kind}' is not supported here.")
            blocks.append(reader(part, at))
            if self._cache and (point := cache_point(part)):
                blocks.append(point)
        return blocks

    def _image(self, part: Mapping[str, Any], at: str) -> JSON:
        url = part["image_url"]["url"]
        if url.startswith("s3://"):
            suffix = url.rpartition(".")[2].lower()
            found = "jpeg" if suffix == "jpg" else suffix
            if found not in IMAGES.values():
                raise UnsupportedParameter(at, f"Invalid '{at}': the image's name must end with its format.")
            return {"image": {"format": found, "source": {"s3Location": {"uri": url}}}}
        if not media.is_data_url(url):
            raise UnsupportedParameter(at, f"Invalid '{at}': this model takes images as data URLs only.")
        image = media.read(url, at)
        if image.type not in IMAGES:
            raise UnsupportedParameter(at, f"Invalid '{at}': images must be PNG, JPEG, GIF or WebP.")
        return {"image": {"format": IMAGES[image.type], "source": {"bytes": image.data}}}

    def _file(self, part: Mapping[str, Any], at: str) -> JSON:
        file = part["file"]
        data, filename = file.get("file_data"), file.get("filename") or ""
        if not isinstance(data, str):
            raise UnsupportedParameter(at, f"Invalid '{at}': this model takes files as 'file_data' only.")
        suffix = filename.rpartition(".")[2].lower()
        named = suffix if suffix in DOCUMENTS.values() else None
        if media.is_data_url(data):
            document = media.read(data, at)
            if document.type in IMAGES:
                return {"image": {"format": IMAGES[document.type], "source": {"bytes": document.data}}}
            known, encoded = DOCUMENTS.get(document.type), document.data
        else:
            known, encoded = None, media.of_base64(data, at)
        found = named if known in (None, "txt") and named else known
        if found is None:
            raise UnsupportedParameter(at, f"Invalid '{at}': documents must be one of {', '.join(DOCUMENTS.values())}.")
        return {"document": {"format": found, "name": self._name(filename), "source": {"bytes": encoded}}}

    def _name(self, filename: str) -> str:
        """Letters, digits, single blanks, hyphens and brackets only, and unique in the request."""
        stem = filename.rpartition("/")[2]
        stem = _NOT_IN_NAMES.sub(" ", stem).strip()[:180] or "document"
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem} ({number})"
        self._names.add(name)
        return name

    def _audio(self, part: Mapping[str, Any], at: str) -> JSON:
        sound = part["input_audio"]
        return {"audio": {"format": sound["format"], "source": {"bytes": media.of_base64(sound["data"], at)}}}


def cache_point(part: Mapping[str, Any]) -> JSON | None:
    """The cache point for a breakpoint in OpenAI's or Anthropic's words; an hour where more than 5 minutes are asked."""
    asked = part.get("prompt_cache_breakpoint") or part.get("cache_control")
    if not isinstance(asked, Mapping):
        return None
    ttl = asked.get("ttl")
    if ttl is None:
        return {"cachePoint": {"type": "default"}}
    return {"cachePoint": {"type": "default", "ttl": "5m" if ttl == "5m" else "1h"}}
