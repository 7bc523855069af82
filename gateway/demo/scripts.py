"""How a request is answered: the model name is a script.

``demo`` answers "ok". ``demo-NAME`` plays a script of the table below, and any model name may be continued with
``+NAME`` and ``+SETTING=VALUE``: ``demo-long+gap=0.01+cut=5``, ``gpt-4o-mini+no-usage``. A name of another
shape is answered like ``demo``, an unknown script like an unknown model (404).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

WAYS = ("reset", "close", "end", "error")
"""How an answer breaks off: a TCP reset; a closed connection inside the body; a lawful end of the body without
the end of the answer; an error event."""


@dataclass(frozen=True, slots=True)
class Script:
    """One behaviour. Times are in seconds; a piece is one token of the answer and one chunk of its stream."""

    delay: float = 0.0
    """Before the first byte."""
    gap: float = 0.0
    """Between two chunks."""
    text: str = "ok"
    """The first piece; further ones are numbered words."""
    chunks: int = 1
    """Pieces of the answer."""
    echo: bool = False
    """Answer with the words of the last user message instead."""
    fault: str = ""
    """A name of ``refusals.REFUSALS``: the request is refused with it."""
    retry_after: float = 0.0
    """Sent with a refusal when above 0."""
    cut: int | None = None
    """Break off after so many pieces; -1: before the status line."""
    how: str = "reset"
    """One of WAYS."""
    every: int = 1
    """Fault and cut happen to every so-many-th request of a model only..."""
    first: int = 0
    """...or to its first so many..."""
    chance: float = 1.0
    """...and then with this probability."""
    tools: int = 0
    """Call so many of the offered tools; tool results in the request are answered with their text."""
    reasoning: int = 0
    """Reasoning tokens before the answer."""
    refusal: bool = False
    """The model declines."""
    anew: bool = False
    """Begin every answer anew, though its beginning was given..."""
    repeat: bool = False
    """...or repeat the beginning before going on with it."""
    usage: bool = True
    """Whether the usage is reported."""
    input: int | None = None
    """Prompt tokens; absent: one per word of the messages."""
    cached: int = 0
    """How many of them were read from a cache..."""
    written: int = 0
    """...and how many written to one (Anthropic)."""
    tier: str = ""
    """The tier reported as served, whatever was asked for."""
    refuse_tier: str = ""
    """Requests of this tier are refused for want of capacity."""


SCRIPTS: Mapping[str, Mapping[str, Any]] = {
    "ok": {},
    "echo": {"echo": True},
    "slow": {"delay": 0.5, "gap": 0.05, "chunks": 5},
    "long": {"chunks": 100},
    "endless": {"chunks": 1_000_000, "gap": 0.01},
    "tools": {"tools": 1},
    "parallel": {"tools": 2},
    "reasoning": {"reasoning": 5, "chunks": 3},
    "refusal": {"refusal": True},
    "cached": {"input": 100, "cached": 60},
    "no-usage": {"usage": False},
    # broken answers
    "refused": {"cut": -1},
    "no-content": {"cut": 0, "chunks": 10},
    "cut": {"cut": 3, "chunks": 10},
    "closed": {"cut": 3, "chunks": 10, "how": "close"},
    "unfinished": {"cut": 3, "chunks": 10, "how": "end"},
    "error-early": {"cut": 0, "chunks": 10, "how": "error"},
    "error-late": {"cut": 3, "chunks": 10, "how": "error"},
    # refusals
    "400": {"fault": "context"},
    "401": {"fault": "authentication"},
    "403": {"fault": "permission"},
    "404": {"fault": "model"},
    "413": {"fault": "too-large"},
    "429": {"fault": "rate", "retry_after": 1.0},
    "500": {"fault": "server"},
    "503": {"fault": "unavailable"},
    "529": {"fault": "overloaded"},
    "502": {"fault": "html"},
    "context": {"fault": "context"},
    "invalid": {"fault": "invalid"},
    "content-filter": {"fault": "content"},
    "quota": {"fault": "quota"},
    "flapping": {"fault": "server", "every": 2},
    "recovers": {"fault": "server", "first": 2},
    # service tiers
    "flex-refused": {"refuse_tier": "flex"},
    "downgraded": {"tier": "default"},
}
"""Name -> what it changes."""

PLAIN = Script()
_READ: Mapping[Any, Callable[[str], Any]] = {
    float: float,
    int: int,
    int | None: int,
    str: str,
    bool: lambda value: value in ("1", "true"),
}
_SETTINGS = {field.name: _READ[field.type] for field in fields(Script)}


def script_for(model: str) -> Script | None:
    """The script that a model name asks for; None if it asks for one that does not exist."""
    name, *changes = model.split("+")
    if name.startswith("demo-"):
        changes.insert(0, name.removeprefix("demo-"))
    script: Script = PLAIN
    for change in changes:
        changed = _change(script, change)
        if changed is None:
            return None
        script = changed
    return script


def _change(script: Script, change: str) -> Script | None:
    name, equals, value = change.partition("=")
    if not equals:
        return replace(script, **SCRIPTS[name]) if name in SCRIPTS else None
    name = name.replace("-", "_")
    if name not in _SETTINGS or (name == "how" and value not in WAYS):
        return None
    try:
        return replace(script, **{name: _SETTINGS[name](value)})
    except ValueError:
        return None
