"""Chat messages -> system blocks and turns that alternate, none empty, every tool call answered in the next turn."""

from collections.abc import Iterable, Sequence

from .. import history
from ..errors import UnsupportedParameter
from ..interface import JSON
from . import thinking
from .models import Gates
from .omitted import Omitted
from .parts import blocks, marker, text_block
from .platform import Platform

PLACEHOLDER = "."
"""Stands for a turn that has nothing to say: an empty one and a blank one are a 400."""
CONTINUE = "Continue."
"""The user turn after a final assistant turn, for models that refuse to continue one."""
TOOL_IDS = history.IdRule("[a-zA-Z0-9_-]+")


class Conversation:
    """Takes the messages in order; ``system`` and ``turns`` are the result after ``close``."""

    def __init__(self, gates: Gates, platform: Platform, omitted: Omitted) -> None:
        self.system: list[JSON] = []
        self.turns: list[JSON] = []
        self._gates = gates
        self._platform = platform
        self._omitted = omitted
        self._late: list[JSON] = []
        """Instructions given after the conversation began, until their place is known."""

    def read(self, messages: Iterable[history.Message]) -> None:
        for message in messages:
            content = self._content(message)
            if message.role == "system":
                (self._late if self.turns else self.system).extend(content)
            elif message.role == "assistant":
                self._assistant(message, content)
            elif message.role == "tool":
                self._result(message, content)
            else:
                self._user(content)
        self._close()

    def _content(self, message: history.Message) -> list[JSON]:
        source = message.source or {}
        if source.get("name") and message.role != "tool":
            self._omitted.hint("messages.name")
        made = blocks(message.parts, f"messages[{message.index}].content", self._platform)
        if made and message.role != "tool" and (mark := marker(source)):
            made[-1]["cache_control"] = mark
        return made

    def _user(self, content: list[JSON]) -> None:
        if not self._gates.inline_system:
            self._fold()
        self._say("user", content or [text_block(PLACEHOLDER)])

    def _fold(self) -> None:
        """Late instructions that have no place of their own join the system prompt."""
        self.system += self._late
        self._late = []

    def _say(self, role: str, content: list[JSON]) -> None:
        """Add to the turn of that role or begin one. A placeholder gives way to anything real."""
        if not self.turns or self.turns[-1]["role"] != role:
            self.turns.append({"role": role, "content": content})
            return
        said = self.turns[-1]["content"]
        empty = [text_block(PLACEHOLDER)]
        if content == empty:
            return
        if said == empty:
            said.clear()
        said += content

    def _result(self, message: history.Message, content: list[JSON]) -> None:
        source = message.source or {}
        result: JSON = {"type": "tool_result", "tool_use_id": message.call_id}
        inside = [block.pop("cache_control") for block in content if "cache_control" in block]
        if content:
            result["content"] = content
        if source.get("is_error") is True:
            result["is_error"] = True
        if mark := marker(source) or (inside[-1] if inside else None):  # only whole results are cached
            result["cache_control"] = mark
        self._say("user", [result])

    def _assistant(self, message: history.Message, content: list[JSON]) -> None:
        source = message.source or {}
        calls: list[JSON] = [
            {"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments} for call in message.calls
        ]
        if not content and not calls:
            if source.get("audio"):
                raise UnsupportedParameter(
                    f"messages[{message.index}].audio", "Earlier audio answers are not supported with this model."
                )
            return
        if self._late:
            if self._gates.inline_system and self.turns[-1]["role"] == "user":
                self.turns.append({"role": "system", "content": self._late})
                self._late = []
            self._fold()
        self._say("assistant", _interleaved(content, calls, thinking.signed_blocks(source)))

    def excludes_budget(self) -> bool:
        """Whether the turns are none for a thinking budget.

        They end with the assistant's words, or the last tool calls came back without the thinking before them.
        """
        last = next((turn["content"] for turn in reversed(self.turns) if turn["role"] == "assistant"), None)
        if last is None:
            return False
        if self.turns[-1]["role"] == "assistant":
            return True
        return any(block["type"] == "tool_use" for block in last) and not thinking.is_thought(last[0])

    def forget_thinking(self) -> None:
        """Take earlier thinking out: a model that does not think now may not be sent any."""
        for turn in self.turns:
            turn["content"] = [block for block in turn["content"] if not thinking.is_thought(block)]

    def _close(self) -> None:
        last = self.turns[-1]["role"] if self.turns else None
        if self._late and last == "user" and self._gates.inline_system:
            self.turns.append({"role": "system", "content": self._late})
        elif self._late and last == "assistant":
            self._say("user", self._late)  # what answers them is a new turn
        else:
            self._fold()
        if not self.turns:
            self.turns.append({"role": "user", "content": self.system or [text_block(PLACEHOLDER)]})
            self.system = []
        if self.turns[-1]["role"] == "assistant":
            self._prefill()

    def _prefill(self) -> None:
        if not self._gates.prefill:
            self._say("user", [text_block(CONTINUE)])
            return
        final = self.turns[-1]["content"][-1]
        if final["type"] == "text":
            final["text"] = final["text"].rstrip()  # trailing white space is a 400


def _interleaved(
    content: list[JSON], calls: Sequence[JSON], thoughts: Sequence[tuple[tuple[int, int], JSON]]
) -> list[JSON]:
    """Text, thinking and tool calls in the order in which the model made them."""
    before = [(characters, block) for (characters, after), block in thoughts if after == 0 or not calls]
    if before and len(content) == 1 and content[0]["type"] == "text":
        made = _split(content[0], before)
    else:
        made = [*(block for _, block in before), *content]
    for number, call in enumerate(calls, 1):
        last = number == len(calls)
        made.append(call)
        made += [block for (_, after), block in thoughts if after == number or (last and after > number)]
    return made


def _split(text: JSON, thoughts: Sequence[tuple[int, JSON]]) -> list[JSON]:
    """The text in the pieces between which the model thought; a blank piece stays with the next one."""
    whole = text["text"]
    made: list[JSON] = []
    done = 0
    for characters, block in thoughts:
        piece = whole[done : max(done, characters)]
        if piece.strip():
            made.append(text_block(piece))
            done += len(piece)
        made.append(block)
    rest = whole[done:]
    if rest.strip():
        made.append({**text, "text": rest})
    return made
