"""What operators may say of any OpenAI-shaped provider."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import PrivateAttr

from ..options import Options
from .dialect import Dialect
from .think import ThinkTags


class FamilyOptions(Options):
    """Options that every OpenAI-shaped provider takes; None means what the provider's row says."""

    relay: bool | None = None
    """Whether its streams are clean enough to be relayed frame by frame."""
    max_tokens: Literal["max_tokens", "max_completion_tokens"] | None = None
    """The name of the token limit."""
    developer_role: bool | None = None
    """Whether it knows the ``developer`` role."""
    stream_options: bool | None = None
    """Whether it takes ``stream_options.include_usage``."""
    think_tags: ThinkTags | None = None
    """Whether reasoning comes inside the text: ``explicit`` with both tags, ``implied`` with the closing one only."""
    organization: str | None = None
    """Sent as ``OpenAI-Organization``."""
    project: str | None = None
    """Sent as ``OpenAI-Project``."""
    send_priority: bool | None = None
    """Whether service tiers become the server's own numeric ``priority``: only one that schedules by it takes it."""
    continue_final_message: bool | None = None
    """Whether the server goes on with an answer that was begun when ``continue_final_message`` tells it to."""
    extra: Mapping[str, Any] = {}
    """Fields added to every request body where the request has none of that name."""
    _rows: dict[str, Dialect] = PrivateAttr(default_factory=dict)

    def applied(self, row: Dialect) -> Dialect:
        """The row with what the operator chose, made once."""
        rows: dict[str, Dialect] = (self.__pydantic_private__ or {})["_rows"]  # pydantic's own way costs 4 us
        if (known := rows.get(row.name)) is not None:
            return known
        names = (
            "relay",
            "max_tokens",
            "developer_role",
            "stream_options",
            "think_tags",
            "send_priority",
            "continue_final_message",
        )
        chosen = {name: value for name in names if (value := getattr(self, name)) is not None}
        made = rows[row.name] = replace(row, **chosen, extra={**row.extra, **self.extra})
        return made
